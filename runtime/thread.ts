/** The life of a thread: connects the kernels to the shared memory and follows the leader until told to quit. */
import { builtin, inNode } from './host.ts';
import { connect } from './module.ts';
import type { ThreadReply, ThreadStart } from './pool.ts';
import { follow } from './team.ts';

async function work(start: ThreadStart, reply: (text: ThreadReply) => void): Promise<void> {
  try {
    const kernels = await connect(start.module, start.memory);
    reply('');
    follow(start.control, kernels, start.thread);
  } catch (error) {
    reply(String(error));
  }
}

/** Waits for the leader's first message; called once, by the module of a worker. */
export function serveThread(): void {
  if (inNode) {
    const port = builtin<typeof import('node:worker_threads')>('worker_threads').parentPort;
    port?.once('message', (start: ThreadStart) => work(start, (text) => port.postMessage(text)));
  } else {
    globalThis.onmessage = (event: MessageEvent<ThreadStart>) => work(event.data, (text) => postMessage(text));
  }
}
