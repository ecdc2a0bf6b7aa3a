import { defineConfig } from '@playwright/test';

// The page in Debian's Chromium against dev/serve.js: the built page, the server's Content-Security-Policy, a recorded session.
// With LAVA_PROGRAM, a `lava` that has the page in it, tests/server.spec.ts runs too: the same page on the real server. With LAVA_SCENARIOS
// beside it, the scenarios' folder, tests/vm.spec.ts too: while real micro-VMs run.
const PORT = 4181;
const root = process.getuid?.() === 0;

export default defineConfig({
  testDir: 'tests',
  testIgnore: [
    ...(process.env['LAVA_PROGRAM'] ? [] : ['server.spec.ts']),
    ...(process.env['LAVA_PROGRAM'] && process.env['LAVA_SCENARIOS'] ? [] : ['vm.spec.ts']),
    ...(process.env['LAVA_PICTURES'] ? [] : ['pictures.spec.ts']),
    ...(process.env['LAVA_BENCH'] ? [] : ['bench.spec.ts']),
  ],
  fullyParallel: false,
  workers: 1,
  forbidOnly: true,
  reporter: 'line',
  timeout: 30_000,
  use: {
    baseURL: `http://127.0.0.1:${PORT}`,
    viewport: { width: 1280, height: 800 },
    // What cannot be clicked says so, long before the time of a test with a micro-VM is up.
    actionTimeout: 20_000,
    launchOptions: {
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      // Chromium's own sandbox refuses root.
      args: root ? ['--no-sandbox'] : [],
    },
  },
  webServer: { command: 'node dev/serve.js', env: { PORT: String(PORT) }, port: PORT, reuseExistingServer: false },
});
