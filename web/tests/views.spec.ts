import { expect, RECORDED, test } from './page';

test('log out, a wrong password, a password, a link', async ({ page }) => {
  await page.goto('/');
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByLabel('User').fill('analyst');
  await page.getByLabel('Password').fill('wrong');
  await page.getByRole('button', { name: 'Log in' }).click();
  await expect(page.getByRole('alert')).toContainText('not a login LAVA knows');
  await page.getByLabel('Password').fill('secret');
  await page.getByRole('button', { name: 'Log in' }).click();
  await expect(page.getByRole('heading', { name: 'Overview' })).toBeVisible();
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.goto('/login#good');
  await expect(page.getByRole('heading', { name: 'Overview' })).toBeVisible();
  expect(page.url()).not.toContain('good');
});

test('a file is opened, watched, decided about, and ends', async ({ page }) => {
  await page.goto('/start');
  await expect(page.getByRole('button', { name: 'Open it and watch' })).toBeDisabled();
  await page.getByLabel(/Choose a file/).setInputFiles({ name: 'invoice.jar', mimeType: 'application/java-archive', buffer: Buffer.from('PK') });
  await expect(page.getByText('invoice.jar')).toBeVisible();
  await page.getByLabel('Policy').selectOption('protect');
  await page.getByRole('button', { name: 'Open it and watch' }).click();
  await expect(page).toHaveURL(/\/sessions\/RUN/);
  await page.getByRole('alertdialog').getByRole('button', { name: /allow/i }).click();
  await expect(page.getByRole('region', { name: 'Verdict' })).toContainText('running');
});

test('sessions by verdict', async ({ page }) => {
  await page.goto('/sessions');
  await page.getByRole('button', { name: 'clean' }).click();
  await expect(page.getByText('None of these is clean')).toBeVisible();
  await page.getByRole('button', { name: 'malicious' }).click();
  await expect(page.locator(`a[href="${RECORDED}"]`)).toBeVisible();
});

test('a policy is checked as it is typed', async ({ page }) => {
  await page.goto('/policies?policy=protect');
  await expect(page.getByText('Valid')).toBeVisible();
  const text = page.getByRole('textbox', { name: 'Text of the policy protect' });
  await text.click();
  await page.keyboard.press('Control+End');
  await page.keyboard.type('\n  - name: mine\n    action: explode\n');
  await expect(page.getByText('1 mistake')).toBeVisible();
  await expect(page.getByText('unknown action "explode"').first()).toBeVisible();
  await expect(page.locator('.cm-lintRange-error')).toHaveCount(1);
});

test('a hit of a search leads to the event', async ({ page }) => {
  await page.goto('/search');
  await page.getByLabel('What to search for').fill('cron.d');
  await page.getByRole('button', { name: 'Search' }).click();
  await page.getByRole('link', { name: /file\.create.*cron\.d/ }).click();
  await expect(page.getByRole('region', { name: 'Inspector' })).toContainText('/etc/cron.d/drive-by');
});

test('what goes wrong is told, with what to do', async ({ page }) => {
  await page.goto('/sessions/NONE');
  await expect(page.getByRole('alert')).toContainText('There is no such session');
  await page.request.get('/mock/broken?is=true');
  await page.goto('/policies');
  await expect(page.getByRole('alert')).toContainText('The policies cannot be read');
  await page.request.get('/mock/broken?is=false');
  await page.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByText('Valid')).toBeVisible();
  await page.goto('/nowhere');
  await expect(page.getByText('There is no such page')).toBeVisible();
});
