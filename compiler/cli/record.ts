/** Records runs for `selftest()`: opens the fresh bundle, fills its inputs by rule and keeps a few results. */

import type { Tensor } from '../../runtime/api.ts';
import type { SelfTest } from '../../runtime/manifest.ts';
import { open } from '../../runtime/open.ts';
import { selfTestInputs } from '../../runtime/selftest.ts';
import type { Bundle } from '../bundle.ts';
import { entryReport } from '../report.ts';

/** A recorded run may cost this many multiply-accumulates: about two seconds on one core. */
const BUDGET = 40e9;
/** Results kept of each output, and of all outputs together where there are many. */
const KEPT = 8;
const KEPT_IN_ALL = 48;
/** Largest difference allowed: kernels with fused multiply-add and other summation orders give other last bits. */
const TOLERANCE = 1e-4;

/** One recorded run an entry, at the default sizes or, where those cost too much, at the smallest; none where even they do. */
export async function recordSelfTest(bundle: Bundle): Promise<readonly SelfTest[]> {
  const { manifest } = bundle;
  const tests: SelfTest[] = [];
  for (const entry of bundle.entries) {
    const cheapest = Object.fromEntries(
      entry.plan.symbols.map(({ name, min, multipleOf }) => [name, Math.max(min, multipleOf)]),
    );
    const sizes = [bundle.at, cheapest].find((at) => entryReport(entry, manifest, at).macsCompiled <= BUDGET);
    if (!sizes) continue;
    const symbols = Object.fromEntries(
      entry.plan.symbols.map(({ name, default: usual }) => [name, sizes[name] ?? usual]),
    );
    tests.push({ entry: entry.name, symbols, outputs: [], tolerance: TOLERANCE });
  }
  if (tests.length === 0) return [];
  const session = await open({ manifest, files: bundle.files }, { device: 'wasm' });
  try {
    const done: SelfTest[] = [];
    for (const test of tests) {
      const got = await session.run(selfTestInputs(manifest, test), { entry: test.entry });
      done.push({ ...test, outputs: recorded(got) });
    }
    return done;
  } finally {
    session.dispose();
  }
}

function recorded(got: Readonly<Record<string, Tensor>>): SelfTest['outputs'] {
  const outputs = Object.entries(got);
  const each = Math.max(1, Math.min(KEPT, Math.floor(KEPT_IN_ALL / outputs.length)));
  return outputs.flatMap(([name, tensor]) => samples(name, tensor, each));
}

/** Finite elements spread evenly over an output; bits of halves are not numbers, so those are left out. */
function samples(name: string, { dtype, data }: Tensor, most: number): SelfTest['outputs'] {
  if (dtype === 'f16' || dtype === 'bf16' || data.length === 0) return [];
  const count = Math.min(most, data.length);
  const at = Array.from({ length: count }, (_, i) => Math.floor((i * data.length) / count));
  const found = at.map((i) => [i, Number(data[i])] as const).filter(([, value]) => Number.isFinite(value));
  return [{ name, at: found.map(([i]) => i), values: found.map(([, value]) => Number(value.toPrecision(7))) }];
}
