/** What passes make is not only right in the reference interpreter: it also compiles, and its WebAssembly agrees. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { isFloat } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Sym } from '../ir/expr.ts';
import { type Graph, graphValues } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { parseGraphs } from '../ir/parse.ts';
import { sizeAt, type TensorType } from '../ir/type.ts';
import type { WeightStore } from '../ir/weights.ts';
import { runPasses } from '../passes/pass.ts';
import { passNamed, passNames, pipelineFor } from '../passes/pipeline.ts';
import { arrayClass } from '../runtime/tensor.ts';
import { goldenNames, goldenRoot } from './support/golden.ts';
import { compileGraph } from './support/run-graph.ts';
import '../ir/ops/all.ts';

function fill(name: string, type: TensorType): Nd {
  const shape = type.shape.map((d) => sizeAt(d, (s) => (s.arg as Sym).default));
  const next = seeded([...name].reduce((hash, c) => (Math.imul(hash, 31) + c.charCodeAt(0)) | 0, 5));
  const draw = (): number => (isFloat(type.dtype) ? next() * 4 - 2 : Math.floor(next() * 2));
  return nd(type.dtype, shape, Array.from({ length: countOf(shape) }, draw));
}

/** Seeded values of the parameters of a graph, as a file would hold them. */
function storeOf(graph: Graph): WeightStore {
  const types = new Map(
    graphValues(graph).flatMap((v) =>
      v.op.name === 'param' ? [[String(v.attrs.name), v.type as TensorType] as const] : [],
    ),
  );
  const get: WeightStore['get'] = (name) => {
    const type = types.get(name);
    if (!type) return undefined;
    const x = fill(name, type);
    const data = new arrayClass[type.dtype](x.data.length);
    x.data.forEach((value, i) => {
      data[i] = data instanceof BigInt64Array || data instanceof BigUint64Array ? BigInt(value) : value;
    });
    return { dtype: type.dtype, shape: x.shape, bytes: new Uint8Array(data.buffer) };
  };
  return { source: 'seeded', names: () => [...types.keys()], get };
}

const relativeError = (a: Nd, b: Nd): number => {
  const largest = a.data.reduce((m, x) => (Number.isFinite(x) ? Math.max(m, Math.abs(x)) : m), 1e-3);
  return a.data.reduce(
    (m, x, i) => (Object.is(x, b.data[i]) || x === b.data[i] ? m : Math.max(m, Math.abs(x - b.data[i]!) / largest)),
    0,
  );
};

/** Kernels round what they store to halves where the interpreter rounds only what is cast: four roundings. */
const roundingOf = (g: Graph): number =>
  graphValues(g).some((v) => v.type.kind === 'tensor' && v.type.dtype === 'f16') ? 2 ** -9 : 2e-6;

for (const name of goldenNames().filter((n) => passNames().includes(n.split('/')[0]!)))
  test(`${name} compiles after its pass and after the pipeline`, (t) => {
    const [before] = parseGraphs(readFileSync(join(goldenRoot, `${name}.ir`), 'utf8'), name);
    const inputs = Object.fromEntries(
      before!.inputs.map((v) => [String(v.attrs.name), fill(String(v.attrs.name), v.type as TensorType)]),
    );
    const expected = evaluate(before!, { inputs, params: fill });
    for (const pipeline of [[passNamed(name.split('/')[0]!)!], pipelineFor()]) {
      const after = runPasses(before!, pipeline);
      const compiled = compileGraph(after, storeOf(after));
      for (const engine of ['host plain', 'wasm plain'] as const) {
        const found = compiled.run(engine, inputs);
        for (const [key, want] of Object.entries(expected)) {
          const error = relativeError(want, found[key]!);
          t.true(error < roundingOf(before!), `${engine}, ${pipeline.length} passes, ${key}: ${error}`);
        }
      }
    }
  });
