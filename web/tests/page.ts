// What all tests share: a page on which any script error or breach of the Content-Security-Policy fails the test.

import { expect, test as base, type Page } from '@playwright/test';

export const RECORDED = '/sessions/01M88QMT0DFH6PE5AV4DAJ3987';

export const test = base.extend({
  page: async ({ page }, use) => {
    const wrong: string[] = [];
    page.on('pageerror', (error) => wrong.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error' && /content security policy/i.test(message.text())) wrong.push(message.text());
    });
    await use(page);
    expect(wrong).toEqual([]);
  },
});

export { expect };

/** Where each card of the graph is meant to lie: its transform, by node id. */
export function places(page: Page): Promise<Record<string, string>> {
  return page.locator('[data-place]').evaluateAll((all) =>
    Object.fromEntries(all.map((each) => [(each as HTMLElement).dataset['place'] ?? '', (each as HTMLElement).style.transform])));
}

/** A session of the mock that grows when it is told to. */
export class Live {
  readonly path: string;
  constructor(private readonly page: Page, private readonly id: string) {
    this.path = `/sessions/${id}`;
  }

  async begin(): Promise<void> {
    await this.page.request.get(`/mock/live?id=${this.id}`);
  }

  async advance(ns: number): Promise<void> {
    await this.page.request.get(`/mock/advance?id=${this.id}&ns=${ns}`);
  }
}
