/**
 * Products whose columns are read at different rows become several: q, k and v of a last layer come from one matrix, but of q
 * a single row is read.
 */
import { type Graph, graphValues, type Value } from '../ir/graph.ts';
import { isNone } from '../ir/index-set.ts';
import { add } from '../ir/ops/elementwise.ts';
import { matmul } from '../ir/ops/linear.ts';
import { slice, sliceAxis } from '../ir/ops/shape.ts';
import { type Dim, dim, sameDim, sameShape } from '../ir/type.ts';
import type { Demand } from './demand.ts';
import { dims, ints, is, rankOf, shapeOf, staticValues } from './facts.ts';
import { readersOf, replaceValues } from './rewrite.ts';
import { type RowSet, RowSets, shareOf } from './row-sets.ts';

/** Columns that one reader takes. */
interface Piece {
  readonly reader: Value;
  readonly start: Dim;
  readonly stop: Dim;
  readonly rows: RowSet | undefined;
}

/** @param share largest share of rows that counts as fewer */
export function splitProducts(graph: Graph, demand: Demand, share: number): Graph {
  const statics = staticValues(graph);
  const readers = readersOf(graph);
  const outputs = new Set(graph.outputs.values());
  const sets = new RowSets(demand.elements);
  const replaced = new Map<Value, Value>();
  for (const product of graphValues(graph)) {
    if (!is(product, matmul) || product.attrs.transposeA === true || outputs.has(product)) continue;
    const [x, weight] = product.inputs as [Value, Value];
    if (rankOf(weight) !== 2 || !statics.has(weight) || statics.has(x)) continue;
    const bias = biasOf(product, readers, statics, outputs);
    const root = bias?.root ?? product;
    const pieces = piecesOf(root, readers.get(root) ?? [], demand, sets, share);
    if (!pieces || outputs.has(root)) continue;
    for (const { reader, start, stop } of pieces) {
      const transposed = product.attrs.transposeB === true;
      const part = matmul([x, sliceAxis(weight, transposed ? 0 : 1, start, stop)], product.attrs, product);
      const sum = bias ? add([part, sliceAxis(bias.vector, rankOf(bias.vector) - 1, start, stop)], {}, root) : part;
      replaced.set(reader, { ...sum, name: reader.name, loc: sum.loc ?? reader.loc });
    }
  }
  return replaced.size > 0 ? replaceValues(graph, replaced) : graph;
}

/** The vector that is added to a product, where nothing else reads that. */
function biasOf(
  product: Value,
  readers: ReadonlyMap<Value, readonly Value[]>,
  statics: ReadonlySet<Value>,
  outputs: ReadonlySet<Value>,
): { readonly root: Value; readonly vector: Value } | undefined {
  const [root, ...others] = readers.get(product) ?? [];
  if (!root || others.length > 0 || !is(root, add) || outputs.has(product)) return undefined;
  const vector = root.inputs.find((v) => v !== product);
  const wide =
    vector && statics.has(vector) && rankOf(vector) > 0 && sameDim(shapeOf(vector).at(-1)!, shapeOf(product).at(-1)!);
  return wide && sameShape(shapeOf(root), shapeOf(product)) ? { root, vector } : undefined;
}

/** The columns that readers take, where those readers want different rows; undefined where splitting gains nothing. */
function piecesOf(
  root: Value,
  readers: readonly Value[],
  demand: Demand,
  sets: RowSets,
  share: number,
): Piece[] | undefined {
  const last = rankOf(root) - 1;
  const pieces: Piece[] = [];
  for (const reader of readers) {
    if (!is(reader, slice)) return undefined;
    const [starts, stops, steps] = [
      dims(reader.attrs, 'starts'),
      dims(reader.attrs, 'stops'),
      ints(reader.attrs, 'steps'),
    ];
    const whole = (n: number): boolean => dim(starts[n]!) === 0 && sameDim(stops[n]!, shapeOf(root)[n]!);
    if (!steps.every((step, n) => step === 1 && (n === last || whole(n)))) return undefined;
    const set = demand.of(reader);
    if (isNone(set)) continue;
    const found = [...shapeOf(reader).keys()]
      .filter((axis) => axis !== last)
      .flatMap((axis) => sets.along(set, axis, shapeOf(reader)) ?? [])
      .filter(({ rows }) => shareOf(rows) <= share)
      .sort((a, b) => shareOf(a.rows) - shareOf(b.rows));
    pieces.push({ reader, start: starts[last]!, stop: stops[last]!, rows: found[0]?.rows });
  }
  const differ = pieces.some((p) => p.rows !== pieces[0]!.rows);
  return differ && pieces.length > 1 ? pieces : undefined;
}
