/**
 * How operators of ours are written in ONNX: by the `onnx` slot of their object where it says all; by the entries here
 * where the spelling needs more; by simpler operators where the opset has none; element by element as the last resort.
 */
import { intRange, isFloat, isInt, type Scalar, sizeOf } from '../../ir/dtype.ts';
import type { AttrValue } from '../../ir/graph.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { normalizeAxes, normalizeAxis } from '../../ir/ops/check.ts';
import { add, div, erf, mul, reciprocal, sigmoid, softplus, sqrt, tanh } from '../../ir/ops/elementwise.ts';
import { reduceMean } from '../../ir/ops/reduce.ts';
import { scalar } from '../../ir/ops/structural.ts';
import type { Dim } from '../../ir/type.ts';
import type { AttributeDraft } from './encode.ts';
import { elementwise } from './export-expr.ts';
import { takes, typed } from './export-types.ts';
import { elementType, float, type GraphWriter, int, ints, refuse, string } from './export-writer.ts';

/** What an entry is given: where to write, and how to write values built from simpler operators. */
export interface Writing {
  readonly w: GraphWriter;
  /** Names of the operands. */
  readonly inputs: readonly string[];
  /** Writes values that were built on the operands. */
  inline(built: Value | readonly Value[]): string[];
}

/** Names of the results in order; undefined where the entry does not apply and the next way is tried. */
export type ExportEntry = (v: Value, cx: Writing) => string | readonly string[] | undefined;
export type ExportEntries = Readonly<Record<string, ExportEntry>>;

export const dtypesOf = (v: Value): Scalar[] => v.inputs.map((x) => typeOf(x).dtype);

/** An attribute of ours as theirs. */
function attributeOf(kind: string, value: AttrValue): AttributeDraft | undefined {
  if (value === undefined) return undefined;
  if (Array.isArray(value)) return kind === 'float' ? { floats: value as number[] } : ints(value as number[]);
  if (typeof value === 'boolean') return int(value ? 1 : 0);
  if (typeof value === 'string') return kind === 'dtype' ? int(elementType(value as Scalar)) : string(value);
  if (typeof value === 'number') return kind === 'float' ? float(value) : int(value);
  return undefined;
}

/** Attributes that a slot names. An empty list is our way to say "the usual", as leaving it out is theirs. */
export function slotAttributes(v: Value): Record<string, AttributeDraft> {
  const named = Object.entries(v.op.onnx?.attrs ?? {}) as [string, string][];
  const found: Record<string, AttributeDraft> = {};
  for (const [ours, theirs] of named) {
    const value = v.attrs[ours];
    if (Array.isArray(value) && value.length === 0) continue;
    const a = attributeOf(v.op.attrs[ours]!.kind, value);
    if (a) found[theirs] = a;
  }
  return found;
}

/** Attributes of ours that the slot gives as operands, by operand number. */
function slotOperands(v: Value, w: GraphWriter): Map<number, string> {
  const found = new Map<number, string>();
  for (const [ours, at] of Object.entries(v.op.onnx?.operands ?? {}) as [string, number][]) {
    const value = v.attrs[ours];
    if (Array.isArray(value)) found.set(at, w.sizes(value as readonly Dim[]));
    else if (value !== undefined)
      found.set(at, typeof value === 'number' ? w.scalar(value, 'i64') : w.file.size(value as Dim));
  }
  return found;
}

/** Whether the slot says all: the opset has the form, and every attribute with a meaning has a place in it. */
function slotCovers(v: Value, opset: number): boolean {
  const { onnx } = v.op;
  if (!onnx || onnx.since > opset) return false;
  return Object.entries(v.op.attrs).every(([name, schema]) => {
    const placed = onnx.attrs?.[name] !== undefined || onnx.operands?.[name] !== undefined;
    return placed || (schema.optional && v.attrs[name] === schema.default);
  });
}

function slotNode(v: Value, { w, inputs }: Writing): string {
  const operands = slotOperands(v, w);
  const all: string[] = [];
  const given = [...inputs];
  for (let i = 0; given.length > 0 || operands.has(i); i++) all.push(operands.get(i) ?? given.shift()!);
  const dtypes = v.inputs.map((x) => typeOf(x).dtype);
  return typed(w, v.op.onnx!.op, all, dtypes, typeOf(v).dtype, slotAttributes(v));
}

/** Writes a value; names of its results. */
export function writeValue(v: Value, cx: Writing, entries: ExportEntries): readonly string[] {
  const { w } = cx;
  const own = entries[v.op.name]?.(v, cx);
  if (own !== undefined) return typeof own === 'string' ? [own] : own;
  if (v.type.kind === 'tensor' && slotCovers(v, w.opset)) return [slotNode(v, cx)];
  const { lower } = v.op;
  if (lower.kind === 'decompose') return cx.inline(lower.build(v.inputs, v.attrs));
  if (lower.kind === 'pointwise' || lower.kind === 'element') return [elementwise(w, v, cx.inputs, lower)];
  const since = v.op.onnx?.since;
  return refuse(
    v.op.name,
    w.opset,
    since === undefined ? 'ONNX has no such operator' : `${v.op.onnx!.op} has this form from opset ${since} on`,
    since === undefined ? undefined : `pass opset ${since} or higher`,
  );
}

const like = (x: Value, value: number): Value => scalar(value, typeOf(x).dtype);

/** Functions of single elements in the words of ONNX, where it has none of that name. */
export const activations: ExportEntries = {
  rsqrt: ({ inputs: [x] }, { inline }) => inline(reciprocal([sqrt([x!])])),
  silu: (v, { inline, w, inputs }) => {
    const [x] = v.inputs;
    if (w.opset >= 24 && typeOf(v).dtype !== 'f64') return w.node('Swish', inputs, { alpha: float(1) });
    return inline(mul([x!, sigmoid([x!])]));
  },
  quick_gelu: ({ inputs: [x] }, { inline }) => inline(mul([x!, sigmoid([mul([x!, like(x!, 1.702)])])])),
  mish: ({ inputs: [x] }, { inline, w }) => (w.opset >= 18 ? undefined : inline(mul([x!, tanh([softplus([x!])])]))),
  gelu: ({ inputs: [x], attrs }, { inline, w }) => {
    if (w.opset >= 20) return undefined;
    const half = like(x!, 0.5);
    if (attrs.approximate === 'none') {
      const inner = add([erf([div([x!, like(x!, Math.SQRT2)])]), like(x!, 1)]);
      return inline(mul([mul([x!, half]), inner]));
    }
    const cube = mul([mul([x!, x!]), x!]);
    const inner = mul([add([x!, mul([cube, like(x!, 0.044715)])]), like(x!, Math.sqrt(2 / Math.PI))]);
    return inline(mul([mul([x!, half]), add([tanh([inner]), like(x!, 1)])]));
  },
  rms_norm: (v, { inline, w, inputs }) => {
    const [x, scale] = v.inputs as [Value, Value | undefined];
    const { shape, dtype } = typeOf(x);
    if (w.opset >= 23) {
      const last = shape.at(-1)!;
      if (!scale && typeof last !== 'number') return undefined;
      const ones = scale ? inputs[1]! : w.constant(nd(dtype, [last as number], new Array(last as number).fill(1)));
      const eps = { axis: int(-1), epsilon: float(v.attrs.eps as number) };
      return typed(w, 'RMSNormalization', [inputs[0]!, ones], [dtype, dtype], dtype, eps);
    }
    const squares = reduceMean([mul([x, x])], { axes: [shape.length - 1], keepdims: true });
    const unit = div([x, sqrt([add([squares, like(x, v.attrs.eps as number)])])]);
    return inline(scale ? mul([unit, scale]) : unit);
  },
  layer_norm: (v, { w, inputs }) => {
    const { shape, dtype } = typeOf(v);
    const last = shape.at(-1)!;
    const [x, scale, bias] = inputs;
    if (!scale && typeof last !== 'number') return undefined;
    const ones = scale ?? w.constant(nd(dtype, [last as number], new Array(last as number).fill(1)));
    return w.node('LayerNormalization', [x!, ones, ...(bias ? [bias] : [])], {
      axis: int(-1),
      epsilon: float(v.attrs.eps as number),
    });
  },
  clamp: (v, { w, inputs }) => {
    const { dtype } = typeOf(v);
    const { min, max } = v.attrs as { min: number; max: number };
    if (min > max) return undefined;
    const bound = (value: AttrValue): string => (Number.isFinite(value) ? w.scalar(value as number, dtype) : '');
    return w.node('Clip', [inputs[0]!, bound(min), bound(max)]);
  },
  cast: (v, { w, inputs }) => {
    const [from, to] = [typeOf(v.inputs[0]!).dtype, v.attrs.to as Scalar];
    // Ours saturates. ONNX leaves open what becomes of floats that do not fit, which short integers meet in earnest.
    if (!isFloat(from) || !isInt(to) || sizeOf(to) > 2 || (from === 'f16' && sizeOf(to) > 1)) return undefined;
    const [low, high] = intRange(to);
    const inside = w.node('Clip', [inputs[0]!, w.scalar(low, from), w.scalar(high, from)]);
    return w.cast(inside, from, to);
  },
  stop_gradient: (_, { w, inputs }) => w.node('Identity', inputs),
  rem: (v, { w, inputs }) => typed(w, 'Mod', inputs, dtypesOf(v), typeOf(v).dtype, { fmod: int(1) }),
  floor_mod: (v, { w, inputs }) =>
    isInt(typeOf(v).dtype) ? typed(w, 'Mod', inputs, dtypesOf(v), typeOf(v).dtype, { fmod: int(0) }) : undefined,
  not_equal: (v, { w, inputs }) => w.node('Not', [typed(w, 'Equal', inputs, dtypesOf(v), 'bool')]),
};

/** A reduction whose axes are an attribute in older opsets. */
const reduction =
  (op: string, since: number): ExportEntry =>
  (v, { w, inputs }) => {
    const x = typeOf(v.inputs[0]!);
    const axes = normalizeAxes(v.attrs.axes as readonly number[], x.shape.length);
    const keepdims = int(v.attrs.keepdims === true ? 1 : 0);
    if (axes.length === 0) return noAxes(v, op, w, inputs[0]!);
    if (op === 'ReduceMean' && isGlobalPool(v, axes)) return w.node('GlobalAveragePool', [inputs[0]!]);
    if (w.opset >= since) return typed(w, op, [inputs[0]!, w.longs(axes)], [x.dtype], x.dtype, { keepdims });
    return typed(w, op, [inputs[0]!], [x.dtype], x.dtype, { axes: ints(axes), keepdims });
  };
/** A mean over all positions of an image, [B, C, H, W] and more, which has an operator of its own. */
const isGlobalPool = (v: Value, axes: readonly number[]): boolean => {
  const { shape, dtype } = typeOf(v.inputs[0]!);
  const spatial = shape.length >= 4 && axes.length === shape.length - 2 && axes.every((axis) => axis >= 2);
  return spatial && v.attrs.keepdims === true && takes('AveragePool', dtype) && !shape.includes(0);
};

/** Without axes their reductions fold everything, ours nothing; what is left is what happens to one element. */
function noAxes(v: Value, op: string, w: GraphWriter, x: string): string {
  return op === 'ReduceLogSumExp' && isFloat(typeOf(v).dtype)
    ? w.node('Log', [w.node('Exp', [x])])
    : w.node('Identity', [x]);
}

/** Of bools: the sum or the smallest of numbers that stand for them, which are 0 and true where nothing is folded. */
const reductionOfBools =
  (op: 'ReduceSum' | 'ReduceMin'): ExportEntry =>
  (v, { w, inputs }) => {
    const { shape } = typeOf(v.inputs[0]!);
    const axes = normalizeAxes(v.attrs.axes as readonly number[], shape.length);
    const keepdims = int(v.attrs.keepdims === true ? 1 : 0);
    if (axes.length === 0) return w.node('Identity', [inputs[0]!]);
    const x = w.cast(inputs[0]!, 'bool', 'i32');
    const out =
      w.opset >= 18 || op === 'ReduceSum'
        ? w.node(op, [x, w.longs(axes)], { keepdims })
        : w.node(op, [x], { axes: ints(axes), keepdims });
    return w.cast(out, 'i32', 'bool');
  };

const arg =
  (op: string): ExportEntry =>
  (v, { w, inputs }) => {
    const { dtype, ...own } = v.attrs;
    const out = w.node(op, inputs, {
      axis: int(own.axis as number),
      keepdims: int(own.keepdims === true ? 1 : 0),
      select_last_index: int(own.last === true ? 1 : 0),
    });
    return w.cast(out, 'i64', dtype as Scalar);
  };

/** Einsum, but for ellipses that stand for different numbers of axes, which ONNX does not broadcast. */
const einsum: ExportEntry = (v, { inline }) => {
  const terms = (v.attrs.equation as string).split('->')[0]!.split(',');
  const extra = terms.map((term, i) => typeOf(v.inputs[i]!).shape.length - term.replaceAll(/[^A-Za-z]/g, '').length);
  const open = extra.filter((_, i) => terms[i]!.includes('...'));
  if (new Set(open).size <= 1 || v.op.lower.kind !== 'decompose') return undefined;
  return inline(v.op.lower.build(v.inputs, v.attrs));
};

export const reductions: ExportEntries = {
  einsum,
  reduce_sum: reduction('ReduceSum', 13),
  reduce_mean: reduction('ReduceMean', 18),
  reduce_max: reduction('ReduceMax', 18),
  reduce_min: reduction('ReduceMin', 18),
  reduce_prod: reduction('ReduceProd', 18),
  log_sum_exp: reduction('ReduceLogSumExp', 18),
  reduce_all: reductionOfBools('ReduceMin'),
  reduce_any: reductionOfBools('ReduceSum'),
  arg_max: arg('ArgMax'),
  arg_min: arg('ArgMin'),
  top_k: (v, { w, inputs }) => {
    const { dtype } = typeOf(v.inputs[0]!);
    const attrs = {
      axis: int(v.attrs.axis as number),
      largest: int(v.attrs.largest === false ? 0 : 1),
      sorted: int(1),
    };
    return w.many(
      'TopK',
      [inputs[0]!, w.sizes([v.attrs.k as Dim])],
      2,
      dtype === 'bf16' ? refuse('top_k of bf16', w.opset, 'TopK does not take it') : attrs,
    );
  },
};

export const axisOf = (v: Value, name = 'axis', n = 0): number =>
  normalizeAxis(v.attrs[name] as number, typeOf(v.inputs[n]!).shape.length);
