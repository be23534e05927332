/** Records runs for `selftest()`: opens the fresh bundle, fills its inputs by rule and keeps a few results. */

import type { Tensor } from '../../runtime/api.ts';
import type { SelfTest } from '../../runtime/manifest.ts';
import { open } from '../../runtime/open.ts';
import { selfTestInputs } from '../../runtime/selftest.ts';
import type { Bundle } from '../bundle.ts';
import { entryReport } from '../report.ts';

/** A recorded run may cost this many multiply-accumulates: about two seconds on one core. */
const BUDGET = 40e9;
/** Results kept of each output. */
const KEPT = 8;
/** Largest difference allowed: kernels with fused multiply-add and other summation orders give other last bits. */
const TOLERANCE = 1e-3;

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
  const session = await open({ manifest, files: bundle.files });
  try {
    const recorded: SelfTest[] = [];
    for (const test of tests) {
      const got = await session.run(selfTestInputs(manifest, test), { entry: test.entry });
      recorded.push({ ...test, outputs: Object.entries(got).flatMap(([name, tensor]) => samples(name, tensor)) });
    }
    return recorded;
  } finally {
    session.dispose();
  }
}

/** Finite elements spread evenly over an output; bits of halves are not numbers, so those are left out. */
function samples(name: string, { dtype, data }: Tensor): SelfTest['outputs'] {
  if (dtype === 'f16' || dtype === 'bf16' || data.length === 0) return [];
  const count = Math.min(KEPT, data.length);
  const at = Array.from({ length: count }, (_, i) => Math.floor((i * data.length) / count));
  const found = at.map((i) => [i, Number(data[i])] as const).filter(([, value]) => Number.isFinite(value));
  return [{ name, at: found.map(([i]) => i), values: found.map(([, value]) => value) }];
}
