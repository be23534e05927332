/**
 * Steps of loops that nobody needs are not run: those whose results are not read and that no step after them builds on, and
 * those that change no state. Where lengths that come at run time say which, their number is counted when the program runs.
 * Recurrent layers are written out as loops where that can help.
 */

import { solve, toExpr } from '../ir/affine.ts';
import { countedSize, symbolsIn } from '../ir/counts.ts';
import type { Sym } from '../ir/expr.ts';
import { type Graph, graphValues, typeOf, type Value } from '../ir/graph.ts';
import {
  and,
  coordinate,
  type IndexSet,
  isAll,
  isMentioned,
  isNone,
  NONE,
  or,
  replace,
  where,
  whereNot,
} from '../ir/index-set.ts';
import { makeValue } from '../ir/op.ts';
import { counted } from '../ir/ops/counted.ts';
import { add, less, minimum, select } from '../ir/ops/elementwise.ts';
import { reduceMax } from '../ir/ops/reduce.ts';
import { concat, expand, iota, reshape, sliceAxis } from '../ir/ops/shape.ts';
import { project, scalar } from '../ir/ops/structural.ts';
import { printDim } from '../ir/print.ts';
import * as s from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, type Dim, dim, elements as elementsIn, sameDim, sizeAt } from '../ir/type.ts';
import { Demand } from './demand.ts';
import { uniformOf } from './facts.ts';
import type { Pass, PassContext } from './pass.ts';
import { mapAllBodies, readersOf, replaceValues } from './rewrite.ts';
import { RowIds } from './row-ids.ts';
import { ENTRY, ROW } from './row-sets.ts';
import { outward, partsOf } from './scan-demand.ts';

/** Multiply-accumulates of a step that pay for moving one element of what it gives. */
const WORTH = 4;
const RECURRENT = new Set(['lstm', 'gru', 'rnn']);
const LOOPS = new Set(['scan', 'loop']);

export const dropSteps: Pass = {
  name: 'drop-steps',
  doc: 'Steps of loops that nobody needs are not run: legal because no output depends on them, see demand.ts.',
  run: (graph, cx) => dropped(graph, cx, namesIn(graph)),
};

/** @param names of sizes; undefined within a loop, where none may be counted that the graph around it would have to name */
function dropped(graph: Graph, cx: PassContext, names: Set<string> | undefined): Graph {
  const inner = mapAllBodies(graph, (body) => dropped(body, cx, undefined));
  const current = writtenOut(inner, cx);
  if (!graphValues(current).some(({ op }) => LOOPS.has(op.name))) return inner;
  const demand = new Demand(current, { strictNaN: cx.masks?.strictNaN });
  const replaced = new Map<Value, Value>();
  for (const v of graphValues(current).filter(({ op }) => LOOPS.has(op.name)))
    for (const [from, to] of v.op.name === 'loop' ? endedSooner(v, demand, cx) : shortened(v, demand, names, cx))
      replaced.set(from, to);
  return replaced.size > 0 ? replaceValues(current, replaced) : inner;
}

/** Recurrent layers of uneven length, or of which not all is read, as loops. */
function writtenOut(graph: Graph, cx: PassContext): Graph {
  const layers = graphValues(graph).filter((v) => RECURRENT.has(v.op.name));
  if (layers.length === 0) return graph;
  const demand = new Demand(graph, { strictNaN: cx.masks?.strictNaN });
  const replaced = new Map<Value, Value>();
  for (const v of layers) {
    const parts = graphValues(graph).filter((x) => x.op.name === 'get' && x.inputs[0] === v);
    const { lower } = v.op;
    const types = v.type.kind === 'tuple' ? v.type.items : [];
    const isUneven = v.inputs.length > v.op.inputs.filter((name) => !name.endsWith('?')).length;
    const y = parts.find((x) => Number(x.attrs.index) === 0);
    const isPart = y !== undefined && !isAll(demand.of(y), types[0]!.shape);
    if (lower.kind !== 'decompose' || (!isUneven && !isPart)) continue;
    const made = lower.build(v.inputs, v.attrs);
    const results = Array.isArray(made) ? (made as readonly Value[]) : [made as Value];
    for (const x of parts) replaced.set(x, results[Number(x.attrs.index)]!);
  }
  return replaced.size > 0 ? replaceValues(graph, replaced) : graph;
}

/** Steps that are run: from … to − 1 of those there are, or as many, from the first, as a value says when it runs. */
type Steps =
  | { readonly kind: 'fixed'; readonly from: Dim; readonly to: Dim }
  | { readonly kind: 'counted'; readonly needed: IndexSet; readonly batch: Dim | undefined };

/** The results of a scan that runs fewer steps, by the values that stand for them; none where all steps are needed. */
function shortened(
  scan: Value,
  demand: Demand,
  names: Set<string> | undefined,
  cx: PassContext,
): (readonly [Value, Value])[] {
  const { graph } = demand;
  const { steps, carried, operands } = partsOf(scan);
  const results = resultsOf(scan, graph);
  const needs = new Needs(scan, results, demand);
  const found = needs.steps();
  if (!found || !pays(scan, carried)) return [];
  if (found.kind === 'counted' && (!names || dependsOn(demand.elements.valuesOf(found.needed), scan))) return [];
  if (cx.mayRewrite && !cx.mayRewrite()) return [];
  const { cut, count } = cutter(found, steps, demand, names ?? new Set());
  const inputs = scan.inputs.map((x, n) => (n < carried || n >= operands ? x : cut(x)));
  const made = makeValue(scan.op, inputs, scan.attrs, scan);
  const from = found.kind === 'fixed' ? found.from : 0;
  const behind = dim(s.sub(asExpr(steps), s.add(asExpr(from), count)));
  cx.remark('applied', scan, `${printDim(count)} of ${printDim(steps)} steps are run: nothing needs the others`);
  return results.map(([value, index]) => {
    const part = made.type.kind === 'tuple' ? project(made, index, value) : made;
    if (index < carried) return [value, part];
    const fill = scalar(needs.fillOf(index), typeOf(value).dtype);
    const pad = (n: Dim): Value[] =>
      dim(n) === 0 ? [] : [expand([fill], { shape: [n, ...typeOf(value).shape.slice(1)] })];
    return [value, concat([...pad(from), part, ...pad(behind)], { axis: 0 })];
  });
}

/** The results of a loop whose last trips give nothing that is read; none where a state at its end is. */
function endedSooner(loop: Value, demand: Demand, cx: PassContext): (readonly [Value, Value])[] {
  const [trips, condition, ...operands] = loop.inputs as [Value, Value, ...Value[]];
  const { carried, maxTrips } = loop.attrs as { carried: number; maxTrips: Dim };
  const results = resultsOf(loop, demand.graph);
  if (results.some(([v, index]) => index < carried && !isNone(demand.of(v)))) return [];
  const last = lastRead(results.map(([v]) => demand.of(v)));
  if (typeof maxTrips !== 'number' || typeof last !== 'number' || last >= maxTrips) return [];
  if (cx.mayRewrite && !cx.mayRewrite()) return [];
  const sooner = minimum([trips, scalar(last, 'i64')]);
  const made = makeValue(loop.op, [sooner, condition, ...operands], { ...loop.attrs, maxTrips: last }, loop);
  cx.remark('applied', loop, `at most ${last} of ${maxTrips} trips are made: nothing needs the others`);
  return results.map(([value, index]) => {
    const part = made.type.kind === 'tuple' ? project(made, index, value) : made;
    if (index < carried) return [value, part];
    const { dtype, shape } = typeOf(value);
    const rest = expand([scalar(0, dtype)], { shape: [maxTrips - last, ...shape.slice(1)] });
    return [value, concat([part, rest], { axis: 0 })];
  });
}

/** Values that stand for the results of a loop, with their positions. */
function resultsOf(loop: Value, graph: Graph): (readonly [Value, number])[] {
  if (loop.type.kind !== 'tuple') return [[loop, 0]];
  return graphValues(graph).flatMap((v) =>
    v.op.name === 'get' && v.inputs[0] === loop ? [[v, Number(v.attrs.index)] as const] : [],
  );
}

const usual = (d: Dim): number => sizeAt(d, (e) => (e.arg as Sym).default);

/** Whether the steps are worth more than putting what they give beside what is there instead of the others. */
function pays(scan: Value, carried: number): boolean {
  const { steps } = partsOf(scan);
  const types = scan.type.kind === 'tuple' ? scan.type.items : [typeOf(scan)];
  const moved = types.slice(carried).reduce((sum, { shape }) => sum + usual(elementsIn(shape.slice(1))), 0);
  const macs = usual(scan.op.macs!(scan.inputs.map(typeOf), scan.attrs, scan.type)) / Math.max(1, usual(steps));
  return macs >= moved * WORTH;
}

function dependsOn(values: Iterable<Value>, on: Value): boolean {
  const seen = new Set<Value>();
  const stack = [...values];
  for (let v = stack.pop(); v; v = stack.pop()) {
    if (v === on) return true;
    if (seen.has(v)) continue;
    seen.add(v);
    stack.push(...v.inputs);
  }
  return false;
}

function cutter(
  found: Steps,
  steps: Dim,
  demand: Demand,
  names: Set<string>,
): { readonly cut: (x: Value) => Value; readonly count: Dim } {
  if (found.kind === 'fixed') {
    const { from, to } = found;
    return { cut: (x) => sliceAxis(x, 0, from, to), count: dim(s.sub(asExpr(to), from)) };
  }
  const { needed, batch } = found;
  const mask = new RowIds(demand.elements, (v) => v).mask(needed, steps, batch);
  const rank = typeOf(mask).shape.length;
  const line = add([iota([], { axis: 0, shape: [steps], dtype: 'i32' }), scalar(1, 'i32')]);
  const ends = rank === 1 ? line : reshape([line], { shape: [1, steps] });
  const last = reduceMax([select([mask, ends, scalar(0, 'i32')])], { axes: rank === 1 ? [0] : [0, 1] });
  // The largest of no rows is no number of steps.
  const most = select([less([last, scalar(0, 'i32')]), scalar(0, 'i32'), last]);
  const size = countedSize(freshName(names), steps);
  return { cut: cutAbove(demand.graph, (x) => counted([x, most], { axis: 0, size })), count: size };
}

/** Cuts what a value is computed from, as long as nobody else reads that and it is computed step by step. */
function cutAbove(graph: Graph, cut: (x: Value) => Value): (x: Value) => Value {
  const readers = readersOf(graph);
  const outputs = new Set(graph.outputs.values());
  const above = (x: Value): Value => {
    const { op, inputs, attrs } = x;
    const roles = op.axes?.(inputs.map(typeOf), attrs);
    const hasSizes = Object.values(op.attrs).some((a) => a.kind === 'dim' || a.kind === 'graph');
    const isOwn = (readers.get(x)?.length ?? 0) === 1 && !outputs.has(x) && x.type.kind === 'tensor';
    if (!roles || hasSizes || !isOwn || op.name === 'get' || op.name === 'counted') return cut(x);
    const along = roles.map((own) => own.indexOf(0));
    if (!along.includes(0) || along.some((axis) => axis > 0)) return cut(x);
    return makeValue(
      op,
      inputs.map((v, n) => (along[n] === 0 ? above(v) : v)),
      attrs,
      x,
    );
  };
  return above;
}

/** The names of all sizes of a graph, bodies included. */
const namesIn = (graph: Graph): Set<string> =>
  new Set([...graph.inputs, ...graphValues(graph)].flatMap((v) => [...symbolsIn(v)]).map((e) => (e.arg as Sym).name));

/** A name that no size of the graph has. */
function freshName(taken: Set<string>): string {
  let name = 'steps_run';
  for (let n = 2; taken.has(name); n++) name = `steps_run_${n}`;
  taken.add(name);
  return name;
}

/** Which steps a scan must run. */
class Needs {
  readonly #scan: Value;
  readonly #demand: Demand;
  readonly #read: ReadonlyMap<number, IndexSet>;

  constructor(scan: Value, results: readonly (readonly [Value, number])[], demand: Demand) {
    this.#scan = scan;
    this.#demand = demand;
    this.#read = new Map(results.map(([v, index]) => [index, demand.of(v)]));
  }

  steps(): Steps | undefined {
    const { body, carried, steps } = partsOf(this.#scan);
    const reverse = this.#scan.attrs.reverse === true;
    const outputs = [...body.outputs.values()];
    const finals = outputs.some((_, n) => n < carried && !isNone(this.#of(n)));
    const stacks = outputs.flatMap((_, n) => (n < carried ? [] : [this.#stack(n)]));
    if (reverse && !finals) {
      const first = this.#least(stacks);
      if (first !== undefined) return { kind: 'fixed', from: first, to: steps };
    }
    // Steps behind the last that is needed: nobody may look at the states that they leave, or they leave them as they are.
    const states = finals || reverse ? this.#active() : [];
    if (!states) return undefined;
    return this.#upTo([...stacks, ...states]);
  }

  /** What stands in the rows of a stack whose steps are not run. */
  fillOf(index: number): number {
    const { body } = partsOf(this.#scan);
    return this.#chosen([...body.outputs.values()][index]!)?.fill ?? 0;
  }

  #of = (index: number): IndexSet => this.#read.get(index) ?? NONE;

  /** The elements of a stack that are read and are not what stands there anyway. */
  #stack(index: number): IndexSet {
    const read = this.#of(index);
    const { body } = partsOf(this.#scan);
    const chosen = isNone(read) ? undefined : this.#chosen([...body.outputs.values()][index]!);
    return chosen ? and(read, chosen.when) : read;
  }

  /** `select(c, x, constant)` as the elements, outside, where it is x. */
  #chosen(v: Value): { readonly when: IndexSet; readonly fill: number } | undefined {
    if (v.op.name !== 'select') return undefined;
    for (const side of [2, 1] as const) {
      const fill = uniformOf(v.inputs[side]!);
      if (fill !== undefined) return { when: this.#condition(v, side === 2), fill };
    }
    return undefined;
  }

  /** For each state where a step changes it; undefined where nobody knows. */
  #active(): IndexSet[] | undefined {
    const { body, carried } = partsOf(this.#scan);
    const found: IndexSet[] = [];
    for (const [n, v] of [...body.outputs.values()].slice(0, carried).entries()) {
      const before = body.inputs[n]!;
      if (v === before) continue;
      const side = v.op.name === 'select' ? v.inputs.indexOf(before) : -1;
      if (side < 1) return undefined;
      found.push(this.#condition(v, side === 2));
    }
    return found;
  }

  /** Where the condition of a `select` in the body holds, or does not, over the step and the axes of the value. */
  #condition(v: Value, holds: boolean): IndexSet {
    const c = v.inputs[0]!;
    const { shape } = typeOf(c);
    const skip = typeOf(v).shape.length - shape.length;
    const at = shape.map((d, n) => (dim(d) === 1 ? s.literal(0) : coordinate(n + skip)));
    const e = this.#demand.elements.element(c, at);
    return outward(holds ? where(e) : whereNot(e), this.#scan, this.#demand.elements);
  }

  /** The first step that any of the sets is about, where sizes say which. */
  #least(sets: readonly IndexSet[]): Dim | undefined {
    const { steps } = partsOf(this.#scan);
    let least: Dim | undefined;
    for (const term of sets.flatMap((set) => set.terms)) {
      const bounds = term.flatMap((l) => {
        const bound = l.kind === 'le' ? solve(l.form, coordinate(0)) : undefined;
        const isSize = bound?.side === 'lower' && [...bound.value.terms.keys()].every((e) => e.op === 'sym');
        return bound && isSize ? [dim(s.max(toExpr(bound.value, 'i32'), 0))] : [];
      });
      const [first] = bounds;
      if (first === undefined) return undefined;
      least = least === undefined ? first : dim(s.min(asExpr(least), first));
    }
    if (least === undefined) return undefined;
    const inside = dim(s.min(asExpr(least), steps));
    return boundsOf(asExpr(inside))[0] > 0 ? inside : undefined;
  }

  /** Steps up to the last that any of the sets is about. */
  #upTo(sets: readonly IndexSet[]): Steps | undefined {
    const { steps } = partsOf(this.#scan);
    const most = lastRead(sets);
    if (most !== undefined) {
      const to = dim(s.min(asExpr(most), steps));
      return sameDim(to, steps) ? undefined : { kind: 'fixed', from: 0, to };
    }
    return this.#counted(sets);
  }

  /** The same where lengths that come at run time bound the steps of every set. */
  #counted(sets: readonly IndexSet[]): Steps | undefined {
    const { steps } = partsOf(this.#scan);
    const shapes = this.#scan.type.kind === 'tuple' ? this.#scan.type.items : [typeOf(this.#scan)];
    const { shape } = shapes.reduce((a, b) => (b.shape.length > a.shape.length ? b : a));
    const parts = sets.filter((set) => !isNone(set));
    const axes = new Set(
      parts.flatMap((set) =>
        Array.from({ length: 11 }, (_, n) => n + 1).filter((n) => isMentioned(set, coordinate(n))),
      ),
    );
    const [batch, ...others] = [...axes];
    if (others.length > 0) return undefined;
    for (const term of parts.flatMap((set) => set.terms))
      if (!term.some((l) => l.kind === 'le' && solve(l.form, coordinate(0))?.side === 'upper')) return undefined;
    const entries = batch === undefined ? undefined : this.#extent(batch, shape);
    if (batch !== undefined && entries === undefined) return undefined;
    const needed = replace(or(NONE, ...parts), (leaf) =>
      leaf === coordinate(0) ? ROW : batch !== undefined && leaf === coordinate(batch) ? ENTRY : undefined,
    );
    return isAll(needed, [entries ?? 1, steps]) ? undefined : { kind: 'counted', needed, batch: entries };
  }

  /** The size of an axis that stacks have, and states one place earlier. */
  #extent(axis: number, shape: readonly Dim[]): Dim | undefined {
    const { carried, body } = partsOf(this.#scan);
    const sizes = [...body.outputs.values()].flatMap((v, n) => {
      const own = typeOf(v).shape[axis - 1];
      return own === undefined || (n >= carried && isNone(this.#of(n))) ? [] : [own];
    });
    const [size = shape[axis]] = sizes;
    return size !== undefined && sizes.every((d) => sameDim(d, size)) ? size : undefined;
  }
}

/** How many steps there are up to the last that any of the sets is about, where sizes say so. */
function lastRead(sets: readonly IndexSet[]): Dim | undefined {
  let most: Dim = 0;
  for (const term of sets.flatMap((set) => set.terms)) {
    const bounds = term.flatMap((l) => {
      const bound = l.kind === 'le' ? solve(l.form, coordinate(0)) : undefined;
      const isSize = bound?.side === 'upper' && [...bound.value.terms.keys()].every((e) => e.op === 'sym');
      return bound && isSize ? [dim(s.max(s.add(toExpr(bound.value, 'i32'), 1), 0))] : [];
    });
    const [first] = bounds;
    if (first === undefined) return undefined;
    most = dim(s.max(asExpr(most), first));
  }
  return most;
}
