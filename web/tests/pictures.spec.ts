// Pictures for the documentation: with LAVA_PICTURES=1 into docs/console, otherwise none. `LAVA_PICTURES=1 npx playwright test pictures`

import { fileURLToPath } from 'node:url';

import { expect, Live, RECORDED, test } from './page';

const DOCS = fileURLToPath(new URL('../../docs/console', import.meta.url));
const NARROW = { width: 390, height: 844 };
const WIDE = { width: 1280, height: 800 };
const PICTURES = [
  { name: 'session-dark', path: RECORDED, theme: 'dark', size: WIDE },
  { name: 'session-light', path: `${RECORDED}?sel=finding.4`, theme: 'light', size: WIDE },
  { name: 'session-earlier-dark', path: `${RECORDED}?at=2975000000&sel=node.n137`, theme: 'dark', size: WIDE },
  { name: 'bytes-light', path: `${RECORDED}?sel=decision.684`, theme: 'light', size: WIDE },
  { name: 'session-narrow-dark', path: RECORDED, theme: 'dark', size: NARROW },
  { name: 'overview-light', path: '/', theme: 'light', size: WIDE },
  { name: 'start-light', path: '/start', theme: 'light', size: WIDE },
  { name: 'search-dark', path: '/search?q=cron.d&kind=name', theme: 'dark', size: WIDE },
  { name: 'retention-light', path: '/retention', theme: 'light', size: WIDE },
  { name: 'policies-dark', path: '/policies?policy=protect', theme: 'dark', size: WIDE },
] as const;

for (const { name, path, theme, size } of PICTURES) {
  test.describe(name, () => {
    test.use({ viewport: size, colorScheme: theme });
    test('picture', async ({ page }) => {
      await page.goto(path);
      await expect(page.locator('.spinner')).toHaveCount(0);
      await page.evaluate(() => document.fonts.ready);
      await page.screenshot({ path: `${DOCS}/${name}.png`, animations: 'disabled' });
    });
  });
}

test.describe('decision-dark', () => {
  test.use({ viewport: WIDE, colorScheme: 'dark' });
  test('picture', async ({ page }) => {
    const live = new Live(page, 'PICTURE');
    await live.begin();
    await page.goto(live.path);
    await live.advance(3_123e6);
    await expect(page.getByRole('alertdialog').getByRole('group', { name: 'Bytes' })).toBeVisible();
    await expect(page.getByRole('region', { name: 'Temporal' }).getByText('335')).toBeVisible();
    await page.screenshot({ path: `${DOCS}/decision-dark.png`, animations: 'disabled' });
  });
});
