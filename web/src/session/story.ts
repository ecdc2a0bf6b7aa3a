// The attack in one sentence, from its findings.

import { STAGES, type Finding, type Session, type Stage, type Trace } from '../lib/types';

/** What a detector's finding says, as the end of a sentence that begins with the task. Others: their technique's name. */
const PHRASES: Record<string, string> = {
  'exploit.host_runs_dropped_file': 'took control of the program that opened it',
  'exploit.return_to_data': 'made a program return into data',
  'exploit.stack_pivot': 'moved a program onto a stack of its own',
  'execute.dropped_file': 'ran a program it had dropped',
  'execute.dropped_script': 'ran a script it had dropped',
  'execute.fileless': 'ran a program that was never on the disk',
  'execute.remote_write': 'wrote code into another process',
  'execute.unbacked_memory': 'ran code that no file holds',
  'execute.writable_code': 'made code writable',
  'escalate.capabilities': 'gained capabilities',
  'escalate.guard_killed': 'killed a guard of the system',
  'escalate.ptrace': 'took over another process',
  'escalate.root': 'became root',
  'escalate.setuid': 'became root through a setuid program',
  'escalate.setuid_bit': 'made a setuid program',
  'persist.boot_sector': 'wrote into the boot sectors',
  'persist.bpf_program': 'loaded a BPF program',
  'persist.cron': 'planted a cron job',
  'persist.hidden_object': 'hid itself in the kernel',
  'persist.kernel_function_hooked': "hooked the kernel's functions",
  'persist.kernel_dma': 'told a device to write over the kernel',
  'persist.kernel_memory': "changed the kernel's memory",
  'persist.kernel_module': 'loaded a kernel module',
  'persist.kernel_register': "changed the kernel's registers",
  'persist.kexec': 'loaded another kernel',
  'persist.listener': 'listens for its master',
  'persist.mbr_boot_code': 'overwrote the boot code of the disk',
  'persist.partition_table': 'changed the partition table',
  'propagate.remote_services': 'tried the login services of other machines',
  'propagate.scan': 'scanned the network',
  'propagate.sniffing': 'listens to the network',
};

/** The same as what was tried, for what a policy can stop. */
const TRIED: Record<string, string> = {
  'execute.dropped_file': 'run a program it had dropped',
  'execute.dropped_script': 'run a script it had dropped',
  'execute.fileless': 'run a program that was never on the disk',
  'persist.boot_sector': 'write into the boot sectors',
  'persist.cron': 'plant a cron job',
  'persist.kernel_memory': "change the kernel's memory",
  'persist.kernel_module': 'load a kernel module',
  'persist.mbr_boot_code': 'overwrite the boot code of the disk',
  'persist.partition_table': 'change the partition table',
};

const WEIGHT = { critical: 4, high: 3, medium: 2, low: 1, info: 0 } as const;
/** Findings below this neither make a verdict nor reach a stage. */
const COUNTS = WEIGHT.medium;

/** Phrases per stage that a sentence bears. */
const PER_STAGE = 2;

export interface Part {
  stage: Stage;
  text: string;
}

/** What a finding says, and whether it came about: a policy may have stopped it, or may still be waiting for the analyst. */
function phrase(finding: Finding, trace: Trace, waiting: Set<number>): string {
  const done = PHRASES[finding.detector] ?? `used ${finding.technique.name}`;
  const tried = TRIED[finding.detector] ? `tried to ${TRIED[finding.detector]}` : done;
  if (finding.events.some((seq) => waiting.has(seq))) return `${tried} (waits for your decision)`;
  const stopped = trace.decisions.find((decision) => decision.action !== 'allow' && finding.events.includes(decision.subject));
  if (!stopped) return done;
  return `${tried} (${stopped.action === 'deny' ? 'denied' : 'undone'})`;
}

/** What the task did, stage by stage. `waiting`: the events that wait for an answer. */
export function parts(trace: Trace, findings: Finding[], waiting: Set<number>): Part[] {
  return STAGES.flatMap((stage) => {
    const here = findings
      .filter((finding) => finding.stage === stage && WEIGHT[finding.severity] >= COUNTS)
      .sort((a, b) => WEIGHT[b.severity] - WEIGHT[a.severity]);
    const said = new Set(here.map((finding) => phrase(finding, trace, waiting)));
    const told = [...said].slice(0, PER_STAGE);
    return told.length ? [{ stage, text: told.join(' and ') }] : [];
  });
}

/** What stopped it, or that nothing did. */
export function ending(trace: Trace): string {
  const denied = trace.decisions.filter((decision) => decision.action === 'deny').length;
  const remediated = trace.decisions.filter((decision) => decision.action === 'remediate').length;
  const allowed = trace.decisions.length - denied - remediated;
  const said = [
    denied ? `${denied} denied` : '', remediated ? `${remediated} undone` : '', allowed ? `${allowed} allowed` : '',
  ].filter(Boolean);
  return said.length ? `Acts that waited for policy ${trace.decisions[0]?.policy ?? ''}: ${said.join(', ')}.` : '';
}

/** What there is to say while nothing was found. */
export function quiet(session: Session): string {
  if (session.state === 'queued') return 'waits for a free micro-VM';
  if (session.state === 'starting' || session.state === 'running' || session.state === 'paused') return 'has done nothing that LAVA looks for, so far';
  if (session.state === 'closed') return 'did nothing that LAVA looks for. That does not make it harmless';
  return 'did nothing that LAVA looks for before the session broke off';
}
