// One selection, three views: what else belongs to the selected thing.

import type { Finding, ProcessLane, Stage, Trace, TraceNode } from '../lib/types';
import { linkKey } from './layout';

export type Selection =
  | { kind: 'node'; id: string }
  | { kind: 'link'; from: string; to: string }
  | { kind: 'finding'; index: number }
  | { kind: 'stage'; stage: Stage }
  | { kind: 'process'; pid: number; start_ns: number }
  | { kind: 'decision'; event: number }
  | { kind: 'event'; seq: number };

/** What is lit in each view. */
export interface Related {
  nodes: Set<string>;
  links: Set<string>;
  findings: Set<number>;
  /** Process ids. */
  pids: Set<number>;
}

const nothing = (): Related => ({ nodes: new Set(), links: new Set(), findings: new Set(), pids: new Set() });

/** The process id that a process card names. */
export function pidOf(node: TraceNode): number | null {
  if (node.kind !== 'process') return null;
  const found = /^pid (\d+)/.exec(node.detail[0] ?? '');
  return found ? Number(found[1]) : null;
}

function addFindings(related: Related, trace: Trace, chosen: { finding: Finding; index: number }[]): void {
  const events = new Set(chosen.flatMap(({ finding }) => finding.events));
  for (const { finding, index } of chosen) {
    related.findings.add(index);
    if (finding.process) related.pids.add(finding.process.pid);
    for (const node of trace.nodes) if (node.findings.includes(index)) related.nodes.add(node.id);
  }
  for (const edge of trace.edges) {
    if (!edge.events.some((seq) => events.has(seq))) continue;
    related.links.add(linkKey(edge.from, edge.to));
  }
}

function addNode(related: Related, trace: Trace, id: string): void {
  const node = trace.nodes.find((each) => each.id === id);
  if (!node) return;
  related.nodes.add(id);
  for (const index of node.findings) related.findings.add(index);
  for (const edge of trace.edges) {
    if (edge.from === id || edge.to === id) related.links.add(linkKey(edge.from, edge.to));
  }
  const near = trace.edges.filter((edge) => edge.to === id).map((edge) => trace.nodes.find((each) => each.id === edge.from));
  const pids = (node.kind === 'process' ? [node] : near).map((each) => (each ? pidOf(each) : null));
  for (const pid of pids) if (pid !== null) related.pids.add(pid);
}

export function relatedTo(selection: Selection | null, trace: Trace, findings: Finding[]): Related {
  const related = nothing();
  if (!selection) return related;
  const numbered = findings.map((finding, index) => ({ finding, index }));
  switch (selection.kind) {
    case 'node':
      addNode(related, trace, selection.id);
      break;
    case 'link':
      related.nodes.add(selection.from).add(selection.to);
      related.links.add(linkKey(selection.from, selection.to));
      for (const node of trace.nodes) {
        const pid = related.nodes.has(node.id) ? pidOf(node) : null;
        if (pid !== null) related.pids.add(pid);
      }
      break;
    case 'finding':
      addFindings(related, trace, numbered.filter(({ index }) => index === selection.index));
      break;
    case 'stage':
      addFindings(related, trace, numbered.filter(({ finding }) => finding.stage === selection.stage));
      break;
    case 'process':
      related.pids.add(selection.pid);
      for (const node of trace.nodes) if (pidOf(node) === selection.pid) addNode(related, trace, node.id);
      break;
    case 'decision':
    case 'event': {
      const seq = selection.kind === 'event' ? selection.seq : selection.event;
      for (const edge of trace.edges) {
        if (!edge.events.includes(seq) && edge.decision?.event !== seq) continue;
        related.links.add(linkKey(edge.from, edge.to));
        related.nodes.add(edge.from).add(edge.to);
      }
      break;
    }
  }
  return related;
}

/** The selection as it stands in the page's address, and back. */
export function toText(selection: Selection | null): string | null {
  if (!selection) return null;
  switch (selection.kind) {
    case 'node': return `node.${selection.id}`;
    case 'link': return `link.${selection.from}>${selection.to}`;
    case 'finding': return `finding.${selection.index}`;
    case 'stage': return `stage.${selection.stage}`;
    case 'process': return `process.${selection.pid}.${selection.start_ns}`;
    case 'decision': return `decision.${selection.event}`;
    case 'event': return `event.${selection.seq}`;
  }
}

export function fromText(text: string | null): Selection | null {
  const cut = text?.indexOf('.') ?? -1;
  if (!text || cut < 0) return null;
  const value = text.slice(cut + 1);
  switch (text.slice(0, cut)) {
    case 'node': return { kind: 'node', id: value };
    case 'link': {
      const [from, to] = value.split('>');
      return from && to ? { kind: 'link', from, to } : null;
    }
    case 'finding': return { kind: 'finding', index: Number(value) };
    case 'stage': return { kind: 'stage', stage: value as Stage };
    case 'process': {
      const [pid, start] = value.split('.');
      return { kind: 'process', pid: Number(pid), start_ns: Number(start) };
    }
    case 'decision': return { kind: 'decision', event: Number(value) };
    case 'event': return { kind: 'event', seq: Number(value) };
    default: return null;
  }
}

/** The lanes of the timeline that the attack touched, then the others. */
export function ordered(processes: ProcessLane[]): ProcessLane[] {
  return [...processes].sort((a, b) => Number(b.tainted) - Number(a.tainted) || a.first_ns - b.first_ns);
}
