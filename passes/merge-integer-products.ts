/**
 * Integer products of one value with several weights become one product with the weights side by side, as far as the same is
 * done to all of them: scales, biases and quantisation go on as vectors over all columns.
 */
import { type Graph, graphValues, typeOf, type Value } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxis } from '../ir/ops/check.ts';
import { dequantize, integerMatmul, quantize } from '../ir/ops/quantize.ts';
import { concat, expand, reshape, sliceAxis } from '../ir/ops/shape.ts';
import { constant, scalar } from '../ir/ops/structural.ts';
import { sameShape } from '../ir/type.ts';
import { is, isOne, rankOf, shapeOf, staticValues, uniformOf } from './facts.ts';
import { describe, type PassContext } from './pass.ts';
import { readersOf, replaceValues } from './rewrite.ts';

export function mergeIntegerProducts(graph: Graph, cx: PassContext): Graph {
  const merger = new IntegerMerger(graph);
  const replaced = new Map<Value, Value>();
  for (const products of merger.groups()) {
    const merged = merger.merged(products);
    const at = products[0]!;
    if ('why' in merged) {
      cx.remark('missed', at, merged.why);
      continue;
    }
    if (cx.mayRewrite && !cx.mayRewrite()) break;
    for (const [from, to] of merged.results) replaced.set(from, to);
    cx.remark('applied', at, `${products.length} products of the integers of ${describe(at.inputs[0]!)} became one`);
  }
  return replaced.size > 0 ? replaceValues(graph, replaced) : graph;
}

interface Merged {
  /** What takes the place of the last value that was computed for each product. */
  readonly results: ReadonlyMap<Value, Value>;
}

const columnsOf = (v: Value): number => shapeOf(v).at(-1) as number;

class IntegerMerger {
  readonly #graph: Graph;
  readonly #statics: ReadonlySet<Value>;
  readonly #readers: ReadonlyMap<Value, readonly Value[]>;
  readonly #outputs: ReadonlySet<Value>;

  constructor(graph: Graph) {
    this.#graph = graph;
    this.#statics = staticValues(graph);
    this.#readers = readersOf(graph);
    this.#outputs = new Set(graph.outputs.values());
  }

  /** Products of the same integers, less the same zero point, with matrices of one type that are stored the same way. */
  groups(): readonly (readonly Value[])[] {
    const groups: Value[][] = [];
    for (const v of graphValues(this.#graph)) {
      if (!is(v, integerMatmul) || this.#outputs.has(v)) continue;
      const [x, weight] = v.inputs as [Value, Value];
      if (rankOf(weight) !== 2 || !this.#statics.has(weight) || this.#statics.has(x)) continue;
      const group = groups.find(([first]) => fits(first!, v));
      if (group) group.push(v);
      else groups.push([v]);
    }
    return groups.filter((g) => g.length > 1);
  }

  /** One product for all of a group; a reason where it would compute more than it saves. */
  merged(products: readonly Value[]): Merged | { readonly why: string } {
    const [first] = products as [Value];
    const columns = products.map(columnsOf);
    const [x, , xZero] = first.inputs as [Value, Value, Value | undefined];
    const transposeB = first.attrs.transposeB === true;
    const weights = products.map((p) => p.inputs[1]!);
    const zeros = products.map((p) => p.inputs[3] ?? scalar(0, typeOf(p.inputs[1]!).dtype));
    const zero = products.some((p) => p.inputs[3]) ? this.#joined(zeros, columns) : undefined;
    if (products.some((p) => p.inputs[3]) && !zero) return { why: 'zero points of its weights are no constants' };
    const zeroOfX = xZero ?? (zero && scalar(0, typeOf(x).dtype));
    const inputs = [x, concat(weights, { axis: transposeB ? 0 : 1 }), zeroOfX, zero].filter((v) => v !== undefined);
    let all = integerMatmul(inputs, { transposeB }, { loc: first.loc });
    let heads = products;
    for (;;) {
      const readers = heads.map((h) => this.#reader(h));
      if (new Set(readers).size !== heads.length || !readers.every((r) => r !== undefined)) break;
      const next = this.#step(all, heads, readers, columns);
      if (!next) break;
      all = next;
      heads = readers;
    }
    const quantised = this.#quantised(all, heads, columns);
    if (quantised) return { results: pieces(quantised.all, quantised.ends, columns) };
    if (heads.some((h) => this.#outputs.has(h)))
      return { why: 'its result is an output, which a slice would have to be copied to' };
    const elementwise = heads.flatMap((h) => this.#computedOn(h))[0];
    if (elementwise)
      return { why: `${describe(elementwise)} is computed on its own product while that is in registers` };
    return {
      results: pieces(
        all,
        heads.map((from) => ({ from, moved: (v) => v })),
        columns,
      ),
    };
  }

  /** The one value that reads another. */
  #reader(v: Value): Value | undefined {
    const [reader, ...others] = this.#readers.get(v) ?? [];
    return others.length > 0 || this.#outputs.has(v) ? undefined : reader;
  }

  /** What all readers do, done to all columns; undefined where they do not do the same. */
  #step(all: Value, heads: readonly Value[], readers: readonly Value[], columns: readonly number[]): Value | undefined {
    const [first] = readers as [Value];
    const at = first.inputs.indexOf(heads[0]!);
    const same = readers.every(
      (r, i) =>
        r.op === first.op && sameShape(shapeOf(r), shapeOf(heads[i]!)) && r.inputs.length === first.inputs.length,
    );
    if (!same || readers.some((r, i) => r.inputs.filter((x) => x === heads[i]).length !== 1)) return undefined;
    if (is(first, quantize) || is(first, dequantize)) return at === 0 ? this.#scaled(all, readers, columns) : undefined;
    if (first.op.lower.kind !== 'pointwise' || !readers.every((r) => sameAttrs(r, first))) return undefined;
    // Operands of sums and products may stand in either order.
    const others = readers.map((r, i) => r.inputs.filter((x) => x !== heads[i]));
    const ordered = readers.every((r, i) => r.inputs[at] === heads[i]);
    if (!ordered && !(first.inputs.length === 2 && COMMUTATIVE.has(first.op.name))) return undefined;
    const joined = others[0]!.map((_, n) =>
      this.#joined(
        others.map((list) => list[n]!),
        columns,
      ),
    );
    if (!joined.every((v) => v !== undefined)) return undefined;
    return makeValue(first.op, joined.toSpliced(at, 0, all), first.attrs);
  }

  /** Quantised or dequantised, with scales and zero points by tensor or by column. */
  #scaled(all: Value, readers: readonly Value[], columns: readonly number[]): Value | undefined {
    const [first] = readers as [Value];
    const last = rankOf(all) - 1;
    const fit = readers.every(
      (r) =>
        Number(r.attrs.block) === 0 &&
        r.attrs.to === first.attrs.to &&
        (isNumber(r.inputs[1]!) || normalizeAxis(Number(r.attrs.axis), rankOf(r)) === last),
    );
    const scales = fit
      ? this.#joined(
          readers.map((r) => r.inputs[1]!),
          columns,
        )
      : undefined;
    const zeros = first.inputs[2]
      ? this.#joined(
          readers.map((r) => r.inputs[2]!),
          columns,
        )
      : undefined;
    if (!scales || (first.inputs[2] && !zeros)) return undefined;
    return makeValue(
      first.op,
      [all, scales, zeros].filter((v) => v !== undefined),
      { ...first.attrs, axis: last },
    );
  }

  /**
   * Quantisation by one scale behind views of each head: it may as well stand before the views, and all columns at once
   * be quantised.
   */
  #quantised(all: Value, heads: readonly Value[], columns: readonly number[]): { all: Value; ends: End[] } | undefined {
    const ends: End[] = [];
    for (const head of heads) {
      const views: Value[] = [];
      let v = this.#reader(head);
      for (; v && v.op.lower.kind === 'view' && v.inputs.length === 1; v = this.#reader(v)) views.push(v);
      const single = v && is(v, quantize) && v.inputs.slice(1).every(isNumber) && Number(v.attrs.block) === 0;
      const taken = views.at(-1) ?? head;
      if (!v || !single || v.inputs[0] !== taken || !isBijection(views)) return undefined;
      ends.push({ from: v, moved: (x) => views.reduce((y, view) => makeValue(view.op, [y], view.attrs), x) });
    }
    const together = this.#scaled(
      all,
      ends.map(({ from }) => from),
      columns,
    );
    const same = ends.every(({ from }) => from.inputs.length === ends[0]!.from.inputs.length);
    return together && same ? { all: together, ends } : undefined;
  }

  /** Arithmetic that reads a value, also through views. */
  #computedOn(v: Value): readonly Value[] {
    return (this.#readers.get(v) ?? []).flatMap((r) =>
      r.op.lower.kind === 'view'
        ? this.#computedOn(r)
        : r.op.lower.kind === 'pointwise' || is(r, quantize) || is(r, dequantize)
          ? [r]
          : [],
    );
  }

  /**
   * Operands of all products as one that broadcasts against all columns: itself where all have the same number, a vector of
   * constants, or the same function of such operands. undefined for anything else.
   */
  #joined(values: readonly Value[], columns: readonly number[]): Value | undefined {
    const [first] = values as [Value];
    if (values.every((v) => sameValue(v, first)) && (rankOf(first) === 0 || isOne(shapeOf(first).at(-1)!)))
      return first;
    if (values.every((v) => this.#statics.has(v))) {
      const vectors = values.map((v, i) => vectorOf(v, columns[i]!));
      return vectors.every((v) => v !== undefined) ? concat(vectors, { axis: 0 }) : undefined;
    }
    const pointwise = values.every((v) => v.op === first.op && sameAttrs(v, first) && v.op.lower.kind === 'pointwise');
    if (!pointwise || values.some((v) => v.inputs.length !== first.inputs.length)) return undefined;
    const inputs = first.inputs.map((_, n) =>
      this.#joined(
        values.map((v) => v.inputs[n]!),
        columns,
      ),
    );
    return inputs.every((v) => v !== undefined) ? makeValue(first.op, inputs, first.attrs) : undefined;
  }
}

/** Where the columns of one product end up: in place of `from`, moved as it was. */
interface End {
  readonly from: Value;
  moved(v: Value): Value;
}

const COMMUTATIVE = new Set(['add', 'mul', 'minimum', 'maximum']);
const isNumber = (v: Value): boolean => shapeOf(v).every(isOne);
const sameAttrs = (a: Value, b: Value): boolean =>
  Object.keys(a.attrs).every((key) => a.attrs[key] === b.attrs[key] && typeof a.attrs[key] !== 'object');
/** Reshapes and permutations; what drops or repeats elements would be quantised differently often. */
const isBijection = (views: readonly Value[]): boolean =>
  views.every((v) => v.op.name === 'reshape' || v.op.name === 'transpose');

const fits = (a: Value, b: Value): boolean => {
  const [zero, other] = [a.inputs[2], b.inputs[2]];
  return (
    a.inputs[0] === b.inputs[0] &&
    (zero === other || (zero !== undefined && other !== undefined && sameValue(zero, other))) &&
    a.attrs.transposeB === b.attrs.transposeB &&
    typeOf(a.inputs[1]!).dtype === typeOf(b.inputs[1]!).dtype
  );
};

/** The same value, also where constants of one number or reshapes were built twice. */
function sameValue(a: Value, b: Value): boolean {
  if (a === b) return true;
  if (a.op !== b.op || !sameShape(shapeOf(a), shapeOf(b)) || typeOf(a).dtype !== typeOf(b).dtype) return false;
  if (a.op.name === 'constant') return uniformOf(a) !== undefined && Object.is(uniformOf(a), uniformOf(b));
  return a.op.name === 'reshape' && sameValue(a.inputs[0]!, b.inputs[0]!);
}

/** A number, or one a column, as a vector of all columns. */
function vectorOf(v: Value, columns: number): Value | undefined {
  const shape = shapeOf(v);
  const x = uniformOf(v);
  const fits = shape.every((d, i) => isOne(d) || (i === shape.length - 1 && d === columns));
  if (!fits) return undefined;
  if (x !== undefined)
    return constant([], { value: nd(typeOf(v).dtype, [columns], new Float64Array(columns).fill(x)) });
  if (shape.length > 0 && shape.at(-1) === columns) return reshape([v], { shape: [columns] });
  return expand([reshape([v], { shape: [1] })], { shape: [columns] });
}

/** Each end with its columns. */
function pieces(all: Value, ends: readonly End[], columns: readonly number[]): Map<Value, Value> {
  const axis = rankOf(all) - 1;
  let start = 0;
  return new Map(
    ends.map(({ from, moved }, i) => {
      const piece = moved(sliceAxis(all, axis, start, start + columns[i]!));
      start += columns[i]!;
      return [from, { ...piece, name: from.name, loc: from.loc }];
    }),
  );
}
