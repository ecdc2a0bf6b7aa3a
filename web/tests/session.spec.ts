import { expect, Live, places, RECORDED, test } from './page';

const card = (id: string): string => `[data-place="${id}"]`;
/** Times of the recorded drive-by scenario, and what is new by then. */
const STEPS = [
  { ns: 460e6, card: 'n73' },
  { ns: 2_850e6, card: 'n125' },
  { ns: 2_915e6, card: 'n131' },
  { ns: 2_975e6, card: 'n138' },
  { ns: 3_050e6, card: 'n143' },
  { ns: 3_140e6, card: 'n149' },
  { ns: 3_220e6, card: 'n143.hosts' },
];

test('says in a sentence what the attack does, in three views', async ({ page }) => {
  await page.goto(RECORDED);
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('malicious');
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('overwrote the boot code of the disk');
  await expect(page.locator('.lane .stage.reached')).toHaveCount(5);
  await expect(page.getByText('5 of 5 stages')).toBeVisible();
  await expect(page.locator('.mark.finding')).toHaveCount(9);
});

test('the graph grows while events come, and no card jumps', async ({ page }) => {
  const live = new Live(page, 'GROWS');
  await live.begin();
  await page.goto(live.path);
  await expect(page.getByText('Nothing happened yet')).toBeVisible();
  let before: Record<string, string> = {};
  const moved = new Set<string>();
  for (const step of STEPS) {
    await live.advance(step.ns);
    await expect(page.locator(card(step.card))).toBeVisible();
    const now = await places(page);
    expect(Object.keys(now).length).toBeGreaterThan(Object.keys(before).length);
    for (const [id, place] of Object.entries(before)) {
      expect(now[id], `${id} is still there`).toBeDefined();
      if (now[id] !== place) moved.add(id);
    }
    before = now;
  }
  // It was in its parent's lane until it reached a stage of its own: the one move that there is.
  expect([...moved]).toEqual(['n143']);
  await live.advance(9e9);
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('closed');
});

test('the scrubber takes the whole page back, and cards keep their places', async ({ page }) => {
  await page.goto(RECORDED);
  await expect(page.locator(card('n149'))).toBeVisible();
  const whole = await places(page);
  await page.getByRole('button', { name: 'Previous finding' }).click();
  await expect(page.getByText(/As of 3\.204 s/).first()).toBeVisible();
  const slider = page.getByRole('slider', { name: 'Moment' });
  await slider.evaluate((input: HTMLInputElement) => {
    input.value = '2975000000';
    input.dispatchEvent(new Event('input', { bubbles: true }));
  });
  await expect(page.locator(card('n149'))).toHaveCount(0);
  await expect(page.locator(card('n138'))).toBeVisible();
  await expect(page.getByText('3 of 5 stages')).toBeVisible();
  await expect(page.getByRole('region', { name: 'Verdict' })).not.toContainText('boot code');
  for (const [id, place] of Object.entries(await places(page))) expect(place, id).toBe(whole[id]);
  await page.getByRole('button', { name: 'Back to the end' }).click();
  await expect(page.locator(card('n149'))).toBeVisible();
  expect(await places(page)).toEqual(whole);
});

test('one selection lights all views, and three clicks reach the bytes', async ({ page }) => {
  await page.goto(RECORDED);
  await page.getByRole('button', { name: /Bootkit critical/ }).click();
  await expect(page.locator('.card.lit')).not.toHaveCount(0);
  await expect(page.locator('.row.lit')).not.toHaveCount(0);
  await expect(page.getByRole('region', { name: 'Inspector' })).toContainText('The BIOS runs this code');
  await page.getByRole('region', { name: 'Inspector' }).getByRole('button', { name: /disk\.write/ }).click();
  await expect(page.getByRole('group', { name: 'Bytes' })).toContainText('33 c0 fa'.replaceAll(' ', ''));
});

test('the keyboard reaches cards and moves between them', async ({ page }) => {
  await page.goto(RECORDED);
  const first = page.locator('[data-id="n69"]');
  await first.focus();
  await page.keyboard.press('ArrowDown');
  await expect(page.locator('[data-id="n70"]')).toBeFocused();
  await page.keyboard.press('ArrowRight');
  await expect(page.locator('[data-id="n131"]')).toBeFocused();
  await page.keyboard.press('Enter');
  await expect(page.getByRole('region', { name: 'Inspector' })).toContainText('/tmp/.cache-drive-by');
  await page.keyboard.press('Escape');
  await expect(page.locator('.card.chosen')).toHaveCount(0);
});

test('a reload in the middle loses nothing', async ({ page }) => {
  const live = new Live(page, 'RELOADED');
  await live.begin();
  await page.goto(live.path);
  await live.advance(2_975e6);
  await expect(page.locator(card('n138'))).toBeVisible();
  await page.locator('[data-id="n131"]').click();
  const before = Object.keys(await places(page)).sort();
  await page.reload();
  await expect(page.locator(card('n138'))).toBeVisible();
  expect(Object.keys(await places(page)).sort()).toEqual(before);
  await expect(page.locator('.card.chosen')).toHaveCount(1);
  await live.advance(3_220e6);
  await expect(page.locator(card('n143.hosts'))).toBeVisible();
});

test('an act that waits is shown with its bytes, and is answered', async ({ page }) => {
  const live = new Live(page, 'ASKS');
  await live.begin();
  await page.goto(live.path);
  await live.advance(3_123e6);
  const asks = page.getByRole('alertdialog', { name: /Waits for your decision/ });
  await expect(asks).toContainText('write 440 B to the mbr boot code of vda');
  await expect(asks).toContainText(/\d+ s, then deny/);
  await expect(asks.getByRole('group', { name: 'Bytes' })).toContainText('33c0fa8ed88ed0bc');
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('waits for your decision');
  const sent = page.waitForRequest((request) => request.url().endsWith('/decide'));
  await asks.getByRole('button', { name: /deny/i }).click();
  expect((await sent).postDataJSON()).toEqual({ seq: 683, action: 'deny' });
  await expect(asks).toHaveCount(0);
});

test('a running session can be paused and stopped', async ({ page }) => {
  const live = new Live(page, 'RESPONDS');
  await live.begin();
  await page.goto(live.path);
  const sent = page.waitForRequest((request) => request.url().endsWith('/respond'));
  await page.getByRole('button', { name: 'Pause' , exact: true }).click();
  expect((await sent).postDataJSON()).toEqual({ command: 'pause' });
  expect((await sent).headers()['x-lava-csrf']).toBe('mock');
  await expect(page.getByRole('button', { name: 'Resume' })).toBeVisible();
  await page.getByRole('button', { name: 'Discard' }).click();
  await expect(page.getByRole('button', { name: 'Discard everything' })).toBeVisible();
});
