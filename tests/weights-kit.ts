import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import fc from 'fast-check';
import { CompileError, type DiagnosticCode } from '../ir/diagnostic.ts';
import type { WeightTensor } from '../ir/weights.ts';

/** The message of the CompileError that `run` throws; anything else fails the test. */
export function refusal(t: ExecutionContext, run: () => unknown, code?: DiagnosticCode): string {
  const error = t.throws(run, { instanceOf: CompileError });
  if (code !== undefined) t.is(error.code, code);
  return error.message;
}

/** An f32 tensor of these values. */
export function f32(shape: readonly number[], values: readonly number[]): WeightTensor {
  return { dtype: 'f32', shape, bytes: new Uint8Array(Float32Array.from(values).buffer) };
}

/** Distinct values from `start` on, so that a wrong order shows. */
export function counting(shape: readonly number[], start = 0): WeightTensor {
  return f32(
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => start + i),
  );
}

/** A folder that is gone after the test. */
export function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-weights-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A copy with some bytes changed and possibly cut short. */
export function damaged(bytes: Uint8Array): fc.Arbitrary<Uint8Array> {
  const flips = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 });
  return fc.tuple(flips, fc.option(fc.nat(bytes.length))).map(([changes, cut]) => {
    const copy = bytes.slice();
    for (const [at, value] of changes) copy[at] = value;
    return copy.subarray(0, cut ?? copy.length);
  });
}

/** Runs `read`; passes when it succeeds or throws a CompileError, and no more than 2 × the file was allocated. */
export function survives(t: ExecutionContext, bytes: Uint8Array, read: () => void): void {
  const before = process.memoryUsage().arrayBuffers;
  try {
    read();
  } catch (error) {
    if (!(error instanceof CompileError)) throw error;
  }
  const grown = process.memoryUsage().arrayBuffers - before;
  if (grown > 2 * bytes.length + 4096) t.fail(`${grown} bytes allocated for a file of ${bytes.length}`);
}
