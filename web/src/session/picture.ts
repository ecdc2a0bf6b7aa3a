// The pictures of a guest's screen that a session kept.

import { api } from '../lib/api';
import type { LavaEvent } from '../lib/types';

/** The `vm.screen` events, in order. */
export async function pictures(session: string, signal: AbortSignal): Promise<LavaEvent[]> {
  const found: LavaEvent[] = [];
  let from: number | null = 1;
  while (from !== null) {
    const page: { events: LavaEvent[]; next: number | null } = await api.events(session, { from, kind: 'vm.screen', limit: 1000 }, signal);
    found.push(...page.events);
    from = page.next;
  }
  return found;
}

/** The last of them at that time; the SHA-256 of its PNG. */
export function pictureAt(all: LavaEvent[], ns: number): { ns: number; sha256: string } | null {
  const last = all.findLast((event) => event.time_ns <= ns);
  const sha256 = last?.['picture'];
  return last && typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256) ? { ns: last.time_ns, sha256 } : null;
}
