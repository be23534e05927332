/** If, Loop and Scan: subgraphs read in scopes of their own, closed over what they capture. */
import { CompileError } from '../../ir/diagnostic.ts';
import { graph, topoOrder, typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { branch, loop, scan } from '../../ir/ops/control.ts';
import { counted, extend } from '../../ir/ops/counted.ts';
import { add, and, cast, less, maximum, minimum, mul, select } from '../../ir/ops/elementwise.ts';
import { concat, iota, reshape, slice, transpose } from '../../ir/ops/shape.ts';
import { projectAll, scalar } from '../../ir/ops/structural.ts';
import { max, sub } from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, sameDim, sameType, tensor } from '../../ir/type.ts';
import { flexAttention } from './import-only-attention.ts';
import { computed, type Item, literalItem, sizesItem } from './item.ts';
import type { Node } from './node.ts';
import type { OnnxGraph } from './proto.ts';
import { argument, type Capture, Scope, type Subgraphs } from './scope.ts';
import { mapped } from './sequence.ts';

/** What these operators need of the importer. */
export interface Reading extends Subgraphs {
  /** Most trips of a loop whose number of trips is only known when it runs. */
  readonly maxTrips: number | undefined;
}

interface Body {
  readonly inputs: readonly Value[];
  /** What the subgraph's own inputs stand for. */
  readonly items: readonly Item[];
  readonly results: readonly Item[];
  readonly captures: readonly Capture[];
}

/** A subgraph as a closed graph: what it reads from outside comes as further inputs. */
function bodyOf(g: OnnxGraph, scope: Scope, reading: Reading, types: readonly Item['type'][]): Body {
  const inner = new Scope(scope, 'body', scope.opsets);
  const inputs = types.map((type, i) => argument(g.inputs[i]?.name || `in${i}`, type));
  const items = inputs.map((v, i) => computed(asDeclared(v, g, i)));
  const results = reading.subgraph(g, inner, items);
  return { inputs, items, results, captures: inner.captures };
}

/** Some files declare the trip number and the condition of a loop with one axis of size 1. */
function asDeclared(v: Value, g: OnnxGraph, i: number): Value {
  const one = typeOf(v).shape.length === 0 && g.inputs[i]?.shape?.length === 1;
  return one ? reshape([v], { shape: [1] }) : v;
}

const outputsOf = (results: readonly Item[]): (readonly [string, Value])[] =>
  results.map((item, i) => [`out${i}`, item.value()] as const);

function runIf(n: Node, scope: Scope, reading: Reading): Item[] {
  const graphs = { then: n.graph('then_branch'), else: n.graph('else_branch') };
  n.finish();
  const known = n.item(0).literal ? n.number(0) : undefined;
  if (known !== undefined) {
    const taken = known !== 0 ? graphs.then : graphs.else;
    return reading.subgraph(taken, new Scope(scope, 'inline', scope.opsets), []);
  }
  if (isSqueeze(graphs.then, graphs.else))
    return reading.subgraph(graphs.then, new Scope(scope, 'inline', scope.opsets), []);
  const [yes, no] = branchesOf(n, graphs, scope, reading);
  // Both branches take the captures of either.
  const captures = new Map<Item, string>();
  for (const { outer, name } of [...yes.captures, ...no.captures]) captures.set(outer, name);
  const closed = (name: string, body: Body): ReturnType<typeof graph> =>
    graph(
      name,
      [...captures].map(([outer, key]) => {
        const own = body.captures.find((c) => c.outer === outer);
        return own?.inner ?? argument(key, outer.type);
      }),
      outputsOf(body.results),
    );
  let condition = n.value(0);
  if (typeOf(condition).shape.length > 0) condition = reshape([condition], { shape: [] });
  const operands = [...captures.keys()].map((outer) => outer.value());
  const joints = yes.results.map((a, i) => joint(a.type, no.results[i]?.type, n.counting));
  const alike = (body: Body): Body => ({ ...body, results: fitted(body.results, joints) });
  const value = branch([condition, ...operands], { then: closed('then', alike(yes)), else: closed('else', alike(no)) });
  return cutAgain(n, projectAll(value), joints).map(computed);
}

/**
 * Both branches. One that cannot be for the sizes that inputs have is refused with what would leave it out: a file may hold
 * a branch for each of several ways to call it.
 */
function branchesOf(
  n: Node,
  graphs: { readonly then: OnnxGraph; readonly else: OnnxGraph },
  scope: Scope,
  reading: Reading,
): [Body, Body] {
  const read = (g: OnnxGraph): Body | CompileError => {
    try {
      return bodyOf(g, scope, reading, []);
    } catch (error) {
      if (error instanceof CompileError) return error;
      throw error;
    }
  };
  const [yes, no] = [read(graphs.then), read(graphs.else)];
  if (!(yes instanceof CompileError) && !(no instanceof CompileError)) return [yes, no];
  const fault = yes instanceof CompileError ? yes : (no as CompileError);
  const inputs = topoOrder([n.value(0)]).filter((v) => v.op.name === 'input');
  const misfit = ['shape', 'rank', 'operand'].includes(fault.diagnostic.code);
  if (!misfit || inputs.length === 0 || (yes instanceof CompileError && no instanceof CompileError)) throw fault;
  const which = yes instanceof CompileError ? 'then_branch' : 'else_branch';
  const names = inputs.map((v) => JSON.stringify(v.attrs.name)).join(', ');
  return n.fail(
    `its ${which} does not go with the sizes that inputs have (${fault.diagnostic.message})`,
    `fix input ${names} with the option "fixed", so that the other branch is known to be taken, or leave the sizes open`,
  );
}

/** Sizes that one branch gives differently from the other: for each such axis, room for either. */
type Joint = readonly { readonly axis: number; readonly room: Dim }[];

function joint(a: Item['type'], b: Item['type'] | undefined, counting: Node['counting']): Joint {
  if (!b || a.dtype !== b.dtype || a.shape.length !== b.shape.length) return [];
  return a.shape.flatMap((d, axis) => {
    const other = b.shape[axis]!;
    if (sameDim(d, other)) return [];
    return [{ axis, room: dim(max(asExpr(counting.roomFor(d)), counting.roomFor(other))) }];
  });
}

/** Results of one branch with room where the branches differ, and behind them how much of it is used. */
function fitted(results: readonly Item[], joints: readonly Joint[]): Item[] {
  const sizes: Item[] = [];
  const values = results.map((item, i) => {
    let value = item.value();
    for (const { axis, room } of joints[i] ?? []) {
      sizes.push(sizesItem('i32', [], [item.type.shape[axis]!]));
      value = extend([value], { axis, size: room });
    }
    return value === item.value() ? item : computed(value);
  });
  return [...values, ...sizes];
}

/** Results of both branches, cut to what the one that ran gave. */
function cutAgain(n: Node, results: readonly Value[], joints: readonly Joint[]): Value[] {
  let next = joints.length;
  return joints.map((list, i) =>
    list.reduce((value, { axis }) => n.cut([value], results[next++]!, { axis })[0]!, results[i]!),
  );
}

/**
 * How PyTorch spells `x.squeeze(axis)` when it does not know the size: squeezed if that is 1, else as it is. What reads the
 * result wants one rank, and it is traced with the axis gone.
 */
function isSqueeze(then: OnnxGraph, otherwise: OnnxGraph): boolean {
  const only = (g: OnnxGraph, op: string): string | undefined => {
    const [node, ...more] = g.nodes.filter((x) => x.op !== 'Constant');
    return node?.op === op && node.domain === '' && more.length === 0 ? node.inputs[0] : undefined;
  };
  const squeezed = only(then, 'Squeeze');
  return squeezed !== undefined && squeezed === only(otherwise, 'Identity');
}

/** Beyond this, a number of trips is a way to say "until the condition fails". */
const ENDLESS = 2 ** 31 - 1;
/** Most trips of a loop that the data bound, where nobody says how many there can be. */
const USUAL_TRIPS = 4096;
/** Trips that are written out one after another where a state changes its shape. */
const MAX_UNROLLED = 256;

function runLoop(n: Node, scope: Scope, reading: Reading): Item[] {
  const g = n.graph('body');
  n.finish();
  const trips = tripsOf(n);
  const first = n.has(1) ? n.item(1) : literalItem(nd('bool', [], [1]));
  const states = n.items.slice(2).map((item, i) => item ?? n.item(i + 2));
  const startsTrue = first.literal && first.constant()!.data[0] !== 0;
  let body: Body | undefined;
  let reason: CompileError | undefined;
  const [given] = states.filter((state) => state.list);
  if (given && typeof trips !== 'number')
    n.fail('a sequence goes from trip to trip, and its trips cannot be counted', 'make the number of trips a constant');
  try {
    if (given) n.fail('a sequence goes from trip to trip');
    const types = [tensor('i64', []), tensor('bool', []), ...states.map((s) => s.type)];
    body = bodyOf(g, scope, reading, types);
  } catch (error) {
    if (!(error instanceof CompileError)) throw error;
    reason = error;
  }
  const keeps = body?.results.slice(1, 1 + states.length).every((r, i) => sameType(r.type, states[i]!.type)) ?? false;
  if (!body || !keeps) {
    // Asks for the number of trips, where it comes with the data.
    if (trips === undefined && n.has(0) && n.item(0).dims === undefined && !(body && settled(body, states, g)))
      n.dims(0);
    if (typeof trips === 'number' && trips <= MAX_UNROLLED && startsTrue)
      return unrolled(n, g, scope, reading, trips, states);
    body = body && settled(body, states, g);
    if (!body)
      throw (
        reason ?? n.fail('a state changes its shape from trip to trip', 'export the loop with states of fixed shapes')
      );
  }
  const next = body.results[0]!;
  const goesOn = next.literal ? next.constant()!.data[0] !== 0 : next.value() === body.items[1]!.value();
  if (goesOn && (trips !== undefined || n.has(0))) {
    if (trips !== undefined && startsTrue) return over(body, numbers(trips), states);
    // The data say how often, before the first trip.
    const asked = trips === undefined ? scalarOf(n.value(0)) : sizesItem('i64', [], [trips]).value();
    const made = minimum([maximum([asked, scalar(0, 'i64')]), scalar(ENDLESS, 'i64')]);
    const count = startsTrue ? made : select([scalarOf(first.value()), made, scalar(0, 'i64')]);
    const times = numbers(trips ?? reading.maxTrips ?? USUAL_TRIPS);
    return over(body, n.cut([times], cast([count], { to: 'i32' }))[0]!, states);
  }
  const most = trips ?? reading.maxTrips;
  if (most === undefined)
    n.fail('its number of trips is only known when it runs', 'pass maxTrips, the most it will ever make');
  return until(n, body, { most, trips, first, states });
}

/**
 * The body with states whose counted sizes are those that they start with, and rows whose counted sizes are those that the
 * file declares, which running it checks; undefined where shapes differ in another way.
 */
function settled(body: Body, states: readonly Item[], g: OnnxGraph): Body | undefined {
  const results = body.results.map((item, i) => {
    const state = states[i - 1]?.type.shape;
    const declared = state ?? g.outputs[i]?.shape?.map((d) => (typeof d === 'number' && d >= 0 ? d : undefined));
    return (declared && ofShape(item, declared)) ?? (state ? undefined : item);
  });
  return results.some((item) => item === undefined) ? undefined : { ...body, results: results as readonly Item[] };
}

/** An item whose counted sizes are the given ones, where there are such; undefined where it cannot have that shape. */
function ofShape(item: Item, wanted: readonly (Dim | undefined)[]): Item | undefined {
  const { shape } = item.type;
  if (shape.length !== wanted.length) return undefined;
  let value: Value | undefined;
  for (const [axis, size] of wanted.entries()) {
    const own = shape[axis]!;
    if (size === undefined || sameDim(own, size)) continue;
    if (typeof size !== 'number' || typeof own === 'number') return undefined;
    value = counted([value ?? item.value(), sizesItem('i32', [], [own]).value()], { axis, size, all: true });
  }
  return value ? computed(value) : item;
}

/** A loop that ends when its condition fails; what it stacks has as many rows as it made trips. */
function until(
  n: Node,
  body: Body,
  loops: {
    readonly most: Dim;
    readonly trips: Dim | undefined;
    readonly first: Item;
    readonly states: readonly Item[];
  },
): Item[] {
  const { most, trips, first, states } = loops;
  const asked = n.has(0) && trips === undefined ? scalarOf(n.value(0)) : undefined;
  const count = asked ?? sizesItem('i64', [], [most]).value();
  const captures = body.captures.map((c) => c.outer.value());
  const next = scalarOf(body.results[0]!.value());
  const [kept, stacked] = [body.results.slice(1, 1 + states.length), body.results.slice(1 + states.length)];
  const condition = scalarOf(first.value());
  const own = [argument('made', tensor('i32', [])), argument('goes_on', tensor('bool', []))] as const;
  const value = loop([count, condition, ...states.map((s) => s.value()), scalar(0, 'i32'), condition, ...captures], {
    body: graph(
      'body',
      [...body.inputs, ...own, ...body.captures.map((c) => c.inner)],
      [
        ['next', next],
        ...outputsOf(kept),
        ['made', add([own[0], scalar(1, 'i32')])],
        ['goes_on', next],
        ...stacked.map((item, i) => [`row${i}`, item.value()] as const),
      ],
    ),
    carried: states.length + 2,
    maxTrips: most,
  });
  const results = projectAll(value);
  const rows = results.slice(states.length + 2);
  if (rows.length === 0) return results.slice(0, states.length).map(computed);
  let made = results[states.length]!;
  if (asked || trips === undefined) {
    // A loop that is not done after the most trips has more rows than there is room for, which is refused when it runs.
    const limit = sizesItem('i32', [], [most]).value();
    const still = results[states.length + 1]!;
    const wants = asked ? and([still, less([cast([made], { to: 'i64' }), asked])]) : still;
    made = add([made, mul([cast([wants], { to: 'i32' }), add([limit, scalar(1, 'i32')])])]);
  }
  return [...results.slice(0, states.length), ...n.cut(rows, made)].map(computed);
}
const scalarOf = (v: Value): Value => (typeOf(v).shape.length === 0 ? v : reshape([v], { shape: [] }));

/** The number of trips where it is known; undefined when there is none, or it comes with the data. */
function tripsOf(n: Node): Dim | undefined {
  const known = n.items[0]?.dims?.[0];
  return known === undefined || (typeof known === 'number' && known >= ENDLESS) ? undefined : known;
}

const numbers = (count: Dim): Value => iota([], { axis: 0, shape: [count], dtype: 'i64' });

/** A loop whose condition always holds: a scan over the trip numbers. */
function over(body: Body, times: Value, states: readonly Item[]): Item[] {
  const [time, condition, ...old] = body.inputs;
  // The trip number is the item; the condition, which is true, is closed over.
  const inner = graph(
    'body',
    [...old, time!, condition!, ...body.captures.map((c) => c.inner)],
    outputsOf(body.results.slice(1)),
  );
  const on = scalar(1, 'bool');
  const value = scan([...states.map((s) => s.value()), times, on, ...body.captures.map((c) => c.outer.value())], {
    body: inner,
    carried: states.length,
    closed: body.captures.length + 1,
  });
  return projectAll(value).map(computed);
}

/** Every trip written out, for states whose shapes change. */
function unrolled(
  n: Node,
  g: OnnxGraph,
  scope: Scope,
  reading: Reading,
  trips: number,
  initial: readonly Item[],
): Item[] {
  let states = initial;
  const rows: Item[][] = [];
  const shapeOf = (i: number): readonly number[] => (g.inputs[i]?.shape?.length === 1 ? [1] : []);
  for (let t = 0; t < trips; t++) {
    const on = literalItem(nd('bool', shapeOf(1), [1]));
    const inner = new Scope(scope, 'inline', scope.opsets);
    const results = reading.subgraph(g, inner, [literalItem(nd('i64', shapeOf(0), [t])), on, ...states]);
    states = results.slice(1, 1 + states.length);
    rows.push(results.slice(1 + states.length));
    if (!results[0]!.literal) n.fail('its condition depends on the data, and a state changes its shape');
    if (results[0]!.constant()!.data[0] === 0) break;
  }
  const stacked = (rows[0] ?? []).map((_, i) => computed(stack(rows.map((row) => row[i]!.value()))));
  if (rows.length === 0 && n.outputs > states.length) n.fail('it makes no trip, so its stacks have no rows');
  return [...states, ...stacked];
}
function stack(parts: readonly Value[]): Value {
  const rows = parts.map((x) => reshape([x], { shape: [1, ...typeOf(x).shape] }));
  return rows.length === 1 ? rows[0]! : concat(rows, { axis: 0 });
}

function runScan(n: Node, scope: Scope, reading: Reading): Item[] {
  const g = n.graph('body');
  const count = n.int('num_scan_inputs');
  if (n.opset < 9) return runBatches(n, g, scope, reading, count);
  const items = n.items.map((_, i) => n.item(i));
  const carried = items.length - count;
  if (count < 1 || carried < 0)
    n.fail(`num_scan_inputs is ${count} for ${items.length} operands`, undefined, 'attribute');
  const stacks = g.outputs.length - carried;
  const [inAxes, inBack] = [n.intList('scan_input_axes') ?? [], n.intList('scan_input_directions') ?? []];
  const [outAxes, outBack] = [n.intList('scan_output_axes') ?? [], n.intList('scan_output_directions') ?? []];
  n.finish();
  const states = items.slice(0, carried);
  const xs = items.slice(carried).map((item, i) => {
    const first = movedAxis(item.value(), n.axis(inAxes[i] ?? 0, item.type.shape.length), 0);
    return inBack[i] === 1 ? flipped(first) : first;
  });
  const types = [...states.map((s) => s.type), ...xs.map((x) => tensor(typeOf(x).dtype, typeOf(x).shape.slice(1)))];
  const body = bodyOf(g, scope, reading, types);
  const value = scan([...states.map((s) => s.value()), ...xs, ...body.captures.map((c) => c.outer.value())], {
    body: graph('body', [...body.inputs, ...body.captures.map((c) => c.inner)], outputsOf(body.results)),
    carried,
    closed: body.captures.length,
  });
  const results = projectAll(value);
  return results.map((result, i) => {
    const k = i - carried;
    if (k < 0 || k >= stacks) return computed(result);
    const forward = outBack[k] === 1 ? flipped(result) : result;
    return computed(movedAxis(forward, 0, n.axis(outAxes[k] ?? 0, typeOf(result).shape.length)));
  });
}

/**
 * Scan of opset 8, for every entry of the batch: states have the batch as their axis 0, what is scanned as axis 0 and the
 * steps as axis 1. Written as a scan over the batch whose body is the scan over the steps.
 */
function runBatches(n: Node, g: OnnxGraph, scope: Scope, reading: Reading, count: number): Item[] {
  const back = n.intList('directions') ?? [];
  n.finish();
  const operands = n.items.slice(1).map((_, i) => n.value(i + 1));
  const carried = operands.length - count;
  if (count < 1 || carried < 0)
    n.fail(`num_scan_inputs is ${count} for ${operands.length} operands`, undefined, 'attribute');
  const entry = (v: Value, axes: number): Item['type'] => tensor(typeOf(v).dtype, typeOf(v).shape.slice(axes));
  const types = operands.map((v, i) => entry(v, i < carried ? 1 : 2));
  const body = bodyOf(g, scope, reading, types);
  const lens = n.optional(0);
  const steps = typeOf(operands[carried]!).shape[1]!;
  const { states, results, timed, ends } = untilEnd(body, carried, lens);
  const own = operands.map((v, i) => argument(`entry${i}`, entry(v, 1)));
  const captured = body.captures.map((c, i) => argument(`captured${i}`, typeOf(c.inner)));
  const time = timed ? [iota([], { axis: 0, shape: [steps], dtype: typeOf(timed).dtype })] : [];
  const end = ends ? [argument('end', typeOf(ends))] : [];
  const xs = own.slice(carried).map((x, i) => (back[i] === 1 ? flipped(x) : x));
  const inner = scan([...own.slice(0, carried), ...xs, ...time, ...captured, ...end], {
    body: graph(
      'step',
      [...body.inputs, ...(timed ? [timed] : []), ...body.captures.map((c) => c.inner), ...(ends ? [ends] : [])],
      [...states, ...results].map((v, i) => [`out${i}`, v] as const),
    ),
    carried,
    closed: captured.length + end.length,
  });
  const value = scan([...operands, ...(lens ? [lens] : []), ...body.captures.map((c) => c.outer.value())], {
    body: graph(
      'entry',
      [...own, ...end, ...captured],
      projectAll(inner).map((v, i) => [`out${i}`, v] as const),
    ),
    carried: 0,
    closed: captured.length,
  });
  return projectAll(value).map(computed);
}

/** The results of a body whose states stay as they are from the end of an entry on, and what says where it ends. */
function untilEnd(
  body: Body,
  carried: number,
  lens: Value | undefined,
): { states: Value[]; results: Value[]; timed: Value | undefined; ends: Value | undefined } {
  const [states, results] = [body.results.slice(0, carried), body.results.slice(carried)].map((list) =>
    list.map((item) => item.value()),
  ) as [Value[], Value[]];
  if (!lens) return { states, results, timed: undefined, ends: undefined };
  const one = tensor(typeOf(lens).dtype, []);
  const [timed, ends] = [argument('time', one), argument('ends', one)];
  const alive = less([timed, ends]);
  return { states: states.map((v, i) => select([alive, v, body.inputs[i]!])), results, timed, ends };
}

/** `x` with one axis at another place, the others in order. */
function movedAxis(x: Value, from: number, to: number): Value {
  if (from === to) return x;
  const perm = typeOf(x).shape.map((_, i) => i);
  const rest = perm.toSpliced(from, 1);
  return transpose([x], { perm: rest.toSpliced(to, 0, from) });
}
/** Axis 0 from the last position to the first. */
function flipped(x: Value): Value {
  const { shape } = typeOf(x);
  return slice([x], {
    starts: shape.map((d, i) => (i === 0 ? dim(sub(asExpr(d), 1)) : 0)),
    stops: shape.map((d, i) => (i === 0 ? -1 : d)),
    steps: shape.map((_, i) => (i === 0 ? -1 : 1)),
  });
}

type Control = (n: Node, scope: Scope, reading: Reading) => Item[];
const CONTROL: Readonly<Record<string, Control>> = {
  If: runIf,
  Loop: runLoop,
  Scan: runScan,
  SequenceMap: (n, scope, reading) => {
    const body = n.graph('body');
    n.finish();
    return mapped(n, (inputs) => reading.subgraph(body, new Scope(scope, 'inline', scope.opsets), inputs));
  },
  'ai.onnx.preview:FlexAttention': flexAttention,
};

/** How that operator is read if it has subgraphs; undefined for all others. */
export function controlOf(domain: string, op: string): Control | undefined {
  const key = domain === '' ? op : `${domain}:${op}`;
  return Object.hasOwn(CONTROL, key) ? CONTROL[key] : undefined;
}
