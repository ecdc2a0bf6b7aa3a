// One session as the page shows it: what the server said last, the moment that is looked at, and what is selected.

import { api, parse, Problem, serverNow } from '../lib/api';
import { router } from '../lib/router.svelte';
import type { Finding, LavaEvent, Pending, ProcessLane, Session, Trace, TraceAnswer, Verdict } from '../lib/types';
import { Clock } from './clock';
import { layout, type Layout, type Places } from './layout';
import { fromText, relatedTo, toText, type Selection } from './selection';

/** States in which more events may come. */
const LIVE = new Set(['queued', 'starting', 'running', 'paused']);
/** How often a live session's processes, waiting decisions and unfolded trace are asked for. */
const ASK_AGAIN_MS = 1000;
/** Newest events kept for the live feed. */
const FEED = 200;
/** The scrubber asks the server at most this often. */
const SCRUB_MS = 60;

const EMPTY: Trace = { nodes: [], edges: [], findings: [], verdict: 'clean', decisions: [], graph_nodes: 0, graph_edges: 0 };

export class SessionStore {
  session = $state<Session | null>(null);
  /** The trace at the newest event. */
  head = $state.raw<TraceAnswer | null>(null);
  /** The same with what is unfolded; null: nothing is. */
  private wide = $state.raw<TraceAnswer | null>(null);
  /** The trace at the moment looked at; null: the newest. */
  past = $state.raw<TraceAnswer | null>(null);
  /** Folds whose nodes are drawn for themselves, in the order they were unfolded; `all`: the whole graph. */
  unfolded = $state.raw<string[] | 'all'>([]);
  /** That moment, in ns; null: the newest. Moves before `past` does. */
  at = $state<number | null>(null);
  processes = $state.raw<ProcessLane[]>([]);
  /** What waits for an answer. */
  pending = $state.raw<Pending[]>([]);
  feed = $state.raw<LavaEvent[]>([]);
  selection = $state<Selection | null>(null);
  /** Time of the newest event. */
  lastNs = $state(1);
  problem = $state<Problem | null>(null);
  /** Why the whole graph is not shown. */
  refused = $state<string | null>(null);
  /** The live stream: none, connected, or lost for the moment. */
  stream = $state<'none' | 'open' | 'lost'>('none');

  answer = $derived(this.past ?? this.wide ?? this.head);
  trace = $derived(this.answer?.trace ?? EMPTY);
  verdict = $derived<Verdict | null>(this.answer?.verdict ?? this.session?.verdict ?? null);
  live = $derived(LIVE.has(this.session?.state ?? ''));
  /** Findings as they were at the moment looked at. Their place is their number. */
  findings = $derived<Finding[]>(this.trace.findings);
  related = $derived(relatedTo(this.selection, this.trace, this.findings));
  nowNs = $derived(this.at ?? this.lastNs);
  layout = $derived.by<Layout>(() => {
    void this.tidied;
    return layout(this.trace, this.places, this.past === null);
  });

  private tidied = $state(0);
  private places: Places = new Map();
  private clock: Clock;
  private source: EventSource | null = null;
  private timer = 0;
  private scrubTimer = 0;
  private asked: AbortController | null = null;
  private widening: AbortController | null = null;

  constructor(readonly id: string) {
    this.clock = new Clock(id);
  }

  async open(): Promise<void> {
    this.problem = null;
    try {
      const at = Number(router.query.get('at'));
      // The processes of a long session take the server some seconds: the attack does not wait for them.
      const lanes = this.readProcesses();
      this.unfolded = unfoldedIn(router.query.get('unfold'));
      await this.readHead();
      this.selection = fromText(router.query.get('sel'));
      if (at > 0) this.scrub(at);
      if (this.live) this.follow();
      await lanes;
    } catch (error) {
      this.fail(error);
    }
  }

  close(): void {
    this.source?.close();
    this.source = null;
    clearInterval(this.timer);
    clearTimeout(this.scrubTimer);
    this.asked?.abort();
    this.widening?.abort();
  }

  select(selection: Selection | null): void {
    this.selection = selection;
    router.set({ sel: toText(selection) });
  }

  /** Shows the session as it was at a moment; null: as it is. */
  scrub(ns: number | null): void {
    this.at = ns === null || ns >= this.lastNs ? null : Math.max(0, Math.round(ns));
    router.set({ at: this.at === null ? null : String(this.at) });
    if (this.at === null) {
      clearTimeout(this.scrubTimer);
      this.scrubTimer = 0;
      this.asked?.abort();
      this.past = null;
    } else if (!this.scrubTimer) {
      this.scrubTimer = window.setTimeout(() => void this.fetchPast(), SCRUB_MS);
    }
  }

  /** Gives every card a new place, as if the session had been opened now. */
  tidy(): void {
    this.places.clear();
    this.tidied += 1;
  }

  /** Draws the nodes of a fold for themselves. */
  unfold(fold: string): void {
    if (this.unfolded !== 'all') this.show([...this.unfolded, fold]);
  }

  /** Shows the graph with these folds unfolded, and no others. */
  show(unfolded: string[] | 'all'): void {
    this.unfolded = unfolded;
    router.set({ unfold: unfolded === 'all' ? 'all' : unfolded.join(',') || null });
    void this.widen();
    if (this.at !== null) void this.fetchPast();
  }

  async respond(command: string): Promise<void> {
    await api.respond(this.id, command);
    this.session = await api.session(this.id);
  }

  async decide(seq: number, action: 'allow' | 'deny' | 'remediate'): Promise<void> {
    await api.decide(this.id, seq, action);
    this.pending = this.pending.filter((each) => each.seq !== seq);
  }

  /** How long until the default answers, in ms. */
  remaining(pending: Pending): number {
    const started = Date.parse(this.session?.started ?? '');
    return Math.max(0, started + pending.deadline_ns / 1e6 - serverNow());
  }

  private async fetchPast(): Promise<void> {
    const at = this.at;
    this.scrubTimer = 0;
    if (at === null) return;
    this.asked?.abort();
    const { signal } = (this.asked = new AbortController());
    try {
      const until = await this.clock.seqAt(at, this.head?.until ?? 0, signal);
      const answer = await api.trace(this.id, { until, ...this.unfolding }, signal);
      if (this.at !== null) this.past = answer;
    } catch (error) {
      this.fail(error);
    }
  }

  private follow(): void {
    const source = new EventSource(api.streamUrl(this.id, this.head?.until ?? 0));
    this.source = source;
    source.onopen = () => (this.stream = 'open');
    source.onerror = () => (this.stream = source.readyState === EventSource.CLOSED ? 'none' : 'lost');
    const on = <T>(kind: string, then: (said: T) => void): void =>
      source.addEventListener(kind, (message) => then(parse((message as MessageEvent<string>).data) as T));
    on<TraceAnswer>('trace', (answer) => this.grow(answer));
    on<{ events: LavaEvent[] }>('events', ({ events }) => this.hear(events));
    // What the stream tells of a session is without its manifest.
    on<Session>('session', (session) => (this.session = { ...session, manifest: this.session?.manifest }));
    on<{ pending: Pending[] }>('pending', ({ pending }) => (this.pending = pending));
    on<Session>('end', (session) => void this.ended(session));
    this.timer = window.setInterval(() => void this.askAgain(), ASK_AGAIN_MS);
    void this.askAgain();
  }

  /** Takes the newest trace. Its last event may be one that is not told to the page, or can't be read any more. */
  private grow(answer: TraceAnswer): void {
    this.head = answer;
    const { nodes, edges } = answer.trace;
    this.lastNs = Math.max(this.lastNs, ...nodes.map((node) => node.last_ns), ...edges.map((edge) => edge.last_ns));
  }

  private get unfolding(): { unfold?: string; full?: string } {
    if (this.unfolded === 'all') return { full: 'true' };
    return this.unfolded.length ? { unfold: this.unfolded.join(',') } : {};
  }

  /** Fetches the newest trace with what is unfolded. */
  private async widen(): Promise<void> {
    this.widening?.abort();
    this.widening = null;
    if (!this.unfolded.length) {
      this.wide = null;
      return;
    }
    const asked = (this.widening = new AbortController());
    try {
      this.wide = await api.trace(this.id, this.unfolding, asked.signal);
    } catch (error) {
      if (error instanceof Problem && error.status === 413) {
        this.unfolded = [];
        this.wide = null;
        this.refused = error.message;
      } else this.fail(error);
    } finally {
      if (this.widening === asked) this.widening = null;
    }
  }

  private async readHead(): Promise<void> {
    const [session, head] = await Promise.all([api.session(this.id), api.trace(this.id)]);
    this.session = session;
    this.lastNs = Math.max(1, await this.clock.timeOf(head.until));
    this.grow(head);
    void this.widen();
  }

  private async readProcesses(): Promise<void> {
    try {
      this.processes = (await api.processes(this.id)).processes;
    } catch (error) {
      this.fail(error);
    }
  }

  private hear(events: LavaEvent[]): void {
    this.feed = [...this.feed, ...events].slice(-FEED);
    this.lastNs = Math.max(this.lastNs, events.at(-1)?.time_ns ?? 0);
  }

  private async askAgain(): Promise<void> {
    // The server builds it anew each time: not as often as the stream tells of changes.
    if (!this.widening) void this.widen();
    try {
      const [processes, decisions] = await Promise.all([api.processes(this.id), api.decisions(this.id)]);
      this.processes = processes.processes;
      this.pending = decisions.pending ?? [];
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.stream = 'lost'; // The next round tells.
    }
  }

  private async ended(session: Session): Promise<void> {
    this.close();
    this.stream = 'none';
    this.pending = [];
    this.session = session;
    try {
      await Promise.all([this.readHead(), this.readProcesses()]);
    } catch (error) {
      this.fail(error);
    }
  }

  private fail(error: unknown): void {
    if (error instanceof DOMException && error.name === 'AbortError') return;
    if (!(error instanceof Problem)) throw error;
    this.problem = error;
  }
}

/** As it stands in the page's address. */
function unfoldedIn(text: string | null): string[] | 'all' {
  return text === 'all' ? 'all' : (text ?? '').split(',').filter(Boolean);
}
