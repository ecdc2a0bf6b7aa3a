// The server's API. Every failure becomes a Problem: what, and what to do.

import type {
  Action, Artifact, AuditEntry, Diagnostic, ExportFormat, Finding, Hit, Hold, LavaEvent, Me, Overview, Pending, Plan, Policy,
  ProcessLane, Retention, SavedSearch, Session, TraceAnswer,
} from './types';

export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly help: string | null = null,
  ) {
    super(message);
  }
}

let csrf = '';
/** How far the server's clock is ahead of ours, in ms; known to a second. */
let ahead = 0;

/** Now, by the server's clock. */
export const serverNow = (): number => Date.now() + ahead;

let onUnauthorised: () => void = () => {};

/** Called when the server says that nobody is logged in. */
export function whenUnauthorised(then: () => void): void {
  onUnauthorised = then;
}

/** As JSON.parse, but whole numbers that a double cannot hold (addresses) become bigints, where the browser tells their source. */
export function parse(text: string): unknown {
  const keep = (_key: string, value: unknown, context?: { source?: string }): unknown => {
    const source = context?.source;
    const inexact = typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value);
    return inexact && source && /^-?\d+$/.test(source) ? BigInt(source) : value;
  };
  return JSON.parse(text, keep as (key: string, value: unknown) => unknown);
}

async function problem(response: Response): Promise<Problem> {
  let code = `http-${response.status}`;
  let message = response.statusText || `The server answered ${response.status}.`;
  let help: string | null = null;
  try {
    const said = ((await response.json()) as { error?: { code?: string; message?: string; help?: string } }).error;
    code = said?.code ?? code;
    message = said?.message ?? message;
    help = said?.help ?? null;
  } catch {
    // Not the server's own JSON: a proxy's page. Its status says enough.
  }
  return new Problem(response.status, code, message, help);
}

async function ask<T>(path: string, init: RequestInit = {}): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { credentials: 'same-origin', ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new Problem(0, 'unreachable', 'The LAVA server does not answer.', 'Is `lava serve` still running on this machine?');
  }
  const date = Date.parse(response.headers.get('Date') ?? '');
  if (!Number.isNaN(date)) ahead = date - Date.now();
  if (!response.ok) {
    const failed = await problem(response);
    if (response.status === 401 && path !== '/api/login') onUnauthorised();
    throw failed;
  }
  const text = await response.text();
  return (text ? parse(text) : {}) as T;
}

function change<T>(path: string, body: unknown, method = 'POST'): Promise<T> {
  const form = body instanceof FormData;
  const headers: Record<string, string> = { 'X-Lava-CSRF': csrf };
  if (!form) headers['Content-Type'] = 'application/json';
  return ask<T>(path, { method, headers, body: form ? body : JSON.stringify(body) });
}

function query(values: Record<string, string | number | undefined>): string {
  const set = Object.entries(values).filter(([, value]) => value !== undefined && value !== '');
  return set.length ? `?${new URLSearchParams(set.map(([key, value]) => [key, String(value)]))}` : '';
}

const session = (id: string): string => `/api/sessions/${encodeURIComponent(id)}`;

export interface EventsQuery {
  from?: number;
  limit?: number;
  kind?: string;
  pid?: number;
  q?: string;
}

export const api = {
  async me(): Promise<Me> {
    const me = await ask<Me>('/api/me');
    csrf = me.csrf ?? '';
    return me;
  },
  login: (with_: { user: string; password: string } | { token: string }) => change('/api/login', with_),
  logout: () => change('/api/logout', {}),
  overview: () => ask<Overview>('/api/overview'),
  sessions: (limit = 50, before?: string) => ask<{ sessions: Session[] }>(`/api/sessions${query({ limit, before })}`),
  start: (form: FormData) => change<{ id: string }>('/api/sessions', form),
  session: (id: string) => ask<Session>(session(id)),
  trace: (id: string, what: { until?: number; unfold?: string; full?: string } = {}, signal?: AbortSignal) =>
    ask<TraceAnswer>(`${session(id)}/trace${query(what)}`, { signal }),
  events: (id: string, what: EventsQuery, signal?: AbortSignal) =>
    ask<{ events: LavaEvent[]; next: number | null; total_seen?: number }>(
      `${session(id)}/events${query({ ...what })}`, { signal }),
  findings: (id: string) => ask<{ findings: Finding[] }>(`${session(id)}/findings`),
  processes: (id: string) => ask<{ processes: ProcessLane[] }>(`${session(id)}/processes`),
  artifacts: (id: string) => ask<{ artifacts: Artifact[] }>(`${session(id)}/artifacts`),
  hex: (id: string, sha256: string, offset: number, length: number, signal?: AbortSignal) =>
    ask<{ offset: number; hex: string; total: number }>(
      `${session(id)}/artifacts/${encodeURIComponent(sha256)}${query({ view: 'hex', offset, length })}`, { signal }),
  artifactUrl: (id: string, sha256: string) => `${session(id)}/artifacts/${encodeURIComponent(sha256)}`,
  screenUrl: (id: string, control: boolean) =>
    `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${session(id)}/screen${control ? '/control' : ''}`,
  fileUrl: (id: string, name: string) => `${session(id)}/files/${encodeURIComponent(name)}`,
  exports: () => ask<{ formats: ExportFormat[] }>('/api/exports'),
  exportUrl: (id: string, format: string) => `${session(id)}/exports/${encodeURIComponent(format)}`,
  streamUrl: (id: string, from: number) => `${session(id)}/stream${query({ from })}`,
  decisions: (id: string) => ask<{ decisions: LavaEvent[]; pending?: Pending[] }>(`${session(id)}/decisions`),
  respond: (id: string, command: string) => change(`${session(id)}/respond`, { command }),
  decide: (id: string, seq: number, action: Action) => change(`${session(id)}/decide`, { seq, action }),
  policies: () => ask<{ policies: Policy[] }>('/api/policies'),
  checkPolicy: (text: string) => change<{ ok: boolean; diagnostics: Diagnostic[] }>('/api/policies/check', { text }),
  storePolicy: (name: string, text: string) => change(`/api/policies/${encodeURIComponent(name)}`, { text }, 'PUT'),
  profiles: () => ask<{ profiles: { name: string; description: string }[] }>('/api/profiles'),
  search: (q: string, kind: string) => ask<{ hits: Hit[] }>(`/api/search${query({ q, kind })}`),
  searches: () => ask<{ searches: SavedSearch[] }>('/api/searches'),
  keepSearch: (name: string, q: string, kind: string) => change(`/api/searches/${encodeURIComponent(name)}`, { q, kind }, 'PUT'),
  removeSearch: (name: string) => change(`/api/searches/${encodeURIComponent(name)}`, {}, 'DELETE'),
  retention: () => ask<{ rule: Retention; holds: Record<string, Hold> }>('/api/retention'),
  setRetention: (rule: Retention) => change('/api/retention', rule, 'PUT'),
  previewRetention: (rule: Retention) =>
    ask<Plan>(`/api/retention/preview${query({ days: rule.days ?? undefined, bytes: rule.bytes ?? undefined, free: rule.free ?? undefined })}`),
  hold: (id: string, reason: string) => change(`${session(id)}/hold`, { reason }, 'PUT'),
  release: (id: string) => change(`${session(id)}/hold`, {}, 'DELETE'),
  audit: () => ask<{ entries: AuditEntry[] }>('/api/audit'),
};
