// `cargo xtask bench --console`: what the console promises, measured in Debian's Chromium on the real server. No test: it holds nothing
// against a limit, and prints a line of JSON for each figure.

import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

import type { Page } from '@playwright/test';

import { expect, test } from './page';
import { newId, Server } from './server';

const DIST = fileURLToPath(new URL('../dist/assets', import.meta.url));
/** Where sessions are that are made once and looked at again: a million events take minutes. */
const KEPT = process.env['LAVA_BENCH'] ?? '';
const LIMIT = 1_800_000;
/** Programs that the ticking task drops and runs, one after the other. */
const TICKS = 60;
/** Who looks at one session at a time. */
const VIEWERS = 50;

let server: Server | undefined;

async function serve(sessions?: string): Promise<void> {
  test.setTimeout(LIMIT);
  server = new Server(sessions);
  await server.start();
}

test.afterEach(async () => {
  await server?.stop();
});

const origin = (): string => server?.origin ?? '';
const link = (): string => server?.link ?? '';

function told(figure: string, value: string): void {
  process.stdout.write(`\n${JSON.stringify({ figure, value })}\n`);
}

function spread(samples: number[], unit = 'ms'): string {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]?.toFixed(0) ?? '?';
  return `p50 ${at(0.5)} ${unit}, p99 ${at(0.99)} ${unit}, of ${sorted.length}`;
}

/** Opens a script in a micro-VM; its session's id. */
function play(script: string, timeout: number): string {
  const id = newId();
  const task = join(server?.sessions ?? '', 'task.sh');
  writeFileSync(task, script);
  server?.run([task, '--policy', 'observe', '--timeout', String(timeout), '--id', id]);
  return id;
}

async function begun(page: Page, id: string): Promise<void> {
  await expect.poll(async () => (await page.request.get(`${origin()}/api/sessions/${id}`)).status(), { timeout: 240_000 }).toBe(200);
}

/** Resident memory of the server, MiB. */
function resident(): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server?.pid ?? 0}/status`, 'utf8'))?.[1] ?? 0) / 1024;
}

async function startedAt(page: Page, id: string): Promise<number> {
  const { started } = (await (await page.request.get(`${origin()}/api/sessions/${id}`)).json()) as { started: string };
  return Date.parse(started);
}

/** When each tick was run, ms after the session's beginning. */
async function ticks(page: Page, id: string): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  const answer = await page.request.get(`${origin()}/api/sessions/${id}/events?kind=process.exec&q=tick-&limit=1000`);
  for (const { path, time_ns } of ((await answer.json()) as { events: { path: string; time_ns: number }[] }).events) {
    const name = /tick-\d+$/.exec(path)?.[0];
    if (name && !found.has(name)) found.set(name, time_ns / 1e6);
  }
  return found;
}

/** Follows a live session as a page does; when the run of each tick was heard of. */
async function listen(id: string, cookie: string): Promise<Map<string, number>> {
  const heard = new Map<string, number>();
  const answer = await fetch(`${origin()}/api/sessions/${id}/stream`, { headers: { Cookie: cookie } });
  let rest = '';
  const decoder = new TextDecoder();
  const reader = answer.body?.getReader();
  for (let piece = await reader?.read(); piece && !piece.done; piece = await reader?.read()) {
    const lines = (rest + decoder.decode(piece.value as Uint8Array, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (!/^data: ?\{"events"/.test(line)) continue;
      for (const [, name] of line.matchAll(/"kind":"process\.exec","path":"\/tmp\/(tick-\d+)"/g)) {
        if (name && !heard.has(name)) heard.set(name, Date.now());
      }
    }
  }
  return heard;
}

test('event to pixels, and 50 viewers', async ({ page }) => {
  await serve();
  await page.goto(link());
  await expect(page.getByRole('heading', { name: 'Overview' })).toBeVisible();
  const quiet = resident();
  const id = play(`#!/bin/sh\nfor i in $(seq 1 ${TICKS}); do cp /bin/true /tmp/tick-$i; /tmp/tick-$i; sleep 0.4; done\nsleep 5\n`, 300);
  await begun(page, id);
  // Before anything is drawn: when each tick's name was on the screen, the frame after its card came.
  await page.addInitScript(() => {
    const seen: Record<string, number> = {};
    Object.assign(window, { seen });
    const look = (): void => {
      for (const [name] of (document.body?.textContent ?? '').matchAll(/tick-\d+/g)) {
        if (name in seen) continue;
        seen[name] = 0;
        requestAnimationFrame(() => setTimeout(() => (seen[name] = Date.now())));
      }
    };
    new MutationObserver(look).observe(document, { childList: true, subtree: true, characterData: true });
  });
  await page.goto(`${origin()}/sessions/${id}`);
  const cookies = (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join('; ');
  const heard = Array.from({ length: VIEWERS }, () => listen(id, cookies));
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('closed', { timeout: 600_000 });
  const busy = resident();
  const seen = await page.evaluate(() => (window as unknown as { seen: Record<string, number> }).seen);
  const started = await startedAt(page, id);
  const happened = await ticks(page, id);
  const pixels = Object.entries(seen).flatMap(([name, at]) => (happened.has(name) ? [at - started - (happened.get(name) ?? 0)] : []));
  told('guest event to pixels in the browser', spread(pixels));
  const viewers = (await Promise.all(heard)).flatMap((one) =>
    [...one].flatMap(([name, at]) => (happened.has(name) ? [at - started - (happened.get(name) ?? 0)] : [])));
  told(`guest event to each of ${VIEWERS} viewers`, spread(viewers));
  told(`memory of the server: nothing live, then one session with ${VIEWERS + 1} viewers`, `${quiet.toFixed(0)} MiB, ${busy.toFixed(0)} MiB`);
});

test('a million events', async ({ page }) => {
  const { id, events } = await kept(page, 'million', 1_000_000);
  const begin = Date.now();
  await page.goto(`${origin()}/sessions/${id}`);
  await page.locator('[data-place]').first().waitFor({ timeout: LIMIT });
  const opened = Date.now() - begin;
  await page.locator('.row').nth(3).waitFor({ timeout: LIMIT });
  told(`a session of ${events} events opens`, `${opened} ms; its processes are there after ${Date.now() - begin} ms`);
  const back = Date.now();
  await page.getByRole('slider', { name: 'Moment' }).evaluate((input: HTMLInputElement) => {
    input.value = String(Number(input.max) / 2);
    input.dispatchEvent(new Event('input', { bubbles: true }));
  });
  await expect(page.getByText(/As of /).first()).toBeVisible({ timeout: LIMIT });
  told('to its middle', `${Date.now() - back} ms`);
});

test('a graph of thousands of nodes', async ({ page }) => {
  const { id } = await kept(page, 'thousands', 25_000);
  await page.goto(`${origin()}/sessions/${id}`);
  await page.getByRole('button', { name: /^Show all/ }).click();
  const all = page.locator('section.graph .body');
  await expect.poll(() => all.evaluate((body) => body.scrollHeight), { timeout: LIMIT }).toBeGreaterThan(50_000);
  const rates = await all.evaluate(async (body) => {
    const frames: number[] = [];
    let last = await new Promise<number>(requestAnimationFrame);
    while (frames.length < 300) {
      body.scrollTop += 120;
      if (body.scrollTop + body.clientHeight >= body.scrollHeight - 1) body.scrollTop = 0;
      const now = await new Promise<number>(requestAnimationFrame);
      frames.push(1000 / (now - last));
      last = now;
    }
    return frames.sort((a, b) => a - b);
  });
  const { trace } = (await (await page.request.get(`${origin()}/api/sessions/${id}/trace`)).json()) as { trace: { graph_nodes: number } };
  const [slow, middle] = [rates[Math.floor(rates.length / 100)], rates[rates.length >> 1]].map((rate) => rate?.toFixed(0));
  told(`frames per second while a graph of ${trace.graph_nodes} nodes is panned`, `median ${middle}, slowest hundredth ${slow}`);
});

/** The server over a session of at least so many events, made once by programs that make others, and kept. */
async function kept(page: Page, name: string, events: number): Promise<{ id: string; events: number }> {
  const folder = join(KEPT, name);
  mkdirSync(folder, { recursive: true });
  await serve(folder);
  await page.goto(link());
  const about = async (id: string) => (await (await page.request.get(`${origin()}/api/sessions/${id}`)).json()) as { id: string; events: number };
  const there = readdirSync(folder).find((each) => /^[0-9A-Z]{26}$/.test(each));
  if (there) return about(there);
  const id = play('#!/bin/sh\ncp /bin/true /tmp/x\nwhile :; do /tmp/x; /bin/true; done\n', 1_800);
  await begun(page, id);
  await expect.poll(async () => (await about(id)).events, { timeout: LIMIT, intervals: [500] }).toBeGreaterThan(events);
  await server?.interrupt();
  return about(id);
}

test('weight of the page', () => {
  const files = readdirSync(DIST).map((name) => ({ name, bytes: statSync(join(DIST, name)).size, data: readFileSync(join(DIST, name)) }));
  const first = files.filter(({ name }) => /^index-.*\.(js|css)$/.test(name));
  const zipped = (some: typeof files): number => some.reduce((sum, { data }) => sum + gzipSync(data).length, 0);
  told('page, compressed', `${(zipped(first) / 1024).toFixed(0)} KiB of script and style at first; ${(zipped(files) / 1024).toFixed(0)} KiB with fonts, the policy editor and noVNC`);
});
