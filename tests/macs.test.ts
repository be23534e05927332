/** Multiply-accumulates that graphs say they take are those that the inner loops of the reference make. */
import test from 'ava';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, typeOf, type Value } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { opNamed } from '../ir/op.ts';
import { exampleGraph, exampleValues } from '../ir/ops/example.ts';
import { sizeAt } from '../ir/type.ts';
import { dropTokensPass } from '../passes/drop-tokens.ts';
import { packRowsPass } from '../passes/pack-rows.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import type { Params, Tensors } from './support/replay.ts';
import { modelParams, TOKEN_MODELS } from './support/token-models.ts';

/** A tensor that counts how often an element of it is read. */
function counting(x: Nd): { readonly x: Nd; reads(): number } {
  let reads = 0;
  const data = new Proxy(x.data, {
    get: (target, key) => {
      if (typeof key === 'string' && /^\d+$/.test(key)) reads++;
      const found: unknown = Reflect.get(target, key);
      return typeof found === 'function' ? found.bind(target) : found;
    },
  });
  return { x: { ...x, data }, reads: () => reads };
}

/**
 * Multiply-accumulates for each read of operand 1. Attention reads keys for every score, also for those that a mask hides, and
 * makes as many products with values as keys are wide; the values of hidden keys count though they are not read.
 */
const perRead: Readonly<Record<string, (inputs: readonly Nd[]) => number>> = {
  matmul: () => 1,
  conv: () => 1,
  depthwise_conv: () => 1,
  attention: ([, k, v]) => (k!.shape[3]! + v!.shape[3]!) / k!.shape[3]!,
  attention_weights: () => 1,
};

/** Multiply-accumulates that evaluating an op makes. */
function made({ op, attrs }: Value, operands: readonly Nd[], types: readonly Nd[]): number {
  const { x, reads } = counting(operands[1]!);
  const inputs = operands.map((operand, n) => (n === 1 ? x : operand));
  op.eval(inputs, attrs, {
    types,
    run: () => [],
    size: (d) =>
      sizeAt(d, () => {
        throw new TypeError('sizes are known');
      }),
  });
  return reads() * perRead[op.name]!(operands);
}

/** Multiply-accumulates of a run, and the size of every symbol that it counts. */
function countedRun(
  g: Graph,
  inputs: Tensors,
  params: Params,
): { readonly macs: number; readonly sizes: Record<string, number> } {
  const results = new Map<Value, Nd>();
  const sizes: Record<string, number> = {};
  let macs = 0;
  evaluate(g, {
    inputs,
    params,
    observe: (v, result) => {
      if (!('data' in result)) return;
      results.set(v, result);
      if (v.type.kind === 'tensor')
        v.type.shape.forEach((d, axis) => {
          if (typeof d !== 'number' && d.op === 'sym')
            sizes[(d.arg as { readonly name: string }).name] = result.shape[axis]!;
        });
      if (!v.op.macs) return;
      macs += made(
        v,
        v.inputs.map((x) => results.get(x)!),
        [result],
      );
    },
  });
  return { macs, sizes };
}

for (const name of Object.keys(perRead))
  test(`${name}: examples take what they say`, (t) => {
    const op = opNamed(name)!;
    for (const example of op.examples) {
      // What is padded is counted as well, and not read.
      if ('pads' in (example.attrs ?? {})) continue;
      const [first] = [...exampleGraph(op, example).outputs.values()];
      const value = first!.op === op ? first! : first!.inputs[0]!;
      const { type, inputs, attrs } = value;
      const types = (type.kind === 'tuple' ? type.items : [type]).map((x) => nd(x.dtype, x.shape as readonly number[]));
      const said = sizeAt(op.macs!(inputs.map(typeOf), attrs, type), () => 0);
      t.is(made(value, exampleValues(example), types), said, example.note ?? '');
    }
  });

const passes = pipelineFor().map((pass) =>
  pass.name === 'drop-tokens'
    ? dropTokensPass({ macsPerElement: 0, share: 0.999 })
    : pass.name === 'pack-rows'
      ? packRowsPass(0)
      : pass,
);

for (const [name, make] of Object.entries(TOKEN_MODELS))
  test(`${name}: counted as it runs`, (t) => {
    const model = make();
    for (const g of [model.graph, runPasses(model.graph, passes)]) {
      const { macs, sizes } = countedRun(g, model.inputs, modelParams);
      t.is(macs, countMacs(g, sizes));
    }
  });
