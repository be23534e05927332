/**
 * Counts that stay on a GPU. Where a program counts something of its data, launches take as many workgroups as there is
 * work; the device finds that number itself (`dispatchWorkgroupsIndirect`), so that nobody waits for the count before the
 * end of a run. A kernel of one invocation brings the count within its bounds and computes the grids that depend on it.
 */
import type { Buffer, Expr } from '../ir/expr.ts';
import { Block, buffer, type Kernel } from '../ir/kernel.ts';
import { add, ceildiv, floordiv, floormod, literal, load, max, min, mul, sub, symbol } from '../ir/scalar.ts';
import type { Address, Count, Launch, Size, Step } from '../runtime/manifest.ts';

/** The name of such kernels. */
export const GRIDS = 'grids';

/** Workgroups in a row of a dispatch, on every device. */
const ROW = 65535;

/** A plan in the making. */
export interface CountedPlan {
  readonly steps: Step[];
  /** Buffers that the caller of a program writes. */
  readonly inputs: ReadonlySet<number>;
  kernel(kernel: Kernel): number;
  /** A buffer of so many bytes that is alive at one step. */
  buffer(bytes: number, step: number): Address;
  /** Keeps a buffer until the end. */
  keep(address: Address): void;
}

/**
 * Lets the counts of a plan stay on the device: gives each a launch that computes what follows from it. All or none of a
 * plan's: none where loops or branches need the host anyway, where a count is an input, which nothing bounds, and where a
 * launch takes another parameter than the count itself.
 */
export function countOnDevice(plan: CountedPlan): void {
  const { steps } = plan;
  const counts = steps.flatMap((step, i) => ('count' in step ? [{ step, i }] : []));
  const names = new Set(counts.map(({ step }) => step.count));
  const simple = steps.every((step) => {
    if ('count' in step) return 'b' in step.at && step.at.at === undefined && !plan.inputs.has(step.at.b);
    return 'kernel' in step && step.params.every((p) => typeof p === 'string' || !mentions(p, names));
  });
  if (!simple) return;
  const known = new Set<string>();
  const at = new Map<string, Address>();
  for (const [n, { step, i }] of counts.entries()) {
    at.set(step.count, step.at);
    plan.keep(step.at);
    const until = counts[n + 1]?.i ?? steps.length;
    const grids: Size[] = [];
    for (const launch of steps.slice(i + 1, until)) {
      if (!('kernel' in launch) || !mentions(launch.grid, names)) continue;
      const key = JSON.stringify(launch.grid);
      if (!known.has(key)) grids.push(launch.grid);
      known.add(key);
    }
    steps[i] = {
      ...step,
      steps: [
        gridsOf(
          plan,
          step,
          grids,
          counts.slice(0, n).map((c) => c.step),
          i,
        ),
      ],
    };
  }
}

function mentions(size: Size, names: ReadonlySet<string>): boolean {
  if (typeof size === 'number') return false;
  return typeof size === 'string' ? names.has(size) : mentions(size[1], names) || mentions(size[2], names);
}

/** The launch that writes a count within its bounds, and three words for each grid. */
function gridsOf(plan: CountedPlan, own: Count, grids: readonly Size[], before: readonly Count[], at: number): Launch {
  const symbols = new Map<string, Expr>();
  const read = new Map<string, { readonly from: Buffer; readonly at: Address; readonly value: Expr }>();
  const out = buffer(GRIDS, 'i32', 1 + 3 * grids.length, { access: 'readwrite' });
  const block = new Block();
  block.for(
    'u',
    0,
    1,
    (u, body) => {
      const numberAt = (size: Size): Expr => {
        if (typeof size === 'number') return literal(size);
        if (typeof size !== 'string') {
          const [op, a, b] = size;
          return OPERATORS[op](numberAt(a), numberAt(b));
        }
        const counted = [...before, own].findLast((c) => c.count === size);
        if (counted) return countOf(counted);
        const known = symbols.get(size) ?? symbol(size, { min: 0, max: 2 ** 29 });
        symbols.set(size, known);
        return known;
      };
      const countOf = (count: Count): Expr => {
        let known = read.get(count.count);
        if (!known) {
          // Checks look at what another count has looked at.
          const same = [...read.values()].find(({ at }) => JSON.stringify(at) === JSON.stringify(count.at));
          const from = same?.from ?? buffer(`count${read.size}`, 'i32', 1);
          const bounded = max(min(load(from, u), numberAt(count.max)), numberAt(count.min));
          known = { from, at: count.at, value: body.let(count.count, bounded) };
          read.set(count.count, known);
        }
        return known.value;
      };
      body.store(out, u, countOf(own));
      grids.forEach((grid, i) => {
        const groups = body.let('groups', numberAt(grid));
        const words = [min(groups, ROW), ceildiv(groups, ROW), literal(1)];
        for (const [j, word] of words.entries()) body.store(out, add(u, 1 + 3 * i + j), word);
      });
    },
    { bind: 'grid.x' },
  );
  const params = [...symbols.keys()].sort();
  const counts = [...new Map([...read.values()].map((count) => [count.from, count])).values()];
  const kernel: Kernel = {
    kind: 'kernel',
    name: GRIDS,
    buffers: [...counts.map(({ from }) => from), out],
    params: params.map((name) => symbols.get(name)!),
    body: block.stmts,
  };
  const to = plan.buffer(4 * (1 + 3 * grids.length), at);
  return {
    kernel: plan.kernel(kernel),
    args: [...counts.map((count) => count.at), to],
    params,
    grid: 1,
    chunk: 1,
    label: GRIDS,
  };
}

const OPERATORS: Readonly<Record<Extract<Size, readonly unknown[]>[0], (a: Expr, b: Expr) => Expr>> = {
  '+': add,
  '-': sub,
  '*': mul,
  '/': floordiv,
  '%': floormod,
  min,
  max,
};
