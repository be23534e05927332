/** What differs between Node, pages and workers. */

interface NodeLike {
  readonly versions?: { readonly node?: string };
  getBuiltinModule?(name: string): unknown;
}

const node = (globalThis as { process?: NodeLike }).process;

/** Whether this is Node (or something that acts like it). */
export const inNode = typeof node?.versions?.node === 'string' && node.getBuiltinModule !== undefined;

/** A Node module, by a way that no bundler follows. Only where `inNode`. */
export const builtin = <T>(name: string): T => node?.getBuiltinModule?.(`node:${name}`) as T;

/** Whether memory can be shared between threads here. */
export const canShare = (): boolean =>
  typeof SharedArrayBuffer === 'function' && (inNode || globalThis.crossOriginIsolated === true);

/** How many threads the machine runs at once. */
export const cores = (): number =>
  inNode
    ? builtin<typeof import('node:os')>('os').availableParallelism()
    : (globalThis.navigator?.hardwareConcurrency ?? 1);

let channel: MessageChannel | undefined;
const waiting: (() => void)[] = [];

/** Lets the event loop turn once: timers, input and messages are served. */
export function tick(): Promise<void> {
  if (typeof setImmediate === 'function') return new Promise((done) => setImmediate(done));
  if (channel === undefined) {
    channel = new MessageChannel();
    channel.port1.onmessage = () => waiting.shift()?.();
  }
  const { port2 } = channel;
  return new Promise((done) => {
    waiting.push(done);
    port2.postMessage(0);
  });
}
