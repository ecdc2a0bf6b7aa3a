// Short words for nodes and edges.

import { baseName, bytes, count, words } from '../lib/text';
import type { Distance, Finding, Grade, Severity, TraceEdge, TraceNode } from '../lib/types';
import type { Card, Chip } from './layout';

const PAST: Record<string, string> = {
  opens: 'opened', forks: 'forked', executes: 'executed', starts: 'started', runs: 'run', reads: 'read',
  opens_for_writing: 'opened to write', creates: 'created', writes: 'written', changes_attributes: 'mode changed',
  renames: 'renamed', deletes: 'deleted', follows: 'changed', connects: 'connected to', gains: 'gained', loads: 'loaded', sends: 'sent to',
  maps: 'shared in memory', injects: 'injected into',
};

export const KIND: Record<string, string> = {
  task: 'Task', process: 'Process', file: 'File', endpoint: 'Network', disk_area: 'Disk area', module: 'Kernel module',
  credential: 'Rights', kernel: 'Kernel', fold: 'Several',
};

export const ACTED: Record<string, string> = { allow: 'allowed', deny: 'denied', remediate: 'undone' };

const RANK: Record<Severity, number> = { info: 0, low: 1, medium: 2, high: 3, critical: 4 };
const GRADES: Grade[] = ['inferred', 'observed', 'proven'];

export function verb(edge: TraceEdge): string {
  const size = edge.bytes ? ` ${bytes(edge.bytes)}` : '';
  const times = edge.count > 1 && !edge.bytes ? ` ${count(edge.count)}×` : '';
  return `${words(edge.verb)}${size}${times}`;
}

/** "uid 1000 → 1000, euid 1000 → 0, ...": what that means, and the change itself. */
function rights(label: string): [string, string] {
  const found = /^uid (\d+) → (\d+), euid (\d+) → (\d+)/.exec(label);
  if (!found) return [label, ''];
  const [, from, to, before, after] = found;
  return [after === '0' ? 'root rights' : `rights of uid ${after}`, before === after ? `uid ${from} → ${to}` : `euid ${before} → ${after}`];
}

/** "10 hosts, 21 connection attempts": what before the comma, the rest after it. */
function halves(label: string): [string, string] {
  const at = label.indexOf(', ');
  return at < 0 ? [label, ''] : [label.slice(0, at), label.slice(at + 2)];
}

/** Paths by their last part; everything else whole. */
export function title(node: TraceNode): string {
  if (node.kind === 'credential') return rights(node.label)[0];
  if (node.kind === 'endpoint') return halves(node.label)[0];
  return (node.kind === 'file' || node.kind === 'process') && node.label.includes('/') ? baseName(node.label) : node.label;
}

/** What a reader wants to know of a card besides its name. */
export function subtitle(card: Card): string {
  const { node } = card;
  if (node.kind === 'process') return node.detail[0] ?? '';
  if (node.kind === 'task') return node.detail[0] ?? '';
  if (node.kind === 'credential') return rights(node.label)[1];
  if (node.kind === 'endpoint') return halves(node.label)[1];
  const shown = card.done.filter((edge) => edge.verb !== 'opens_for_writing' || card.done.length === 1);
  return shown.map((edge) => `${PAST[edge.verb] ?? words(edge.verb)}${edge.bytes ? ` ${bytes(edge.bytes)}` : ''}`).join(', ');
}

/** "54 read", "3 changed": what a fold's label says in full. */
export function chipText(chip: Chip): string {
  const number = /\d+/.exec(chip.node.label)?.[0] ?? '';
  const done = chip.edges.some((edge) => edge.verb !== 'reads') ? 'changed' : 'read';
  return chip.node.id.endsWith('.reads') || chip.node.id.endsWith('.files') ? `${number} ${done}` : chip.node.label;
}

export function severityOf(indexes: number[], findings: Finding[]): Severity | null {
  const all = indexes.flatMap((index) => findings[index]?.severity ?? []);
  return all.sort((a, b) => RANK[b] - RANK[a])[0] ?? null;
}

/** How surely the whole of a line is known: as its weakest part. */
export function gradeOf(edges: TraceEdge[]): Grade {
  return edges.map((edge) => edge.grade).sort((a, b) => GRADES.indexOf(a) - GRADES.indexOf(b))[0] ?? 'observed';
}

export const GRADE_SAYS: Record<Grade, string> = {
  observed: 'seen at a hook or a device',
  inferred: 'concluded from order or matching ranges',
  proven: 'the bytes were followed',
};

/** As `lava show` says it: lava-event/src/finding.rs. */
export const DISTANCE_SAYS: Record<Distance, string> = {
  usual: 'usual for this profile',
  near: 'close to what is usual for this profile',
  other_object: 'never seen: the program usually does this to other things',
  other_act: 'never seen: the program usually does not do this',
  other_program: 'never seen: the program is not usual here',
  never: 'never usual',
};

export const STAGE_SAYS = {
  exploit: 'The content takes control of the program that opened it',
  execute: "The attacker's own code runs",
  escalate: 'It gains rights it was not given',
  persist: 'It arranges to survive a restart',
  propagate: 'It reaches for other machines',
} as const;
