import test from 'ava';
import { CompileError } from '../ir/diagnostic.ts';
import { isInt, sizeOf } from '../ir/dtype.ts';
import { graph } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import type { Example } from '../ir/op.ts';
import { allOps, makeValue, type OpDef, opNamed } from '../ir/op.ts';
import { exampleGraph, exampleInput, exampleValues, SPECIAL } from '../ir/ops/example.ts';
import { input } from '../ir/ops/structural.ts';
import { checkOnGpu } from './support/gpu-check.ts';
import { compileForGpu } from './support/run-webgpu.ts';
import '../ir/ops/all.ts';

const dtypesOf = (def: OpDef, example: Example): readonly string[] => {
  const g = exampleGraph(def, example);
  return [...g.inputs, ...g.outputs.values()].flatMap((v) => (v.type.kind === 'tensor' ? [v.type.dtype] : []));
};

/** 64-bit integers are 32 bits wide on WebGPU: the runtime refuses inputs beyond, and results wrap. */
const needsLong = (example: Example): boolean =>
  exampleValues(example).some(
    ({ dtype, data }) => isInt(dtype) && sizeOf(dtype) === 8 && data.some((x) => Math.abs(x) > 2 ** 31 - 1),
  );

/** Beyond this WGSL's own sine is used, which promises nothing. */
const FARTHEST_ANGLE = 12800;
const PERIODIC = new Set(['sin', 'cos', 'tan']);

for (const def of allOps().filter((o) => o.examples.length > 0))
  test(`${def.name}: interpreted kernels and WGSL agree with the reference`, async (t) => {
    let checked = 0;
    for (const [n, example] of def.examples.entries()) {
      const what = `example ${n}${example.note ? ` (${example.note})` : ''}`;
      const graph = exampleGraph(def, example);
      if (dtypesOf(def, example).includes('f64')) {
        const error = t.throws(() => compileForGpu(graph), { instanceOf: CompileError }, what);
        t.is(error?.diagnostic.code, 'unsupported', what);
        continue;
      }
      if (needsLong(example)) continue;
      const values = exampleValues(example).map((x) => ({
        ...x,
        data: PERIODIC.has(def.name) ? x.data.map((v) => (Math.abs(v) > FARTHEST_ANGLE ? 0.5 : v)) : x.data,
      }));
      const inputs = Object.fromEntries(values.map((x, i) => [exampleInput(i), x]));
      const { wrong } = await checkOnGpu(graph, inputs);
      t.deepEqual(wrong, [], what);
      checked++;
    }
    t.true(checked > 0 || def.examples.every((e) => dtypesOf(def, e).includes('f64') || needsLong(e)));
  });

test('constants as large and as small as f32 holds reach the shader as they are', async (t) => {
  const largest = 2 ** 128 - 2 ** 104;
  const x = input([], { name: 'x', dtype: 'f32', shape: [1] }, { name: 'x' });
  for (const number of [largest, -largest, Infinity, -Infinity, 2 ** -126, Math.fround(0.1), Math.fround(3.4e38)]) {
    const value = nd('f32', [], Float64Array.of(number));
    const sum = makeValue(opNamed('add')!, [x, makeValue(opNamed('constant')!, [], { value })], {}, { name: 'y' });
    const { wrong } = await checkOnGpu(graph('test', [x], [['y', sum]]), { x: nd('f32', [1], Float64Array.of(0)) });
    t.deepEqual(wrong, [], String(number));
  }
});

test('special numbers reach the sine that is our own', (t) => {
  t.true(SPECIAL.some((x) => Math.abs(x) > 1000 && Math.abs(x) <= FARTHEST_ANGLE));
});
