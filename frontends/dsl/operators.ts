/** Every operator by its name, for what has no word of its own; and the graphs that operators carry. */
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { type Attrs, type AttrValue, type Graph, graph } from '../../ir/graph.ts';
import { allOps, makeValue, opNamed } from '../../ir/op.ts';
import '../../ir/ops/all.ts';
import * as attentionOps from '../../ir/ops/attention.ts';
import { input as inputOp } from '../../ir/ops/structural.ts';
import { type Num, operand } from '../../ir/scalar.ts';
import { didYouMean } from '../../ir/suggest.ts';
import { callSite } from './location.ts';
import type { Score } from './mask.ts';
import { type Operand, results, type Shape, Tensor, values } from './tensor.ts';
import type { Inputs, Outputs, TensorsOf } from './trace.ts';

/** What attributes of an operator may be. */
export type Attributes = Readonly<Record<string, AttrValue>>;

/**
 * All results of an operator, in order: `operators<['f32', 'i64']>('top_k', [x], { k: 3 })`. Their element types are the
 * caller's word.
 *
 * @throws CompileError `name` when there is none of that name, `attribute` when it has no such attribute; what the operator
 *   says of its operands
 */
export function operators<const T extends readonly Scalar[] = readonly Scalar[]>(
  name: string,
  operands: readonly Operand[],
  attributes: Attributes = {},
): { readonly [I in keyof T]: Tensor<T[I]> } {
  const loc = callSite();
  const op =
    opNamed(name) ??
    fail('name', `there is no operator "${name}"`, {
      loc,
      help: didYouMean(
        name,
        allOps().map((known) => known.name),
      ),
    });
  return results(makeValue(op, values(operands), attributes as Attrs, { loc })) as Tensor[] as never;
}

/** The result of an operator that has one: `operator<'f32'>('trilu', [x], { upper: false })`. */
export const operator = <D extends Scalar = Scalar>(
  name: string,
  operands: readonly Operand[],
  attributes?: Attributes,
): Tensor<D> => operators<readonly [D]>(name, operands, attributes)[0];

/**
 * A graph that an operator carries, such as the body of a scan: it reads its own inputs and constants only. What it needs
 * besides comes as an operand.
 */
export function subgraph<const I extends Inputs>(
  name: string,
  inputs: I,
  body: (inputs: TensorsOf<I>) => Outputs,
): Graph {
  const own = Object.entries(inputs).map(
    ([key, spec]) => [key, makeValue(inputOp.def, [], { name: key, ...spec }, { name: key })] as const,
  );
  const given = Object.fromEntries(own.map(([key, value]) => [key, new Tensor(value)]));
  const outputs = Object.entries(body(given as Outputs as TensorsOf<I>)).map(([key, x]) => [key, x.value] as const);
  return graph(
    name,
    own.map(([, value]) => value),
    outputs,
  );
}

/** What an attribute that is an expression of a score is written in: its coordinates, and operands by number. */
export interface ScorePlace extends Omit<Score, 'read'> {
  /** The element of operand `n`, of that type, at coordinates. */
  load(n: number, dtype: Scalar, ...at: readonly Num[]): Expr;
}
/** An expression over the coordinates of a score, for attributes of `operator`: `scoreOf(({ q, k }) => expr.le(k, q))`. */
export const scoreOf = (term: (place: ScorePlace) => Expr): Expr =>
  term({ ...attentionOps.coords, load: (n, dtype, ...at) => operand(n, dtype, at) });

/** A mask or bias as a tensor [B, H, Q, K]: the expression at every coordinate. */
export function scoreTerm<D extends Scalar>(shape: Shape, term: (score: Score) => Expr): Tensor<D> {
  const operands: Tensor[] = [];
  const read = (tensor: Tensor, ...at: readonly Num[]): Expr => {
    const known = operands.findIndex((x) => x.value === tensor.value);
    const n = known < 0 ? operands.push(tensor) - 1 : known;
    return operand(n, tensor.dtype, at);
  };
  const expr = term({ ...attentionOps.coords, read });
  return operator<D>('score_term', operands, { expr, shape });
}
