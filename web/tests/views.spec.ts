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

test('an address is a task, and a file takes its place', async ({ page }) => {
  await page.goto('/start');
  await page.getByLabel('Or an address').fill('https://example.org/a?b');
  await page.getByLabel('Password of an archive').fill('infected');
  await page.getByLabel(/Choose a file/).setInputFiles({ name: 'a.zip', mimeType: 'application/zip', buffer: Buffer.from('PK') });
  await expect(page.getByLabel('Or an address')).toHaveValue('');
  await page.getByLabel('Or an address').fill('https://example.org/a?b');
  await expect(page.getByText('a.zip')).toHaveCount(0);
  const sent = page.waitForRequest((request) => request.method() === 'POST' && request.url().endsWith('/api/sessions'));
  await page.getByRole('button', { name: 'Open it and watch' }).click();
  const form = (await sent).postData() ?? '';
  expect(form).toMatch(/name="url"\s+https:\/\/example\.org\/a\?b\s/);
  expect(form).toMatch(/name="password"\s+infected\s/);
  expect(form).not.toContain('name="file"');
  await expect(page).toHaveURL(/\/sessions\/RUN/);
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

test('a search is saved, asked again and removed', async ({ page }) => {
  await page.goto('/search?q=cron.d&kind=name');
  await page.getByLabel('Name for this search').fill('cron jobs');
  await page.getByRole('button', { name: 'Save this search' }).click();
  const saved = page.getByRole('region', { name: 'Saved searches' });
  await expect(saved).toContainText('cron jobs');
  await page.goto('/search');
  await saved.getByRole('button', { name: /^cron jobs/ }).click();
  await expect(page.getByLabel('What to search for')).toHaveValue('cron.d');
  await expect(page).toHaveURL(/kind=name/);
  await expect(page.getByRole('link', { name: /cron\.d/ }).first()).toBeVisible();
  await saved.getByRole('button', { name: 'Remove the search cron jobs' }).click();
  await expect(saved).toHaveCount(0);
});

test('a rule is tried before it is set, and what is held stays', async ({ page }) => {
  await page.goto('/retention');
  await expect(page.getByText('Nothing is removed')).toBeVisible();
  await page.getByLabel('Days').fill('30');
  await page.getByRole('button', { name: 'What would go?' }).click();
  const plan = page.getByRole('region', { name: 'What would go' });
  await expect(plan).toContainText('it ended more than 30 days ago');
  await page.goto(RECORDED);
  await page.getByLabel('Why it is held').fill('case 7');
  await page.getByRole('button', { name: 'Hold', exact: true }).click();
  await expect(page.getByText('Held by analyst')).toContainText('case 7');
  await page.goto('/retention');
  await expect(page.getByRole('region', { name: 'Held sessions' })).toContainText('case 7');
  await page.getByLabel('Days').fill('30');
  await expect(page.getByRole('button', { name: 'Set this rule' })).toHaveCount(0);
  await page.getByRole('button', { name: 'What would go?' }).click();
  await expect(plan).toContainText('Nothing would go');
  await page.getByRole('button', { name: 'Set this rule' }).click();
  await expect(page.getByText('Sessions that ended more than 30 days ago')).toBeVisible();
  await page.goto(RECORDED);
  await page.getByRole('button', { name: 'Hold no more' }).click();
  await expect(page.getByLabel('Why it is held')).toBeVisible();
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
