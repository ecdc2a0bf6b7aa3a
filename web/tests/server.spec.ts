// The page on the real server, over the recorded session's log: its graph at any moment is grown anew by the server.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';

import { expect, places, RECORDED, test } from './page';
import { Server } from './server';

const recorded = fileURLToPath(new URL('../dev/recorded', import.meta.url));
let server: Server;

test.beforeEach(async () => {
  server = new Server();
  const folder = join(server.sessions, RECORDED.split('/').at(-1) ?? '');
  cpSync(recorded, folder, { recursive: true, filter: (path) => !/trace\.json$|\.gz$/.test(path) });
  writeFileSync(join(folder, 'events.jsonl'), gunzipSync(readFileSync(join(recorded, 'events.jsonl.gz'))));
  await server.start();
});

test.afterEach(() => server.stop());

test('login by link, the session, back in time, down to the byte, policies, search', async ({ page }) => {
  const { origin } = server;
  await page.goto(server.link);
  await expect(page.getByRole('heading', { name: 'Overview' })).toBeVisible();
  await page.goto(`${origin}${RECORDED}`);
  await expect(page.getByText('5 of 5 stages')).toBeVisible();
  const whole = await places(page);
  const slider = page.getByRole('slider', { name: 'Moment' });
  await slider.evaluate((input: HTMLInputElement) => {
    input.value = '2975000000';
    input.dispatchEvent(new Event('input', { bubbles: true }));
  });
  await expect(page.getByText('3 of 5 stages')).toBeVisible();
  await expect(page.locator('[data-place="n149"]')).toHaveCount(0);
  for (const [id, place] of Object.entries(await places(page))) expect(place, id).toBe(whole[id]);
  await page.getByRole('button', { name: 'Back to the end' }).click();
  await page.getByRole('button', { name: /Bootkit critical/ }).click();
  await page.getByRole('region', { name: 'Inspector' }).getByRole('button', { name: /disk\.write/ }).click();
  await expect(page.getByRole('group', { name: 'Bytes' })).toContainText('33c0fa8ed88ed0bc');

  await page.goto(`${origin}/policies?policy=protect`);
  await expect(page.getByText('Valid')).toBeVisible();
  await page.getByRole('textbox', { name: 'Text of the policy protect' }).click();
  await page.keyboard.press('Control+End');
  await page.keyboard.type('\n  - name: mine\n    action: explode\n');
  await expect(page.getByText(/\d+ mistakes?/)).toBeVisible();

  await page.goto(`${origin}/search?q=cron.d`);
  await page.getByRole('link', { name: /\/etc\/cron\.d\/drive-by/ }).first().click();
  await expect(page).toHaveURL(/\/sessions\//);

  await page.getByRole('button', { name: 'Log out' }).click();
  await page.goto(`${origin}/sessions`);
  await expect(page.getByRole('button', { name: 'Log in' })).toBeVisible();
});
