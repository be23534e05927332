/** Sizes fixed or narrowed when a model is compiled: symbols of its graphs replaced by numbers or smaller ranges. */
import { CompileError, fail } from '../ir/diagnostic.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { type AttrValue, type Graph, graphValues, isGraph, graph as makeGraph, type Value } from '../ir/graph.ts';
import type { Model } from '../ir/model.ts';
import { makeValue } from '../ir/op.ts';
import { project } from '../ir/ops/structural.ts';
import { promisesOf } from '../ir/promises.ts';
import { literal, substitute, symbol, symbolsOf } from '../ir/scalar.ts';
import { didYouMean } from '../ir/suggest.ts';
import { type Dim, dim } from '../ir/type.ts';

/** What a symbolic size may be: one number, or a range within the declared one. */
export type SizeBound = number | { readonly min?: number; readonly max?: number };
export type SizeBounds = Readonly<Record<string, SizeBound>>;

/** The symbols of a model by name, in order of first use. @throws CompileError `name` when two have one name */
export function symbolsOfModel(model: Model): ReadonlyMap<string, Sym> {
  const found = new Map<string, Sym>();
  for (const g of Object.values(model.entries))
    for (const v of [...g.inputs, ...graphValues(g)])
      for (const d of sizesOf(v))
        if (typeof d !== 'number')
          for (const s of symbolsOf(d)) {
            const known = found.get(symOf(s).name);
            if (!known) found.set(symOf(s).name, symOf(s));
            else if (known !== symOf(s)) refuseTwo(model, known, symOf(s));
          }
  return found;
}

/** Sizes of a value, and of what an input promises. */
function sizesOf(v: Value): readonly Dim[] {
  const sizes = (v.type.kind === 'tuple' ? v.type.items : [v.type]).flatMap((type) => type.shape);
  const { count } = promisesOf(v);
  return count === undefined ? sizes : [...sizes, count];
}

function refuseTwo({ name }: Model, a: Sym, b: Sym): never {
  const text = ({ min, max, multipleOf, default: usual }: Sym): string =>
    `${min}..${max}${multipleOf > 1 ? ` step ${multipleOf}` : ''}, default ${usual}`;
  fail('name', `model ${name} declares size "${a.name}" twice, as ${text(a)} and as ${text(b)}`, {
    help: 'declare it once and use that everywhere, or give the two different names',
  });
}

const symOf = (e: Expr): Sym => e.arg as Sym;

/** The size of every symbol at which a model is counted: the default, moved into the bound. */
export function defaultSizes(model: Model, bounds: SizeBounds = {}): Record<string, number> {
  const sizes: Record<string, number> = {};
  for (const [name, sym] of symbolsOfModel(model)) {
    const bound = bounds[name];
    sizes[name] = typeof bound === 'number' ? bound : bound ? narrowed(sym, bound).default : sym.default;
  }
  return sizes;
}

/**
 * The model with some symbols bound. Parameters keep their identity, so that entries go on sharing them.
 *
 * @throws CompileError `name` for a symbol that the model lacks, `range` for sizes outside the declared range, `shape` where
 *   an op refuses the new sizes
 */
export function narrowModel<M extends Model>(model: M, bounds: SizeBounds): M {
  const known = symbolsOfModel(model);
  if (Object.keys(bounds).length === 0) return model;
  const replacement = new Map<string, Expr>();
  for (const [name, bound] of Object.entries(bounds)) {
    const sym = known.get(name);
    if (!sym)
      fail('name', `model ${model.name} has no size "${name}"`, {
        help: didYouMean(name, known.keys()) ?? `its sizes are ${[...known.keys()].join(', ') || 'all fixed'}`,
      });
    if (typeof bound !== 'number' && (typeof bound !== 'object' || bound === null))
      fail('range', `size "${name}" cannot be ${JSON.stringify(bound)}: give a number or { min, max }`);
    const range = narrowed(sym, typeof bound === 'number' ? { min: bound, max: bound } : bound);
    replacement.set(name, range.min === range.max ? literal(range.min) : symbol(name, range));
  }
  const narrower = new Narrower((e) => (e.op === 'sym' ? replacement.get(symOf(e).name) : undefined));
  const entries = Object.fromEntries(Object.entries(model.entries).map(([key, g]) => [key, narrower.graph(g)]));
  return { ...model, entries };
}

function narrowed(sym: Sym, bound: { readonly min?: number; readonly max?: number }): Sym {
  const { min = sym.min, max = sym.max } = bound;
  const { multipleOf } = sym;
  const first = Math.ceil(min / multipleOf) * multipleOf;
  const last = Math.floor(max / multipleOf) * multipleOf;
  const whole = Number.isSafeInteger(min) && Number.isSafeInteger(max);
  if (!whole || min < sym.min || max > sym.max || first > last) {
    const step = multipleOf > 1 ? `, multiples of ${multipleOf}` : '';
    const wish = min === max ? String(min) : `${min}..${max}`;
    fail('range', `size "${sym.name}" cannot be ${wish}: the model declares ${sym.min}..${sym.max}${step}`);
  }
  return { ...sym, min: first, max: last, default: Math.min(Math.max(sym.default, first), last) };
}

class Narrower {
  private readonly done = new Map<Value, Value>();
  private readonly replace: (e: Expr) => Expr | undefined;

  constructor(replace: (e: Expr) => Expr | undefined) {
    this.replace = replace;
  }

  graph(g: Graph): Graph {
    for (const v of [...g.inputs, ...graphValues(g)]) if (!this.done.has(v)) this.done.set(v, this.value(v));
    const of = (v: Value): Value => this.done.get(v)!;
    return makeGraph(
      g.name,
      g.inputs.map(of),
      [...g.outputs].map(([name, v]) => [name, of(v)]),
    );
  }

  private value(v: Value): Value {
    const inputs = v.inputs.map((x) => this.done.get(x)!);
    if (v.op.name === 'get') return project(inputs[0]!, Number(v.attrs.index), v);
    const attrs = Object.fromEntries(
      Object.entries(v.attrs).map(([name, a]) => [name, this.attr(a, v.op.attrs[name]?.kind === 'dim')]),
    );
    const same = Object.entries(attrs).every(([name, a]) => a === v.attrs[name]);
    if (same && inputs.every((x, i) => x === v.inputs[i])) return v;
    try {
      return makeValue(v.op, inputs, attrs, v);
    } catch (error) {
      if (!(error instanceof CompileError)) throw error;
      throw error.with({ help: error.diagnostic.help ?? 'the sizes given for the compilation do not suit this model' });
    }
  }

  private attr(a: AttrValue, isDim: boolean): AttrValue {
    if (a === undefined || typeof a !== 'object') return a;
    if (Array.isArray(a)) {
      const items = (a as readonly AttrValue[]).map((item) => this.attr(item, isDim));
      return items.every((item, i) => item === (a as readonly AttrValue[])[i]) ? a : items;
    }
    if (isGraph(a)) {
      const g = this.graph(a);
      const same =
        g.inputs.every((v, i) => v === a.inputs[i]) && [...g.outputs].every(([k, v]) => a.outputs.get(k) === v);
      return same ? a : g;
    }
    if (!('lanes' in a)) return a;
    const e = substitute(a as Expr, this.replace);
    return isDim ? dim(e) : e;
  }
}
