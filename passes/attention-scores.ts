/**
 * Reads the scores of an attention from the softmax inwards: which constants scale the product of queries and keys, which
 * terms are added to it and which masks hide part of it.
 */
import { isFloat, type Scalar } from '../ir/dtype.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { reciprocal } from '../ir/ops/elementwise-unary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { printNumber } from '../ir/print.ts';
import { type Shape, sameShape } from '../ir/type.ts';
import { is, isOne, literalOf, rankOf, shapeOf, uniformOf } from './facts.ts';
import { describe } from './pass.ts';
import { type Miss, miss } from './rewrite.ts';

/** A tensor that broadcasts against scores of shape [lead, Q, K]. */
export interface Term {
  readonly value: Value;
  /** Leading axes of the scores where the term meets them. */
  readonly lead: Shape;
}
/** Added to the scores, times a constant. */
export interface Bias extends Term {
  readonly factor: number;
  /** Set where the tensor is a condition: while it is `when`, `value` is added, otherwise the sum of `over`. */
  readonly fill?: { readonly when: boolean; readonly value: number; readonly over: readonly Bias[] };
}
/** Hides scores where the tensor is `when`. */
export interface Mask extends Term {
  readonly when: boolean;
  /** What a row without any visible score becomes: −∞ everywhere gives NaN, a finite fill gives equal weights. */
  readonly empty: 'nan' | 'uniform';
  /** Where it is written as a sum, scores + (0 or a fill): the term that is added. */
  readonly added: Bias | undefined;
  /** Where it is written as a fill: what it fills with, and the terms that it fills over. */
  readonly fill: Fill | undefined;
}
interface Fill {
  readonly value: number;
  readonly biases: readonly Bias[];
  readonly masks: readonly Mask[];
}

export interface Scores {
  readonly kind: 'scores';
  /** The product of queries and keys. */
  readonly product: Value;
  readonly scale: number;
  readonly softcap: number;
  /** Tensors of one number a row or less that multiply the scores. */
  readonly multipliers: readonly Term[];
  readonly biases: readonly Bias[];
  readonly masks: readonly Mask[];
  /** Leading axes of the scores in each shape that they take, softmax first. */
  readonly leads: readonly Shape[];
  /** Everything between the softmax and the product, both excluded. */
  readonly between: readonly Value[];
}

/** Fills at and below this hide a score whatever it is: the sum is the fill itself. */
const HIDES = -1e30;

const LEAST_HALF = -65504;

export const leadOf = (v: Value): Shape => shapeOf(v).slice(0, -2);
const lastTwo = (v: Value): Shape => shapeOf(v).slice(-2);

/** Whether a cast from one type to the other keeps every number, and only serves to compute in the wider one. */
export const isWidening = (from: Scalar, to: Scalar): boolean =>
  (from === 'f16' || from === 'bf16') && (to === 'f32' || to === 'f64');

/**
 * The scores that a softmax over the last axis reads; a miss that names the first obstacle when there is no product of two
 * matrices below it.
 * @param open whether each row has a visible score, where rows without one are replaced after the softmax
 */
export function readScores(from: Value, open?: Value): Scores | Miss {
  const walk = new Walk(open);
  const found = walk.visit(from, 1);
  if (found === undefined) return miss(walk.obstacle(from));
  if (found.kind === 'miss') return found;
  const { product, scale } = found;
  const { softcap, multipliers, leads, between } = walk;
  const settled = settle(walk.biases, walk.masks);
  if ('why' in settled) return settled;
  return { kind: 'scores', product, scale, softcap, multipliers, leads, between, ...settled };
}

interface Product {
  readonly kind: 'product';
  readonly product: Value;
  readonly scale: number;
}

class Walk {
  softcap = 0;
  readonly multipliers: Term[] = [];
  readonly biases: Bias[] = [];
  readonly masks: Mask[] = [];
  readonly leads: Shape[] = [];
  readonly between: Value[] = [];
  /** Set below a tensor that multiplies the scores or a cap: terms found there cannot be moved out. */
  #closed: string | undefined;
  readonly #open: Value | undefined;
  /** Where no way led on. */
  readonly #ends: Value[] = [];

  constructor(open: Value | undefined) {
    this.#open = open;
  }

  /** Why no product of queries and keys was found below `from`. */
  obstacle(from: Value): string {
    const [end] = this.#ends.filter((v) => v.inputs.length > 0);
    const said = (v: Value): string => (v.name === undefined ? describe(v) : `${describe(v)} = ${v.op.name}`);
    const where = !end || end === from ? said(from) : `${said(end)} on the way`;
    return `the softmax does not read a product of queries and keys, but ${where}`;
  }

  /** `factor` multiplies everything at and below `v`. */
  visit(v: Value, factor: number): Product | Miss | undefined {
    const found = this.#visit(v, factor);
    if (!found) this.#ends.push(v);
    return found;
  }

  #visit(v: Value, factor: number): Product | Miss | undefined {
    if (rankOf(v) < 2) return undefined;
    if (this.leads.length === 0) this.leads.push(leadOf(v));
    if (is(v, matmul)) return { kind: 'product', product: v, scale: factor };
    const [a, b, c] = v.inputs;
    switch (v.op.name) {
      case 'reshape': {
        if (rankOf(a!) < 2 || !sameShape(lastTwo(a!), lastTwo(v))) return undefined;
        this.leads.push(leadOf(a!));
        return this.#into(v, a!, factor);
      }
      case 'cast':
        return isWidening(typeOf(a!).dtype, typeOf(v).dtype) ? this.#into(v, a!, factor) : undefined;
      case 'mul':
        return this.#times(v, a!, b!, factor) ?? this.#capped(v, a!, b!, factor);
      case 'div': {
        const by = uniformOf(b!);
        if (by !== undefined) return this.#into(v, a!, factor / by);
        return isColumn(b!) ? this.#multiplied(v, a!, reciprocal([b!]), factor) : undefined;
      }
      case 'add':
        return this.#added(v, a!, b!, factor) ?? this.#added(v, b!, a!, factor);
      case 'sub':
        return this.#added(v, a!, b!, factor, -1);
      case 'select':
        // What a row without a visible score is filled with is replaced anyway.
        if (a === this.#open && uniformOf(c!) !== undefined) return this.#into(v, b!, factor);
        return this.#filled(v, a!, b!, c!, true, factor) ?? this.#filled(v, a!, c!, b!, false, factor);
      default:
        return undefined;
    }
  }

  #into(v: Value, inner: Value, factor: number): Product | Miss | undefined {
    if (!sameShape(lastTwo(v), lastTwo(inner))) return undefined;
    this.between.push(v);
    const found = this.visit(inner, factor);
    if (!found) this.between.pop();
    return found;
  }

  #times(v: Value, a: Value, b: Value, factor: number): Product | Miss | undefined {
    const by = uniformOf(b);
    if (by !== undefined) {
      const capped = a.op.name === 'tanh';
      return capped ? undefined : this.#into(v, a, factor * by);
    }
    if (isColumn(b)) return this.#multiplied(v, a, b, factor);
    return isColumn(a) ? this.#multiplied(v, b, a, factor) : undefined;
  }

  #multiplied(v: Value, inner: Value, by: Value, factor: number): Product | Miss | undefined {
    return this.#closing('a tensor that multiplies the sum', () => {
      this.multipliers.push({ value: by, lead: leadOf(v) });
      const found = this.#into(v, inner, factor);
      if (!found) this.multipliers.pop();
      return found;
    });
  }

  /** c · tanh(s ÷ c). */
  #capped(v: Value, a: Value, b: Value, factor: number): Product | Miss | undefined {
    const cap = uniformOf(b);
    if (a.op.name !== 'tanh' || cap === undefined || cap <= 0 || factor !== 1 || this.softcap > 0) return undefined;
    return this.#closing('a cap on the sum', () => {
      this.softcap = cap;
      this.between.push(v);
      const found = this.#into(a, a.inputs[0]!, cap);
      if (!found) {
        this.between.pop();
        this.softcap = 0;
      }
      return found;
    });
  }

  #closing(why: string, visit: () => Product | Miss | undefined): Product | Miss | undefined {
    const before = this.#closed;
    this.#closed = why;
    const found = visit();
    this.#closed = before;
    return found;
  }

  #added(v: Value, scores: Value, term: Value, factor: number, sign = 1): Product | Miss | undefined {
    const [masks, biases] = [this.masks.length, this.biases.length];
    const mask = sign === 1 ? addedMask(v, term, factor) : undefined;
    if (mask) this.masks.push(mask);
    else this.biases.push({ value: term, lead: leadOf(v), factor: factor * sign });
    const found = this.#into(v, scores, factor);
    if (found?.kind === 'product' && this.#closed) return miss(`${describe(term)} is added below ${this.#closed}`);
    if (!found) {
      this.masks.length = masks;
      this.biases.length = biases;
    }
    return found;
  }

  /** select(condition, …) where the side that shows when the condition is not `visible` is a constant. */
  #filled(
    v: Value,
    condition: Value,
    scores: Value,
    fill: Value,
    visible: boolean,
    factor: number,
  ): Product | Miss | undefined {
    const x = uniformOf(fill);
    if (x === undefined) return undefined;
    const [b, m] = [this.biases.length, this.masks.length];
    const found = this.#into(v, scores, factor);
    if (found?.kind !== 'product') return found;
    // Halves hold nothing below −65504.
    const isLeast = typeOf(fill).dtype === 'f16' && x <= LEAST_HALF && factor === 1;
    const empty = strength(x * factor) ?? (isLeast ? 'uniform' : undefined);
    if (!empty) return miss(`${describe(v)} fills with ${printNumber(x)}, which does not hide a score whatever it is`);
    if (this.#closed) return miss(`${describe(v)} hides scores below ${this.#closed}`);
    const over: Fill = { value: x * factor, biases: this.biases.slice(b), masks: this.masks.slice(m) };
    this.masks.push({ value: condition, lead: leadOf(v), when: !visible, empty, added: undefined, fill: over });
    return found;
  }
}

const strength = (fill: number): Mask['empty'] | undefined =>
  fill === -Infinity ? 'nan' : fill <= HIDES ? 'uniform' : undefined;

/** At most one number for each row of scores. */
const isColumn = (v: Value): boolean => shapeOf(v).slice(-2).every(isOne);

/** A term that is 0 or a fill, by a condition. */
function addedMask(at: Value, term: Value, factor: number): Mask | undefined {
  if (term.op.name !== 'select') return undefined;
  const [condition, a, b] = term.inputs as [Value, Value, Value];
  const [x, y] = [uniformOf(a), uniformOf(b)];
  if (x === undefined || y === undefined) return undefined;
  const [fill, when] = x === 0 ? [y, false] : y === 0 ? [x, true] : [0, true];
  const empty = strength(fill * factor);
  const lead = leadOf(at);
  return empty && { value: condition, lead, when, empty, added: { value: term, lead, factor }, fill: undefined };
}

/**
 * Which masks may be stated as masks. A fill of −∞ hides scores exactly, in any company. A finite fill does so in rows that
 * keep a visible score; in the others its weights depend on what else is added, so it stands alone or beside bounded
 * terms only. A finite mask that may not be stated becomes a term: so low a number is the same whether it is added to a
 * score or put in its place.
 */
function settle(biases: readonly Bias[], masks: readonly Mask[]): Pick<Scores, 'biases' | 'masks'> | Miss {
  const finite = masks.filter((m) => m.empty === 'uniform');
  const exact = masks.filter((m) => m.empty === 'nan');
  const company = exact.length > 0 || !biases.every((b) => isBounded(b.value));
  const fillsOnly = finite.every((m) => m.added === undefined);
  if (!company && (fillsOnly || finite.length === 1)) return { biases, masks };
  const terms = asTerms(biases, masks);
  return terms
    ? { biases: terms, masks: exact }
    : miss('a finite fill stands over a mask of −∞, so rows that hide every key would change');
}

/** Terms and finite masks as terms; undefined where a finite fill covers a mask of −∞. */
function asTerms(biases: readonly Bias[], masks: readonly Mask[]): readonly Bias[] | undefined {
  const finite = masks.filter((m) => m.empty === 'uniform');
  const fills = finite.flatMap((m) => m.fill ?? []);
  const covered = new Set<Bias | Mask>(fills.flatMap((f) => [...f.biases, ...f.masks]));
  const terms = biases.filter((b) => !covered.has(b));
  for (const m of finite) {
    if (covered.has(m)) continue;
    if (m.added) terms.push(m.added);
    if (!m.fill) continue;
    const over = m.fill.masks.some((x) => x.empty === 'nan') ? undefined : asTerms(m.fill.biases, m.fill.masks);
    if (!over) return undefined;
    terms.push({ value: m.value, lead: m.lead, factor: 1, fill: { when: m.when, value: m.fill.value, over } });
  }
  return terms;
}

/** The mask that a condition on rows sums up, `some key of the row is visible`; undefined for other conditions. */
export function maskOfRows(open: Value): Value | undefined {
  if (open.op.name === 'reduce_any') return overKeys(open) ? withoutExpand(open.inputs[0]!) : undefined;
  const sum = open.op.name === 'cast' ? open.inputs[0]! : open;
  if (sum.op.name !== 'reduce_sum' && sum.op.name !== 'reduce_max') return undefined;
  const counted = sum.inputs[0]!;
  const isCount = counted.op.name === 'cast' && typeOf(counted.inputs[0]!).dtype === 'bool';
  return typeOf(open).dtype === 'bool' && isCount && overKeys(sum) ? withoutExpand(counted.inputs[0]!) : undefined;
}
const overKeys = (fold: Value): boolean => {
  const [axis, ...others] = fold.attrs.axes as readonly number[];
  const rank = rankOf(fold.inputs[0]!);
  return others.length === 0 && (axis === -1 || axis === rank - 1) && fold.attrs.keepdims === true;
};
export const withoutExpand = (v: Value): Value => (v.op.name === 'expand' ? withoutExpand(v.inputs[0]!) : v);

const UNBOUNDED = new Set(['exp', 'pow', 'div', 'reciprocal', 'log', 'rsqrt', 'scan', 'loop', 'if']);
const BOUND = 1e6;

/** Whether no element can come near a finite fill: made of parameters, integers and small constants. */
export function isBounded(root: Value): boolean {
  const seen = new Set<Value>();
  const stack = [root];
  for (let v = stack.pop(); v; v = stack.pop()) {
    if (seen.has(v)) continue;
    seen.add(v);
    if (v.type.kind === 'tuple') return false;
    if (!isFloat(typeOf(v).dtype) || v.op.name === 'param') continue;
    const literal = literalOf(v);
    if (v.op.name === 'input' || UNBOUNDED.has(v.op.name)) return false;
    if (literal && !literal.data.every((x) => Math.abs(x) < BOUND)) return false;
    stack.push(...v.inputs);
  }
  return true;
}
