/** Products of 8-bit integers: exact on every engine, with operands of every kind, at the edges of tiles. */
import test from 'ava';
import fc from 'fast-check';
import { compile } from '../compiler/compile.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graph, typeOf, type Value } from '../ir/graph.ts';
import { runKernel } from '../ir/interpret.ts';
import { dotPairs, INTRINSICS, widenPair } from '../ir/intrinsics.ts';
import { Block, type Buffer, buffer, type Expr, type Kernel } from '../ir/kernel.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { makeValue } from '../ir/op.ts';
import { add, cast, mul } from '../ir/ops/elementwise.ts';
import { seeded } from '../ir/ops/example.ts';
import { dequantize, dynamicQuantize, integerConv, integerMatmul, quantize } from '../ir/ops/quantize.ts';
import { constant, input, param, projectAll, scalar } from '../ir/ops/structural.ts';
import { load, symbol } from '../ir/scalar.ts';
import { type Dim, dim } from '../ir/type.ts';
import type { WeightStore } from '../ir/weights.ts';
import { compileGraph, ENGINES } from './support/run-graph.ts';
import { runWasm } from './wasm-kit.ts';

type Byte = 'i8' | 'u8';
const LIMITS: Readonly<Record<Byte, readonly [number, number]>> = { i8: [-128, 127], u8: [0, 255] };

/** Whole numbers of the type's whole range, its ends often among them. */
function bytes(dtype: Byte, shape: readonly number[], seed: number): Nd {
  const next = seeded(seed);
  const [low, high] = LIMITS[dtype];
  const draw = (): number => {
    const x = next();
    return x < 0.1 ? low : x > 0.9 ? high : low + Math.floor(((x - 0.1) / 0.8) * (high - low + 1));
  };
  return nd(dtype, shape, Float64Array.from({ length: countOf(shape) }, draw));
}
function reals(shape: readonly number[], seed: number, size = 2): Nd {
  const next = seeded(seed);
  return nd(
    'f32',
    shape,
    Float64Array.from({ length: countOf(shape) }, () => Math.fround((next() * 2 - 1) * size)),
  );
}

const given = (name: string, dtype: Nd['dtype'], shape: readonly Dim[]): Value =>
  input([], { name, dtype, shape }, { name });
const stored = (name: string, x: Nd): Value => param([], { name, dtype: x.dtype, shape: x.shape }, { name });

const ARRAYS = { i8: Int8Array, u8: Uint8Array, i32: Int32Array, f32: Float32Array } as const;
/** Weights as a file has them. */
function storeOf(params: Readonly<Record<string, Nd>>): WeightStore {
  return {
    source: 'the test',
    names: () => Object.keys(params),
    get: (name) => {
      const x = params[name];
      if (!x) return undefined;
      const { buffer: all } = ARRAYS[x.dtype as keyof typeof ARRAYS].from(x.data);
      return { dtype: x.dtype, shape: [...x.shape], bytes: new Uint8Array(all) };
    },
  };
}

interface Case {
  readonly graph: Graph;
  readonly inputs: Readonly<Record<string, Nd>>;
  readonly params?: Readonly<Record<string, Nd>>;
}
const graphOf = (inputs: readonly Value[], ...outputs: readonly Value[]): Graph =>
  graph(
    'test',
    inputs,
    outputs.map((v, i) => [`out${i}`, v] as const),
  );

/** Runs a graph everywhere; results must be equal to the reference in single precision, to the last bit. */
function check({ graph: g, inputs, params = {} }: Case): void {
  const want = evaluate(g, { inputs, params: (name) => params[name]!, precision: 'f32' });
  const compiled = compileGraph(g, storeOf(params));
  for (const engine of ENGINES) {
    const got = compiled.run(engine, inputs);
    for (const [name, expected] of Object.entries(want)) {
      const wrong = expected.data.findIndex((x, i) => !Object.is(x + 0, got[name]!.data[i]! + 0));
      if (wrong >= 0)
        throw new Error(`${engine}: ${name}[${wrong}] is ${got[name]!.data[wrong]}, not ${expected.data[wrong]}`);
    }
  }
}

test('pairs: both intrinsics mean the same on the host and in WebAssembly, in one lane and in four', (t) => {
  const WORDS = [0, 1, -1, 255, -255, 32767, -32768, 77];
  const values = WORDS.flatMap((low) => WORDS.map((high) => (low & 0xffff) | (high << 16)));
  const count = values.length;
  const left = values.flatMap((x) => values.map(() => x));
  const right = values.flatMap(() => values);
  const all = Array.from({ length: 65536 }, (_, i) => i);
  const [a, b, c] = [buffer('a', 'i32', count * count), buffer('b', 'i32', count * count), buffer('c', 'u16', 65536)];
  const outputs = [1, 4].flatMap((lanes) => [
    buffer(`dots${lanes}`, 'i32', count * count, { access: 'readwrite' }),
    buffer(`wide${lanes}`, 'i32', 65536, { access: 'readwrite' }),
    buffer(`later${lanes}`, 'i32', 65536, { access: 'readwrite' }),
  ]);
  const block = new Block();
  block.for(
    'u',
    0,
    1,
    (_, body) => {
      for (const [n, lanes] of ([1, 4] as const).entries()) {
        const [dots, wide, later] = outputs.slice(n * 3) as [Buffer, Buffer, Buffer];
        const each = (size: number, write: (i: Expr, inner: Block) => void): void =>
          body.for('i', 0, size, (i, inner) => write(i, inner), { step: lanes });
        each(count * count, (i, inner) => inner.store(dots, i, dotPairs(load(a, i, lanes), load(b, i, lanes))));
        each(65536, (i, inner) => inner.store(wide, i, widenPair(load(c, i, lanes))));
        // Bytes that were loaded before.
        each(65536, (i, inner) => inner.store(later, i, widenPair(inner.let('x', load(c, i, lanes)))));
      }
    },
    { bind: 'grid.x' },
  );
  const kernel: Kernel = {
    kind: 'kernel',
    name: 'pairs',
    buffers: [a, b, c, ...outputs],
    params: [],
    body: block.stmts,
  };
  const want = [left.map((x, i) => INTRINSICS.dot_pairs(x, right[i]!)), all.map((x) => INTRINSICS.widen_pair(x))];
  for (const run of [runKernel, runWasm]) {
    const data = new Map<Buffer, number[]>([
      [a, left],
      [b, right],
      [c, all],
    ]);
    for (const o of outputs) data.set(o, new Array<number>(o.dtype === 'i32' ? (o.size.arg as number) : 0).fill(-7));
    run(kernel, { buffers: data });
    for (const [n, o] of outputs.entries()) t.deepEqual(data.get(o), want[n % 3 === 0 ? 0 : 1], `${o.name}`);
  }
  // 255 · 255 + 255 · 255, and the one product that wraps around.
  t.is(INTRINSICS.dot_pairs(0xff00ff, 0xff00ff), 2 * 255 * 255);
  t.is(INTRINSICS.dot_pairs(-0x7fff8000, -0x7fff8000), -(2 ** 31));
});

const sizes = fc.record({
  m: fc.constantFrom(1, 2, 3, 4, 5, 9, 13),
  n: fc.constantFrom(1, 3, 4, 8, 15, 16, 17, 33),
  k: fc.constantFrom(1, 2, 7, 8, 9, 16, 31, 64),
  a: fc.constantFrom<Byte>('i8', 'u8'),
  b: fc.constantFrom<Byte>('i8', 'u8'),
  zeros: fc.constantFrom('none', 'numbers', 'vectors', 'middle'),
  weight: fc.boolean(),
  transposeB: fc.boolean(),
  batch: fc.constantFrom<readonly number[]>([], [2], [2, 3]),
  batched: fc.boolean(),
  seed: fc.nat(1e6),
});

test('products of bytes are exact: static and computed operands, zero points of every kind, every edge', (t) => {
  t.notThrows(() =>
    fc.assert(
      fc.property(sizes, ({ m, n, k, a, b, zeros, weight, transposeB, batch, batched, seed }) => {
        const lead = batched ? batch : [];
        const x = bytes(a, [...batch, m, k], seed);
        const w = bytes(b, [...lead, ...(transposeB ? [n, k] : [k, n])], seed + 1);
        const zx = bytes(a, zeros === 'vectors' ? [m, 1] : [], seed + 2);
        const zw = bytes(b, zeros === 'vectors' ? [n] : [], seed + 3);
        const params: Record<string, Nd> = {};
        const operands = [given('x', a, x.shape)];
        const inputs: Record<string, Nd> = { x };
        const place = (name: string, v: Nd, literal: boolean): Value => {
          if (literal) return constant([], { value: v });
          if (weight) params[name] = v;
          else inputs[name] = v;
          return weight ? stored(name, v) : given(name, v.dtype, v.shape);
        };
        operands.push(place('w', w, false));
        if (zeros === 'middle') operands.push(scalar(a === 'u8' ? 128 : 0, a), scalar(b === 'u8' ? 128 : 0, b));
        else if (zeros !== 'none') operands.push(place('zx', zx, zeros === 'numbers'), place('zw', zw, false));
        const product = integerMatmul(operands, { transposeB });
        const g = graphOf(
          operands.filter((v) => v.op.name === 'input'),
          product,
        );
        check({ graph: g, inputs, params });
      }),
      { numRuns: 60, seed: 7 },
    ),
  );
});

test('a product reads what it quantises, and finishes scales, bias and residual before it stores', (t) => {
  const rows = symbol('rows', { min: 1, max: 16 });
  const x = given('x', 'f32', [dim(rows), 37]);
  const skip = given('skip', 'f32', [dim(rows), 19]);
  const [q, scale, zero] = projectAll(dynamicQuantize([x])) as [Value, Value, Value];
  const w = bytes('i8', [37, 19], 3);
  const params = { w, scales: reals([19], 4, 0.01), bias: reals([19], 5) };
  const whole = integerMatmul([q, stored('w', w), zero]);
  const real = mul([cast([whole], { to: 'f32' }), mul([scale, stored('scales', params.scales)])]);
  const out = add([add([real, stored('bias', params.bias)]), skip]);
  const g = graphOf([x, skip], out);
  const program = compileGraph(g, storeOf(params)).program;
  t.is(program.regions.filter((r) => r.kind === 'matmul-int8').length, 1);
  // Beside the product only the range of x is folded, and numbers are made of it: neither the quantised values nor the
  // sum take a pass of their own.
  const large = program.regions.filter((r) => r.outputs.some((v) => typeOf(v).shape.length > 1));
  t.deepEqual(
    large.map((r) => r.kind),
    ['matmul-int8'],
  );
  for (const n of [1, 2, 7, 16])
    check({ graph: g, inputs: { x: reals([n, 37], n), skip: reals([n, 19], n + 1) }, params });
  t.pass();
});

test('a static weight takes one byte an element in the file', (t) => {
  const w = bytes('u8', [64, 48], 1);
  const x = given('x', 'u8', [5, 64]);
  const main = graphOf([x], integerMatmul([x, stored('w', w)]));
  const bundle = compile({ name: 'bytes', entries: { main } }, { weights: storeOf({ w }) });
  t.is(bundle.files.get('weights.bin')!.length, 64 * 48);
});

test('convolutions of bytes are exact: groups, depthwise, padding with the zero point, a zero point a filter', (t) => {
  const cases = [
    { x: [1, 3, 9, 7], w: [8, 3, 3, 3], attrs: { pads: [1, 1, 1, 1] } },
    { x: [2, 4, 6, 5], w: [6, 2, 2, 3], attrs: { groups: 2, strides: [2, 1], pads: [0, 2, 1, 0] } },
    { x: [1, 5, 8], w: [5, 1, 3], attrs: { groups: 5, pads: [1, 1] } },
    { x: [1, 6, 4, 4], w: [7, 6, 1, 1], attrs: {} },
  ];
  for (const [i, { x, w, attrs }] of cases.entries())
    for (const [a, b] of [
      ['u8', 'i8'],
      ['u8', 'u8'],
      ['i8', 'i8'],
    ] as const)
      for (const perFilter of [false, true]) {
        const params = { w: bytes(b, w, i), zw: bytes(b, perFilter ? [w[0]!] : [], i + 9) };
        const values = [given('x', a, x), stored('w', params.w), given('zx', a, []), stored('zw', params.zw)];
        const g = graphOf([values[0]!, values[2]!], integerConv(values, attrs));
        t.notThrows(() => check({ graph: g, inputs: { x: bytes(a, x, i + 5), zx: bytes(a, [], i + 6) }, params }));
      }
});

test('quantised values go through bytes and back in four lanes', (t) => {
  for (const to of ['u8', 'i8', 'i16', 'u16'] as const) {
    const x = given('x', 'f32', [3, 21]);
    const zero = to === 'u8' ? [scalar(113, to)] : [];
    const q = quantize([x, scalar(0.037, 'f32'), ...zero], { to });
    const g = graphOf([x], q, dequantize([q, scalar(0.037, 'f32'), ...zero]));
    t.notThrows(() => check({ graph: g, inputs: { x: reals([3, 21], 11, to.endsWith('16') ? 3000 : 8) } }));
  }
});

test('operands that do not fit are refused with both facts', (t) => {
  const make = (inputs: readonly Value[]): Value => makeValue(integerMatmul.def, inputs);
  const [a, b] = [given('a', 'u8', [2, 3]), given('b', 'i8', [3, 4])];
  t.throws(() => make([a, given('b', 'i8', [5, 4])]), { message: /inner sizes differ, 3 and 5/ });
  t.throws(() => make([given('a', 'i32', [2, 3]), b]), { message: /a must be i8, u8, or i16/ });
  t.throws(() => make([a, b, given('z', 'i8', [])]), { message: /the zero point of a must be u8, not i8/ });
  t.throws(() => make([a, b, given('z', 'u8', [3])]), { message: /must broadcast to \[2, 1\]/ });
  t.throws(() => quantize([given('x', 'f32', [2, 3]), given('s', 'f32', [2])], { to: 'u8' }), {
    message: /the scale must be one number or \[3\]/,
  });
});
