/**
 * Which mask an attention has: what its mask and bias read is evaluated abstractly, numbers that hide scores become a
 * predicate, and what is no mask stays a bias.
 */
import { isFloat } from '../ir/dtype.ts';
import { type Expr, exprNodes } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { coords, type EmptyRow } from '../ir/ops/attention.ts';
import { type Domain, exists, implies, normalPredicate } from '../ir/predicate.ts';
import { printNumber } from '../ir/print.ts';
import { promisesOf } from '../ir/promises.ts';
import * as s from '../ir/scalar.ts';
import { dim, sameDim } from '../ir/type.ts';
import { AbstractElements } from './abstract.ts';
import { isBounded } from './attention-scores.ts';
import type { MaskOptions } from './mask-options.ts';
import { describe } from './pass.ts';
import { conditionOf, exprOfPieces, type Piece, piecesOf } from './pieces.ts';
import { boundOfScores } from './score-bound.ts';

/**
 * How surely a number that is added hides a score: always; for every score below 1e22; for scores that are small beside it.
 */
export type Strength = 'exact' | 'saturating' | 'finite';

export const strengthOf = (x: number): Strength | undefined =>
  x === -Infinity ? 'exact' : x <= -1e30 ? 'saturating' : x <= -1e4 ? 'finite' : undefined;

/** exp(-x) is 0 in f32 beyond this. */
const UNDERFLOW = 104;
/** A score disappears in the sum with a number below this: a row of such sums has equal weights. */
const SWALLOWS = -1e8;

export interface MaskReading {
  readonly mask: Expr | undefined;
  readonly bias: Expr | undefined;
  readonly emptyRow: EmptyRow;
  /** What the expressions read, from the first free operand on. */
  readonly operands: readonly Value[];
  /** What was understood; empty when nothing was. */
  readonly applied: string;
  /** Why a term stays what it was, for terms that could have been masks. */
  readonly missed: readonly string[];
}

/** Number of the first operand that masks read. */
export const firstOperand = (attention: Value): number => (attention.op.name === 'attention' ? 3 : 2);

export function domainOf(attention: Value): Domain {
  const [q, k] = attention.inputs.map(typeOf);
  return { batch: q!.shape[0]!, heads: q!.shape[1]!, queries: q!.shape[2]!, keys: k!.shape[2]! };
}

export const readMask = (attention: Value, options: MaskOptions = {}): MaskReading =>
  new Reader(attention, options).read();

/** A term of the scores. */
type Term =
  /** Over leaves, takes few values; `original` is how it stood. */
  | { readonly kind: 'pieces'; readonly e: Expr; readonly original?: Expr }
  /** Over leaves of the evaluation. */
  | { readonly kind: 'rest'; readonly e: Expr; readonly values: readonly Value[] }
  /** As it stood, over the operands of the attention. */
  | { readonly kind: 'kept'; readonly e: Expr };

const COMPARISONS = new Set(['lt', 'le', 'eq', 'ne']);

class Reader {
  readonly #attention: Value;
  readonly #options: MaskOptions;
  readonly #first: number;
  readonly #domain: Domain;
  readonly #elements: AbstractElements;
  /** Our coordinates, whose ranges are known, for those of masks. */
  readonly #local: ReadonlyMap<Expr, Expr>;
  readonly #missed: string[] = [];
  readonly #operands: Value[] = [];

  constructor(attention: Value, options: MaskOptions) {
    this.#attention = attention;
    this.#options = options;
    this.#first = firstOperand(attention);
    this.#domain = domainOf(attention);
    const { batch, heads, queries, keys } = this.#domain;
    const sized = (name: string, size: typeof batch): Expr =>
      s.variable(name, 'i32', 1, { from: 0, to: s.index(size!) });
    this.#local = new Map([
      [coords.b, sized('b', batch)],
      [coords.h, sized('h', heads)],
      [coords.q, sized('q', queries)],
      [coords.k, sized('k', keys)],
    ]);
    this.#elements = new AbstractElements([...this.#local.values()], options);
  }

  read(): MaskReading {
    const { mask, bias, emptyRow } = this.#attention.attrs as {
      readonly mask?: Expr;
      readonly bias?: Expr;
      readonly emptyRow: EmptyRow;
    };
    const given = mask ? this.#normal(this.#decided(this.#expand(mask))) : s.bool(true);
    const terms = bias ? this.#terms(bias) : [];
    const solved = this.#solve(given, given.op !== 'const' || given.arg !== 1, emptyRow, terms);
    const always = solved.mask.op === 'const' && solved.mask.arg === 1;
    const result = {
      mask: always ? undefined : this.#render(solved.mask, this.#elements.leaves),
      bias: this.#sum(solved.bias),
      emptyRow: always || this.#neverEmpty(solved.mask) ? 'zero' : solved.emptyRow,
    } as const;
    return { ...result, operands: this.#operands, applied: solved.applied, missed: this.#missed };
  }

  /** An expression over the operands of the attention as one over leaves, in coordinates with ranges. */
  #expand(root: Expr): Expr {
    return s.substitute(root, (e) => {
      const local = this.#local.get(e);
      if (local || e.op !== 'operand') return local;
      return this.#elements.at(
        this.#attention.inputs[e.arg as number]!,
        e.args.map((at) => this.#expand(at)),
      );
    });
  }

  /** Comparisons of numbers that take few values as what decides those: `-inf < select(m, 0, -inf)` is `m`. */
  #decided(root: Expr): Expr {
    const compares = (e: Expr): boolean => COMPARISONS.has(e.op) && isFloat(e.args[0]!.dtype);
    return s.substitute(root, (e) => (compares(e) ? conditionOf(e, this.#elements.isBinary) : undefined));
  }

  #normal(e: Expr): Expr {
    const back = new Map([...this.#local].map(([outer, own]) => [own, outer]));
    const outer = s.substitute(e, (x) => back.get(x));
    return normalPredicate(outer, this.#domain);
  }

  // ------------------------------------------------------------ terms

  #terms(bias: Expr): Term[] {
    const terms: Term[] = [];
    const visit = (e: Expr): void => {
      if (e.op === 'add') e.args.forEach(visit);
      else terms.push(...this.#term(e));
    };
    visit(bias);
    return terms;
  }

  #term(e: Expr): readonly Term[] {
    const expanded = this.#expand(e);
    if (this.#elements.pieces(expanded)) return [{ kind: 'pieces', e: expanded, original: e }];
    const load = e.op === 'operand' ? e : e.op === 'cast' && e.args[0]!.op === 'operand' ? e.args[0]! : undefined;
    const parts =
      load &&
      this.#split(
        this.#attention.inputs[load.arg as number]!,
        load.args.map((at) => this.#expand(at)),
      );
    if (parts?.some((p) => p.kind === 'pieces')) return parts;
    this.#explain(e);
    return [{ kind: 'kept', e }];
  }

  /** A sum of tensors in two: what takes few values, and the rest. */
  #split(from: Value, where: readonly Expr[]): readonly Term[] {
    const { value, at } = this.#elements.source(from, where);
    const e = this.#elements.at(value, at);
    if (this.#elements.pieces(e)) return [{ kind: 'pieces', e: s.cast(e, 'f32') }];
    if (value.op.name === 'add') return value.inputs.flatMap((x) => this.#split(x, this.#elements.broadcast(x, at)));
    return [{ kind: 'rest', e: s.cast(this.#elements.leaf(value, at), 'f32'), values: [value] }];
  }

  /** Says why a term is no mask, where its author could have thought that it is one. */
  #explain(e: Expr): void {
    const [unknown] = this.#elements.unknown;
    const number = this.#elements.leaves.find(
      (v) => v.op.name === 'input' && v.attrs.binary !== true && typeOf(v).dtype !== 'bool',
    );
    const names = exprNodes(e).flatMap((x) =>
      x.op === 'operand' ? [describe(this.#attention.inputs[x.arg as number]!)] : [],
    );
    const what = `${names[0] ?? 'a term'} is added to the scores as it stands`;
    if (unknown) this.#missed.push(`${what}: nothing is known of ${describe(unknown)}, made by ${unknown.op.name}`);
    else if (number)
      this.#missed.push(
        `${what}: ${describe(number)} holds numbers, and nobody declares that they are 0 and 1 (binary)`,
      );
  }

  // ------------------------------------------------------------ masks

  /** Splits what is added into a mask and what stays. */
  #solve(
    given: Expr,
    masked: boolean,
    emptyRow: EmptyRow,
    terms: readonly Term[],
  ): { readonly mask: Expr; readonly emptyRow: EmptyRow; readonly bias: readonly Term[]; readonly applied: string } {
    const others = terms.filter((t) => t.kind !== 'pieces');
    const few = terms.filter((t) => t.kind === 'pieces');
    const asWritten = terms.map((t): Term => (t.kind === 'pieces' && t.original ? { kind: 'kept', e: t.original } : t));
    const unchanged = { mask: given, emptyRow, bias: asWritten, applied: '' };
    if (few.length === 0) return unchanged;
    const total = few.map((t) => t.e).reduce((a, b) => s.add(a, b));
    const pieces = piecesOf(total, this.#elements.isBinary)?.map((p) => ({ ...p, when: this.#normal(p.when) }));
    if (!pieces || pieces.some(({ value }) => Number.isNaN(value) || value === Infinity)) return unchanged;
    const hides = (p: Piece): boolean =>
      this.#options.strictNaN !== true &&
      strengthOf(p.value) !== undefined &&
      this.#mayFold(p.value, others.length === 0);
    const hidden = pieces.filter(hides);
    for (const { value } of pieces)
      if (value < 0 && value > -1e4)
        this.#missed.push(`${printNumber(value)} added to scores makes keys weigh less, but hides none`);
    if (this.#options.strictNaN === true)
      for (const { value } of pieces)
        if (strengthOf(value))
          this.#missed.push(`${printNumber(value)} stays a number: strictNaN, a NaN among what it hides spreads`);
    if (hidden.length === 0) return { ...unchanged, bias: this.#withoutZero(asWritten, pieces, others) };
    const open = (closed: readonly Piece[]): Expr =>
      this.#normal(closed.reduce((e, p) => s.and(e, s.not(p.when)), given));
    const rest = (closed: readonly Piece[]): readonly Term[] => [...others, ...this.#levels(pieces, closed)];
    const full = open(hidden);
    const said = hidden.map((p) => printNumber(p.value)).join(' and ');
    if (this.#neverEmpty(full))
      return {
        mask: full,
        emptyRow: masked ? emptyRow : 'zero',
        bias: rest(hidden),
        applied: `${said} is a mask; every query may read some key`,
      };
    if (masked && hidden.every((p) => implies(given, s.not(p.when), this.#domain)))
      return { mask: given, emptyRow, bias: rest(hidden), applied: `${said} hides only what the mask hides` };
    const meaning = this.#emptyMeaning(hidden, others);
    if (meaning && (!masked || emptyRow === meaning) && (!masked || meaning === 'nan'))
      return {
        mask: full,
        emptyRow: meaning,
        bias: rest(hidden),
        applied: `${said} is a mask; a query that may read no key: ${meaning}`,
      };
    this.#missed.push(`${said} stays a number: queries that may read no key would change`);
    return unchanged;
  }

  /** Whether a number may be read as a mask for scores of any sane size, or of the size that these have. */
  #mayFold(value: number, alone: boolean): boolean {
    if (strengthOf(value) !== 'finite') return true;
    if (this.#options.finiteMasks !== 'keep') return true;
    const { contents } = this.#options;
    const bound = alone && contents ? boundOfScores(this.#attention, contents) : undefined;
    if (bound !== undefined && 2 * bound + UNDERFLOW < -value) return true;
    const why = bound === undefined ? 'no bound on the scores is known' : `scores may reach ${Math.ceil(bound)}`;
    this.#missed.push(`${printNumber(value)} stays a number: ${why}`);
    return false;
  }

  /** What a row becomes whose every score is one of these; undefined where they differ, or others decide. */
  #emptyMeaning(hidden: readonly Piece[], others: readonly Term[]): EmptyRow | undefined {
    const [first, ...more] = hidden.map((p) => p.value);
    if (first === undefined || more.length > 0) return undefined;
    if (first === -Infinity) return 'nan';
    if (first > SWALLOWS) return 'unmasked';
    const bounded = others.every((t) =>
      (t.kind === 'rest' ? t.values : t.kind === 'kept' ? this.#operandsOf(t.e) : []).every(isBounded),
    );
    return bounded ? 'uniform' : undefined;
  }

  #operandsOf(e: Expr): Value[] {
    return exprNodes(e).flatMap((x) => (x.op === 'operand' ? [this.#attention.inputs[x.arg as number]!] : []));
  }

  /** Whether it is known that every query may read some key. */
  #neverEmpty(mask: Expr): boolean {
    const { queries, keys } = this.#domain;
    if (keys === undefined || dim(keys) === 0) return false;
    const at = (key: Expr): Expr => s.substitute(mask, (e) => (e === coords.k ? key : undefined));
    if (this.#isPromised(mask)) return true;
    if (implies(s.bool(true), at(s.literal(0)), this.#domain)) return true;
    if (queries === keys && implies(s.bool(true), at(coords.q), this.#domain)) return true;
    const some = exists(mask, coords.k, this.#domain);
    return some.exact && some.e.op === 'const' && some.e.arg === 1;
  }

  /** Whether a mask allows what an input allows that promises at least one key. */
  #isPromised(mask: Expr): boolean {
    if (mask.op === 'or') return mask.args.some((e) => this.#isPromised(e));
    const [bit, against] = mask.op === 'ne' || mask.op === 'eq' ? mask.args : [mask, undefined];
    const leaf = bit!.op === 'operand' ? this.#elements.leaves[bit!.arg as number] : undefined;
    if (!leaf || (against && (against.op !== 'const' || against.arg !== (mask.op === 'ne' ? 0 : 1)))) return false;
    const along = bit!.args.every((at, n, { length }) =>
      n === length - 1 ? at === coords.k : at === coords.b || at.op === 'const',
    );
    const { binary, atLeast } = promisesOf(leaf);
    return along && binary && atLeast > 0 && sameDim(typeOf(leaf).shape.at(-1)!, this.#domain.keys!);
  }

  /** What is left to add of pieces that are no masks. */
  #levels(pieces: readonly Piece[], closed: readonly Piece[]): readonly Term[] {
    const open = pieces.filter((p) => !closed.includes(p));
    if (open.every((p) => p.value === 0)) return [];
    const zero: Piece = { value: 0, when: s.bool(true) };
    const levels = [...open.filter((p) => p.value !== 0), zero];
    return [{ kind: 'pieces', e: exprOfPieces(levels, 'f32') }];
  }

  /** Terms that add nothing are left out; others stay as they were written. */
  #withoutZero(terms: readonly Term[], pieces: readonly Piece[], others: readonly Term[]): readonly Term[] {
    return pieces.every((p) => p.value === 0) ? others : terms;
  }

  // ------------------------------------------------------------ writing

  #sum(terms: readonly Term[]): Expr | undefined {
    const outer = new Map([...this.#local].map(([from, own]) => [own, from]));
    const parts = terms.map((t) =>
      t.kind === 'kept'
        ? this.#render(t.e, this.#attention.inputs)
        : this.#render(
            s.substitute(t.e, (x) => outer.get(x)),
            this.#elements.leaves,
          ),
    );
    return parts.length === 0 ? undefined : parts.reduce((a, b) => s.add(a, b));
  }

  /** Loads renumbered to the operands that the attention will have. */
  #render(root: Expr, from: readonly Value[]): Expr {
    return s.substitute(root, (e) => {
      if (e.op !== 'operand') return undefined;
      const value = from[e.arg as number]!;
      const known = this.#operands.indexOf(value);
      const n = known < 0 ? this.#operands.push(value) - 1 : known;
      return s.operand(
        this.#first + n,
        e.dtype,
        e.args.map((at) => this.#render(at, from)),
      );
    });
  }
}
