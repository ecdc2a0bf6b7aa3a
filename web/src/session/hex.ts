// Bytes as people read them.

export interface Row {
  offset: number;
  bytes: string[];
  ascii: string;
}

/** A hex string as bytes; what is no hex is left out. */
export function decode(hex: string): number[] {
  const found: number[] = [];
  for (let at = 0; at + 1 < hex.length; at += 2) {
    const value = Number.parseInt(hex.slice(at, at + 2), 16);
    if (!Number.isNaN(value)) found.push(value);
  }
  return found;
}

export function rows(data: number[], offset: number, width: number): Row[] {
  const found: Row[] = [];
  for (let at = 0; at < data.length; at += width) {
    const part = data.slice(at, at + width);
    found.push({
      offset: offset + at,
      bytes: part.map((value) => value.toString(16).padStart(2, '0')),
      ascii: part.map((value) => (value >= 32 && value < 127 ? String.fromCharCode(value) : '.')).join(''),
    });
  }
  return found;
}
