import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

import { answer } from './mock.js';

// `npm run dev`: the page with a mock of the server, which plays the recorded session of dev/recorded.
export default defineConfig({
  root: new URL('..', import.meta.url).pathname,
  plugins: [
    svelte(),
    { name: 'mock', configureServer: (server) => void server.middlewares.use((request, response, next) => { if (!answer(request, response)) next(); }) },
  ],
});
