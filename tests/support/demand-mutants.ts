/**
 * Mistakes in what ops say they read, seeded through `DemandOptions.need`: at least one for each class of operations and for
 * each op with a `need` of its own. A test of demands that lets one of them pass is no test.
 */
import type { NeedContext } from '../../ir/core.ts';
import type { Expr } from '../../ir/expr.ts';
import type { Attrs, Value } from '../../ir/graph.ts';
import { ALL, and, complement, coordinate, type IndexSet, isNone, NONE, replace, where } from '../../ir/index-set.ts';
import { needByAxes } from '../../ir/need.ts';
import { coords } from '../../ir/ops/attention.ts';
import * as s from '../../ir/scalar.ts';
import type { DemandOptions } from '../../passes/demand.ts';

type Context = NeedContext<Attrs>;
type Sets = readonly IndexSet[];
/** What a reader says instead of `right`, which is what it says without the mistake. */
type Wrong = (right: Sets, demand: Sets, cx: Context, value: Value) => Sets;

export interface Mutant {
  readonly name: string;
  /** Ops that it concerns; all where absent. */
  readonly ops: readonly string[] | undefined;
  /** Made anew for each analysis: a mistake may have a memory. */
  make(): NonNullable<DemandOptions['need']>;
}

/** What an op reads, without a mistake. */
export const rightNeed = ({ op, inputs, attrs }: Value, demand: Sets, cx: Context): Sets =>
  op.need?.(demand, cx) ?? (op.axes ? needByAxes(demand, cx.outs, op.axes(cx.inputs, attrs)) : inputs.map(() => ALL));

const mutant = (name: string, ops: string | readonly string[], wrong: Wrong): Mutant => {
  const own = typeof ops === 'string' ? [ops] : ops;
  return {
    name: `${own.join(', ')}: ${name}`,
    ops: own,
    make: () => (value, demand, cx) =>
      own.includes(value.op.name) ? wrong(rightNeed(value, demand, cx), demand, cx, value) : undefined,
  };
};

// Mistakes that many ops can make

/** An operand is forgotten. */
const without =
  (n: number): Wrong =>
  (right) =>
    right.map((set, i) => (i === n ? NONE : set));
/** An operand is read at the very coordinates of the result. */
const asItStands =
  (n = 0): Wrong =>
  (right, [demand], { inputs, outs }) =>
    inputs[n]!.shape.length === outs[0]!.shape.length ? right.with(n, demand!) : right;
/** Of an axis only the first position. */
const firstOf =
  (axis: number, n = 0): Wrong =>
  (right, _, { inputs }) =>
    axis < inputs[n]!.shape.length && !isNone(right[n]!)
      ? right.with(n, and(where(s.eq(coordinate(axis), 0)), right[n]!))
      : right;
/** Coordinates of the operand are other ones. */
const elsewhere =
  (by: (leaf: Expr, cx: Context) => Expr | undefined, n = 0): Wrong =>
  (right, _, cx) =>
    right.with(
      n,
      replace(right[n]!, (leaf) => by(leaf, cx)),
    );
/** The op is asked with other attributes. */
const with_ =
  (change: (attrs: Attrs) => Attrs): Wrong =>
  (_, demand, cx, value) =>
    rightNeed({ ...value, attrs: change(value.attrs) }, demand, { ...cx, attrs: change(value.attrs) });
/** What is known of index tensors is something else. */
const withImage =
  (image: (cx: Context) => Context['image']): Wrong =>
  (_, demand, cx, value) =>
    rightNeed(value, demand, { ...cx, image: image(cx) });
const onlyFirstIndex = withImage(
  (cx) => (n, at, place, size) =>
    cx.image(
      n,
      at.map((e) => e ?? s.literal(0)),
      place,
      size,
    ),
);
const noNegativeIndex = withImage((cx) => (n, at, place) => cx.image(n, at, place, 0));
const ROW = coordinate(1);

const ROWWISE: readonly Mutant[] = [
  mutant('the residual is forgotten', 'add', without(0)),
  mutant('the branch is forgotten', 'add', without(1)),
  mutant('the second factor is forgotten', 'mul', without(1)),
  mutant(
    'rows are counted from one',
    'tanh',
    elsewhere((leaf) => (leaf === ROW ? s.add(ROW, 1) : undefined)),
  ),
  mutant('features are taken for rows', 'layer_norm', asItStands()),
  mutant('what is contracted is taken for rows', 'matmul', asItStands()),
  mutant('the second matrix is forgotten', 'matmul', without(1)),
  mutant(
    'every entry reads the rows of the first',
    ['tanh', 'add', 'reshape', 'matmul'],
    elsewhere((leaf) => (leaf === coordinate(0) ? s.literal(0) : undefined)),
  ),
];

const CHOICES: readonly Mutant[] = [
  mutant('one branch', 'select', without(2)),
  mutant('the other branch', 'select', without(1)),
  mutant('branches swapped', 'select', (right, demand, cx, value) => {
    const swapped = { ...cx, element: (n: number, at: readonly Expr[]): Expr => s.not(cx.element(n, at)) };
    return rightNeed(value, demand, swapped).with(0, right[0]!);
  }),
  mutant('the condition holds where it holds for the row after', 'select', (_, demand, cx, value) =>
    rightNeed(value, demand, {
      ...cx,
      element: (n, at) =>
        cx.element(
          n,
          at.map((e, i) => (i === 1 && e.op !== 'const' ? s.add(e, 1) : e)),
        ),
    }),
  ),
];

const slid =
  (
    change: (starts: readonly Expr[], steps: readonly number[]) => readonly [readonly Expr[], readonly number[]],
  ): Wrong =>
  (_, demand, cx, value) => {
    const starts = (value.attrs.starts as readonly (number | Expr)[]).map((x) => s.index(x));
    const [from, steps] = change(starts, value.attrs.steps as readonly number[]);
    const attrs = { ...value.attrs, starts: from, steps };
    return rightNeed({ ...value, attrs }, demand, { ...cx, attrs });
  };

const MOVEMENTS: readonly Mutant[] = [
  mutant(
    'the offset has the wrong sign',
    'slice',
    slid((starts, steps) => [starts.map((x) => s.neg(x)), steps]),
  ),
  mutant(
    'the offset is forgotten',
    'slice',
    slid((starts, steps) => [starts.map(() => s.literal(0)), steps]),
  ),
  mutant(
    'one row too late',
    'slice',
    slid((starts, steps) => [starts.map((x) => s.add(x, 1)), steps]),
  ),
  mutant(
    'steps are forgotten',
    'slice',
    slid((starts, steps) => [starts, steps.map(Math.sign)]),
  ),
  mutant(
    'backwards is taken for forwards',
    'slice',
    slid((starts, steps) => [starts, steps.map(Math.abs)]),
  ),
  mutant('off by one', 'concat', (right) =>
    right.map((set, n) => (n === 0 ? set : replace(set, (leaf) => (leaf === ROW ? s.add(ROW, 1) : undefined)))),
  ),
  mutant('every part is read as the first', 'concat', (right) => right.map(() => right[0]!)),
  mutant('the last part is forgotten', 'concat', (right) => right.with(right.length - 1, NONE)),
  mutant('all parts are the first', 'split', firstOf(1)),
  mutant(
    'moved to the wrong side',
    'pad',
    with_((attrs) => ({ ...attrs, before: (attrs.before as readonly number[]).map((n) => -n) })),
  ),
  mutant(
    'not moved',
    'pad',
    with_((attrs) => ({ ...attrs, before: (attrs.before as readonly number[]).map(() => 0) })),
  ),
  mutant(
    'the edge is not read for what it fills',
    'pad',
    with_((attrs) => ({ ...attrs, mode: 'constant' })),
  ),
  mutant('axes are not turned', 'transpose', asItStands()),
  mutant('only the first of what is stretched', 'expand', firstOf(1)),
  mutant(
    'features of merged axes are not counted',
    'reshape',
    elsewhere((leaf, { inputs }) => (leaf === coordinate(inputs[0]!.shape.length - 1) ? s.literal(0) : undefined)),
  ),
  mutant('indices are ignored', ['gather', 'gather_nd', 'gather_elements', 'compact'], asItStands()),
  mutant('only the first index', ['gather', 'gather_nd'], onlyFirstIndex),
  mutant('only the first index', 'compact', onlyFirstIndex),
  mutant('only the first index', 'gather_elements', onlyFirstIndex),
  mutant('negative indices are not counted from the end', ['gather', 'gather_nd'], noNegativeIndex),
  mutant('what fills is forgotten', 'restore', without(2)),
  mutant('the rows are forgotten', 'restore', without(0)),
  mutant('rows stand where they were put', 'restore', asItStands()),
  mutant('kept rows are forgotten', 'scatter_elements', without(0)),
  mutant('updates are forgotten', 'scatter_elements', without(2)),
  mutant(
    'what is added to counts as overwritten',
    'scatter_elements',
    with_((attrs) => ({ ...attrs, reduction: 'none' })),
  ),
  mutant('kept rows are forgotten', 'scatter_nd', without(0)),
  mutant('updates are forgotten', 'scatter_nd', without(2)),
];

const { q, k } = coords;
const ATTENTION: readonly Mutant[] = [
  mutant('keys that every query reads, not those that some query reads', 'attention', (right, demand, cx, value) => {
    const mask = value.attrs.mask as Expr | undefined;
    if (!mask) return right;
    const attrs = { ...value.attrs, mask: s.not(mask), emptyRow: 'zero' };
    const [, hidden] = rightNeed({ ...value, attrs }, demand, { ...cx, attrs });
    const keys = complement(hidden!);
    return right.with(1, keys).with(2, keys);
  }),
  mutant('keys are the queries', 'attention', (right) => right.with(1, right[0]!).with(2, right[0]!)),
  mutant('only values', 'attention', without(1)),
  mutant('only keys', 'attention', without(2)),
  mutant('no queries', 'attention', without(0)),
  mutant(
    'an empty row reads nothing whatever it means',
    'attention',
    with_((attrs) => ({ ...attrs, emptyRow: 'zero' })),
  ),
  mutant(
    'the mask is transposed',
    'attention',
    with_((attrs) => ({
      ...attrs,
      mask: attrs.mask && s.substitute(attrs.mask as Expr, (leaf) => (leaf === q ? k : leaf === k ? q : undefined)),
    })),
  ),
  mutant(
    'the mask is that of the key after',
    'attention',
    with_((attrs) => ({
      ...attrs,
      mask: attrs.mask && s.substitute(attrs.mask as Expr, (leaf) => (leaf === k ? s.add(k, 1) : undefined)),
    })),
  ),
  mutant('keys of the first head only', 'attention', (right, demand, cx, value) =>
    firstOf(1, 2)(firstOf(1, 1)(right, demand, cx, value), demand, cx, value),
  ),
];

const FOLDS: readonly Mutant[] = [
  mutant('rows are summed one by one', 'reduce_sum', firstOf(1)),
  mutant('terms that are zero, not the others', 'reduce_sum', (right, _, { support }) =>
    right.with(0, and(right[0]!, complement(support(0)))),
  ),
  mutant('rows are averaged one by one', 'reduce_mean', firstOf(1)),
  mutant('only the first row', 'reduce_max', firstOf(1)),
  mutant('the rows that are mixed are taken for rows', 'softmax', asItStands()),
  mutant('statistics over rows are forgotten', 'group_norm', asItStands()),
  mutant('its own row only', 'cumsum', asItStands()),
  mutant(
    'from the wrong end',
    'cumsum',
    with_((attrs) => ({ ...attrs, reverse: attrs.reverse !== true })),
  ),
  mutant('its own row only', 'top_k', (right, demand) => right.with(0, demand[1]!)),
  mutant('the first row wins', 'arg_max', firstOf(1)),
];

const stretched =
  (change: (attrs: Attrs) => Attrs): Wrong =>
  (right, demand, cx, value) =>
    right.with(0, with_(change)(right, demand, cx, value)[0]!);
const WINDOWS: readonly Mutant[] = [
  mutant('a position reads itself', 'conv', (right, [demand]) =>
    right.with(
      0,
      replace(demand!, (leaf) => (leaf === ROW ? s.literal(0) : undefined)),
    ),
  ),
  mutant(
    'padding is forgotten',
    'conv',
    stretched((attrs) => ({ ...attrs, pads: (attrs.pads as readonly number[]).map(() => 0) })),
  ),
  mutant('padding has the wrong sign', 'conv', (right, demand, cx, value) => {
    const pads = value.attrs.pads as readonly number[];
    const moved = elsewhere((leaf) => (leaf === coordinate(2) ? s.add(leaf, 2 * (pads[0] ?? 0)) : undefined));
    return moved(right, demand, cx, value);
  }),
  mutant(
    'strides are forgotten',
    'conv',
    stretched((attrs) => ({ ...attrs, strides: (attrs.strides as readonly number[]).map(() => 1) })),
  ),
  mutant('channels are taken for rows', 'conv', (right, demand, cx, value) => firstOf(1)(right, demand, cx, value)),
  mutant('a window reads one position', 'max_pool', (right, demand, cx, value) => firstOf(2)(right, demand, cx, value)),
];

/** Axis 0 of what a scan goes over is time. */
const timed =
  (keep: (last: Expr) => Expr, n = 1): Wrong =>
  (right, _, { inputs }) =>
    right.with(n, and(where(keep(s.sub(s.index(inputs[n]!.shape[0]!), 1))), right[n]!));
const LAYERS = ['lstm', 'gru', 'rnn'] as const;
const TIME: readonly Mutant[] = [
  ...LAYERS.flatMap((name) => [
    mutant(
      'the last step only',
      name,
      timed((last) => s.eq(coordinate(0), last), 0),
    ),
    mutant('the state before the first step is forgotten', name, without(4)),
    mutant('rows of states stand where those of the output do', name, (_, demand, cx, { op, attrs }) =>
      needByAxes(demand, cx.outs, op.axes!(cx.inputs, attrs)),
    ),
  ]),
  mutant('the state before the first step is forgotten', 'scan', without(0)),
  mutant(
    'the last step only',
    'scan',
    timed((last) => s.eq(coordinate(0), last)),
  ),
  mutant(
    'the first step only',
    'scan',
    timed(() => s.eq(coordinate(0), 0)),
  ),
  mutant(
    'all steps but the last',
    'scan',
    timed((last) => s.lt(coordinate(0), last)),
  ),
];

/** A value is read as its last reader says, whatever the others said. */
const overwritten: Mutant = {
  name: 'all ops: a reader overwrites what another said',
  ops: undefined,
  make: () => {
    const said = new Map<Value, IndexSet>();
    return (value, demand, cx) => {
      const own = said.get(value);
      const sets = rightNeed(value, own && demand.length === 1 ? [own] : demand, cx);
      value.inputs.forEach((x, n) => {
        said.set(x, sets[n]!);
      });
      return sets;
    };
  },
};

export const MUTANTS: readonly Mutant[] = [
  ...ROWWISE,
  ...CHOICES,
  ...MOVEMENTS,
  ...ATTENTION,
  ...FOLDS,
  ...WINDOWS,
  ...TIME,
  overwritten,
];
