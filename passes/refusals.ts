/**
 * Why rows are not dropped, in words: which output or op reads every row of the products that are computed whole, followed
 * downstream as far as the rows can be. One sentence for each such reader, however many products it keeps.
 */
import { printLoc } from '../ir/diagnostic.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { graphValues, typeOf, type Value } from '../ir/graph.ts';
import { isAll, isNone, isWhole } from '../ir/index-set.ts';
import { forget } from '../ir/need.ts';
import { printDim, printExpr } from '../ir/print.ts';
import { dim, elements, type Shape, sameDim, sizeAt } from '../ir/type.ts';
import type { Demand, Reader } from './demand.ts';
import { Elements } from './elements.ts';
import { ints } from './facts.ts';
import { describe } from './pass.ts';

/** Products that are computed whole, and who is to blame. */
export interface Refusal {
  readonly at: Value;
  readonly why: string;
}

/**
 * @param demand of the graph as it was before any row was dropped
 * @param kept values of it that hold some of their rows
 * @param statics values that are known before anything runs
 */
export function refusalsOf(demand: Demand, kept: ReadonlySet<Value>, statics: ReadonlySet<Value>): Refusal[] {
  const { graph } = demand;
  const found = new Map<string, { readonly end: End; readonly products: Value[]; readonly sizes: Set<string> }>();
  for (const v of graphValues(graph)) {
    const axis = rowsOf(v, statics, graph.inputs);
    // Of a convolution rows are kept by cutting it into patches, which is asked of its reader.
    if (axis === undefined || (kept.has(v) && v.op.name !== 'conv')) continue;
    const end = isWhole(demand.of(v)) ? endOf(demand, v, axis) : windowsOverlap(v, demand) ? overlapping(v) : undefined;
    if (!end) continue;
    const known = found.get(end.why) ?? { end, products: [], sizes: new Set() };
    known.products.push(v);
    known.sizes.add(printDim(v.op.name === 'conv' ? dim(elements(typeOf(v).shape.slice(2))) : typeOf(v).shape[axis]!));
    found.set(end.why, known);
  }
  return [...found.values()].map(({ end, products, sizes }) => {
    const many = products.length === 1 ? 'one product' : `${products.length} products`;
    return { at: end.at, why: `nothing dropped in ${many} of ${[...sizes].join(' and ')} rows: ${end.why}` };
  });
}

/** Where following the rows of a value ends. */
interface End {
  readonly at: Value;
  readonly why: string;
}

/** The axis of a product with weights along which rows are independent; undefined where it is the batch, or one row. */
function rowsOf(v: Value, statics: ReadonlySet<Value>, inputs: readonly Value[]): number | undefined {
  if (!v.op.macs || v.type.kind === 'tuple' || v.inputs.length < 2 || !statics.has(v.inputs[1]!)) return undefined;
  const { shape } = typeOf(v);
  const axis = v.op.name === 'conv' ? 2 : shape.length - 2;
  if (axis < 0 || dim(shape[axis]!) === 1) return undefined;
  const isBatch = axis === 0 && inputs.some((x) => sameDim(typeOf(x).shape[0] ?? 1, shape[0]!));
  return isBatch ? undefined : axis;
}

/** The reader that makes all of an axis be read, followed through ops that pass the axis on. */
function endOf(demand: Demand, from: Value, along: number): End {
  let [value, axis] = [from, along];
  // Readers come later in the graph, so that this ends.
  for (;;) {
    const reader = demand.readerOfAll(value) ?? readerOfPart(demand, value, axis);
    if (!reader || reader.kind === 'set') return { at: value, why: 'every row is read to tell which rows are read' };
    if (reader.kind === 'output') return { at: value, why: outputWords(reader.name) };
    const next = passedOn(demand, reader, axis);
    if (next === undefined) return { at: reader.value, why: `every row is ${wordsOf(reader)}` };
    [value, axis] = [reader.value, next];
  }
}

/** Of a value of which parts are read, such as queries, keys and values side by side: who reads all rows of a part. */
function readerOfPart(demand: Demand, value: Value, axis: number): Reader | undefined {
  const readers = graphValues(demand.graph).flatMap((v): Extract<Reader, { kind: 'op' }>[] => {
    const operand = v.inputs.indexOf(value);
    return operand < 0 || isNone(demand.of(v)) ? [] : [{ kind: 'op', value: v, operand }];
  });
  return (
    readers.find((reader) => passedOn(demand, reader, axis) !== undefined) ??
    readers.find(({ value: v, operand }) => axisBehind(v, operand, axis) === undefined)
  );
}

/** Whether all of an axis is read, somewhere on the others, for each entry of a batch. */
function isWholeAlong(demand: Demand, value: Value, axis: number): boolean {
  const set = demand.of(value);
  if (isWhole(set) || value.type.kind === 'tuple') return isWhole(set);
  const { shape } = value.type;
  const others = [...shape.keys()].filter((n) => n > 0 && n !== axis);
  return isAll(forget(set, others, shape), shape);
}

const outputWords = (name: string): string =>
  `every row is read as output "${name}"; output(x, { where }) or --observe says where some are not`;

/** The axis of a reader's result that runs in lockstep with that of its operand, where all of it is read as well. */
function passedOn(
  demand: Demand,
  { value, operand }: Extract<Reader, { kind: 'op' }>,
  axis: number,
): number | undefined {
  const next = axisBehind(value, operand, axis);
  return next !== undefined && isWholeAlong(demand, value, next) ? next : undefined;
}

function axisBehind(value: Value, operand: number, axis: number): number | undefined {
  if (value.op.name === 'get') return axis;
  // Keys of an attention all of whose queries are read have no reason of their own.
  const { mask, bias } = value.attrs;
  if (value.op.name === 'attention' && operand > 0 && operand < 3 && !mask && !bias) return axis;
  const [result, x] = [value.type, value.inputs[operand]!];
  if (result.kind === 'tuple' || x.type.kind === 'tuple') return undefined;
  if (value.op.name === 'reshape') return sameStretch(typeOf(x).shape, result.shape, axis);
  const role = value.op.axes?.(value.inputs.map(typeOf), value.attrs)[operand]?.[axis];
  if (typeof role === 'number') return role;
  // A part of a longer axis is on its way to where all of that is read.
  const joins = value.op.name === 'concat' || value.op.name === 'pad' || value.op.name === 'slice';
  return joins ? axis : undefined;
}

const usual = (d: Shape[number]): number => sizeAt(d, (e) => (e.arg as Sym).default);

/** The axis of another shape of the same elements that an axis is, or is a part of. */
function sameStretch(from: Shape, to: Shape, axis: number): number | undefined {
  const before = (shape: Shape, n: number): number => usual(dim(elements(shape.slice(0, n))));
  const [start, end] = [before(from, axis), before(from, axis + 1)];
  const found = to.findIndex((_, n) => before(to, n) <= start && before(to, n + 1) >= end && usual(to[n]!) > 1);
  return found < 0 ? undefined : found;
}

const place = (v: Value): string => `${describe(v)}${v.loc ? ` at ${printLoc(v.loc)}` : ''}`;

/** What a reader does with rows that it reads all of. */
function wordsOf({ value, operand }: Extract<Reader, { kind: 'op' }>): string {
  const { op } = value;
  if (op.name === 'attention' && (operand === 1 || operand === 2)) return `read as a key by ${keyWords(value)}`;
  if (op.name === 'attention_weights' && operand === 1)
    return `read as a key by ${place(value)}, whose probabilities are read`;
  if (op.name.startsWith('scatter')) return `read by ${place(value)}, whose indices may repeat`;
  const zeros = op.name === 'reduce_sum' && !isWhole(new Elements().support(value.inputs[0]!));
  const why = zeros ? ', under strictNaN also what is multiplied by 0' : (MIXES[op.name] ?? '');
  return `read by ${place(value)}${why}`;
}

const MIXES: Readonly<Record<string, string>> = {
  matmul: ', which adds up products with all of them',
  softmax: ', which weighs rows against each other',
  reduce_sum: ', which adds up all of them',
  reduce_mean: ', which averages over all of them',
  reduce_max: ', which compares all of them',
  scan: ', whose steps may read any',
  loop: ', whose steps may read any',
  if: ', whose branches may read any',
};

function keyWords(attention: Value): string {
  const { mask, bias, emptyRow } = attention.attrs;
  const where = place(attention);
  if (mask === undefined)
    return bias === undefined ? `${where}, which masks none` : `${where}, which adds to scores what is no mask`;
  if (emptyRow === 'uniform' || emptyRow === 'unmasked') {
    const then = emptyRow === 'uniform' ? 'averages over all' : 'reads all';
    return `${where}: a query that may read none ${then}, and nothing says that each may read one`;
  }
  return `${where}, whose mask ${printExpr(mask as Expr)} lets some query read each`;
}

/** Whether a convolution is read in part, but cannot be cut into parts. */
function windowsOverlap(v: Value, demand: Demand): boolean {
  if (v.op.name !== 'conv' || isNone(demand.of(v))) return false;
  const kernel = typeOf(v.inputs[1]!).shape.slice(2);
  const [strides, pads] = [ints(v.attrs, 'strides'), ints(v.attrs, 'pads')];
  return kernel.some((k, n) => (strides[n] ?? 1) !== k) || pads.some((p) => p !== 0);
}
const overlapping = (v: Value): End => ({
  at: v,
  why: `some are read, but the windows of ${place(v)} overlap`,
});
