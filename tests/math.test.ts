import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { type Target, WASM_PLAIN, WASM_RELAXED } from '../compiler/target.ts';
import { parseSafetensors, type Safetensors } from '../frontends/weights/safetensors.ts';
import type { Buffer, Expr, Lanes } from '../ir/expr.ts';
import { Block, buffer, type Kernel } from '../ir/kernel.ts';
import { cos, erf, exp, literal, load, log, mul, pow, rem, sin, tanh } from '../ir/scalar.ts';
import { erf as erfReference } from '../ir/special.ts';
import { projectRoot } from './support/project.ts';
import { instantiate, runWasm } from './wasm-kit.ts';

const COUNT = 65536;
const x = buffer('x', 'f32', COUNT);
const y = buffer('y', 'f32', COUNT, { access: 'write' });

function kernelOf(f: (x: Expr) => Expr, lanes: Lanes): Kernel {
  const block = new Block();
  block.for('u', 0, COUNT / lanes, (u, body) => body.store(y, mul(u, lanes), f(load(x, mul(u, lanes), lanes))), {
    bind: 'grid.x',
  });
  return { kind: 'kernel', name: 'f', buffers: [x, y], params: [], body: block.stmts };
}

/** f32 → f32 by our instructions, for any number of arguments. */
function evaluator(f: (x: Expr) => Expr, lanes: Lanes, target: Target): (xs: ArrayLike<number>) => Float32Array {
  const instance = instantiate([kernelOf(f, lanes)], target, 16);
  const [from, to] = [64, 64 + 4 * COUNT];
  const input = new Float32Array(instance.memory.buffer, from, COUNT);
  const output = new Float32Array(instance.memory.buffer, to, COUNT);
  return (xs) => {
    const result = new Float32Array(xs.length);
    for (let at = 0; at < xs.length; at += COUNT) {
      const count = Math.min(COUNT, xs.length - at);
      for (let i = 0; i < count; i++) input[i] = xs[at + i]!;
      instance.run(0, [from, to], [], 0, Math.ceil(count / lanes));
      result.set(output.subarray(0, count), at);
    }
    return result;
  };
}

/** Every float whose bits are a multiple of `step`: all magnitudes of both signs, infinities and NaN among them. */
function floats(step: number): Float32Array {
  const bits = new Uint32Array(Math.floor(2 ** 32 / step));
  for (let i = 0; i < bits.length; i++) bits[i] = i * step;
  return new Float32Array(bits.buffer);
}

interface Case {
  readonly f: (x: Expr) => Expr;
  readonly exact: (x: number) => number;
  /** Largest relative error where the result is a normal number. */
  readonly bound: number;
}

const CASES: Readonly<Record<string, Case>> = {
  exp: { f: exp, exact: Math.exp, bound: 1.3e-7 },
  log: { f: log, exact: Math.log, bound: 2e-7 },
  tanh: { f: tanh, exact: Math.tanh, bound: 2e-7 },
  erf: { f: erf, exact: erfReference, bound: 3.8e-7 },
  sin: { f: sin, exact: Math.sin, bound: 6e-8 },
  cos: { f: cos, exact: Math.cos, bound: 6e-8 },
};
const SMALLEST = 2 ** -149;
const NORMAL = 2 ** -126;

/** The first value that is wrong, and the largest relative error of the others. */
function compare(
  xs: ArrayLike<number>,
  ys: ArrayLike<number>,
  exact: (i: number) => number,
  bound: number,
): { worst: number; wrong?: string } {
  let worst = 0;
  for (let i = 0; i < xs.length; i++) {
    const [want, got] = [exact(i), ys[i]!];
    const rounded = Math.fround(want);
    const wrong = (): string => `at ${xs[i]}: ${got}, not ${want}`;
    if (Object.is(rounded, got)) continue;
    if (Number.isNaN(rounded) || Number.isNaN(got) || rounded === 0 || rounded === Infinity || rounded === -Infinity) {
      // A result just at the edge of the range may round to the other side of it.
      const edge = Number.isFinite(want) && Math.abs(want) > 0 && !Number.isNaN(got);
      if (!edge || (Math.abs(want) < 1 && Math.abs(got - want) > SMALLEST)) return { worst, wrong: wrong() };
      continue;
    }
    if (!Number.isFinite(got)) {
      if (Math.abs(rounded) < 3.402823e38 || Number.isNaN(got)) return { worst, wrong: wrong() };
      continue;
    }
    if (Math.abs(rounded) < NORMAL) {
      if (Math.abs(got - want) > 1.5 * SMALLEST) return { worst, wrong: wrong() };
      continue;
    }
    worst = Math.max(worst, Math.abs(got - want) / Math.abs(want));
    if (worst > bound) return { worst, wrong: wrong() };
  }
  return { worst };
}

for (const [name, { f, exact, bound }] of Object.entries(CASES))
  for (const target of [WASM_PLAIN, WASM_RELAXED])
    for (const lanes of [1, 4] as const)
      test(`${name} on all magnitudes, ${lanes} lanes${target.fma ? ', fused' : ''}`, (t) => {
        const xs = floats(9973);
        const ys = evaluator(f, lanes, target)(xs);
        const { worst, wrong } = compare(xs, ys, (i) => exact(xs[i]!), bound);
        t.is(wrong, undefined);
        t.log(`largest relative error ${worst.toExponential(2)}`);
      });

test('the dense part of each function keeps its bound', (t) => {
  for (const [name, { f, exact, bound }] of Object.entries(CASES)) {
    const xs = Float32Array.from({ length: 400_000 }, (_, i) => (name === 'log' ? 1e-5 : -12) + i * 6e-5);
    const { wrong } = compare(xs, evaluator(f, 4, WASM_PLAIN)(xs), (i) => exact(xs[i]!), bound);
    t.is(wrong, undefined, name);
  }
});

function f32Of(table: Safetensors, name: string): Float32Array {
  const tensor = table.get(name);
  if (tensor?.dtype !== 'f32') throw new Error(`the table has no f32 tensor ${name}`);
  return new Float32Array(tensor.bytes.slice().buffer);
}

test('hard points of the elementwise table', async (t) => {
  const path = join(projectRoot, 'tests/fixtures/elementwise/table.safetensors');
  const table = parseSafetensors(new Uint8Array(await readFile(path)), path);
  for (const [name, { f, bound }] of Object.entries(CASES)) {
    const [xs, ys] = [f32Of(table, `${name}.x`), f32Of(table, `${name}.y`)];
    for (const lanes of [1, 4] as const) {
      const got = evaluator(f, lanes, WASM_PLAIN)(xs);
      const { wrong } = compare(xs, got, (i) => ys[i]!, bound + 6e-8);
      t.is(wrong, undefined, `${name}, ${lanes} lanes`);
    }
  }
});

test('pow is that of C', (t) => {
  const power = (y: number): number[] => [
    ...evaluator((e) => pow(e, literal(y, 'f32', e.lanes)), 4, WASM_PLAIN)([0, 1, 2, -1]),
  ];
  t.deepEqual(power(2.5), [0, 1, Math.fround(2 ** 2.5), NaN]);
  t.deepEqual(power(3), [0, 1, 8, -1]);
  t.deepEqual(power(NaN), [NaN, 1, NaN, NaN]);
  t.deepEqual(power(Infinity), [0, 1, Infinity, 1]);
});

test('functions of f64: erf to 1e-15, rem exact', (t) => {
  const [a, b] = ['a', 'b'].map((name) => buffer(name, 'f64', 4096)) as [Buffer, Buffer];
  const out = buffer('out', 'f64', 4096, { access: 'write' });
  const run = (f: (a: Expr, b: Expr) => Expr, xs: readonly number[], ys: readonly number[]): Float64Array => {
    const block = new Block();
    block.for('u', 0, xs.length, (u, body) => body.store(out, u, f(load(a, u), load(b, u))), { bind: 'grid.x' });
    const result = new Float64Array(4096);
    const contents = [xs, ys].map((data) => Float64Array.from({ length: 4096 }, (_, i) => data[i] ?? 0));
    const k: Kernel = { kind: 'kernel', name: 'f', buffers: [a, b, out], params: [], body: block.stmts };
    runWasm(k, {
      buffers: new Map([
        [a, contents[0]!],
        [b, contents[1]!],
        [out, result],
      ]),
    });
    return result;
  };
  const hard = [
    0,
    -0,
    1,
    -1,
    1.5,
    1e-310,
    5e-324,
    3,
    -7,
    0.1,
    1e16,
    1e300,
    -1.7e308,
    Infinity,
    -Infinity,
    NaN,
    1e-3,
    Math.PI,
  ];
  const pairs = hard.flatMap((x) => hard.map((y) => [x, y] as const));
  const rests = run(
    rem,
    pairs.map(([x]) => x),
    pairs.map(([, y]) => y),
  );
  for (const [i, [x, y]] of pairs.entries())
    t.true(Object.is(rests[i], x % y), `${x} rem ${y}: ${rests[i]}, not ${x % y}`);

  const xs = [...hard, ...Array.from({ length: 3000 }, (_, i) => (i - 1500) / 240)];
  const values = run(erf, xs, xs);
  for (const [i, x] of xs.entries()) {
    const want = erfReference(x);
    t.true(
      Object.is(values[i], want) || Math.abs(values[i]! - want) <= 2e-15 * Math.abs(want),
      `erf ${x}: ${values[i]}, not ${want}`,
    );
  }
});
