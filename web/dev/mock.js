// A stand-in for `lava serve`, for development and for the tests of the page alone: answers the API from one recorded session
// (dev/recorded, the drive-by scenario). Its trace at an earlier moment is cut from the last one; the real server grows it anew.

import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

/** @typedef {import('node:http').IncomingMessage} Request */
/** @typedef {import('node:http').ServerResponse} Response */

const RECORDED = new URL('./recorded/', import.meta.url);
const POLICIES = new URL('../../rules/policies/', import.meta.url);
const read = (/** @type {string} */ name) => readFileSync(new URL(name, RECORDED));
const lines = (/** @type {Buffer} */ data) => data.toString().trim().split('\n').map((line) => JSON.parse(line));

/** @type {any[]} */
const EVENTS = lines(gunzipSync(read('events.jsonl.gz')));
const TRACE = JSON.parse(read('trace.json').toString());
const MANIFEST = JSON.parse(read('manifest.json').toString());
const LAST = EVENTS.at(-1).time_ns;
/** The event that waits for the analyst in a live session: the write of the MBR's boot code. */
const WAITS = EVENTS.find((event) => event.region === 'mbr_boot_code' && event.kind === 'disk.write');
const PLAY_MS = 9000;

const HOSTILE = {
  markup: '<img src=x onerror="document.title=\'owned\'">',
  rtl: '/tmp/invoice\u202egpj.exe',
  long: `/tmp/${'A'.repeat(4096)}`,
};

/** @type {Map<string, {id: string, ns: number, end: number, live: boolean, state: string, decided: Set<number>, clients: Set<Response>, trace: any, name: string, started: string, deadline: number | undefined}>} */
const sessions = new Map();

/** @param {string} id @param {boolean} live @param {any} trace @param {string} name */
function add(id, live, trace = TRACE, name = MANIFEST.task.name) {
  const session = { id, ns: live ? 0 : LAST, end: LAST, live, state: live ? 'running' : 'closed', decided: new Set(), clients: new Set(), trace, name, started: live ? new Date().toISOString() : MANIFEST.started, deadline: undefined };
  sessions.set(id, session);
  return session;
}

function hostile() {
  const trace = structuredClone(TRACE);
  const names = [HOSTILE.markup, HOSTILE.rtl, HOSTILE.long];
  trace.nodes.filter((/** @type {any} */ node) => node.kind === 'file' || node.kind === 'process').slice(2, 8)
    .forEach((/** @type {any} */ node, /** @type {number} */ index) => { node.label = names[index % 3]; node.detail.push(names[(index + 1) % 3]); });
  trace.findings.forEach((/** @type {any} */ finding, /** @type {number} */ index) => { finding.title = `${names[index % 3]} was run`; });
  return trace;
}

add(MANIFEST.session, false);
add('HOSTILE', false, hostile(), HOSTILE.markup);

/** @param {any} found */
function verdict(found) {
  const high = new Set(found.filter((/** @type {any} */ each) => each.severity === 'high').map((/** @type {any} */ each) => each.stage));
  if (found.some((/** @type {any} */ each) => each.severity === 'critical') || high.size >= 2) return 'malicious';
  return found.length ? 'suspicious' : 'clean';
}

/** @param {any} whole @param {number} ns */
function cut(whole, ns) {
  const findings = whole.findings.filter((/** @type {any} */ each) => each.time_ns <= ns);
  const nodes = whole.nodes.filter((/** @type {any} */ node) => node.first_ns <= ns).map((/** @type {any} */ node) => {
    const known = node.findings.filter((/** @type {number} */ index) => index < findings.length);
    return { ...node, findings: known, last_ns: Math.min(node.last_ns, ns), stage: node.findings.length && !known.length ? null : node.stage };
  });
  const there = new Set(nodes.map((/** @type {any} */ node) => node.id));
  const decisions = whole.decisions.filter((/** @type {any} */ each) => each.time_ns <= ns);
  const known = new Set(decisions.map((/** @type {any} */ each) => each.event));
  const edges = whole.edges.filter((/** @type {any} */ edge) => edge.first_ns <= ns && there.has(edge.from) && there.has(edge.to))
    .map((/** @type {any} */ edge) => ({ ...edge, last_ns: Math.min(edge.last_ns, ns), decision: known.has(edge.decision?.event) ? edge.decision : null }));
  return { ...whole, nodes, edges, findings, decisions, verdict: verdict(findings) };
}

/** @param {any} session @param {number} until */
function traceAt(session, until = Infinity) {
  const event = EVENTS.findLast((each) => each.seq <= until && each.time_ns <= session.ns) ?? EVENTS[0];
  const trace = cut(session.trace, event.time_ns);
  return { until: event.seq, trace, verdict: trace.verdict };
}

/** @param {any} session */
function summary(session) {
  const { trace, until } = traceAt(session);
  const stages = [...new Set(trace.findings.map((/** @type {any} */ each) => each.stage))];
  return {
    id: session.id, task: { ...MANIFEST.task, name: session.name }, profile: MANIFEST.profile, policy: MANIFEST.policy.name, state: session.state,
    verdict: session.live ? null : trace.verdict, started: session.started, ended: session.live ? null : MANIFEST.ended, stages,
    events: until, findings: trace.findings.length, detail: null, manifest: MANIFEST,
  };
}

/** @param {any} session */
function processes(session) {
  /** @type {Map<string, any>} */
  const found = new Map();
  const tainted = new Set([320, 334, 335]);
  for (const event of EVENTS) {
    if (event.time_ns > session.ns) break;
    const process = event.process;
    if (!process) continue;
    const key = `${process.pid}.${process.start_ns}`;
    const lane = found.get(key) ?? { pid: process.pid, start_ns: process.start_ns, ppid: process.ppid, uid: process.uid, first_ns: event.time_ns, argv: [], exit: null, tainted: tainted.has(process.pid) };
    Object.assign(lane, { exe: process.exe, comm: process.comm, uid: process.uid, last_ns: event.time_ns });
    if (event.kind === 'process.exec') Object.assign(lane, { argv: event.argv });
    if (event.kind === 'process.exit') lane.exit = { code: event.code, signal: null };
    found.set(key, lane);
  }
  return [...found.values()].sort((a, b) => Number(b.tainted) - Number(a.tainted));
}

/** @param {any} session */
function pending(session) {
  const waits = session.live && WAITS.time_ns <= session.ns && !session.decided.has(WAITS.seq);
  if (!waits) return [];
  session.deadline ??= (Date.now() - Date.parse(session.started)) * 1e6 + 20e9;
  return [{ seq: WAITS.seq, event: WAITS, policy: 'ask', rule: 'mbr-boot-code', reason: 'Overwriting the code that the BIOS runs is how a bootkit persists.', default: 'deny', deadline_ns: session.deadline }];
}

/** @param {Response} to @param {string} kind @param {any} data @param {number} id */
const tell = (to, kind, data, id) => to.write(`id: ${id}\nevent: ${kind}\ndata: ${JSON.stringify(data)}\n\n`);

/** @param {any} session @param {number} ns */
function advance(session, ns) {
  const before = session.ns;
  session.ns = Math.min(ns, session.end);
  const trace = traceAt(session);
  const events = EVENTS.filter((event) => event.time_ns > before && event.time_ns <= session.ns).slice(-50);
  for (const client of session.clients) {
    tell(client, 'events', { events, left_out: 0 }, trace.until);
    tell(client, 'trace', trace, trace.until);
    tell(client, 'pending', { pending: pending(session) }, trace.until);
  }
  if (session.ns < session.end) return;
  session.live = false;
  session.state = 'closed';
  for (const client of session.clients) {
    tell(client, 'end', summary(session), trace.until);
    client.end();
  }
}

/** @param {any} session */
function play(session) {
  const step = 100;
  const timer = setInterval(() => {
    if (session.state === 'paused' || pending(session).length) return;
    advance(session, session.ns + (3.6e9 * step) / PLAY_MS);
    if (!session.live) clearInterval(timer);
  }, step);
}

/** @param {any} session @param {URLSearchParams} query */
function events(session, query) {
  const [from, limit] = [Number(query.get('from') ?? 0), Number(query.get('limit') ?? 100)];
  const [kind, pid, text] = [query.get('kind') ?? '', query.get('pid'), (query.get('q') ?? '').toLowerCase()];
  const fit = EVENTS.filter((event) =>
    event.time_ns <= session.ns && event.seq >= from && event.kind.startsWith(kind) &&
    (!pid || event.process?.pid === Number(pid)) && (!text || JSON.stringify(event).toLowerCase().includes(text)));
  return { events: fit.slice(0, limit), next: fit[limit]?.seq ?? null, total_seen: fit.length };
}

/** @param {string} name @param {URLSearchParams} query @param {Response} response */
function artifact(name, query, response) {
  if (!/^[0-9a-f]{64}$/.test(name)) return fail(response, 404, 'no-artifact', 'No such artifact.');
  let data;
  try {
    data = read(`artifacts/${name}`);
  } catch {
    return fail(response, 404, 'no-artifact', 'This artifact is not kept.', 'The mock keeps only small ones.');
  }
  if (query.get('view') !== 'hex') return void response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Disposition': 'attachment' }).end(data);
  const [offset, length] = [Number(query.get('offset')), Number(query.get('length'))];
  return json(response, { offset, hex: data.subarray(offset, offset + length).toString('hex'), total: data.length });
}

/** @param {Response} response @param {any} data @param {number} status */
function json(response, data, status = 200) {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(data));
}

/** @param {Response} response @param {number} status @param {string} code @param {string} message @param {string=} help */
function fail(response, status, code, message, help) {
  json(response, { error: { code, message, help } }, status);
}

/** @param {Request} request @returns {Promise<any>} */
async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const text = Buffer.concat(parts).toString();
  return request.headers['content-type']?.startsWith('application/json') ? JSON.parse(text || '{}') : text;
}

/** @param {any} session @param {string} what @param {URL} url @param {Request} request @param {Response} response */
async function ofSession(session, what, url, request, response) {
  const [first, second] = what.split('/');
  const until = url.searchParams.get('until');
  switch (first) {
    case '': return json(response, summary(session));
    case 'trace': return json(response, traceAt(session, until ? Number(until) : undefined));
    case 'events': return json(response, events(session, url.searchParams));
    case 'findings': return json(response, { findings: traceAt(session).trace.findings });
    case 'processes': return json(response, { processes: processes(session) });
    case 'decisions': return json(response, { decisions: [], pending: pending(session) });
    case 'artifacts': return second ? artifact(second, url.searchParams, response) : json(response, { artifacts: [
      { sha256: WAITS.before, size: 440, name: 'MBR boot code, before' }, { sha256: WAITS.after, size: 440, name: 'MBR boot code, after' }] });
    case 'files': return void response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Disposition': 'attachment' }).end('mock');
    case 'hold': {
      if (request.method === 'PUT') holds[session.id] = { user: 'analyst', reason: (await body(request)).reason, time: MANIFEST.started };
      else delete holds[session.id];
      return json(response, {});
    }
    case 'respond': {
      const { command } = await body(request);
      session.state = command === 'pause' ? 'paused' : command === 'resume' ? 'running' : session.state;
      if (command === 'stop' || command === 'discard') session.end = session.ns;
      return json(response, {});
    }
    case 'decide': {
      session.decided.add((await body(request)).seq);
      return json(response, {});
    }
    case 'stream':
      response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
      session.clients.add(response);
      request.on('close', () => session.clients.delete(response));
      return tell(response, 'trace', traceAt(session), 1);
    default: return fail(response, 404, 'not-found', 'There is no such thing.');
  }
}

function policies() {
  return ['observe', 'protect', 'remediate', 'contain'].map((name) => {
    const text = readFileSync(new URL(`${name}.yaml`, POLICIES)).toString();
    return { name, text, shipped: true, description: /^description: (.*)$/m.exec(text)?.[1] ?? '' };
  });
}

/** One mistake is known here: an action that there is not. The real server runs the engine. @param {string} text */
function check(text) {
  const diagnostics = text.split('\n').flatMap((line, index) => {
    const found = /action: (?!allow|deny|remediate|ask)(\S+)/.exec(line);
    return found ? [{ code: 'P004', message: `unknown action "${found[1]}"`, line: index + 1, column: found.index + 9, end_line: index + 1, end_column: found.index + 9 + (found[1]?.length ?? 0), help: 'one of: allow, deny, remediate, ask' }] : [];
  });
  return { ok: diagnostics.length === 0, diagnostics };
}

function overview() {
  const all = [...sessions.values()].map(summary);
  return {
    running: all.filter((each) => each.state !== 'closed'), queued: [], verdicts: { malicious: 41, suspicious: 7, clean: 112 },
    stages: { exploit: 38, execute: 44, escalate: 19, persist: 31, propagate: 12 }, severities: { critical: 22, high: 134, medium: 51, low: 310, info: 822 },
    host: { load1: 1.32, cpus: 8, memory_total: 34e9, memory_available: 21e9, disk_free: 412e9 },
  };
}

let loggedIn = true;
/** @type {Map<string, any>} */
const searches = new Map();
let rule = { days: null, bytes: null, free: null };
/** @type {Record<string, any>} */
const holds = {};
/** How the next asking for policies goes wrong, for the tests of the page's error states. */
let broken = false;

/** @param {URL} url @param {Request} request @param {Response} response */
async function route(url, request, response) {
  const path = url.pathname;
  if (path === '/api/login') {
    const said = await body(request);
    if (said.token !== 'good' && said.password !== 'secret') return fail(response, 401, 'login', 'That is not a login LAVA knows.', 'Check user and password; a link works once.');
    loggedIn = true;
    return json(response, {});
  }
  if (!loggedIn) return fail(response, 401, 'unauthorised', 'Nobody is logged in.');
  if (path === '/api/me') return json(response, { user: 'analyst', role: 'admin', csrf: 'mock' });
  if (path === '/api/logout') { loggedIn = false; return json(response, {}); }
  if (path === '/api/overview') return json(response, overview());
  if (path === '/api/exports') return json(response, { formats: [{ name: 'stix', extension: 'json', about: 'STIX 2.1 bundle' }, { name: 'misp', extension: 'json', about: 'MISP event' }] });
  if (path === '/api/profiles') return json(response, { profiles: [{ name: 'jar', description: 'A Java archive' }, { name: 'elf', description: 'A Linux program' }, { name: 'script', description: 'A shell or Python script' }] });
  if (path === '/api/policies') return broken ? fail(response, 500, 'internal', 'The policies cannot be read.', 'Look at the server log.') : json(response, { policies: policies() });
  if (path === '/api/policies/check') return json(response, check((await body(request)).text));
  if (path === '/api/audit') return json(response, { entries: [{ time: MANIFEST.started, user: 'analyst', what: 'start', on: MANIFEST.session, from: '127.0.0.1' }] });
  if (path === '/api/searches') return json(response, { searches: [...searches].map(([name, search]) => ({ name, ...search, time: MANIFEST.started })) });
  if (path.startsWith('/api/searches/')) {
    const name = decodeURIComponent(path.slice('/api/searches/'.length));
    if (request.method === 'PUT') searches.set(name, await body(request));
    else searches.delete(name);
    return json(response, {});
  }
  if (path === '/api/retention/preview') {
    const days = url.searchParams.get('days');
    const removals = days ? [{ session: MANIFEST.session, ended: MANIFEST.ended, bytes: 4_300_000, why: `it ended more than ${days} days ago` }].filter((each) => !(each.session in holds)) : [];
    const unmet = url.searchParams.has('free') ? ['only 412000000000 bytes would be free: what is left runs, is held or cannot be read, or others fill the disk'] : [];
    return json(response, { removals, sessions: sessions.size, bytes: 9_100_000, free: 412e9, unmet });
  }
  if (path === '/api/retention') {
    if (request.method === 'PUT') { rule = await body(request); return json(response, {}); }
    return json(response, { rule, holds });
  }
  if (path === '/api/search') {
    const q = (url.searchParams.get('q') ?? '').toLowerCase();
    const hits = EVENTS.filter((event) => JSON.stringify(event).toLowerCase().includes(q)).slice(0, 30);
    return json(response, { hits: hits.map((event) => ({ session: MANIFEST.session, what: event.kind, where: event.path ?? event.process?.exe ?? '', seq: event.seq })) });
  }
  if (path === '/api/sessions' && request.method === 'POST') {
    await body(request);
    const session = add(`RUN${sessions.size}`, true);
    play(session);
    return json(response, { id: session.id }, 202);
  }
  if (path === '/api/sessions') return json(response, { sessions: [...sessions.values()].map(summary).reverse() });
  const [, id, what = ''] = /^\/api\/sessions\/([^/]+)\/?(.*)$/.exec(path) ?? [];
  const session = id ? sessions.get(decodeURIComponent(id)) : undefined;
  if (!session) return fail(response, 404, 'no-session', 'There is no such session.', 'It may have been removed: see the list of sessions.');
  return ofSession(session, what, url, request, response);
}

/** Levers for tests: a live session that moves when told to. @param {URL} url @param {Response} response */
function lever(url, response) {
  const id = url.searchParams.get('id') ?? '';
  const session = sessions.get(id);
  if (url.pathname === '/mock/live') add(id, true);
  else if (url.pathname === '/mock/advance' && session) advance(session, Number(url.searchParams.get('ns')));
  else if (url.pathname === '/mock/broken') broken = url.searchParams.get('is') === 'true';
  json(response, {});
}

/** Answers what is the mock's; says whether it was. @param {Request} request @param {Response} response */
export function answer(request, response) {
  const url = new URL(request.url ?? '/', 'http://localhost');
  if (url.pathname.startsWith('/mock/')) {
    lever(url, response);
    return true;
  }
  if (!url.pathname.startsWith('/api/')) return false;
  route(url, request, response).catch((error) => fail(response, 500, 'mock', String(error)));
  return true;
}
