/** Attribute schemas: what an op may be told, its default, and a sentence about it. */

import type { AttrKind, AttrSpec, AttrValue, Graph } from './core.ts';
import { isScalar, type Scalar } from './dtype.ts';
import type { Expr } from './expr.ts';

import type { Nd } from './nd.ts';
import type { Dim } from './type.ts';

export type { AttrArgs, AttrKind, AttrSpec, AttrSpecs, AttrsOf } from './core.ts';

const spec = <T extends AttrValue, D extends boolean>(
  kind: AttrKind,
  list: boolean,
  doc: string,
  optional: D,
  value?: T,
  choices?: readonly string[],
): AttrSpec<T, D> => ({ kind, list, doc, optional, default: value, choices });

/** A required attribute: `attr.ints('axes to sum over')`. */
export const attr = {
  int: (doc: string) => spec<number, false>('int', false, doc, false),
  float: (doc: string) => spec<number, false>('float', false, doc, false),
  bool: (doc: string) => spec<boolean, false>('bool', false, doc, false),
  string: (doc: string) => spec<string, false>('string', false, doc, false),
  oneOf: <const C extends readonly string[]>(choices: C, doc: string) =>
    spec<C[number], false>('string', false, doc, false, undefined, choices),
  dtype: (doc: string) => spec<Scalar, false>('dtype', false, doc, false),
  dim: (doc: string) => spec<Dim, false>('dim', false, doc, false),
  expr: (doc: string, coords?: Readonly<Record<string, Expr>>) => ({
    ...spec<Expr, false>('expr', false, doc, false),
    coords,
  }),
  graph: (doc: string) => spec<Graph, false>('graph', false, doc, false),
  tensor: (doc: string) => spec<Nd, false>('tensor', false, doc, false),
  ints: (doc: string) => spec<readonly number[], false>('int', true, doc, false),
  floats: (doc: string) => spec<readonly number[], false>('float', true, doc, false),
  dims: (doc: string) => spec<readonly Dim[], false>('dim', true, doc, false),
} as const;

/** The same with a default; `undefined` means absent. */
export const opt = {
  int: (value: number, doc: string) => spec<number, true>('int', false, doc, true, value),
  float: (value: number, doc: string) => spec<number, true>('float', false, doc, true, value),
  bool: (value: boolean, doc: string) => spec<boolean, true>('bool', false, doc, true, value),
  string: (value: string, doc: string) => spec<string, true>('string', false, doc, true, value),
  oneOf: <const C extends readonly string[]>(choices: C, value: C[number], doc: string) =>
    spec<C[number], true>('string', false, doc, true, value, choices),
  ints: (value: readonly number[], doc: string) => spec<readonly number[], true>('int', true, doc, true, value),
  expr: (doc: string, coords?: Readonly<Record<string, Expr>>) => ({
    ...spec<Expr | undefined, true>('expr', false, doc, true, undefined),
    coords,
  }),
  dim: (doc: string) => spec<Dim | undefined, true>('dim', false, doc, true, undefined),
  float_: (doc: string) => spec<number | undefined, true>('float', false, doc, true, undefined),
} as const;

/** Why `value` does not fit `schema`; undefined when it does. */
export function attrProblem(schema: AttrSpec, value: AttrValue): string | undefined {
  if (value === undefined) return schema.optional && schema.default === undefined ? undefined : 'is missing';
  if (schema.list) {
    if (!Array.isArray(value)) return `must be a list of ${schema.kind}`;
    for (const item of value as readonly AttrValue[]) {
      const problem = itemProblem(schema, item);
      if (problem) return `: each item ${problem}`;
    }
    return undefined;
  }
  return itemProblem(schema, value);
}

function itemProblem(schema: AttrSpec, value: AttrValue): string | undefined {
  const has = (kind: string): boolean =>
    typeof value === 'object' && value !== null && 'kind' in value && value.kind === kind;
  const isExpr = typeof value === 'object' && value !== null && 'op' in value && 'lanes' in value;
  switch (schema.kind) {
    case 'int':
      return Number.isSafeInteger(value) ? undefined : 'must be a whole number';
    case 'float':
      return typeof value === 'number' ? undefined : 'must be a number';
    case 'bool':
      return typeof value === 'boolean' ? undefined : 'must be true or false';
    case 'dtype':
      return typeof value === 'string' && isScalar(value) ? undefined : 'must be an element type';
    case 'string':
      if (typeof value !== 'string') return 'must be a string';
      return !schema.choices || schema.choices.includes(value)
        ? undefined
        : `must be one of ${schema.choices.join(', ')}`;
    case 'dim':
      return Number.isSafeInteger(value) || isExpr ? undefined : 'must be a size';
    case 'expr':
      return isExpr ? undefined : 'must be an expression';
    case 'graph':
      return has('graph') ? undefined : 'must be a graph';
    case 'tensor':
      return typeof value === 'object' && value !== null && 'data' in value ? undefined : 'must be a constant tensor';
  }
}
