// Showing what others wrote: guest text is hostile, and numbers are for people.

/** A run of plain text, or one character that would change how its neighbours are shown. */
export interface Piece {
  text: string;
  control: boolean;
}

// Bidi controls, other invisible formatting, C0 and C1 controls, line separators, tags, variation selectors left alone.
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

const NAMES: Record<number, string> = { 9: '\\t', 10: '\\n', 13: '\\r', 0: '\\0', 27: '\\e' };

/** Splits text so that every control character can be drawn as what it is. */
export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let end = 0;
  for (const match of text.matchAll(CONTROL)) {
    if (match.index > end) found.push({ text: text.slice(end, match.index), control: false });
    const code = match[0].codePointAt(0) ?? 0;
    found.push({ text: NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, '0')}`, control: true });
    end = match.index + match[0].length;
  }
  if (end < text.length) found.push({ text: text.slice(end), control: false });
  return found;
}

/** The same as one string, for titles and labels that take no markup. */
export const plain = (text: string): string =>
  pieces(text).map((piece) => (piece.control ? `[${piece.text}]` : piece.text)).join('');

/** At most `max` characters, the middle left out: beginnings and ends of paths tell most. */
export function shorten(text: string, max: number): string {
  const letters = [...text];
  if (letters.length <= max) return text;
  const tail = Math.floor((max - 1) / 2);
  return `${letters.slice(0, max - 1 - tail).join('')}…${letters.slice(-tail).join('')}`;
}

/** The last part of a path. */
export function baseName(path: string): string {
  const trimmed = path.replace(/\/+$/, '');
  return trimmed.slice(trimmed.lastIndexOf('/') + 1) || path;
}

export function seconds(ns: number, digits = 3): string {
  return `${(ns / 1e9).toFixed(digits)} s`;
}

export function bytes(count: number): string {
  if (count < 1024) return `${count} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let value = count / 1024;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export const count = (value: number): string => value.toLocaleString('en-US');

export function dateTime(iso: string): string {
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? iso : date.toISOString().slice(0, 19).replace('T', ' ') + ' UTC';
}

export function duration(from: string, to: string | null): string {
  const end = to ? new Date(to).getTime() : Date.now();
  const length = (end - new Date(from).getTime()) / 1000;
  if (!Number.isFinite(length) || length < 0) return '';
  return length < 90 ? `${length.toFixed(0)} s` : `${Math.floor(length / 60)} min ${Math.round(length % 60)} s`;
}

export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** "post_mbr_gap" -> "post mbr gap". */
export const words = (name: string): string => name.replaceAll('_', ' ');
