/** The module of a thread, which `pool.ts` loads by URL. */
import { serveThread } from './thread.ts';

serveThread();
