/**
 * How large the scores of an attention can get, where weights say so: queries and keys are linear images of normalised rows,
 * whose length is bounded, so a score is at most the product of the lengths of its query and its key.
 */
import { affineOf } from '../ir/affine.ts';
import type { Expr } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { add } from '../ir/ops/elementwise-binary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { layerNorm, rmsNorm } from '../ir/ops/norm.ts';
import { AbstractElements, coordinatesOf } from './abstract.ts';
import { is, literalOf, shapeOf } from './facts.ts';

type Contents = (param: string) => Nd | undefined;

/** A bound on |scale · q · k| over all queries and keys; undefined where nothing bounds them. */
export function boundOfScores(attention: Value, contents: Contents): number | undefined {
  const { scale, softcap } = attention.attrs as { readonly scale?: number; readonly softcap: number };
  if (softcap > 0) return softcap;
  const [q, k] = [attention.inputs[0]!, attention.inputs[1]!];
  const width = shapeOf(q)[3]!;
  if (typeof width !== 'number') return undefined;
  const [a, b] = [longest(q, width, contents), longest(k, width, contents)];
  return a !== undefined && b !== undefined ? a * b * Math.abs(scale ?? 1 / Math.sqrt(width)) : undefined;
}

const elementsOf = (v: Value | undefined, contents: Contents): Nd | undefined =>
  v && (literalOf(v) ?? (v.op.name === 'param' ? contents(String(v.attrs.name)) : undefined));

/** A bound on the length of the rows of queries or keys [B, H, S, D]. */
function longest(rows: Value, width: number, contents: Contents): number | undefined {
  const names = ['b', 'h', 's', 'd'];
  const at = coordinatesOf(shapeOf(rows), names);
  const [head, column] = [at[1]!, at[3]!];
  const { value, at: from } = new AbstractElements(at).source(rows, at);
  const start = columnOf(from.at(-1)!, head, column, width);
  if (start === undefined) return undefined;
  const biased = is(value, add);
  const bias = biased ? elementsOf(value.inputs[1], contents) : undefined;
  const product = biased ? value.inputs[0]! : value;
  if (!is(product, matmul) || product.attrs.transposeA === true || (biased && bias?.shape.length !== 1))
    return undefined;
  const weight = elementsOf(product.inputs[1], contents);
  const length = lengthOf(product.inputs[0]!, contents);
  const heads = shapeOf(rows)[1];
  if (weight?.shape.length !== 2 || length === undefined || typeof heads !== 'number') return undefined;
  const transposed = product.attrs.transposeB === true;
  let most = 0;
  for (let h = 0; h < heads; h++) {
    const first = start + h * width;
    let shift = 0;
    for (let d = 0; d < width; d++) shift += (bias?.data[first + d] ?? 0) ** 2;
    most = Math.max(most, length * stretch(weight, transposed, first, width) + Math.sqrt(shift));
  }
  return most;
}

/** The column of head 0 in a projection whose columns are read at `start + h · width + d`. */
function columnOf(at: Expr, head: Expr, column: Expr, width: number): number | undefined {
  const { terms, constant } = affineOf(at);
  const single = head.op === 'const' || !terms.has(head);
  const fits = terms.get(column) === 1 && (single ? terms.size === 1 : terms.size === 2 && terms.get(head) === width);
  return fits ? constant : undefined;
}

/** A bound on the length of the rows of a normalised tensor: √D · max |γ| + ‖β‖. */
function lengthOf(rows: Value, contents: Contents): number | undefined {
  if (!is(rows, layerNorm) && !is(rows, rmsNorm)) return undefined;
  const size = typeOf(rows).shape.at(-1)!;
  const gamma = elementsOf(rows.inputs[1], contents);
  const beta = elementsOf(rows.inputs[2], contents);
  const unknown = (rows.inputs[1] && !gamma) || (rows.inputs[2] && !beta);
  if (unknown || typeof size !== 'number') return undefined;
  const largest = gamma ? gamma.data.reduce((m, x) => Math.max(m, Math.abs(x)), 0) : 1;
  const shift = beta ? Math.sqrt(beta.data.reduce((sum, x) => sum + x * x, 0)) : 0;
  return Math.sqrt(size) * largest + shift;
}

/** Squarings of the Gram matrix: the bound below is at most width^(1/32) above the norm. */
const SQUARINGS = 4;

/**
 * A bound on the spectral norm of some columns of a matrix: the largest eigenvalue of a positive semidefinite G is at most
 * the p-th root of the trace of its p-th power.
 */
function stretch(weight: Nd, transposed: boolean, first: number, width: number): number {
  const [rows, columns] = weight.shape as [number, number];
  const depth = transposed ? columns : rows;
  const element = (r: number, c: number): number =>
    weight.data[transposed ? (first + c) * columns + r : r * columns + first + c]!;
  let gram = new Float64Array(width * width);
  for (let r = 0; r < depth; r++)
    for (let i = 0; i < width; i++) {
      const x = element(r, i);
      for (let j = 0; j <= i; j++) gram[i * width + j]! += x * element(r, j);
    }
  for (let i = 0; i < width; i++) for (let j = 0; j < i; j++) gram[j * width + i] = gram[i * width + j]!;
  // log of what has been divided out, so that powers neither overflow nor vanish
  let [log, power] = [0, 1];
  const trace = (): number => gram.reduce((sum, x, n) => (n % (width + 1) === 0 ? sum + x : sum), 0);
  for (let step = 0; step < SQUARINGS; step++) {
    const size = trace();
    if (size === 0) return 0;
    const squared = new Float64Array(width * width);
    for (let i = 0; i < width; i++)
      for (let j = 0; j < width; j++) {
        let sum = 0;
        for (let n = 0; n < width; n++) sum += (gram[i * width + n]! / size) * (gram[n * width + j]! / size);
        squared[i * width + j] = sum;
      }
    gram = squared;
    log = 2 * (log + Math.log(size));
    power *= 2;
  }
  const eigenvalue = Math.exp((log + Math.log(Math.max(trace(), Number.MIN_VALUE))) / power);
  return Math.sqrt(eigenvalue) * (1 + 1e-9);
}
