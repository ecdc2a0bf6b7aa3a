// axe on every view: wide and narrow, light and dark.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

import type { Page } from '@playwright/test';
import type { AxeResults } from 'axe-core';

import { screens } from './guest';
import { expect, Live, RECORDED, test } from './page';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const VIEWS = {
  overview: '/', sessions: '/sessions', start: '/start', policies: '/policies?policy=protect', search: '/search?q=cron.d', audit: '/audit', retention: '/retention', login: '/login',
  session: RECORDED, card: `${RECORDED}?sel=node.n143`, finding: `${RECORDED}?sel=finding.4`, decision: `${RECORDED}?sel=decision.684`,
  past: `${RECORDED}?at=2975000000`, 'no picture': `${RECORDED}?view=screen`, nowhere: '/nowhere', 'no session': '/sessions/NONE',
};
const NARROW = { width: 390, height: 844 };
const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];

interface Axe {
  run(context: object, options: object): Promise<AxeResults>;
}

async function violations(page: Page): Promise<string[]> {
  // Colours are judged when nothing fades or glides any more.
  await page.evaluate(() => Promise.allSettled(document.getAnimations().filter((each) => each.effect?.getTiming().iterations !== Infinity).map((each) => each.finished)));
  const found = await page.evaluate(async (tags) => {
    const axe = (window as unknown as { axe: Axe }).axe;
    const most = await axe.run(document, { runOnly: tags, rules: { 'target-size': { enabled: false } } });
    // The timeline's marks and the cards' counts are small; what they do, the list of findings and the inspector do as well (WCAG 2.5.8, Equivalent).
    const sizes = await axe.run({ exclude: ['.mark', '.chip'] }, { runOnly: { type: 'rule', values: ['target-size'] } });
    return [...most.violations, ...sizes.violations];
  }, RULES);
  return found.map((each) => `${each.id}: ${each.nodes.map((node) => `${node.target.join(' ')} (${node.failureSummary ?? ''})`).join('; ')}`);
}

/** In both colours, then narrow. */
async function expectAccessible(page: Page): Promise<void> {
  await expect(page.locator('.spinner')).toHaveCount(0);
  await page.evaluate(AXE);
  for (const theme of ['dark', 'light']) {
    await page.evaluate((to) => (document.documentElement.dataset['theme'] = to), theme);
    expect(await violations(page), theme).toEqual([]);
  }
  await page.setViewportSize(NARROW);
  expect(await violations(page), 'narrow').toEqual([]);
  expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing sticks out').toBe(true);
}

for (const [name, path] of Object.entries(VIEWS)) {
  test(`axe finds nothing: ${name}`, async ({ page }) => {
    await page.goto(path);
    await expectAccessible(page);
  });
}

test('axe finds nothing: an act that waits', async ({ page }) => {
  const live = new Live(page, 'AXE');
  await live.begin();
  await page.goto(live.path);
  await live.advance(3_123e6);
  await expect(page.getByRole('alertdialog')).toBeVisible();
  await expectAccessible(page);
});

test('axe finds nothing: a screen under control', async ({ page }) => {
  await screens(page, [60, 90, 120]);
  const live = new Live(page, 'AXESCREEN');
  await live.begin();
  await page.goto(`${live.path}?view=screen`);
  await page.getByRole('button', { name: 'Take control' }).click();
  await expect(page.getByRole('button', { name: 'Give back' })).toBeVisible();
  await expectAccessible(page);
});
