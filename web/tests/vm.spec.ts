// The page on the real server while real micro-VMs run: the drive-by scenario, and a file opened from the page.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { Page } from '@playwright/test';

import { expect, places, test } from './page';
import { newId, PROGRAM, Server } from './server';

const SCENARIOS = process.env['LAVA_SCENARIOS'] ?? '';
const DRIVE_BY = fileURLToPath(new URL('../../scenarios/drive-by', import.meta.url));
/** Much longer than a micro-VM takes on a busy machine, ms: its template may have to be made first. */
const LIMIT = 240_000;
/** The card must be what stops the write: without an answer it would be allowed. */
const ASK = `policy: ask-me
default: allow
rules:
  - name: boot-code
    when: trace.task_started && event.kind == "disk.write" && event.region == "mbr_boot_code"
    action: ask
    within: 3600
    otherwise: allow
`;
const HOSTILE = `<img src=x onerror=document.title='owned'>`;
const LONG = 'A'.repeat(4096);

let server: Server;

test.beforeEach(async () => {
  test.setTimeout(2 * LIMIT);
  server = new Server();
  await server.start();
});

test.afterEach(async () => {
  await server.stop();
});

async function get<T>(page: Page, path: string): Promise<T> {
  const answer = await page.request.get(`${server.origin}${path}`);
  expect(answer.status(), path).toBe(200);
  return (await answer.json()) as T;
}

/** From now on the page notes how many cards the graph has, whenever that changes. */
async function watchGrowth(page: Page): Promise<void> {
  await page.evaluate(() => {
    const seen: number[] = [];
    const count = (): void => {
      const cards = document.querySelectorAll('[data-place]').length;
      if (cards !== seen.at(-1)) seen.push(cards);
    };
    new MutationObserver(count).observe(document.body, { childList: true, subtree: true });
    count();
    Object.assign(window, { grown: seen });
  });
}

async function login(page: Page, user: string, password: string): Promise<void> {
  await page.goto(`${server.origin}/login`);
  await page.getByLabel('User').fill(user);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in' }).click();
  await expect(page.getByRole('heading', { name: 'Overview' })).toBeVisible();
}

test('a drive-by download: it grows, waits, is gone back in, is denied, and leaves evidence', async ({ page }) => {
  await page.goto(server.link);
  await expect(page.getByRole('heading', { name: 'Overview' })).toBeVisible();
  const policy = join(server.sessions, 'ask-me.yaml');
  writeFileSync(policy, ASK);
  const id = newId();
  const scenario = ['--profile', join(DRIVE_BY, 'profile.toml'), '--disk', join(SCENARIOS, 'scenario.img'), '--reboot', '--timeout', '3600'];
  const ended = once(server.run([join(SCENARIOS, 'applet.jar'), ...scenario, '--policy', policy, '--id', id]), 'exit');
  const api = `/api/sessions/${id}`;
  await expect.poll(async () => (await page.request.get(`${server.origin}${api}`)).status(), { timeout: LIMIT }).toBe(200);

  // The graph grows while it runs.
  await page.goto(`${server.origin}/sessions/${id}`);
  await watchGrowth(page);
  const asks = page.getByRole('alertdialog', { name: /Waits for your decision/ });
  await expect(asks).toContainText('write 440 B to the mbr boot code of vda', { timeout: LIMIT });
  await expect(asks.getByRole('group', { name: 'Bytes' })).toContainText('33c0fa8ed88ed0bc');
  const grown = await page.evaluate(() => (window as unknown as { grown: number[] }).grown);
  expect(grown.filter((cards, index) => cards > (grown[index - 1] ?? 0)).length, String(grown)).toBeGreaterThan(3);

  // The guest stands before the write: a reload loses nothing.
  const cards = Object.keys(await places(page));
  await page.reload();
  await expect(asks).toContainText('write 440 B to the mbr boot code of vda');
  await expect.poll(async () => Object.keys(await places(page))).toEqual(expect.arrayContaining(cards));

  // Back to the first finding, and to now.
  const { findings } = await get<{ findings: { time_ns: number }[] }>(page, `${api}/findings`);
  await page.getByRole('slider', { name: 'Moment' }).evaluate((input: HTMLInputElement, at) => {
    input.value = String(at);
    input.dispatchEvent(new Event('input', { bubbles: true }));
  }, findings[0]?.time_ns ?? 0);
  await expect.poll(async () => Object.keys(await places(page)).length).toBeLessThan(cards.length);
  expect(cards).toEqual(expect.arrayContaining(Object.keys(await places(page))));
  await page.getByRole('button', { name: 'Back to live' }).click();
  await expect.poll(async () => Object.keys(await places(page))).toEqual(expect.arrayContaining(cards));

  // The answer from the card is what happens.
  await asks.getByRole('button', { name: /deny/i }).click();
  await expect(asks).toHaveCount(0);
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('closed', { timeout: LIMIT });
  expect(await ended).toEqual([3, null]);
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('malicious');
  await expect(page.getByText('5 of 5 stages')).toBeVisible();
  await expect(page.getByRole('region', { name: 'Inspector' })).toContainText('Unchanged');
  await unfolds(page);
  await stopped(page, api, id);
  await downloads(page, id);
});

/** A fold that is opened gives way to what it held, the whole graph can be had, and all goes back. */
async function unfolds(page: Page): Promise<void> {
  const before = await places(page);
  await page.locator('.chip[title*="for reading"]').first().click();
  await page.getByRole('region', { name: 'Inspector' }).getByRole('button', { name: /^Unfold/ }).click();
  await expect.poll(async () => Object.keys(await places(page)).length).toBeGreaterThan(Object.keys(before).length);
  const now = await places(page);
  for (const [id, place] of Object.entries(before)) if (id in now) expect(now[id], `${id} keeps its place`).toBe(place);
  await page.reload();
  await expect.poll(async () => Object.keys(await places(page)).sort()).toEqual(Object.keys(now).sort());
  await page.getByRole('button', { name: 'Fold again' }).click();
  await expect.poll(async () => Object.keys(await places(page)).sort()).toEqual(Object.keys(before).sort());
  await page.keyboard.press('Escape');
}

/** What the planted sector would say after the restart, and what the attack exits with when it is refused, stand in the story. */
async function stopped(page: Page, api: string, id: string): Promise<void> {
  const story = readFileSync(join(DRIVE_BY, 'story.md'), 'utf8');
  const refused = Number(/refused = (\d+)/.exec(story)?.[1]);
  const planted = new RegExp(/serial_after_reset = '(.*)'/.exec(story)?.[1] ?? '^', 'm');
  const events = async (kind: string) => (await get<{ events: Record<string, unknown>[] }>(page, `${api}/events?kind=${kind}`)).events;
  const writes = (await events('disk.write')).filter((event) => event['region'] === 'mbr_boot_code');
  const decisions = (await events('vm.decision')).filter((event) => writes.some((write) => write['seq'] === event['subject']));
  expect(decisions.map((event) => event['action'])).toEqual(writes.map(() => 'deny'));
  expect(writes).not.toEqual([]);
  expect((await events('vm.task_exit')).map((event) => event['code'])).toEqual([refused]);
  expect((await events('vm.reset')).length, 'the guest was restarted').toBe(1);
  const console = readFileSync(join(server.sessions, id, 'console.log'), 'latin1').replaceAll('\r', '');
  expect(console).toMatch(/^drive-by: MBR write: Input\/output error/m);
  expect(console).not.toMatch(planted);
}

async function downloads(page: Page, id: string): Promise<void> {
  for (const [title, name] of [['Events', 'events.jsonl'], ['Network capture', 'traffic.pcapng'], ['Manifest', 'manifest.json']] as const) {
    const coming = page.waitForEvent('download');
    await page.getByRole('link', { name: title, exact: true }).click();
    const download = await coming;
    expect(download.suggestedFilename()).toBe(`${id}-${name}`);
    expect(readFileSync(await download.path()).equals(readFileSync(join(server.sessions, id, name))), name).toBe(true);
  }
  const coming = page.waitForEvent('download');
  await page.getByRole('link', { name: 'stix', exact: true }).click();
  const bundle = readFileSync(await (await coming).path(), 'utf8');
  expect(bundle).toBe(execFileSync(PROGRAM, ['export', join(server.sessions, id), '--format', 'stix'], { encoding: 'utf8' }));
  expect(JSON.parse(bundle)).toMatchObject({ type: 'bundle' });
  const verify = spawn(PROGRAM, ['verify', join(server.sessions, id)], { stdio: 'ignore' });
  expect(await once(verify, 'exit'), 'lava verify').toEqual([0, null]);
}

/** Asks for a word at the guest's own keyboard, and runs a program of that name. */
const ASKS = `#!/bin/sh
exec 3< /dev/tty1
: > /tmp/asks
read -r word <&3
cp /bin/true "/tmp/$word"
"/tmp/$word"
sleep 2
`;

test('a guest with a screen: it is seen live, and what an analyst types arrives and is told', async ({ page }) => {
  await page.goto(server.link);
  await expect(page.getByRole('heading', { name: 'Overview' })).toBeVisible();
  const shipped = readFileSync(fileURLToPath(new URL('../../images/profiles/script.toml', import.meta.url)), 'utf8');
  const [profile, task] = [join(server.sessions, 'screen.toml'), join(server.sessions, 'asks.sh')];
  writeFileSync(profile, shipped.replace('memory_mib', 'display = true\nmemory_mib'));
  writeFileSync(task, ASKS);
  const id = newId();
  const api = `/api/sessions/${id}`;
  const ended = once(server.run([task, '--root', '--profile', profile, '--timeout', '600', '--id', id]), 'exit');
  await expect.poll(async () => (await page.request.get(`${server.origin}${api}`)).status(), { timeout: LIMIT }).toBe(200);
  const events = async (kind: string) => (await get<{ events: Record<string, string>[] }>(page, `${api}/events?kind=${kind}`)).events;
  await expect.poll(async () => (await events('file.create')).map((event) => event['path']), { timeout: LIMIT }).toContain('/tmp/asks');

  await page.goto(`${server.origin}/sessions/${id}?view=screen`);
  const panel = page.getByRole('region', { name: 'Screen' });
  await expect(panel.getByText('Live, to look at')).toBeVisible();
  expect(await panel.locator('canvas').evaluate((canvas: HTMLCanvasElement) => canvas.width)).toBeGreaterThanOrEqual(640);
  await panel.getByRole('button', { name: 'Take control' }).click();
  await expect(panel.getByText('Your keys and your pointer are the guest’s')).toBeVisible();
  await page.keyboard.type('hello\n', { delay: 100 });
  await expect.poll(async () => (await events('process.exec')).map((event) => event['path']), { timeout: LIMIT }).toContain('/tmp/hello');
  await panel.getByRole('button', { name: 'Graph' }).click();
  await expect(page.getByRole('region', { name: 'Relational' })).toContainText('hello');
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('closed', { timeout: LIMIT });
  await ended;

  expect((await events('vm.response')).map((event) => [event['command'], event['outcome']])).toEqual([
    ['control taken', 'done'], ['control given back', 'done'],
  ]);
  const { entries } = await get<{ entries: { what: string; on: string }[] }>(page, '/api/audit');
  const told = entries.filter((entry) => entry.on === id).map((entry) => entry.what);
  expect(told).toEqual(['session.control.given_back', 'session.control']);
  await page.goto(`${server.origin}/sessions/${id}?view=screen`);
  await expect(page.getByRole('img', { name: /The guest’s screen at/ })).toBeVisible();
});

test('a file is opened from the page: its hostile names are text; roles, logout, token', async ({ page }) => {
  for (const role of ['viewer', 'analyst']) server.also(['user', 'add', `a-${role}`, '--role', role], 'correct horse battery\n');
  await login(page, 'a-viewer', 'correct horse battery');
  await page.goto(`${server.origin}/start`);
  await expect(page.getByText('You may look, not start')).toBeVisible();
  await page.getByRole('button', { name: 'Log out' }).click();

  await login(page, 'a-analyst', 'correct horse battery');
  await page.goto(`${server.origin}/start`);
  const script = `#!/bin/sh\ncp /bin/true "/tmp/${HOSTILE}"\n"/tmp/${HOSTILE}" ${LONG}\ncp /bin/true /tmp/a\u202egnp.exe\n/tmp/a\u202egnp.exe\n`;
  await page.getByLabel(/Choose a file/).setInputFiles({ name: `${HOSTILE}\u202e.sh`, mimeType: 'text/x-sh', buffer: Buffer.from(script) });
  await page.getByLabel('Policy').selectOption('protect');
  await page.getByRole('button', { name: 'Open it and watch' }).click();
  await expect(page).toHaveURL(/\/sessions\/[0-9A-Z]{26}/);
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('closed', { timeout: LIMIT });

  for (const view of [page.url(), `${server.origin}/sessions`, server.origin]) {
    await page.goto(view);
    await expect(page.getByText(HOSTILE.slice(0, 12)).first()).toBeVisible();
    expect(await page.locator('img:not([src="/icon.svg"])').count(), view).toBe(0);
    expect(await page.title()).not.toBe('owned');
    expect(await page.content()).not.toContain('\u202e');
    expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing sticks out').toBe(true);
    await page.goBack();
  }

  await page.getByRole('button', { name: 'Log out' }).click();
  await expect(page.getByRole('button', { name: 'Log in' })).toBeVisible();
  expect((await page.request.get(`${server.origin}/api/sessions`)).status(), 'after the logout').toBe(401);
  const token = server.also(['token', 'test', '--user', 'a-viewer']);
  const ask = (path: string, init: RequestInit = {}) => fetch(`${server.origin}${path}`, { ...init, headers: { Authorization: `Bearer ${token}` } });
  const listed = (await (await ask('/api/sessions')).json()) as { sessions: { task: { name: string } }[] };
  expect(listed.sessions.map((session) => session.task.name)).toEqual([`${HOSTILE}\u202e.sh`]);
  expect((await ask('/api/sessions', { method: 'POST' })).status, 'a viewer starts nothing').toBe(403);
});
