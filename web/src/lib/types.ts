// What the server says. Events, findings and traces are exactly those of a session's folder
// (crates/lava-event, crates/lava-graph); the rest is crates/lava-console's.

export const STAGES = ['exploit', 'execute', 'escalate', 'persist', 'propagate'] as const;
export type Stage = (typeof STAGES)[number];
export type Grade = 'observed' | 'inferred' | 'proven';
export type Severity = 'info' | 'low' | 'medium' | 'high' | 'critical';
export type Verdict = 'clean' | 'suspicious' | 'malicious';
export type Action = 'allow' | 'deny' | 'remediate';
export type NodeKind =
  | 'task' | 'process' | 'file' | 'endpoint' | 'disk_area' | 'module' | 'credential' | 'kernel' | 'fold';

export interface TraceNode {
  id: string;
  kind: NodeKind;
  label: string;
  detail: string[];
  /** How many nodes of the graph are folded into it. */
  folded: number;
  stage: Stage | null;
  tainted: boolean;
  findings: number[];
  first_ns: number;
  last_ns: number;
}

export interface TraceEdge {
  from: string;
  to: string;
  verb: string;
  grade: Grade;
  first_ns: number;
  last_ns: number;
  count: number;
  bytes: number;
  events: number[];
  stage: Stage | null;
  decision?: { action: Action; outcome: string; event: number } | null;
}

export interface ProcessKey {
  pid: number;
  start_ns: number;
}

export interface Finding {
  index?: number;
  detector: string;
  title: string;
  why: string;
  stage: Stage;
  technique: { id: string; name: string };
  severity: Severity;
  grade: Grade;
  time_ns: number;
  process: ProcessKey | null;
  events: number[];
}

export interface Decision {
  event: number;
  subject: number;
  time_ns: number;
  action: Action;
  policy: string;
  rule: string | null;
  reason: string | null;
  outcome: string;
}

export interface Trace {
  nodes: TraceNode[];
  edges: TraceEdge[];
  findings: Finding[];
  verdict: Verdict;
  decisions: Decision[];
  graph_nodes: number;
  graph_edges: number;
}

export interface TraceAnswer {
  until: number;
  trace: Trace;
  verdict: Verdict;
}

/** One line of events.jsonl: every kind has fields of its own. Numbers too large for a double are bigints. */
export interface LavaEvent {
  seq: number;
  time_ns: number;
  source: string;
  kind: string;
  process?: ProcessKey & { tid: number; ppid: number; uid: number; comm: string; exe: string };
  registers?: Record<string, string>;
  backtrace?: { kernel: Frame[]; user: Frame[] };
  [field: string]: unknown;
}

export interface Frame {
  address: number | bigint;
  place: string;
}

export interface Session {
  id: string;
  task: { name: string; sha256: string; size: number };
  profile: string;
  policy: string;
  state: string;
  verdict: Verdict | null;
  started: string;
  ended: string | null;
  stages: Stage[];
  events: number;
  findings: number;
  detail: string | null;
  manifest?: Record<string, unknown>;
}

export interface ProcessLane extends ProcessKey {
  ppid: number;
  uid: number;
  exe: string;
  comm: string;
  argv: string[];
  first_ns: number;
  last_ns: number;
  exit: { code?: number | null; signal?: number | null } | null;
  tainted: boolean;
}

export interface Artifact {
  sha256: string;
  size: number;
  name?: string | null;
}

/** An act that waits for the analyst's answer. */
export interface Pending {
  seq: number;
  event: LavaEvent;
  policy: string;
  rule: string | null;
  reason: string | null;
  default: Action;
  /** When the default answers: session time in ns. */
  deadline_ns: number;
}

export interface Me {
  user: string;
  role: 'viewer' | 'analyst' | 'admin';
  csrf: string | null;
}

export interface Overview {
  running: Session[];
  queued: { id: string; name: string; position: number }[];
  verdicts: Record<Verdict, number>;
  stages: Partial<Record<Stage, number>>;
  severities: Partial<Record<Severity, number>>;
  host: { load1: number; cpus: number; memory_total: number; memory_available: number; disk_free: number };
}

export interface Policy {
  name: string;
  description: string;
  text: string;
  shipped: boolean;
}

export interface Diagnostic {
  code: string;
  message: string;
  line: number;
  column: number;
  end_line: number;
  end_column: number;
  help?: string | null;
}

export interface Hit {
  session: string;
  what: string;
  where: string;
  seq?: number | null;
}

export interface AuditEntry {
  time: string;
  user: string;
  what: string;
  on: string;
  from: string;
}

/** A format of another tool that a session can be had in. */
export interface ExportFormat {
  name: string;
  extension: string;
  about: string;
}
