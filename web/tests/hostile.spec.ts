import { expect, test } from './page';

const VIEWS = ['/sessions', '/', '/sessions/HOSTILE', '/sessions/HOSTILE?sel=node.n125', '/sessions/HOSTILE?sel=finding.0'];

for (const view of VIEWS) {
  test(`markup from a guest is text: ${view}`, async ({ page }) => {
    await page.goto(view);
    await expect(page.getByText('<img src=x').first()).toBeVisible();
    expect(await page.locator('img:not([src="/icon.svg"])').count()).toBe(0);
    expect(await page.title()).not.toBe('owned');
  });
}

test('characters that turn text around are shown as what they are', async ({ page }) => {
  await page.goto('/sessions/HOSTILE');
  await expect(page.locator('.control').filter({ hasText: 'U+202E' }).first()).toBeVisible();
  // No override is left in any text or attribute of the page.
  expect(await page.content()).not.toContain('\u202e');
});

test('a name of 4 KiB is cut in the views and whole in the inspector', async ({ page }) => {
  await page.goto('/sessions/HOSTILE');
  const long = page.locator('.card').filter({ hasText: 'AAAA' }).first();
  const box = await long.boundingBox();
  expect(box?.width).toBeLessThan(200);
  expect(box?.height).toBeLessThan(60);
  await long.click();
  await expect(page.getByRole('region', { name: 'Inspector' }).getByText('A'.repeat(4096)).first()).toBeVisible();
  expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
});
