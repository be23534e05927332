/** Graphs as text: deterministic, complete, and read back by `parse.ts` to the same text. */
import type { AttrSpec } from './attr.ts';
import { type Loc, printLoc } from './diagnostic.ts';
import { isInt, roundTo, type Scalar } from './dtype.ts';
import type { Expr, Sym } from './expr.ts';
import { type AttrValue, type Graph, graphValues, isGraph, type Value } from './graph.ts';
import { BARE_FILE, IDENTIFIER, VALUE_NAME } from './lex.ts';
import type { Nd } from './nd.ts';
import { printDim, printExpr, printNumber, printType } from './print.ts';
import { symbolsOf } from './scalar.ts';
import type { Dim, ValueType } from './type.ts';

export interface PrintOptions {
  /** Whether source positions are printed; default true. */
  readonly locs?: boolean;
}

/** A graph with the declaration of its symbols, ending in a newline. */
export const printGraph = (g: Graph, options: PrintOptions = {}): string => printGraphs([g], options);

/** Several graphs below one declaration of the symbols of all. */
export function printGraphs(graphs: readonly Graph[], options: PrintOptions = {}): string {
  const symbols = new Set<Expr>();
  const bodies = graphs.map((g) => printBody(g, '', options, symbols));
  const declared = [...symbols].map((s) => printSymbol(s.arg as Sym));
  const head = declared.length > 0 ? `symbols ${declared.join(', ')}\n` : '';
  return `${head}${bodies.join('\n')}\n`;
}

/** A symbol with its range, as `symbols` declares it. */
export function printSymbol(s: Sym): string {
  const step = s.multipleOf === 1 ? '' : ` step ${s.multipleOf}`;
  const usual = s.default === s.min ? '' : ` default ${s.default}`;
  return `${s.name} in ${s.min}..${s.max}${step}${usual}${s.counted ? ' counted' : ''}`;
}

/** The name of every value with a statement or among the inputs, as printed, `%` included. */
export const valueNames = (g: Graph): ReadonlyMap<Value, string> => layout(g).names;

/** What prints where. */
interface Layout {
  /** Values that get a statement, in order. */
  readonly order: readonly Value[];
  /** Constants that print inside their readers. */
  readonly inline: ReadonlySet<Value>;
  readonly names: ReadonlyMap<Value, string>;
}

function layout(g: Graph): Layout {
  const all = graphValues(g);
  const names = ownNames(g, all);
  const inline = inlineConstants(g, all, names);
  const inputs = new Set(g.inputs);
  const order = all.filter((v) => !inline.has(v) && !inputs.has(v));
  let unnamed = 0;
  for (const value of order) if (!names.has(value)) names.set(value, `%${unnamed++}`);
  return { order, inline, names };
}

/** Inputs under the names of their keys, then values whose name is an identifier that nobody before them has. */
function ownNames(g: Graph, all: readonly Value[]): Map<Value, string> {
  const names = new Map<Value, string>();
  const taken = new Set<string>();
  for (const value of g.inputs) {
    const key = String(value.attrs.name);
    if (taken.has(key)) continue;
    taken.add(key);
    names.set(value, VALUE_NAME.test(key) ? `%${key}` : `%${JSON.stringify(key)}`);
  }
  for (const value of all) {
    const { name } = value;
    if (names.has(value) || name === undefined || !VALUE_NAME.test(name) || taken.has(name)) continue;
    taken.add(name);
    names.set(value, `%${name}`);
  }
  return names;
}

/**
 * Scalar constants without a name of their own that every reader can show as a bare number: the reader's first operand
 * that is no constant has their dtype, which is how the parser knows it.
 */
function inlineConstants(g: Graph, all: readonly Value[], names: ReadonlyMap<Value, string>): Set<Value> {
  const inline = new Set<Value>();
  for (const value of all)
    if (value.op.name === 'constant' && !names.has(value) && scalarOf(value) !== undefined) inline.add(value);
  if (inline.size === 0) return inline;
  for (const output of g.outputs.values()) inline.delete(output);
  for (const value of all) {
    const dtype = numberDtype(value.inputs);
    for (const operand of value.inputs)
      if (operand.type.kind === 'tuple' || operand.type.dtype !== dtype) inline.delete(operand);
  }
  return inline;
}

/** The dtype of bare numbers among `operands`: that of the first operand which is no constant. */
export function numberDtype(operands: readonly (Value | number)[]): Scalar | undefined {
  const first = operands.find((v): v is Value => typeof v !== 'number' && v.op.name !== 'constant');
  return first?.type.kind === 'tensor' && first.type.dtype !== 'bool' ? first.type.dtype : undefined;
}

function scalarOf(value: Value): number | undefined {
  const { shape, data } = value.attrs.value as Nd;
  return shape.length === 0 ? data[0] : undefined;
}

function printBody(g: Graph, indent: string, options: PrintOptions, symbols: Set<Expr>): string {
  const { order, inline, names } = layout(g);
  const inner = `${indent}  `;
  const loc = (l: Loc | undefined): string => (l && (options.locs ?? true) ? ` @ ${printPosition(l)}` : '');
  const use = (v: Value): string =>
    inline.has(v) ? printElement(scalarOf(v)!, (v.attrs.value as Nd).dtype) : (names.get(v) ?? '%?');
  const type = (t: ValueType): string => {
    collectTypeSymbols(t, symbols);
    return printType(t);
  };

  const sized = (d: Dim): string => {
    if (typeof d !== 'number') for (const s of symbolsOf(d)) symbols.add(s);
    return printDim(d);
  };
  const args = g.inputs.map((v) => {
    const attrs = [
      ...(v.attrs.doc ? [`doc = ${JSON.stringify(v.attrs.doc)}`] : []),
      ...(['binary', 'assumed'] as const).flatMap((word) => (v.attrs[word] === true ? [`${word} = true`] : [])),
      ...(v.attrs.count === undefined ? [] : [`count = ${sized(v.attrs.count as Dim)}`]),
      ...(v.attrs.atLeast ? [`atLeast = ${Number(v.attrs.atLeast)}`] : []),
    ].join(', ');
    return `${names.get(v) ?? '%?'}: ${type(v.type)}${attrs && ` {${attrs}}`}${loc(v.loc)}`;
  });
  const lines = [header(g.name, args, indent)];
  for (const v of order) {
    const operands = v.inputs.map(use).join(', ');
    const attrs = printAttrs(v, inner, options, symbols);
    const head = [`${names.get(v)!} =`, v.op.name, ...(operands ? [operands] : []), ...(attrs ? [attrs] : [])];
    lines.push(`${inner}${head.join(' ')} : ${type(v.type)}${loc(v.loc)}`);
  }
  const outputs = [...g.outputs].map(([name, v]) => `${printName(name)}: ${use(v)}`);
  lines.push(`${inner}return ${outputs.join(', ')}`, `${indent}}`);
  return lines.join('\n');
}

/** `graph NAME(args) {`, one argument a line where they do not fit on one. */
function header(name: string, args: readonly string[], indent: string): string {
  const line = `graph ${printName(name)}(${args.join(', ')}) {`;
  if (indent.length + line.length <= 120) return line;
  return `graph ${printName(name)}(\n${args.map((a) => `${indent}    ${a}`).join(',\n')}\n${indent}) {`;
}

const printName = (name: string): string => (IDENTIFIER.test(name) ? name : JSON.stringify(name));

function printPosition(loc: Loc): string {
  return BARE_FILE.test(loc.file) ? printLoc(loc) : printLoc({ ...loc, file: JSON.stringify(loc.file) });
}

/** Attributes that the type of the result repeats, by op. */
const FROM_TYPE: Readonly<Record<string, readonly string[]>> = { param: ['dtype', 'shape'] };

function printAttrs(value: Value, indent: string, options: PrintOptions, symbols: Set<Expr>): string {
  const shown: string[] = [];
  for (const [name, schema] of Object.entries(value.op.attrs)) {
    const attr = value.attrs[name];
    if (attr === undefined || FROM_TYPE[value.op.name]?.includes(name)) continue;
    if (schema.optional && sameAttr(attr, schema.default)) continue;
    const bare = value.op.name === 'constant';
    shown.push(`${name} = ${bare ? printElements(attr as Nd) : printAttr(attr, schema, indent, options, symbols)}`);
  }
  return shown.length > 0 ? `{${shown.join(', ')}}` : '';
}

function printAttr(
  attr: AttrValue,
  schema: AttrSpec,
  indent: string,
  options: PrintOptions,
  symbols: Set<Expr>,
): string {
  if (Array.isArray(attr))
    return `[${(attr as readonly AttrValue[]).map((a) => printAttr(a, schema, indent, options, symbols)).join(', ')}]`;
  if (typeof attr === 'string') return schema.kind === 'dtype' ? attr : JSON.stringify(attr);
  if (typeof attr === 'number') return printNumber(attr);
  if (typeof attr === 'boolean') return String(attr);
  if (isGraph(attr)) return printBody(attr, indent, options, symbols);
  if (schema.kind === 'tensor') return printTensor(attr as Nd);
  for (const s of symbolsOf(attr as Expr)) symbols.add(s);
  return schema.kind === 'dim' ? printDim(attr as Expr) : printExpr(attr as Expr);
}

/** `i32[2, 2](1, 2, 3, 4)`, `i32[2, 2](1)` */
function printTensor(value: Nd): string {
  const type = printType({ kind: 'tensor', dtype: value.dtype, shape: value.shape });
  return `${type}(${elementsOf(value).join(', ')})`;
}

/** Elements without the type: a list, or one number for a scalar and for a tensor that repeats one element. */
function printElements(value: Nd): string {
  const items = elementsOf(value);
  const single = value.shape.length === 0 || items.length < value.data.length;
  return single ? items[0]! : `[${items.join(', ')}]`;
}

/** All elements, or one when all are the same. */
function elementsOf({ data, dtype }: Nd): string[] {
  const repeats = data.length > 1 && data.every((x) => Object.is(x, data[0]));
  return Array.from(repeats ? data.subarray(0, 1) : data, (x) => printElement(x, dtype));
}

/** The shortest decimal that rounds to `x` in `dtype`. */
export function printElement(x: number, dtype: Scalar): string {
  if (dtype === 'bool') return x === 0 ? 'false' : 'true';
  if (isInt(dtype) || dtype === 'f64' || !Number.isFinite(x) || (Number.isInteger(x) && Math.abs(x) < 1e9))
    return printNumber(x);
  for (let digits = 1; digits <= 9; digits++) {
    const short = Number(x.toPrecision(digits));
    if (roundTo(dtype, short) === x) return printNumber(short);
  }
  return printNumber(x);
}

export function sameAttr(a: AttrValue, b: AttrValue): boolean {
  if (Array.isArray(a) && Array.isArray(b))
    return a.length === b.length && a.every((item: AttrValue, i) => sameAttr(item, (b as readonly AttrValue[])[i]));
  return Object.is(a, b);
}

function collectTypeSymbols(type: ValueType, symbols: Set<Expr>): void {
  if (type.kind === 'tuple') {
    for (const item of type.items) collectTypeSymbols(item, symbols);
    return;
  }
  for (const d of type.shape) if (typeof d !== 'number') for (const s of symbolsOf(d)) symbols.add(s);
}
