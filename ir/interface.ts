/**
 * What the users of a model say about its interface: which rows of outputs they read, and what they promise of inputs. For
 * models that were written without: files of other frameworks, models of the zoo.
 */
import { fail, type Loc } from './diagnostic.ts';
import { isInt } from './dtype.ts';
import { type Graph, graphValues, graph as makeGraph, typeOf, type Value } from './graph.ts';
import type { Model } from './model.ts';
import { makeValue } from './op.ts';
import { coords, scoreTerm } from './ops/attention.ts';
import { add, cast, greaterEqual, less, select } from './ops/elementwise.ts';
import { places } from './ops/rows.ts';
import { reshape } from './ops/shape.ts';
import { project, scalar } from './ops/structural.ts';
import { printType } from './print.ts';
import { eq, index, literal, sub } from './scalar.ts';
import { didYouMean } from './suggest.ts';
import { type Dim, dim, type Shape, sameDim } from './type.ts';

/** Which rows of an output are read: the first, the last, one of a number (negative: from the end), or those that are named. */
export type ReadRows = 'cls' | 'last' | number | Value;

/** Which rows of an output are read, in words: by number, or those for which an input is not 0. */
export type Observation =
  | { readonly rows: 'cls' | 'last' | number; readonly axis?: number | undefined }
  | { readonly where: string; readonly axis?: number | undefined };

/** What is promised of an input: see `ir/promises.ts`. */
export interface Declaration {
  readonly binary?: boolean | undefined;
  readonly count?: Dim | 'any' | undefined;
  readonly atLeast?: number | undefined;
}

export interface Interface {
  /** By output. */
  readonly observe?: Readonly<Record<string, Observation>> | undefined;
  /** By input. */
  readonly declare?: Readonly<Record<string, Declaration>> | undefined;
}

/**
 * A value of which only some rows are read, the others being zeros.
 *
 * @param read bool, true for what is read: leading axes of the value, axes of size 1 stretch
 */
export function observed(x: Value, read: Value, loc?: Loc): Value {
  const { shape } = typeOf(x);
  const own = typeOf(read).shape;
  const wide = reshape([read], { shape: [...own, ...Array<number>(shape.length - own.length).fill(1)] });
  return select([wide, x, scalar(0, typeOf(x).dtype)], {}, { loc });
}

/** Which rows of an axis are read: bool [1 or B, 1, …, N]. */
export function readRows(rows: ReadRows, shape: Shape, axis: number): Value {
  const size = shape[axis]!;
  const lead = (batch: Dim): Dim[] =>
    Array.from({ length: axis + 1 }, (_, n) => (n === axis ? size : n === 0 ? batch : 1));
  if (rows === 'cls' || rows === 'last' || typeof rows === 'number') {
    const n = rows === 'cls' ? 0 : rows === 'last' ? -1 : rows;
    const row = n < 0 ? sub(index(size), -n) : literal(n);
    return reshape([scoreTerm([], { expr: eq(coords.k, row), shape: [1, 1, 1, size] })], { shape: lead(1) });
  }
  const numbers = cast([rows], { to: 'i32' });
  const length = reshape([scoreTerm([], { expr: index(size), shape: [1, 1, 1, 1] })], { shape: [] });
  const ids = select([less([numbers, scalar(0, 'i32')]), add([numbers, length]), numbers]);
  const named = greaterEqual([places([ids], { size }), scalar(0, 'i32')]);
  const { shape: own } = typeOf(rows);
  return reshape([named], { shape: lead(own.length === 2 ? own[0]! : 1) });
}

/**
 * The model with what its users say of its interface, in every entry that has the outputs and inputs.
 *
 * @throws CompileError `name` for outputs and inputs that no entry has, `range` for rows beyond the output, `rank` or `shape`
 *   where a mask does not fit an output, `attribute` for promises that do not suit an input
 */
export function withInterface<M extends Model>(model: M, { observe = {}, declare = {} }: Interface): M {
  if (Object.keys(observe).length === 0 && Object.keys(declare).length === 0) return model;
  const graphs = Object.values(model.entries);
  const names = (of: (g: Graph) => Iterable<string>): Set<string> => new Set(graphs.flatMap((g) => [...of(g)]));
  requireKnown(
    model,
    'output',
    Object.keys(observe),
    names((g) => g.outputs.keys()),
  );
  requireKnown(model, 'input', Object.keys(declare), names(inputNames));
  const entries = Object.fromEntries(
    Object.entries(model.entries).map(([key, g]) => [key, withObserved(withDeclared(g, declare), observe)]),
  );
  return { ...model, entries };
}

const inputNames = (g: Graph): string[] => g.inputs.map((v) => String(v.attrs.name));

function requireKnown({ name }: Model, what: string, wanted: readonly string[], known: ReadonlySet<string>): void {
  for (const each of wanted)
    if (!known.has(each))
      fail('name', `model ${name} has no ${what} "${each}"`, {
        help: didYouMean(each, known) ?? `its ${what}s are ${[...known].join(', ') || 'none'}`,
      });
}

function withDeclared(g: Graph, declare: Readonly<Record<string, Declaration>>): Graph {
  const replaced = new Map<Value, Value>();
  for (const v of g.inputs) {
    const said = Object.hasOwn(declare, String(v.attrs.name)) ? declare[String(v.attrs.name)]! : undefined;
    if (said) replaced.set(v, declared(v, said));
  }
  if (replaced.size === 0) return g;
  for (const v of graphValues(g)) {
    const inputs = v.inputs.map((x) => replaced.get(x) ?? x);
    if (replaced.has(v) || inputs.every((x, i) => x === v.inputs[i])) continue;
    replaced.set(v, v.op.name === 'get' ? project(inputs[0]!, Number(v.attrs.index), v) : { ...v, inputs });
  }
  const now = (v: Value): Value => replaced.get(v) ?? v;
  return makeGraph(
    g.name,
    g.inputs.map(now),
    [...g.outputs].map(([name, v]) => [name, now(v)] as const),
  );
}

/** An input of which more is promised. What its user says is no longer assumed. */
export function declared(v: Value, { binary, count, atLeast }: Declaration): Value {
  const attrs = {
    ...v.attrs,
    ...(binary !== undefined && { binary, assumed: false }),
    ...(count !== undefined && { count: count === 'any' ? undefined : count }),
    ...(atLeast !== undefined && { atLeast }),
  };
  return makeValue(v.op, [], attrs, v);
}

function withObserved(g: Graph, observe: Readonly<Record<string, Observation>>): Graph {
  const outputs = [...g.outputs].map(([name, v]): readonly [string, Value] => {
    const said = Object.hasOwn(observe, name) ? observe[name]! : undefined;
    return [name, said ? observedAs(g, name, v, said) : v];
  });
  return makeGraph(g.name, g.inputs, outputs);
}

function observedAs(g: Graph, name: string, v: Value, said: Observation): Value {
  const { shape } = typeOf(v);
  const { axis = 1 } = said;
  const what = `output "${name}"`;
  if (!Number.isInteger(axis) || axis < 0 || axis >= shape.length)
    fail('rank', `${what} has rank ${shape.length}, and no axis ${axis} of rows`);
  if ('rows' in said) {
    const size = shape[axis]!;
    const row = typeof said.rows === 'number' ? said.rows : 0;
    const most = typeof size === 'number' ? size : Number.POSITIVE_INFINITY;
    if (!Number.isInteger(row) || row >= most || -row > most)
      fail('range', `${what} has ${most} rows, and no row ${row}`, {
        help: 'rows count from 0, or from the end with −1',
      });
    return observed(v, readRows(said.rows, shape, axis), v.loc);
  }
  const mask = g.inputs.find((x) => x.attrs.name === said.where);
  if (!mask)
    return fail('name', `${what} is to be read where "${said.where}" is not 0, and there is no such input`, {
      help: didYouMean(said.where, inputNames(g)) ?? `inputs are ${inputNames(g).join(', ') || 'none'}`,
    });
  const { dtype, shape: own } = typeOf(mask);
  if (dtype !== 'bool' && !isInt(dtype))
    fail('dtype', `${what}: input "${said.where}" is ${dtype}, no mask of bools or integers`);
  if (own.length > shape.length || own.length < 1)
    fail('rank', `${what} has rank ${shape.length}, and input "${said.where}" has rank ${own.length}`);
  // A mask [B, N] says which rows of axis 1 are read; of another axis they stand behind it.
  const lead = [...own.slice(0, -1), ...Array<number>(Math.max(0, axis - own.length + 1)).fill(1), own.at(-1)!];
  const fits = lead.every((d, n) => dim(d) === 1 || sameDim(d, shape[n]!));
  if (!fits)
    fail(
      'shape',
      `${what} is ${printType(typeOf(v))}, whose rows are not those of input "${said.where}", ${printType(typeOf(mask))}`,
      {
        help: `rows are those of axis ${axis}; name an output of as many`,
      },
    );
  const bits = dtype === 'bool' ? mask : cast([mask], { to: 'bool' });
  const placed = lead.length === own.length ? bits : reshape([bits], { shape: lead.map((d) => dim(d)) });
  return observed(v, placed, v.loc);
}
