/** What walks long lines on WebGPU: searches, running sums, selections and updates, against the reference. */
import test, { type ExecutionContext } from 'ava';
import { evaluate } from '../ir/evaluate.ts';
import { type Attrs, graph, type Value } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { makeValue, opNamed } from '../ir/op.ts';
import { seeded } from '../ir/ops/example.ts';
import { input, projectAll } from '../ir/ops/structural.ts';
import { symbol } from '../ir/scalar.ts';
import { type Dim, dim } from '../ir/type.ts';
import { gpuDevice } from './support/gpu-check.ts';
import { compileForGpu, type GpuProgram } from './support/run-webgpu.ts';
import '../ir/ops/all.ts';

/** Around the elements that a workgroup takes at a time, and many times as many. */
const SIZES = [1, 2, 255, 256, 257, 1000, 5000];
/** The interpreter of kernels takes long. */
const INTERPRETED = 257;

type Make = (i: number, next: () => number) => number;
interface Operand {
  readonly dtype: Nd['dtype'];
  /** `n` is the length of lines, `m` of the updates. */
  readonly shape: readonly (number | 'n' | 'm')[];
  readonly make: Make;
}

/** Runs an op at all sizes, on the device and where that is quick in the interpreter: results must be equal. */
async function check(
  t: ExecutionContext,
  op: string,
  operands: readonly Operand[],
  attrs: Attrs,
  sizes: readonly number[] = SIZES,
  after: (v: Value) => Value = (v) => v,
): Promise<GpuProgram> {
  const most = { n: Math.max(...sizes), m: 400 };
  const dims: Readonly<Record<string, Dim>> =
    sizes.length === 1
      ? { n: most.n, m: Math.min(most.n, most.m) }
      : { n: dim(symbol('n', { min: 1, max: most.n })), m: dim(symbol('m', { min: 1, max: most.m })) };
  const inputs = operands.map(({ dtype, shape }, i) =>
    input(
      [],
      { name: `x${i}`, dtype, shape: shape.map((d) => (typeof d === 'string' ? dims[d]! : d)) },
      { name: `x${i}` },
    ),
  );
  const results = projectAll(makeValue(opNamed(op)!, inputs, attrs, { name: 'y' }));
  const g = graph(
    'lines',
    inputs,
    results.map((v, i) => [`out${i}`, i === 0 ? after(v) : v] as const),
  );
  const program = compileForGpu(g);
  for (const n of sizes) {
    const next = seeded(n + 1);
    const at = { n, m: Math.min(n, most.m) };
    const given = Object.fromEntries(
      operands.map(({ dtype, shape, make }, i) => {
        const size = shape.map((d) => (typeof d === 'string' ? at[d] : d));
        return [
          `x${i}`,
          nd(
            dtype,
            size,
            Array.from({ length: countOf(size) }, (_, j) => make(j, next)),
          ),
        ];
      }),
    );
    const want = evaluate(g, { inputs: given, precision: 'f32' });
    const runs = [await program.device(await gpuDevice(), given), ...(n <= INTERPRETED ? [program.host(given)] : [])];
    for (const [engine, got] of runs.entries())
      for (const [name, { data }] of Object.entries(want)) {
        const wrong = data.findIndex((x, i) => !Object.is(x + 0, got[name]!.data[i]! + 0));
        t.is(
          wrong,
          -1,
          `${op} ${JSON.stringify(attrs)} of ${n}, ${name}, ${['device', 'host'][engine]}: ${got[name]!.data[wrong]} for ${data[wrong]}`,
        );
      }
  }
  return program;
}

/** Few values, so that there are many equals. */
const TIES: Make = (_, next) => Math.floor(next() * 9) - 4;
const HOLES: Make = (i, next) => (i % 83 === 7 ? Number.NaN : TIES(i, next));

test('extrema of long lines: the first or the last of equals, NaN above all', async (t) => {
  for (const name of ['arg_max', 'arg_min'])
    for (const last of [false, true]) {
      await check(t, name, [{ dtype: 'f32', shape: [2, 'n'], make: HOLES }], { axis: 1, last });
      await check(t, name, [{ dtype: 'i32', shape: ['n', 3], make: TIES }], { axis: 0, last, keepdims: true });
    }
  await check(t, 'arg_max', [{ dtype: 'f16', shape: [3, 'n'], make: TIES }], { axis: 1 }, [20]);
  // A position of 64 bits that something is made of.
  const negated = (v: Value): Value => makeValue(opNamed('neg')!, [v], {}, { name: 'negated' });
  for (const size of [9, 40])
    await check(t, 'arg_max', [{ dtype: 'f32', shape: [3, 'n'], make: TIES }], { axis: 1 }, [size], negated);
});

test('running sums of long lines, from either end, with and without the element', async (t) => {
  for (const reverse of [false, true])
    for (const exclusive of [false, true])
      await check(t, 'cumsum', [{ dtype: 'f32', shape: [2, 'n'], make: TIES }], { axis: 1, reverse, exclusive });
  await check(t, 'cumsum', [{ dtype: 'i64', shape: ['n', 3], make: TIES }], { axis: 0 });
  await check(t, 'cumsum', [{ dtype: 'f32', shape: ['n', 4100], make: TIES }], { axis: 0 }, [20]);
});

test('the first of long lines in order: few of many, many of many, equals in their order', async (t) => {
  const operands: readonly Operand[] = [{ dtype: 'f32', shape: [2, 'n'], make: HOLES }];
  for (const largest of [false, true]) {
    await check(t, 'top_k', operands, { k: 1, axis: 1, largest });
    await check(t, 'top_k', operands, { k: 5, axis: 1, largest }, [255, 256, 257, 1000, 1025, 5000]);
    await check(t, 'top_k', operands, { k: 250, axis: 1, largest }, [255, 1000, 1537]);
    await check(t, 'top_k', operands, { k: 120, axis: 1, largest }, [1100]);
  }
  await check(t, 'top_k', [{ dtype: 'i32', shape: ['n', 3], make: TIES }], { k: 20, axis: 0 }, [600, 5000]);
});

test('positions of what is true, in order', async (t) => {
  await check(t, 'positions', [{ dtype: 'bool', shape: [3, 'n'], make: (_, next) => Math.floor(next() * 2) }], {});
  await check(t, 'positions', [{ dtype: 'bool', shape: ['n'], make: () => 0 }], {});
  await check(t, 'positions', [{ dtype: 'bool', shape: ['n'], make: () => 1 }], {}, [5000]);
});

test('updates: the last of a place wins, or all of a place are joined in their order', async (t) => {
  /** Half of them go to the same eight places; some count from the end. */
  const places: Make = (i, next) => (i % 2 === 0 ? Math.floor(next() * 8) : Math.floor(next() * 270) - 20);
  for (const reduction of ['none', 'add', 'mul', 'max'])
    for (const [shape, axis] of [
      [['n'], 0],
      [[3, 'n'], 1],
    ] as const) {
      const updates = shape.map((d) => (d === 'n' ? 'm' : d));
      const make: Make = reduction === 'mul' ? (i) => [1, -1, 2, 0.5][i % 4]! : TIES;
      await check(
        t,
        'scatter_elements',
        [
          { dtype: 'f32', shape, make: TIES },
          { dtype: 'i64', shape: updates, make: places },
          { dtype: 'f32', shape: updates, make },
        ],
        { axis, reduction },
        [257, 1000],
      );
    }
  for (const reduction of ['none', 'add'])
    await check(
      t,
      'scatter_nd',
      [
        { dtype: 'f32', shape: ['n', 6], make: TIES },
        { dtype: 'i64', shape: ['m', 1], make: places },
        { dtype: 'f32', shape: ['m', 6], make: TIES },
      ],
      { reduction },
      [257, 1000],
      (v) => makeValue(opNamed('neg')!, [v], {}, { name: 'negated' }),
    );
});

test('no invocation walks a long line alone', (t) => {
  const x = (dtype: Nd['dtype'], ...shape: readonly number[]): Value =>
    input([], { name: `x${shape.join('_')}${dtype}`, dtype, shape }, { name: 'x' });
  const cases: readonly (readonly [string, readonly Value[], Attrs, number])[] = [
    ['arg_max', [x('f32', 1, 4096)], { axis: 1 }, 64],
    ['cumsum', [x('f32', 1, 4096)], { axis: 1 }, 64],
    ['top_k', [x('f32', 1, 4096)], { axis: 1, k: 3 }, 4096],
    ['positions', [x('bool', 1, 4096)], {}, 64],
    ['scatter_elements', [x('f32', 4096), x('i64', 512), x('f32', 512)], { axis: 0 }, 512],
  ];
  for (const [op, inputs, attrs, least] of cases) {
    const value = makeValue(opNamed(op)!, inputs, attrs, { name: 'y' });
    const { scheduled } = compileForGpu(
      graph(
        'one',
        inputs,
        projectAll(value).map((v, i) => [`y${i}`, v] as const),
      ),
    );
    const invocations = scheduled.regions.flatMap(({ stages }) => stages.map(({ grid }) => Number(grid.arg) * 64));
    t.true(Math.max(...invocations) >= least, `${op}: ${invocations}`);
  }
});
