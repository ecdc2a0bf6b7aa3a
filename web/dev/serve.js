// The built page under the Content-Security-Policy of the real server: what the tests run against. The API is the mock's, or with
// LAVA_SERVER (http://127.0.0.1:PORT) a real server's, for work on the page without building LAVA anew.

import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer, request as ask } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

import { answer } from './mock.js';

const DIST = fileURLToPath(new URL('../dist', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2' };
// As in crates/lava-console/src/auth/guard.rs.
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self'; manifest-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const SERVER = process.env['LAVA_SERVER'];

/** @param {import('node:http').IncomingMessage} request @param {import('node:http').ServerResponse} response @param {string} server */
function forward(request, response, server) {
  const headers = { ...request.headers };
  delete headers.origin;
  const sent = ask(new URL(request.url ?? '/', server), { method: request.method, headers: { ...headers, host: new URL(server).host } }, (got) => {
    response.writeHead(got.statusCode ?? 502, got.headers);
    got.pipe(response);
  });
  sent.on('error', () => response.writeHead(502).end());
  response.on('close', () => sent.destroy());
  request.pipe(sent);
}

createServer((request, response) => {
  if (SERVER && request.url?.startsWith('/api/')) return forward(request, response, SERVER);
  if (!SERVER && answer(request, response)) return;
  const path = normalize(new URL(request.url ?? '/', 'http://localhost').pathname);
  const file = join(DIST, path);
  const found = existsSync(file) && statSync(file).isFile() ? file : join(DIST, 'index.html');
  const type = TYPES[/** @type {keyof typeof TYPES} */ (extname(found))] ?? 'application/octet-stream';
  response.writeHead(200, { 'Content-Type': type, 'Content-Security-Policy': CSP, 'X-Content-Type-Options': 'nosniff' });
  createReadStream(found).pipe(response);
}).listen(Number(process.env['PORT'] ?? 4174), '127.0.0.1');
