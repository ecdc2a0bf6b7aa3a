// Pixels of the attack graph: cards' boxes and the lines between them.

import { STAGES } from '../lib/types';
import type { Card, Layout, Link } from './layout';

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Scene {
  width: number;
  height: number;
  lanes: Box[];
  boxes: Map<string, Box>;
  lines: { link: Link; path: string; tree: boolean }[];
}

/** Narrower than this, lanes lie below each other. */
const STACK_BELOW = 620;
const LANE_MIN = 150;
const CARD = { height: 44, pitch: 60 };
const INDENT = 12;
const MARGIN = { x: 14, top: 46, bottom: 18 };
/** Where a parent's line to its children begins, from its left edge. */
const RAIL = 7;

export function scene(drawn: Layout, available: number, zoom: number): Scene {
  const stacked = available < STACK_BELOW;
  const laneWidth = stacked ? available : Math.max(LANE_MIN, available / STAGES.length) * zoom;
  const lanes: Box[] = [];
  let y = 0;
  const tall = Math.max(1, ...drawn.rows);
  for (let lane = 0; lane < STAGES.length; lane += 1) {
    const rows = stacked ? (drawn.rows[lane] ?? 0) : tall;
    const height = MARGIN.top + rows * CARD.pitch + MARGIN.bottom - (rows ? CARD.pitch - CARD.height : MARGIN.bottom);
    lanes.push({ x: stacked ? 0 : lane * laneWidth, y, width: laneWidth, height });
    if (stacked) y += height;
  }
  const boxes = new Map(drawn.cards.map((card) => [card.node.id, box(card, lanes[card.lane] as Box)]));
  const byId = new Map(drawn.cards.map((card) => [card.node.id, card]));
  const lines = drawn.links.flatMap((link) => {
    const [from, to, a, b] = [byId.get(link.from), byId.get(link.to), boxes.get(link.from), boxes.get(link.to)];
    if (!from || !to || !a || !b) return [];
    const tree = to.parent === link.from && to.lane === from.lane && to.depth > from.depth;
    return [{ link, tree, path: tree ? elbow(a, b) : curve(a, b, from.lane === to.lane || stacked) }];
  });
  const height = stacked ? y : Math.max(...lanes.map((lane) => lane.height));
  return { width: stacked ? available : laneWidth * STAGES.length, height, lanes, boxes, lines };
}

function box(card: Card, lane: Box): Box {
  const indent = card.depth * INDENT;
  return {
    x: lane.x + MARGIN.x + indent,
    y: lane.y + MARGIN.top + card.row * CARD.pitch,
    width: lane.width - 2 * MARGIN.x - indent,
    height: CARD.height,
  };
}

const middle = (of: Box): number => of.y + of.height / 2;

function elbow(a: Box, b: Box): string {
  const x = a.x + RAIL;
  const y = middle(b);
  const bend = Math.min(5, b.x - x);
  return `M${x} ${a.y + a.height}V${y - bend}Q${x} ${y} ${x + bend} ${y}H${b.x - 1}`;
}

function curve(a: Box, b: Box, beside: boolean): string {
  if (beside) {
    const [x1, x2] = [a.x + a.width, b.x + b.width];
    const bulge = Math.max(x1, x2) + 12;
    return `M${x1} ${middle(a)}C${bulge} ${middle(a)} ${bulge} ${middle(b)} ${x2} ${middle(b)}`;
  }
  const forward = b.x > a.x;
  const [x1, x2] = forward ? [a.x + a.width, b.x] : [a.x, b.x + b.width];
  const reach = Math.max(14, Math.abs(x2 - x1) / 2) * (forward ? 1 : -1);
  return `M${x1} ${middle(a)}C${x1 + reach} ${middle(a)} ${x2 - reach} ${middle(b)} ${x2} ${middle(b)}`;
}
