// Where the attack graph's cards lie: the kill chain runs from left to right, time from top to bottom.
//
// A card that has a place keeps it while the session grows and while the reader goes back in time; new ones come below. The one move
// there is: a card whose stage becomes known goes to that stage's lane, once.

import { STAGES, type Stage, type Trace, type TraceEdge, type TraceNode } from '../lib/types';

/** What a process did to many things, drawn on its card. */
export interface Chip {
  node: TraceNode;
  edges: TraceEdge[];
}

export interface Card {
  node: TraceNode;
  lane: number;
  row: number;
  /** Steps to the right within its lane: under whom it hangs. */
  depth: number;
  /** The card it hangs from, in any lane. */
  parent: string | null;
  chips: Chip[];
  /** What was done to it, by its parent. */
  done: TraceEdge[];
}

/** All edges from one card to another, drawn as one line. */
export interface Link {
  key: string;
  from: string;
  to: string;
  edges: TraceEdge[];
}

export interface Layout {
  cards: Card[];
  links: Link[];
  rows: number[];
}

/** Places that were given, by node id. Kept by the view as long as it shows the session. */
export type Places = Map<string, { lane: number; row: number }>;

const ACTORS = new Set(['task', 'process', 'kernel']);
export const isActor = (node: TraceNode): boolean => ACTORS.has(node.kind);

const laneOf = (stage: Stage | null): number | null => (stage === null ? null : STAGES.indexOf(stage));

export function linkKey(from: string, to: string): string {
  return `${from}>${to}`;
}

function bundle(edges: TraceEdge[]): Link[] {
  const links = new Map<string, Link>();
  for (const edge of edges) {
    const key = linkKey(edge.from, edge.to);
    const link = links.get(key);
    if (link) link.edges.push(edge);
    else links.set(key, { key, from: edge.from, to: edge.to, edges: [edge] });
  }
  return [...links.values()];
}

/** Folds that hang from one card only are drawn on it. */
function chipsOf(trace: Trace, links: Link[]): Map<string, Chip[]> {
  const chips = new Map<string, Chip[]>();
  for (const node of trace.nodes) {
    if (node.kind !== 'fold') continue;
    const touching = links.filter((link) => link.from === node.id || link.to === node.id);
    const other = touching[0]?.from === node.id ? touching[0].to : touching[0]?.from;
    if (touching.length !== 1 || other === undefined) continue;
    chips.set(other, [...(chips.get(other) ?? []), { node, edges: touching[0]?.edges ?? [] }]);
  }
  return chips;
}

/** Who did something to it first: actors before others. */
function parents(nodes: Map<string, TraceNode>, links: Link[]): Map<string, Link> {
  const found = new Map<string, Link>();
  const rank = (link: Link): [number, number] => {
    const from = nodes.get(link.from);
    return [from && isActor(from) ? 0 : 1, link.edges[0]?.first_ns ?? 0];
  };
  for (const link of links) {
    const before = found.get(link.to);
    const [actor, time] = rank(link);
    const [beforeActor, beforeTime] = before ? rank(before) : [2, 0];
    if (actor < beforeActor || (actor === beforeActor && time < beforeTime)) found.set(link.to, link);
  }
  return found;
}

export function layout(trace: Trace, places: Places, mayMove: boolean): Layout {
  const all = bundle(trace.edges);
  const chips = chipsOf(trace, all);
  const onCards = new Set([...chips.values()].flat().map((chip) => chip.node.id));
  const nodes = trace.nodes.filter((node) => !onCards.has(node.id)).sort((a, b) => a.first_ns - b.first_ns);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const links = all.filter((link) => byId.has(link.from) && byId.has(link.to));
  const parentOf = parents(byId, links);
  const lanes = new Map<string, number>();
  const lane = (node: TraceNode, seen: string[] = []): number => {
    const known = lanes.get(node.id);
    if (known !== undefined) return known;
    const up = byId.get(parentOf.get(node.id)?.from ?? '');
    const own = laneOf(node.stage) ?? (mayMove ? null : (places.get(node.id)?.lane ?? null));
    const given = own ?? (up && !seen.includes(up.id) ? lane(up, [...seen, node.id]) : (places.get(node.id)?.lane ?? 0));
    lanes.set(node.id, given);
    return given;
  };
  const rows = STAGES.map(() => 0);
  for (const node of nodes) {
    const place = places.get(node.id);
    if (place && (!mayMove || place.lane === lane(node))) {
      lanes.set(node.id, place.lane);
      rows[place.lane] = Math.max(rows[place.lane] ?? 0, place.row + 1);
    }
  }
  // Who hangs from somebody in its lane comes below that one, even if it was there a moment earlier.
  const put = (node: TraceNode, seen: string[]): void => {
    const at = lane(node);
    if (places.get(node.id)?.lane === at) return;
    const up = byId.get(parentOf.get(node.id)?.from ?? '');
    if (up && !seen.includes(up.id) && lane(up) === at) put(up, [...seen, node.id]);
    const row = rows[at] ?? 0;
    rows[at] = row + 1;
    places.set(node.id, { lane: at, row });
  };
  for (const node of nodes) put(node, [node.id]);
  const cards = nodes.map((node) => card(node, parentOf.get(node.id) ?? null, chips.get(node.id) ?? [], places));
  indent(cards);
  return { cards, links, rows };
}

function card(node: TraceNode, up: Link | null, chips: Chip[], places: Places): Card {
  const place = places.get(node.id) ?? { lane: 0, row: 0 };
  return { node, lane: place.lane, row: place.row, depth: 0, parent: up?.from ?? null, chips, done: up?.edges ?? [] };
}

/** How deep the lanes are wide enough to show. */
const DEEPEST = 3;

function indent(cards: Card[]): void {
  const byId = new Map(cards.map((each) => [each.node.id, each]));
  const depth = (each: Card, left: number): number => {
    const up = each.parent === null ? undefined : byId.get(each.parent);
    // Only under somebody above, in the same lane: that is what an indent means to a reader.
    if (!up || left === 0 || up.lane !== each.lane || up.row > each.row) return 0;
    return Math.min(depth(up, left - 1) + 1, DEEPEST);
  };
  for (const each of cards) each.depth = depth(each, DEEPEST);
}
