/**
 * Sizes that a graph counts while it runs. A `counted` value gives such a size its name; everything else may mention it
 * as it mentions any other size, in the same graph and in the bodies inside.
 */
import { type Expr, exprNodes, type Sym } from './expr.ts';
import { type AttrValue, type Graph, graphValues, isGraph, type Value } from './graph.ts';
import { symbol } from './scalar.ts';
import { boundsOf } from './simplify.ts';
import { asExpr, type Dim, sizeAt } from './type.ts';

/** A size that is counted at run time. */
export interface CountedSize {
  /** The name of the size; a number where it was fixed when the model was compiled, and is only checked. */
  readonly size: Dim;
  /** How many: one i32. */
  readonly count: Value;
  /** Most that can be: the extent of what is counted. */
  readonly capacity: Dim;
  /** Whether it must be as many. */
  readonly all: boolean;
}

const LARGEST = 2 ** 31 - 1;

/**
 * A new name for a size that is counted at run time.
 *
 * @param name must be unique in the model
 * @param capacity most that can be; usual counts (of work, not of results) assume that many
 */
export function countedSize(name: string, capacity: Dim, { min = 0 }: { readonly min?: number } = {}): Expr {
  const max = Math.min(boundsOf(asExpr(capacity))[1], LARGEST);
  const usual = sizeAt(capacity, (s) => (s.arg as { readonly default: number }).default);
  return symbol(name, { min, max, default: Math.min(Math.max(usual, min), max), counted: true });
}

const found = new WeakMap<Graph, readonly CountedSize[]>();

/** The sizes that the values of a graph count, bodies left out; several values may count one size by one value. */
export function countedIn(g: Graph): readonly CountedSize[] {
  let list = found.get(g);
  if (!list) {
    list = graphValues(g).flatMap((v): CountedSize[] => (v.op.name === 'counted' ? [countedBy(v)] : []));
    found.set(g, list);
  }
  return list;
}

/**
 * Sizes by name, with those that are counted at run time, where they are not among the given, at the most that they can be.
 *
 * @param sizes of symbols by name; a symbol that is not named takes its default
 */
export function withCapacities(
  counted: readonly CountedSize[],
  sizes: Readonly<Record<string, number>>,
): Readonly<Record<string, number>> {
  const all: Record<string, number> = { ...sizes };
  const bind = (e: { readonly arg: unknown }): number => {
    const { name, default: usual } = e.arg as Sym;
    return all[name] ?? usual;
  };
  for (const { size, capacity } of counted) {
    if (typeof size === 'number' || size.op !== 'sym') continue;
    const { name, min, max } = size.arg as Sym;
    all[name] ??= Math.min(Math.max(sizeAt(capacity, bind), min), max);
  }
  return all;
}

/** @param v a value of op `counted` */
export function countedBy(v: Value): CountedSize {
  const [x, count] = v.inputs as [Value, Value];
  if (x.type.kind === 'tuple') throw new TypeError('counted reads a value with several results');
  const axis = Number(v.attrs.axis);
  return { size: v.attrs.size as Dim, count, capacity: x.type.shape.at(axis)!, all: v.attrs.all === true };
}

/** The symbols in the types and attributes of a value, bodies included. */
export function symbolsIn(v: Value): ReadonlySet<Expr> {
  const symbols = new Set<Expr>();
  const expr = (e: Expr): void => {
    for (const part of exprNodes(e)) if (part.op === 'sym') symbols.add(part);
  };
  const type = (value: Value): void => {
    for (const { shape } of value.type.kind === 'tuple' ? value.type.items : [value.type])
      for (const d of shape) if (typeof d !== 'number') expr(d);
  };
  const attr = (a: AttrValue): void => {
    if (typeof a !== 'object') return;
    if (Array.isArray(a)) for (const item of a as readonly AttrValue[]) attr(item);
    else if (isGraph(a)) for (const inner of [...a.inputs, ...graphValues(a)]) all(inner);
    else if ('lanes' in a) expr(a as Expr);
  };
  const all = (value: Value): void => {
    type(value);
    for (const a of Object.values(value.attrs)) attr(a);
  };
  all(v);
  return symbols;
}

/** For each value the counts that must be known before it: those of the sizes that it mentions. */
export function countsBefore(g: Graph): (v: Value) => readonly Value[] {
  const counts = new Map<Dim, Value>(countedIn(g).map(({ size, count }) => [size, count]));
  if (counts.size === 0) return () => [];
  return (v) => [...symbolsIn(v)].flatMap((s) => counts.get(s) ?? []);
}

/** `graphValues`, with every value behind the counts of the sizes that it mentions. */
export function executionOrder(g: Graph): readonly Value[] {
  const all = graphValues(g);
  if (countedIn(g).length === 0) return all;
  const before = countsBefore(g);
  const order = new Set<Value>();
  const open = new Set<Value>();
  const stack: Value[] = [];
  for (const root of all) {
    stack.push(root);
    while (stack.length > 0) {
      const v = stack.at(-1)!;
      const missing = order.has(v) ? [] : [...v.inputs, ...before(v)].filter((x) => !order.has(x));
      if (missing.length > 0 && !open.has(v)) {
        open.add(v);
        stack.push(...missing.reverse());
        continue;
      }
      // What is still missing here waits for `v` itself: the verifier refuses it.
      order.add(v);
      stack.pop();
    }
  }
  return [...order];
}
