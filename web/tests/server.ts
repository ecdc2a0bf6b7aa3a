// A real `lava serve` of a test's own.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const PROGRAM = process.env['LAVA_PROGRAM'] ?? '';

export class Server {
  readonly sessions = mkdtempSync(join(tmpdir(), 'lava-web-'));
  /** The one-time link that it printed. */
  link = '';
  private process: ChildProcess | undefined;

  async start(): Promise<void> {
    const started = spawn(PROGRAM, ['serve', '--listen', '127.0.0.1:0', '--sessions', this.sessions], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.process = started;
    this.link = await printed(started);
  }

  get origin(): string {
    return new URL(this.link).origin;
  }

  /** Another `lava serve ...` over the same sessions; what it printed. */
  also(args: string[], input = ''): string {
    return execFileSync(PROGRAM, ['serve', ...args, '--sessions', this.sessions], { input, encoding: 'utf8', stdio: 'pipe' }).trim();
  }

  stop(): void {
    this.process?.kill();
    rmSync(this.sessions, { recursive: true, force: true });
  }
}

function printed(from: ChildProcess): Promise<string> {
  return new Promise((found, lost) => {
    let said = '';
    const hear = (data: Buffer): void => {
      said += data.toString();
      const match = /http:\/\/\S+\/login#[0-9a-f]+/.exec(said);
      if (match) found(match[0]);
    };
    from.stdout?.on('data', hear);
    from.stderr?.on('data', hear);
    from.on('exit', () => lost(new Error(`lava serve ended: ${said}`)));
  });
}
