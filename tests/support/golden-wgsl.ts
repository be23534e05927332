/**
 * Goldens of WGSL: `tests/golden/wgsl/*.ir` hold a graph above `// expect` and the shaders that it becomes below, a line
 * `// next` between them. The kernels are interpreted, barriers and races included, and nothing is blessed that disagrees
 * with the reference. A comment `// shared` above the graph asks for the kernels of large sizes at small ones, `// subgroups`
 * for those of devices that have such, `// halves` for those that read weights stored as halves,
 * `// f16` for those that keep them so on devices with `shader-f16`.
 */
import { WEBGPU } from '../../compiler/gpu-target.ts';
import { roundTo } from '../../ir/dtype.ts';
import { evaluate } from '../../ir/evaluate.ts';
import type { Sym } from '../../ir/expr.ts';
import type { Graph, Value } from '../../ir/graph.ts';
import { graphValues, typeOf } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { seeded } from '../../ir/ops/example.ts';
import { parseGraphs } from '../../ir/parse.ts';
import { printGraph } from '../../ir/text.ts';
import { sizeAt } from '../../ir/type.ts';
import type { WeightStore } from '../../ir/weights.ts';
import { CLOSE, gpuDifference, SHARED } from './gpu-check.ts';
import { compileForGpu } from './run-webgpu.ts';

/** What the file should be. @throws Error where the kernels compute something else than the graph says */
export function expectedShaders(text: string, file: string): string {
  const comment = /^(?:\/\/(?! expect)[^\n]*\n)*/.exec(text)![0];
  const source = text.slice(comment.length).split(/^\/\/ expect$/m)[0]!;
  const [graph] = parseGraphs(source, file);
  if (!graph) throw new Error(`${file}: no graph stands above "// expect"`);
  const halves = /^\/\/ halves$/m.test(comment);
  const stored = (x: Nd): Nd => (halves ? { ...x, data: x.data.map((v) => roundTo('f16', v)) } : x);
  const params = new Map(
    graphValues(graph)
      .filter((v) => v.op.name === 'param')
      .map((v) => [String(v.attrs.name), stored(filled(v, String(v.attrs.name)))]),
  );
  const inputs = Object.fromEntries(graph.inputs.map((v) => [String(v.attrs.name), filled(v, String(v.attrs.name))]));
  const base = /^\/\/ shared$/m.test(comment) ? SHARED : WEBGPU;
  const target = { ...base, subgroups: /^\/\/ subgroups$/m.test(comment) };
  const program = compileForGpu(graph, { store: storeOf(params), target, storage: halves ? 'f16' : 'f32' });
  check(graph, inputs, params, program.host(inputs), file);
  const { sets } = program.shaders;
  const { sources } = sets[/^\/\/ f16$/m.test(comment) ? sets.length - 1 : 0]!;
  return `${comment}${printGraph(graph)}// expect\n${sources.join('// next\n')}`;
}

function check(
  graph: Graph,
  inputs: Readonly<Record<string, Nd>>,
  params: ReadonlyMap<string, Nd>,
  got: Readonly<Record<string, Nd>>,
  file: string,
): void {
  const want = evaluate(graph, { inputs, params: (name) => params.get(name)! });
  for (const [name, x] of Object.entries(want)) {
    const wrong = gpuDifference(got[name], x, CLOSE);
    if (wrong) throw new Error(`${file}: output ${name}: ${wrong}; nothing is blessed`);
  }
}

function filled(v: Value, name: string): Nd {
  const { dtype, shape } = typeOf(v);
  const sizes = shape.map((d) => sizeAt(d, (s) => (s.arg as Sym).default));
  const random = seeded([...name].reduce((hash, c) => (Math.imul(hash, 31) + c.charCodeAt(0)) | 0, 7));
  const value = dtype === 'f32' ? () => Math.fround(random() * 4 - 2) : () => Math.floor(random() * 2);
  return nd(dtype, sizes, Array.from({ length: sizes.reduce((n, d) => n * d, 1) }, value));
}

const storeOf = (tensors: ReadonlyMap<string, Nd>): WeightStore => ({
  source: 'a golden',
  names: () => [...tensors.keys()],
  get: (name) => {
    const tensor = tensors.get(name);
    return tensor && { ...tensor, bytes: new Uint8Array(Float32Array.from(tensor.data).buffer) };
  },
});
