/** Runs the lowering of an op on values, element by element: what a compiler would have to reproduce. */
import { evaluate } from '../../ir/evaluate.ts';
import { evaluateExpr, type Precision } from '../../ir/evaluate-expr.ts';
import type { Expr } from '../../ir/expr.ts';
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { broadcastOffset, eachIndex, generate, type Nd, rowMajor } from '../../ir/nd.ts';
import type { Load, LowerContext } from '../../ir/op.ts';
import { input } from '../../ir/ops/structural.ts';
import { printExpr } from '../../ir/print.ts';
import { literal, operand, variable } from '../../ir/scalar.ts';
import { sizeAt, type TensorType } from '../../ir/type.ts';

/** Reads of operands by flat position; a coordinate outside its axis is an error, as on real memory. */
function reader(inputs: readonly Nd[]): (n: number, at: readonly number[]) => number {
  const strides = inputs.map((x) => rowMajor(x.shape));
  return (n, at) => {
    const { shape, data } = inputs[n]!;
    if (at.length !== shape.length || at.some((c, i) => !(c >= 0 && c < shape[i]!)))
      throw new RangeError(`operand ${n}[${shape.join(', ')}] is read at [${at.join(', ')}]`);
    return data[at.reduce((sum, c, i) => sum + c * strides[n]![i]!, 0)]!;
  };
}

const unbound = (symbol: Expr): never => {
  throw new RangeError(`${printExpr(symbol)} has no size`);
};

/** Results of the op's lowering, or undefined where a schedule or the compiler itself implements it. */
export function runLowering(
  value: Value,
  inputs: readonly Nd[],
  precision: Precision,
  bind: (symbol: Expr) => number = unbound,
): readonly Nd[] | undefined {
  const { lower } = value.op;
  const read = reader(inputs);
  if (lower.kind === 'decompose') {
    const fresh = value.inputs.map((x, i) =>
      input([], { name: `d${i}`, dtype: typeOf(x).dtype, shape: typeOf(x).shape }),
    );
    const built = lower.build(fresh, value.attrs);
    const outputs = 'kind' in built ? [built] : built;
    const g = graph(
      'decomposed',
      fresh,
      outputs.map((v, i) => [`o${i}`, v] as const),
    );
    const result = evaluate(g, { inputs: Object.fromEntries(inputs.map((x, i) => [`d${i}`, x])), precision });
    return outputs.map((_, i) => result[`o${i}`]!);
  }
  if (lower.kind === 'schedule' || lower.kind === 'structural') return undefined;
  const out = typeOf(value);
  const cx: LowerContext<Value['attrs']> = { attrs: value.attrs, inputs: value.inputs.map(typeOf), out };
  const coords = out.shape.map((d, i) => variable(`i${i}`, 'i32', 1, { from: 0, to: d }));
  const load: Load = (n, at) => operand(n, cx.inputs[n]!.dtype, at);
  const run = (e: Expr, at: readonly number[], leaves?: (leaf: Expr) => number | undefined): number =>
    evaluateExpr(
      e,
      {
        value: (leaf, where) => {
          if (leaf.op === 'operand') return read(leaf.arg as number, where);
          if (leaf.op === 'sym') return bind(leaf);
          const axis = coords.indexOf(leaf);
          return axis >= 0 ? at[axis]! : leaves!(leaf)!;
        },
      },
      precision,
    );
  const shape = out.shape.map((d) => sizeAt(d, bind));
  switch (lower.kind) {
    case 'pointwise': {
      const args = cx.inputs.map((t, n) => variable(`x${n}`, t.dtype));
      const e = lower.expr(args, cx);
      const strides = inputs.map((x) => rowMajor(x.shape));
      return [
        generate(out.dtype, shape, (at) =>
          run(e, at, (leaf) => {
            const n = args.indexOf(leaf);
            return inputs[n]!.data[broadcastOffset(inputs[n]!.shape, strides[n]!, at)];
          }),
        ),
      ];
    }
    case 'view': {
      const from = lower.from(coords, cx);
      return [
        generate(out.dtype, shape, (at) =>
          read(
            0,
            from.map((e) => run(e, at)),
          ),
        ),
      ];
    }
    case 'element': {
      const e = lower.element(coords, load, cx);
      return [generate(out.dtype, shape, (at) => run(e, at))];
    }
    case 'reduce':
      return [runReduce(value, inputs[0]!, out, precision)];
  }
}

function runReduce(value: Value, x: Nd, out: TensorType, precision: Precision): Nd {
  const { lower } = value.op;
  if (lower.kind !== 'reduce') throw new TypeError('not a reduction');
  const cx = { attrs: value.attrs, inputs: value.inputs.map(typeOf), out };
  const axes = lower.axes(cx);
  const keep = lower.keep(cx);
  const dtype = x.dtype;
  const [acc, item] = [variable('acc', out.dtype), variable('x', dtype)];
  const step = lower.step(acc, item, cx);
  const outShape = x.shape.flatMap((d, i) => (axes.includes(i) ? (keep ? [1] : []) : [d]));
  const result: Nd = {
    dtype: out.dtype,
    shape: outShape,
    data: new Float64Array(outShape.reduce((n, d) => n * d, 1)).fill(lower.init(cx)),
  };
  const strides = rowMajor(outShape);
  eachIndex(x.shape, (at, flat) => {
    const kept = at.flatMap((c, i) => (axes.includes(i) ? (keep ? [0] : []) : [c]));
    const to = kept.reduce((n, c, i) => n + c * strides[i]!, 0);
    const old = result.data[to]!;
    result.data[to] = evaluateExpr(step, { value: (leaf) => (leaf === acc ? old : x.data[flat]!) }, precision);
  });
  if (lower.finish) {
    const count = axes.reduce((n, a) => n * x.shape[a]!, 1);
    const end = lower.finish(acc, literal(count), cx);
    result.data.forEach((v, i) => {
      result.data[i] = evaluateExpr(end, { value: () => v }, precision);
    });
  }
  return result;
}
