// A real `lava serve` of a test's own.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const PROGRAM = process.env['LAVA_PROGRAM'] ?? '';

export class Server {
  readonly sessions: string;
  /** The one-time link that it printed. */
  link = '';
  private process: ChildProcess | undefined;
  private task: ChildProcess | undefined;

  /** Over sessions of its own that go with it, or over these. */
  constructor(private readonly given?: string) {
    this.sessions = given ?? mkdtempSync(join(tmpdir(), 'lava-web-'));
  }

  async start(): Promise<void> {
    const started = spawn(PROGRAM, ['serve', '--listen', '127.0.0.1:0', '--sessions', this.sessions], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.process = started;
    this.link = await printed(started);
  }

  get pid(): number {
    return this.process?.pid ?? 0;
  }

  get origin(): string {
    return new URL(this.link).origin;
  }

  /** Another `lava serve ...` over the same sessions; what it printed. */
  also(args: string[], input = ''): string {
    return execFileSync(PROGRAM, ['serve', ...args, '--sessions', this.sessions], { input, encoding: 'utf8', stdio: 'pipe' }).trim();
  }

  /** A `lava run` of its own, into the server's sessions; the server's end interrupts it. */
  run(args: string[]): ChildProcess {
    this.task = spawn(PROGRAM, ['run', ...args, '--out', this.sessions], { stdio: 'ignore' });
    return this.task;
  }

  /** Ends the task, if it runs, in order. */
  async interrupt(): Promise<void> {
    if (this.task?.exitCode === null) {
      this.task.kill('SIGINT');
      await once(this.task, 'exit');
    }
  }

  async stop(): Promise<void> {
    await this.interrupt();
    this.process?.kill();
    if (this.given === undefined) rmSync(this.sessions, { recursive: true, force: true });
  }
}

/** A new session's id: a ULID, whose first digit is at most 7. */
export function newId(): string {
  const digits = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
  return `0${Array.from({ length: 25 }, () => digits[Math.floor(Math.random() * 32)]).join('')}`;
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
