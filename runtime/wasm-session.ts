/** A session on WebAssembly: inputs into memory, launches, outputs out of it. */
import type { Session, Tensor } from './api.ts';
import { HeddleError } from './error.ts';
import { execute, type Machine } from './execute.ts';
import type { Manifest } from './manifest.ts';
import { bindProgram, type Program } from './program.ts';
import { BundleSession } from './session.ts';
import { elementBytesOf, readTensor } from './tensor.ts';

const PAGE = 2 ** 16;

/** Makes the memory at least so large. @throws HeddleError `memory` */
function ensure(memory: WebAssembly.Memory, bytes: number): void {
  const missing = Math.ceil((bytes - memory.buffer.byteLength) / PAGE);
  if (missing <= 0) return;
  try {
    memory.grow(missing);
  } catch (cause) {
    const wants = `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    throw new HeddleError('memory', `these sizes need ${wants}, which the host refuses. Use smaller sizes.`, { cause });
  }
}

/** @param fallback  see `Session.fallback` */
export function wasmSession(
  manifest: Manifest,
  machine: Machine,
  relaxed: boolean,
  fallback: string | undefined,
): Session {
  const { memory, pool } = machine;
  const threads = 1 + (pool?.size ?? 0);
  const session = new BundleSession<Program>(
    manifest,
    {
      plans: manifest.entries,
      bind: (plan, symbols) => bindProgram(plan, symbols, manifest.weights.memory, threads),
      bytes: () => memory.buffer.byteLength,
      close: () => pool?.close(),
      async run(program, data, { profile }, check) {
        ensure(memory, program.bytes);
        const bytes = new Uint8Array(memory.buffer);
        for (const [i, place] of program.inputs.entries()) bytes.set(elementBytesOf(place, data[i]!), place.at);
        try {
          const rows = await execute(machine, program, check, profile !== undefined);
          const outputs: Record<string, Tensor> = {};
          for (const { port, at, shape } of program.outputs) {
            outputs[port.name] = readTensor(memory.buffer, at, port.dtype, shape);
          }
          profile?.(rows);
          return outputs;
        } catch (error) {
          if (pool !== undefined && (pool.failure !== undefined || pool.leader.failed)) session.dispose();
          throw error;
        }
      },
    },
    { device: 'wasm', threads, relaxed, fallback },
  );
  return session;
}
