// Events in a line, and their fields as text.

import { bytes, words } from '../lib/text';
import type { Action, LavaEvent } from '../lib/types';

/** Fields that are addresses: shown as hex. */
export const ADDRESSES = new Set(['address', 'slide', 'direct_map', 'phys_base', 'flags']);

const exact = (_key: string, value: unknown): unknown => (typeof value === 'bigint' ? value.toString() : value);

export function asJson(event: LavaEvent): string {
  return JSON.stringify(event, exact, 2);
}

function isRange(value: unknown): value is { start: number; end: number } {
  return typeof value === 'object' && value !== null && 'start' in value && 'end' in value;
}

function isAddress(value: unknown): value is { address: string; port: number } {
  return typeof value === 'object' && value !== null && 'address' in value && 'port' in value;
}

export function fieldText(value: unknown): string {
  if (value === null || value === undefined) return 'none';
  if (typeof value !== 'object') return String(value);
  if (isAddress(value)) return `${value.address}:${value.port}`;
  if (isRange(value)) return `${value.start}-${value.end}`;
  if (Array.isArray(value)) return value.every((each) => typeof each === 'string') ? value.join(' ') : value.map(fieldText).join(', ');
  return Object.entries(value).map(([key, each]) => `${key} ${fieldText(each)}`).join(', ');
}

/** What an event is about, without its kind. */
export function gist(event: LavaEvent): string {
  const get = (key: string): string | null => (key in event ? fieldText(event[key]) : null);
  if (event.kind === 'process.exec') return get('argv') ?? get('path') ?? '';
  if (event.kind === 'file.rename') return `${get('from')} → ${get('to')}`;
  if (event.kind === 'vm.decision') return `${get('action')}: ${get('outcome')}`;
  if (event.kind === 'disk.write') return `${get('disk')} ${get('region')}, ${bytes(Number(event['bytes']))}`;
  const about = get('path') ?? get('destination') ?? get('child') ?? get('name') ?? get('new') ?? get('target') ?? '';
  const size = typeof event['bytes'] === 'number' && event['bytes'] ? ` (${bytes(event['bytes'])})` : '';
  return about + size;
}

/** What an act that waits is about to do, as the end of "is about to". */
export function intent(event: LavaEvent): string {
  const path = fieldText(event['path']);
  switch (event.kind) {
    case 'disk.write': return `write ${bytes(Number(event['bytes']))} to the ${words(fieldText(event['region']))} of ${fieldText(event['disk'])}`;
    case 'process.exec': return `run ${path}`;
    case 'file.open': return `open ${path} for writing`;
    case 'kernel.module_load': return `load the kernel module ${fieldText(event['name'])}`;
    case 'kernel.immutable_write': return "write to the kernel's own code or tables";
    default: return `do ${event.kind} (${gist(event)})`;
  }
}

/** What each answer means for the guest. */
export const MEANS: Record<Action, string> = {
  deny: 'does not happen; the guest sees an error',
  remediate: 'does not happen; the guest believes it did',
  allow: 'happens; the attack plays on',
};
