import { defineConfig } from '@playwright/test';

// The page in Debian's Chromium against dev/serve.js: the built page, the server's Content-Security-Policy, a recorded session.
// With LAVA_URL (an address with its one-time login link, as `lava serve` prints it), tests/server.spec.ts runs against a real server.
const PORT = 4181;
const root = process.getuid?.() === 0;

export default defineConfig({
  testDir: 'tests',
  fullyParallel: false,
  workers: 1,
  forbidOnly: true,
  reporter: 'line',
  timeout: 30_000,
  use: {
    baseURL: `http://127.0.0.1:${PORT}`,
    viewport: { width: 1280, height: 800 },
    launchOptions: {
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      // Chromium's own sandbox refuses root.
      args: root ? ['--no-sandbox'] : [],
    },
  },
  webServer: { command: 'node dev/serve.js', env: { PORT: String(PORT) }, port: PORT, reuseExistingServer: false },
});
