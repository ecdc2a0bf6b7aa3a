// The built page with the mock, under the Content-Security-Policy of the real server: what the tests run against.

import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

import { answer } from './mock.js';

const DIST = fileURLToPath(new URL('../dist', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2' };
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

createServer((request, response) => {
  if (answer(request, response)) return;
  const path = normalize(new URL(request.url ?? '/', 'http://localhost').pathname);
  const file = join(DIST, path);
  const found = existsSync(file) && statSync(file).isFile() ? file : join(DIST, 'index.html');
  const type = TYPES[/** @type {keyof typeof TYPES} */ (extname(found))] ?? 'application/octet-stream';
  response.writeHead(200, { 'Content-Type': type, 'Content-Security-Policy': CSP, 'X-Content-Type-Options': 'nosniff' });
  createReadStream(found).pipe(response);
}).listen(Number(process.env['PORT'] ?? 4174), '127.0.0.1');
