/** Starting and stopping the threads of a session. */
import { HeddleError } from './error.ts';
import { builtin, inNode } from './host.ts';
import { Leader } from './team.ts';

/** What a thread is told when it starts. */
export interface ThreadStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly control: Int32Array;
  /** 1, 2, …; the leader is 0. */
  readonly thread: number;
}

/** What a thread answers: an empty text when it is ready, else why it failed. */
export type ThreadReply = string;

interface Thread {
  listen(reply: (text: string) => void, fail: (why: string) => void): void;
  post(start: ThreadStart): void;
  /** Stops keeping the process alive. */
  release(): void;
  terminate(): void;
}

function nodeThread(url: URL | string | undefined): Thread {
  const { Worker } = builtin<typeof import('node:worker_threads')>('worker_threads');
  // Spelt so that bundlers for pages do not take it for another file to carry along.
  const file = url ?? import.meta.url.replace(/[^/]*$/, 'worker.js');
  const worker = new Worker(/^file:/.test(String(file)) ? new URL(file) : file);
  return {
    listen(reply, fail) {
      worker.on('message', reply);
      worker.on('error', (error: Error) => fail(error.message));
      worker.on('exit', (code) => fail(`it exited with code ${code}`));
    },
    post: (start) => worker.postMessage(start),
    release: () => worker.unref(),
    terminate: () => void worker.terminate(),
  };
}

function webThread(url: URL | string | undefined): Thread {
  // Bundlers recognise this very spelling and carry the file along.
  const worker =
    url === undefined
      ? new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
      : new Worker(url, { type: 'module' });
  return {
    listen(reply, fail) {
      worker.onmessage = (event: MessageEvent<string>) => reply(event.data);
      worker.onerror = (event) => {
        event.preventDefault();
        fail(event.message ?? 'its module cannot be loaded');
      };
    },
    post: (start) => worker.postMessage(start),
    release: () => {},
    terminate: () => worker.terminate(),
  };
}

/** The threads beside the leader. */
export class Pool {
  readonly leader: Leader;
  readonly size: number;
  /** Why a thread has failed since the start. */
  failure: string | undefined;
  #threads: readonly Thread[];

  private constructor(threads: readonly Thread[], control: Int32Array) {
    this.#threads = threads;
    this.size = threads.length;
    this.leader = new Leader(control, threads.length);
  }

  /** @throws HeddleError `support` when a thread does not start, having ended the others; or the signal's reason */
  static async start(
    count: number,
    url: URL | string | undefined,
    start: Omit<ThreadStart, 'thread'>,
    signal: AbortSignal,
    progress: (ready: number) => void,
  ): Promise<Pool> {
    const threads: Thread[] = [];
    let ready = 0;
    let stop = (): void => {};
    try {
      for (let i = 0; i < count; i++) threads.push(inNode ? nodeThread(url) : webThread(url));
      const pool = new Pool(threads, start.control);
      await new Promise<void>((done, fail) => {
        stop = () => fail(signal.reason);
        signal.addEventListener('abort', stop);
        if (signal.aborted) stop();
        const failed = (why: string): void => {
          pool.failure ??= why;
          fail(new HeddleError('support', `a thread does not start: ${why}`));
        };
        for (const [i, thread] of threads.entries()) {
          thread.listen((text) => {
            if (text !== '') failed(text);
            else {
              progress(++ready);
              if (ready === count) done();
            }
          }, failed);
          thread.post({ ...start, thread: i + 1 });
        }
      });
      for (const thread of threads) thread.release();
      return pool;
    } catch (error) {
      for (const thread of threads) thread.terminate();
      signal.throwIfAborted();
      throw error instanceof HeddleError
        ? error
        : new HeddleError('support', `a thread does not start: ${String(error)}`);
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  /** Ends the threads, even those in the middle of a kernel. */
  close(): void {
    this.failure ??= 'it was ended';
    this.leader.quit();
    for (const thread of this.#threads) thread.terminate();
    this.#threads = [];
  }
}
