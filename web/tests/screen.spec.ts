// The task's screen in the page: to look at, to take control of, and what is shown when there is none.

import { expect, Live, RECORDED, test } from './page';
import { screens, shown, type Colour } from './guest';

const RED: Colour = [200, 30, 40];
/** A PNG of one place. */
const PNG = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64');

test('it is looked at, taken control of and given back, by keyboard alone', async ({ page }) => {
  const opened = await screens(page, RED);
  const live = new Live(page, 'SCREEN');
  await live.begin();
  await page.goto(live.path);
  expect(opened.length, 'nobody looks before it is asked for').toBe(0);
  await page.getByRole('button', { name: 'Screen' }).click();
  const panel = page.getByRole('region', { name: 'Screen' });
  await expect(panel.getByText('Live, to look at')).toBeVisible();
  await expect.poll(() => shown(page)).toEqual(RED);
  await expect(page).toHaveURL(/view=screen/);
  await panel.locator('canvas').click();
  await page.keyboard.type('x');
  expect(opened.map(({ path }) => path)).toEqual(['/api/sessions/SCREEN/screen']);
  expect(opened[0]?.view.heard.filter((kind) => kind > 3), 'neither keys nor pointer').toEqual([]);

  await panel.getByRole('button', { name: 'Take control' }).focus();
  await page.keyboard.press('Enter');
  await expect(panel.getByText('Your keys and your pointer are the guest’s')).toBeVisible();
  await expect.poll(() => shown(page)).toEqual(RED);
  const held = opened[1];
  expect(held?.path).toBe('/api/sessions/SCREEN/screen/control');
  await page.keyboard.type('aB');
  await expect.poll(() => held?.view.keys.filter((key) => key < 0x100)).toEqual([0x61, 0x42]);
  await page.keyboard.press('Tab');
  await expect.poll(() => held?.view.keys, 'Tab is the guest’s too').toContain(0xff09);
  await panel.locator('canvas').click({ position: { x: 20, y: 20 } });
  await expect.poll(() => held?.view.heard).toContain(5);

  await panel.locator('canvas').press('Control+Alt+Escape');
  await expect(panel.getByRole('button', { name: 'Give back' })).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(panel.getByText('Live, to look at')).toBeVisible();
  expect(opened.at(-1)?.path).toBe('/api/sessions/SCREEN/screen');
  await panel.getByRole('button', { name: 'Graph' }).click();
  await expect(page.getByRole('region', { name: 'Relational' })).toBeVisible();
  await expect(page).not.toHaveURL(/view=/);
});

test('a guest without a screen, one that is gone, and one that comes back', async ({ page }) => {
  const opened = await screens(page, RED);
  const live = new Live(page, 'BLIND');
  await live.begin();
  await page.goto(`${live.path}?view=screen`);
  const panel = page.getByRole('region', { name: 'Screen' });
  await expect(panel.getByText('Live, to look at')).toBeVisible();
  opened.at(-1)?.view.close(4503, 'the session does not answer');
  await expect(panel.getByRole('alert')).toContainText('the session does not answer');
  await expect(panel.getByText('Live, to look at'), 'by itself').toBeVisible();
  expect(opened.length).toBe(2);
  opened.at(-1)?.view.close(4409, 'this micro-VM has no screen: its profile wants none');
  await expect(panel.getByText('This guest has no screen')).toBeVisible();
});

test('of a session that is over, the picture that was kept by then', async ({ page }) => {
  const sha256 = 'ab'.repeat(32);
  await page.route(/\/events\?.*kind=vm\.screen/, (route) => route.fulfill({
    json: { events: [{ seq: 700, time_ns: 3e9, kind: 'vm.screen', source: 'microvisor', picture: sha256 }], next: null },
  }));
  await page.route(`**/artifacts/${sha256}`, (route) => route.fulfill({
    body: PNG, headers: { 'Content-Type': 'application/octet-stream', 'X-Content-Type-Options': 'nosniff', 'Content-Disposition': 'attachment' },
  }));
  await page.goto(`${RECORDED}?view=screen`);
  const picture = page.getByRole('img', { name: /The guest’s screen at 3/ });
  await expect(picture).toBeVisible();
  expect(await picture.evaluate((image: HTMLImageElement) => image.decode().then(() => image.naturalWidth))).toBe(1);
  await page.goto(`${RECORDED}?view=screen&at=460000000`);
  await expect(page.getByText('No picture was kept by then')).toBeVisible();
});
