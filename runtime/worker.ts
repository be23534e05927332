/** The module of a thread: connects the kernels to the shared memory and follows the leader until told to quit. */
import { builtin, inNode } from './host.ts';
import { connect } from './module.ts';
import type { ThreadReply, ThreadStart } from './pool.ts';
import { follow } from './team.ts';

function work(start: ThreadStart, reply: (text: ThreadReply) => void): void {
  try {
    const kernels = connect(start.module, start.memory);
    reply('');
    follow(start.control, kernels, start.thread);
  } catch (error) {
    reply(String(error));
  }
}

if (inNode) {
  const port = builtin<typeof import('node:worker_threads')>('worker_threads').parentPort;
  port?.once('message', (start: ThreadStart) => work(start, (text) => port.postMessage(text)));
} else {
  globalThis.onmessage = (event: MessageEvent<ThreadStart>) => work(event.data, (text) => postMessage(text));
}
