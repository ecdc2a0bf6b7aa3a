// A guest's screen as the server gives it to a page: RFB 3.8 (RFC 6143) over a WebSocket, one colour all over.

import type { Page, WebSocketRoute } from '@playwright/test';

export const [WIDTH, HEIGHT] = [640, 400];
/** Red, green, blue. */
export type Colour = [number, number, number];

/** A view that the page has opened. */
export class View {
  /** Types of the messages that the page sent: 3 asks for the picture, 4 is a key, 5 the pointer. */
  readonly heard: number[] = [];
  /** The keys that were pressed, as keysyms. */
  readonly keys: number[] = [];
  private stage = 0;
  private rest = Buffer.alloc(0);

  constructor(private readonly socket: WebSocketRoute, private readonly colour: Colour) {
    socket.onMessage((message) => {
      this.rest = Buffer.concat([this.rest, Buffer.from(message as Buffer)]);
      while (this.step());
    });
    socket.send(Buffer.from('RFB 003.008\n'));
  }

  close(code: number, reason: string): void {
    void this.socket.close({ code, reason });
  }

  private take(count: number): Buffer | null {
    if (this.rest.length < count) return null;
    const taken = this.rest.subarray(0, count);
    this.rest = this.rest.subarray(count);
    return taken;
  }

  /** Hears one message, if it is whole. */
  private step(): boolean {
    const answers = [[1, 1], [0, 0, 0, 0], [...this.init()]];
    const answer = answers[this.stage];
    if (answer) {
      if (!this.take(this.stage === 0 ? 12 : 1)) return false;
      this.socket.send(Buffer.from(answer));
      this.stage += 1;
      return true;
    }
    const kind = this.rest[0];
    if (kind === undefined || (kind === 2 && this.rest.length < 4)) return false;
    const lengths: Record<number, number> = { 0: 20, 2: kind === 2 ? 4 + 4 * this.rest.readUInt16BE(2) : 0, 3: 10, 4: 8, 5: 6, 6: 8 };
    const message = this.take(lengths[kind] ?? Infinity);
    if (!message) return false;
    this.heard.push(kind);
    if (kind === 3 && message[1] === 0) this.socket.send(this.picture());
    if (kind === 4 && message[1] === 1) this.keys.push(message.readUInt32BE(4));
    return true;
  }

  private init(): Buffer {
    const init = Buffer.alloc(24);
    init.writeUInt16BE(WIDTH, 0);
    init.writeUInt16BE(HEIGHT, 2);
    // 32 bits a pixel, 24 of them used, true colour, 255 of each.
    init.set([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16], 4);
    return init;
  }

  private picture(): Buffer {
    const head = Buffer.from([0, 0, 0, 1, 0, 0, 0, 0, WIDTH >> 8, WIDTH & 255, HEIGHT >> 8, HEIGHT & 255, 0, 0, 0, 0]);
    return Buffer.concat([head, Buffer.alloc(WIDTH * HEIGHT * 4, Buffer.from([...this.colour, 0]))]);
  }
}

/** From now on the page finds such a screen; what it opens, in order. The path tells whether it takes control. */
export async function screens(page: Page, colour: Colour): Promise<{ path: string; view: View }[]> {
  const opened: { path: string; view: View }[] = [];
  await page.routeWebSocket(/\/screen(\/control)?$/, (socket) => {
    opened.push({ path: new URL(socket.url()).pathname, view: new View(socket, colour) });
  });
  // noVNC looks for `send` and the rest in the class itself, and Playwright's has them from a class above it.
  await page.addInitScript(() => {
    const { prototype } = WebSocket;
    const above = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(prototype) as object);
    for (const [name, what] of Object.entries(above)) if (!Object.hasOwn(prototype, name)) Object.defineProperty(prototype, name, what);
  });
  return opened;
}

/** The colour in the middle of what the page shows. */
export function shown(page: Page): Promise<number[]> {
  return page.locator('.screen canvas').evaluate((canvas: HTMLCanvasElement) => {
    const data = canvas.getContext('2d')?.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data ?? [];
    return [...data].slice(0, 3);
  });
}
