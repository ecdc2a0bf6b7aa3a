// Which event was the last one at a moment. Events are numbered, the reader thinks in time: this searches, and remembers.

import { api } from '../lib/api';

/** A stretch this long is read at once, and is known from then on. The server gives no more events at a time. */
const STRETCH = 1000;

export class Clock {
  /** Known events, in order of their numbers. */
  private known: { seq: number; ns: number }[] = [{ seq: 0, ns: 0 }];

  constructor(private readonly session: string) {}

  learn(seq: number, ns: number): void {
    const at = this.known.findIndex((each) => each.seq >= seq);
    if (at < 0) this.known.push({ seq, ns });
    else if (this.known[at]?.seq !== seq) this.known.splice(at, 0, { seq, ns });
  }

  /** When event `seq` was, or the next one that there is. */
  async timeOf(seq: number, signal?: AbortSignal): Promise<number> {
    const [event] = (await api.events(this.session, { from: seq, limit: 1 }, signal)).events;
    if (!event) return this.known.at(-1)?.ns ?? 0;
    this.learn(event.seq, event.time_ns);
    return event.time_ns;
  }

  /** The last event at or before `ns`, among those up to `last`. */
  async seqAt(ns: number, last: number, signal: AbortSignal): Promise<number> {
    for (;;) {
      const after = this.known.findIndex((each) => each.ns > ns);
      const low = this.known[(after < 0 ? this.known.length : after) - 1]?.seq ?? 0;
      const high = after < 0 ? last + 1 : (this.known[after]?.seq ?? last + 1);
      if (high - low <= 1) return low;
      if (high - low <= STRETCH) {
        await this.read(low, high, signal);
        return this.known.findLast((each) => each.ns <= ns && each.seq < high)?.seq ?? low;
      }
      await this.timeOf(Math.floor((low + high) / 2), signal);
    }
  }

  private async read(low: number, high: number, signal: AbortSignal): Promise<void> {
    const { events } = await api.events(this.session, { from: low + 1, limit: high - low }, signal);
    const there = events.filter((event) => event.seq < high).map((event) => ({ seq: event.seq, ns: event.time_ns }));
    const at = this.known.findIndex((each) => each.seq > low);
    this.known.splice(at < 0 ? this.known.length : at, 0, ...there);
  }
}
