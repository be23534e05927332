/** Values of a graph in the words of the DSL: what is written here traces to exactly that value. */
import type { Scalar } from '../../ir/dtype.ts';
import { type Expr, exprNodes, type Var } from '../../ir/expr.ts';
import { type AttrValue, type Graph, isGraph, typeOf, type Value } from '../../ir/graph.ts';
import type { Nd } from '../../ir/nd.ts';
import { sameAttr } from '../../ir/text.ts';
import { type Dim, dim, sameDim } from '../../ir/type.ts';

/** Text of what a value reads, and of what stands around it. */
export interface Words {
  /** An operand: a variable, a parameter, or a literal where `numbers` may stand for tensors. */
  use(v: Value, numbers?: boolean): string;
  /** A word of the DSL, which is then imported. */
  word(name: string): string;
  /** A graph that an operator carries. */
  graph(g: Graph): string;
  /** The variable of a symbolic size. */
  size(symbol: Expr): string;
}

const words = (names: string): readonly string[] => names.split(' ');
/** Functions of one tensor, and functions of two that take numbers as well, without attributes. */
const UNARY = new Set(
  words(
    'not neg abs sign exp log sqrt rsqrt reciprocal tanh sigmoid erf sin cos tan asin acos atan sinh cosh asinh acosh atanh floor ceil round trunc relu silu quick_gelu softplus softsign mish hard_swish bit_not stop_gradient is_nan is_inf',
  ),
);
const BINARY = new Set(
  words(
    'add sub mul div rem floor_div floor_mod pow minimum maximum equal not_equal less less_equal greater greater_equal and or xor bit_and bit_or bit_xor shift_left shift_right',
  ),
);
const FOLDS: Readonly<Record<string, string>> = {
  reduce_sum: 'sum',
  reduce_mean: 'mean',
  reduce_max: 'max',
  reduce_min: 'min',
  reduce_all: 'all',
  reduce_any: 'any',
};

export const camel = (name: string): string => name.replaceAll(/_([a-z])/g, (_, c: string) => c.toUpperCase());

export const quoted = (text: string): string =>
  `'${JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}'`;
/** A property's name, in quotes where it is no identifier. */
export const key = (name: string): string => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : quoted(name));

export function number(x: number): string {
  if (Object.is(x, -0)) return '-0';
  if (Number.isNaN(x)) return 'Number.NaN';
  return Number.isFinite(x) ? String(x) : x < 0 ? '-Infinity' : 'Infinity';
}
export const list = (items: readonly string[]): string => `[${items.join(', ')}]`;

/** Infix-free text of an expression; sizes are variables of the file. */
export function exprText(e: Expr, w: Words, load: (e: Expr) => string): string {
  const call = (name: string, args: readonly string[]): string => `${w.word('expr')}.${name}(${args.join(', ')})`;
  const text = (x: Expr): string => exprText(x, w, load);
  switch (e.op) {
    case 'const':
      if (e.dtype === 'bool') return call('bool', [e.arg === 1 ? 'true' : 'false']);
      return call('literal', [number(e.arg as number), ...(e.dtype === 'i32' ? [] : [quoted(e.dtype)])]);
    case 'sym':
      return w.size(e);
    case 'var':
      return (e.arg as Var).name;
    case 'operand':
      return load(e);
    case 'cast':
    case 'bitcast':
      return call(e.op, [text(e.args[0]!), quoted(e.dtype)]);
  }
  // Beside an expression a number takes its type.
  const plain = e.args.some((a) => a.op !== 'const' && a.dtype === e.args.at(-1)!.dtype);
  const args = e.args.map((a, i) => {
    const free =
      e.op === 'select' ? i > 0 && e.args.slice(1).some((b) => b.op !== 'const') : plain && e.args.length > 1;
    return a.op === 'const' && a.dtype !== 'bool' && free ? number(a.arg as number) : text(a);
  });
  return call(e.op, args);
}

const noLoad = (): string => {
  throw new TypeError('a size loads no element');
};
export const dimText = (d: Dim, w: Words): string => (typeof d === 'number' ? number(d) : exprText(d, w, noLoad));
export const shapeText = (shape: readonly Dim[], w: Words): string => list(shape.map((d) => dimText(d, w)));

/** Elements in C order; many equal ones as one. */
function elementsText({ data, dtype }: Nd): string {
  const all = Array.from(data);
  if (all.length > 8 && all.every((x) => Object.is(x, all[0])))
    return `new Array(${all.length}).fill(${number(all[0]!)})`;
  const short = (x: number): string => (dtype === 'f32' ? shortest(x) : number(x));
  return list(all.map(short));
}
/** The shortest decimal that rounds to `x` in f32. */
function shortest(x: number): string {
  for (let digits = 1; digits <= 9; digits++) {
    const text = Number(x.toPrecision(digits));
    if (Object.is(Math.fround(text), x)) return number(text);
  }
  return number(x);
}
export const scalarText = (x: number, dtype: Scalar): string => (dtype === 'f32' ? shortest(x) : number(x));

export function constantText(value: Nd, w: Words): string {
  return `${w.word('constant')}(${quoted(value.dtype)}, ${list(value.shape.map(String))}, ${elementsText(value)})`;
}

function attrText(attr: AttrValue, w: Words): string {
  if (Array.isArray(attr)) return list((attr as readonly AttrValue[]).map((a) => attrText(a, w)));
  if (typeof attr === 'number') return number(attr);
  if (typeof attr === 'string') return quoted(attr);
  if (typeof attr === 'boolean') return String(attr);
  if (isGraph(attr)) return w.graph(attr);
  if (attr !== undefined && 'lanes' in attr) {
    const e = attr as Expr;
    const free = exprNodes(e).every((node) => node.op !== 'var' && node.op !== 'operand');
    return free ? exprText(e, w, noLoad) : `${w.word('scoreOf')}(${closure([e], numberedLoad(w), w, 'load')})`;
  }
  throw new TypeError('a tensor is no attribute here');
}

/** Attributes that are not the usual ones, as an object; undefined when all are. */
function attrsText(v: Value, w: Words, names: readonly string[] = Object.keys(v.op.attrs)): string | undefined {
  const given = names.filter((name) => {
    const { optional, default: usual } = v.op.attrs[name]!;
    return v.attrs[name] !== undefined && !(optional && sameAttr(v.attrs[name], usual));
  });
  if (given.length === 0) return undefined;
  return `{ ${given.map((name) => `${name}: ${attrText(v.attrs[name], w)}`).join(', ')} }`;
}

/** Whether every attribute but the named ones is the usual one. */
const usual = (v: Value, ...but: readonly string[]): boolean =>
  Object.entries(v.op.attrs).every(
    ([name, schema]) => but.includes(name) || (schema.optional && sameAttr(v.attrs[name], schema.default)),
  );

type Writer = (v: Value, w: Words) => string | undefined;
const call = (w: Words, name: string, ...args: readonly (string | undefined)[]): string =>
  `${w.word(name)}(${args.filter((a) => a !== undefined).join(', ')})`;

/** Operators that have a word of their own for the usual case; undefined where this is not that case. */
const OWN: Readonly<Record<string, Writer>> = {
  constant: (v, w) => constantText(v.attrs.value as Nd, w),
  cast: (v, w) => call(w, 'cast', w.use(v.inputs[0]!), quoted(v.attrs.to as string)),
  select: (v, w) => {
    const [condition, a, b] = v.inputs as [Value, Value, Value];
    // A number takes the type of the other one.
    const open = (x: Value, other: Value): string => w.use(x, other.op.name !== 'constant' && sameType(x, other));
    return call(w, 'select', w.use(condition), open(a, b), open(b, a));
  },
  gelu: (v, w) => call(w, 'gelu', w.use(v.inputs[0]!), attrsText(v, w)),
  leaky_relu: (v, w) => call(w, 'leakyRelu', w.use(v.inputs[0]!), number(v.attrs.alpha as number)),
  elu: (v, w) => call(w, 'elu', w.use(v.inputs[0]!), number(v.attrs.alpha as number)),
  hard_sigmoid: (v, w) => call(w, 'hardSigmoid', w.use(v.inputs[0]!), attrsText(v, w)),
  clamp: (v, w) => call(w, 'clamp', w.use(v.inputs[0]!), attrsText(v, w) ?? '{}'),
  reshape: (v, w) => call(w, 'reshape', w.use(v.inputs[0]!), shapeText(v.attrs.shape as readonly Dim[], w)),
  expand: (v, w) => call(w, 'expand', w.use(v.inputs[0]!), shapeText(v.attrs.shape as readonly Dim[], w)),
  transpose: (v, w) => call(w, 'transpose', w.use(v.inputs[0]!), list((v.attrs.perm as number[]).map(String))),
  slice: sliceText,
  concat: (v, w) => call(w, 'concat', list(v.inputs.map((x) => w.use(x))), String(v.attrs.axis)),
  split: (v, w) => {
    const sizes = v.attrs.sizes as readonly Dim[];
    if ((v.attrs.axis as number) < 0) return undefined;
    const even = sizes.every((d) => typeof d === 'number' && d === sizes[0]);
    const parts = even ? String(sizes.length) : shapeText(sizes, w);
    return call(w, 'split', w.use(v.inputs[0]!), String(v.attrs.axis), parts);
  },
  pad: (v, w) => {
    if (!usual(v, 'before', 'after', 'value')) return undefined;
    const { before, after, value } = v.attrs as { before: number[]; after: number[]; value: number };
    const amounts = [before, after].map((side) => list(side.map(String)));
    return call(w, 'pad', w.use(v.inputs[0]!), ...amounts, value === 0 ? undefined : number(value));
  },
  iota: (v, w) => {
    const { dtype, shape, axis } = v.attrs as { dtype: string; shape: readonly Dim[]; axis: number };
    return call(w, 'iota', quoted(dtype), shapeText(shape, w), axis === 0 ? undefined : String(axis));
  },
  gather: (v, w) => (usual(v) ? call(w, 'gather', w.use(v.inputs[0]!), w.use(v.inputs[1]!)) : undefined),
  gather_elements: (v, w) => call(w, 'gatherElements', w.use(v.inputs[0]!), w.use(v.inputs[1]!), String(v.attrs.axis)),
  matmul: (v, w) => call(w, 'matmul', w.use(v.inputs[0]!), w.use(v.inputs[1]!), attrsText(v, w)),
  einsum: (v, w) => call(w, 'einsum', quoted(v.attrs.equation as string), ...v.inputs.map((x) => w.use(x))),
  softmax: (v, w) => call(w, 'softmax', w.use(v.inputs[0]!), usual(v) ? undefined : String(v.attrs.axis)),
  log_softmax: (v, w) => call(w, 'logSoftmax', w.use(v.inputs[0]!), usual(v) ? undefined : String(v.attrs.axis)),
  layer_norm: (v, w) => {
    if (v.inputs.length < 3) return undefined;
    const eps = usual(v) ? undefined : number(v.attrs.eps as number);
    return call(w, 'layerNorm', ...v.inputs.map((x) => w.use(x)), eps);
  },
  rms_norm: (v, w) => {
    if (v.inputs.length < 2) return undefined;
    const eps = usual(v) ? undefined : number(v.attrs.eps as number);
    return call(w, 'rmsNorm', ...v.inputs.map((x) => w.use(x)), eps);
  },
  batch_norm: (v, w) =>
    call(w, 'batchNorm', ...v.inputs.map((x) => w.use(x)), usual(v) ? undefined : number(v.attrs.eps as number)),
  group_norm: (v, w) => call(w, 'groupNorm', ...v.inputs.map((x) => w.use(x)), attrsText(v, w)),
  conv: convText('conv'),
  conv_transpose: convText('convTranspose'),
  max_pool: poolText('maxPool'),
  avg_pool: poolText('avgPool'),
  arg_max: (v, w) => (usual(v, 'axis') ? call(w, 'argMax', w.use(v.inputs[0]!), String(v.attrs.axis)) : undefined),
  cumsum: (v, w) => (usual(v, 'axis') ? call(w, 'cumsum', w.use(v.inputs[0]!), String(v.attrs.axis)) : undefined),
  attention: scoresText('attention', 3),
  attention_weights: scoresText('attentionWeights', 2),
  score_term: (v, w) => {
    const load = loadsInOrder(v, [v.attrs.expr as Expr], 0, w);
    if (!load) return undefined;
    const at = shapeText(v.attrs.shape as readonly Dim[], w);
    const term = closure([v.attrs.expr as Expr], load, w);
    return `${w.word('scoreTerm')}<${quoted(typeOf(v).dtype)}>(${at}, ${term})`;
  },
};

const sameType = (a: Value, b: Value): boolean => typeOf(a).dtype === typeOf(b).dtype;

function sliceText(v: Value, w: Words): string | undefined {
  const { shape } = typeOf(v.inputs[0]!);
  const { starts, stops, steps } = v.attrs as { starts: Dim[]; stops: Dim[]; steps: number[] };
  const axes = shape.flatMap((d, i) => (dim(starts[i]!) === 0 && steps[i] === 1 && sameDim(stops[i]!, d) ? [] : [i]));
  const [axis] = axes;
  if (axis === undefined || axes.length > 1 || steps[axis]! < 1) return undefined;
  const range = [
    ...(dim(starts[axis]!) === 0 ? [] : [`start: ${dimText(starts[axis]!, w)}`]),
    ...(sameDim(stops[axis]!, shape[axis]!) ? [] : [`stop: ${dimText(stops[axis]!, w)}`]),
    ...(steps[axis] === 1 ? [] : [`step: ${steps[axis]}`]),
  ];
  return call(w, 'slice', w.use(v.inputs[0]!), String(axis), `{ ${range.join(', ')} }`);
}

function convText(name: string): Writer {
  return (v, w) => {
    const operands = v.inputs.map((x) => w.use(x));
    const attrs = attrsText(v, w);
    return call(w, name, ...operands, attrs && operands.length < 3 ? 'undefined' : undefined, attrs);
  };
}

function poolText(name: string): Writer {
  return (v, w) => {
    const { kernel, strides, dilations } = v.attrs as Record<string, readonly number[]>;
    // Where none are given, windows of the word touch; those of the operator move by one.
    if (strides!.length === 0 || dilations!.length > 0) return undefined;
    const names = sameAttr(strides, kernel) ? Object.keys(v.op.attrs).filter((n) => n !== 'strides') : undefined;
    return call(w, name, w.use(v.inputs[0]!), attrsText(v, w, names));
  };
}

/** How loads of operands `first`, `first` + 1, … are written; undefined unless they are read in that order. */
function loadsInOrder(
  v: Value,
  exprs: readonly (Expr | undefined)[],
  first: number,
  w: Words,
): ((e: Expr) => string) | undefined {
  const seen: number[] = [];
  const visit = (e: Expr): void => {
    e.args.forEach(visit);
    if (e.op === 'operand' && !seen.includes(e.arg as number)) seen.push(e.arg as number);
  };
  for (const e of exprs) if (e) visit(e);
  const operands = v.inputs.slice(first);
  if (seen.length !== operands.length || seen.some((n, i) => n !== first + i)) return undefined;
  if (new Set(operands).size !== operands.length) return undefined;
  const load = (e: Expr): string => {
    const at = e.args.map((a) => (a.op === 'const' ? number(a.arg as number) : exprText(a, w, load)));
    return `read(${[w.use(v.inputs[e.arg as number]!), ...at].join(', ')})`;
  };
  return load;
}

/** Loads of operands by their numbers. */
function numberedLoad(w: Words): (e: Expr) => string {
  const load = (e: Expr): string => {
    const at = e.args.map((a) => (a.op === 'const' ? number(a.arg as number) : exprText(a, w, load)));
    return `load(${[String(e.arg), quoted(e.dtype), ...at].join(', ')})`;
  };
  return load;
}

/** `({ q, k }) => …`; `reader` is the name of the function that reads elements. */
function closure(exprs: readonly Expr[], load: (e: Expr) => string, w: Words, reader = 'read'): string {
  const names = new Set<string>();
  const visit = (e: Expr): void => {
    e.args.forEach(visit);
    if (e.op === 'var') names.add((e.arg as Var).name);
    if (e.op === 'operand') names.add(reader);
  };
  exprs.forEach(visit);
  const all = ['b', 'h', 'q', 'k', reader].filter((name) => names.has(name));
  return `(${all.length > 0 ? `{ ${all.join(', ')} }` : ''}) => ${exprText(exprs[0]!, w, load)}`;
}

function scoresText(name: string, first: number): Writer {
  return (v, w) => {
    const { mask, bias, lse } = v.attrs as { mask?: Expr; bias?: Expr; lse?: boolean };
    const load = loadsInOrder(v, [mask, bias], first, w);
    if (!load || lse) return undefined;
    const rest = attrsText(
      v,
      w,
      Object.keys(v.op.attrs).filter((n) => n !== 'mask' && n !== 'bias'),
    );
    const parts = [
      ...(mask ? [`mask: ${closure([mask], load, w)}`] : []),
      ...(bias ? [`bias: ${closure([bias], load, w)}`] : []),
      ...(rest ? [rest.slice(2, -2)] : []),
    ];
    const options = parts.length > 0 ? `{ ${parts.join(', ')} }` : undefined;
    return call(w, name, ...v.inputs.slice(0, first).map((x) => w.use(x)), options);
  };
}

/** The call that traces to the value; of an operator with several results, to all of them in a list. */
export function callText(v: Value, w: Words): string {
  const { name } = v.op;
  if (UNARY.has(name)) return call(w, camel(name), w.use(v.inputs[0]!));
  if (BINARY.has(name)) {
    const number = v.inputs.find((x) => x.op.name !== 'constant');
    const free = (x: Value): boolean => number !== undefined && sameType(x, number);
    return call(w, camel(name), ...v.inputs.map((x) => w.use(x, free(x))));
  }
  const fold = FOLDS[name];
  if (fold) return call(w, fold, w.use(v.inputs[0]!), attrsText(v, w) ?? '{ axes: [] }');
  const own = OWN[name]?.(v, w);
  if (own !== undefined) return own;
  const operands = list(v.inputs.map((x) => w.use(x)));
  const type =
    v.type.kind === 'tuple'
      ? `${w.word('operators')}<${list(v.type.items.map(({ dtype }) => quoted(dtype)))}>`
      : `${w.word('operator')}<${quoted(v.type.dtype)}>`;
  const args = [quoted(name), operands, attrsText(v, w)].filter((a) => a !== undefined);
  return `${type}(${args.join(', ')})`;
}
