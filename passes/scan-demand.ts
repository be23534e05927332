/**
 * What is read of the operands of a `scan`. A step is needed where something that it or a later step gives is read, and of its
 * items what that needs: captions that have ended read no more words.
 *
 * Everything is asked of one step, whose number is a variable. What is read of the results of a step is widened to what is
 * read of those of any step that follows it, so that what a state must hold only shrinks from step to step; one set of
 * elements then stands for the state before every step, found by going around the body until nothing is added.
 */
import { formMentions, mentions } from '../ir/affine.ts';
import { type Expr, exprNodes } from '../ir/expr.ts';
import { type Graph, graphValues, typeOf, type Value } from '../ir/graph.ts';
import {
  ALL,
  and,
  coordinate,
  exists,
  type IndexSet,
  isNone,
  isWithin,
  join,
  type Literal,
  NONE,
  or,
  replace,
  where,
} from '../ir/index-set.ts';
import * as s from '../ir/scalar.ts';
import { asExpr, type Dim } from '../ir/type.ts';
import type { Elements } from './elements.ts';

/** The number of the step that a set within a body is about. */
const STEP: Expr = s.variable('step', 'i32', 1, { from: 0, to: 2 ** 30 });
const LATER: Expr = s.variable('later', 'i32', 1, { from: 0, to: 2 ** 30 });

/** Rounds through the body after which a state that still grows is taken to be read throughout. */
const ROUNDS = 3;

/** What is read of the values of a body, given what is read of its results. */
export type Analyse = (body: Graph, observed: Readonly<Record<string, IndexSet>>) => { of(value: Value): IndexSet };

/** Sets for the operands, given sets for the final states and the stacks. */
export function scanNeed(scan: Value, demand: readonly IndexSet[], elements: Elements, analyse: Analyse): IndexSet[] {
  const { body, steps, carried, operands } = partsOf(scan);
  const reverse = scan.attrs.reverse === true;
  const names = [...body.outputs.keys()];
  const own = new Set<Value>([...body.inputs, ...graphValues(body)]);
  const given = demand.slice(carried).map((set) => fromThisOn(set, steps, reverse));
  const settle = (set: IndexSet): IndexSet =>
    without(set, (l) => isInside(l, elements, own, []) || !shrinks(l, reverse));
  let states: readonly IndexSet[] = demand.slice(0, carried);
  let found = analyse(body, observed());
  for (let round = 0; ; round++) {
    const grown = states.map((set, i) => {
      const input = body.inputs[i]!;
      const next = join(set, settle(found.of(input)), typeOf(input).shape);
      return round < ROUNDS || isNone(next) ? next : ALL;
    });
    const same = grown.every((set, i) => isWithin(set, states[i]!, typeOf(body.inputs[i]!).shape));
    if (same) break;
    states = grown;
    found = analyse(body, observed());
  }
  const first = reverse ? s.sub(asExpr(steps), 1) : s.literal(0);
  return scan.inputs.map((_, n) => {
    if (n < carried) return replace(states[n]!, (leaf) => (leaf === STEP ? first : undefined));
    const set = found.of(body.inputs[n]!);
    if (n < operands) return outward(set, scan, elements);
    // What any step reads; which items it does not read says nothing about others.
    const closed = without(set, (l) => isInside(l, elements, own, body.inputs.slice(operands)));
    return inputsOutside(exists(closed, STEP, steps), scan, elements, (leaf) => leaf);
  });

  function observed(): Record<string, IndexSet> {
    return Object.fromEntries(names.map((name, i) => [name, i < carried ? states[i]! : given[i - carried]!]));
  }
}

/** The parts of a scan by position. */
export function partsOf(scan: Value): {
  readonly body: Graph;
  readonly steps: Dim;
  readonly carried: number;
  /** States and items: closed values stand behind them. */
  readonly operands: number;
} {
  const { body, carried, closed } = scan.attrs as { body: Graph; carried: number; closed: number };
  const operands = scan.inputs.length - closed;
  return { body, carried, operands, steps: typeOf(scan.inputs[carried]!).shape[0]! };
}

/**
 * A set of elements of a value of the body, at the step of that number, as one of elements of a value [T, …] outside: items
 * and closed values that it loads from become those of the scan. What it says of other values of the body is left out.
 */
export function outward(set: IndexSet, scan: Value, elements: Elements): IndexSet {
  const { body, carried } = partsOf(scan);
  const own = new Set<Value>([...body.inputs, ...graphValues(body)]);
  const known = without(set, (l) => isInside(l, elements, own, body.inputs.slice(carried)));
  const axes = new Map<Expr, Expr>(Array.from({ length: 11 }, (_, n) => [coordinate(n), coordinate(n + 1)] as const));
  axes.set(STEP, coordinate(0));
  return inputsOutside(known, scan, elements, (leaf) => axes.get(leaf));
}

function inputsOutside(set: IndexSet, scan: Value, elements: Elements, by: (leaf: Expr) => Expr | undefined): IndexSet {
  const { body, operands } = partsOf(scan);
  const put = (leaf: Expr): Expr | undefined => {
    if (leaf.op !== 'operand') return by(leaf);
    const source = elements.source(leaf.arg as number);
    const n = source.kind === 'element' ? body.inputs.indexOf(source.value) : -1;
    const at = leaf.args.map((a) => s.substitute(a, put));
    if (n < 0) return s.operand(leaf.arg as number, leaf.dtype, at);
    return elements.element(scan.inputs[n]!, n < operands ? [coordinate(0), ...at] : at);
  };
  return replace(set, put);
}

/** Whether a literal loads from a value of a body other than elements of these inputs. */
function isInside(l: Literal, elements: Elements, own: ReadonlySet<Value>, allowed: readonly Value[]): boolean {
  const parts = l.kind === 'is' ? [l.e] : [...l.form.terms.keys()];
  return parts.some((e) =>
    exprNodes(e).some((node) => {
      if (node.op !== 'operand') return false;
      const { kind, value } = elements.source(node.arg as number);
      return own.has(value) && (kind === 'image' || !allowed.includes(value));
    }),
  );
}

/** The set without the literals of which something is true: it holds no less. */
function without(set: IndexSet, isOut: (l: Literal) => boolean): IndexSet {
  return or(NONE, ...set.terms.map((term): IndexSet => ({ kind: 'set', terms: [term.filter((l) => !isOut(l))] })));
}

/** Whether a literal that holds at a step held at all before it. */
function shrinks(l: Literal, reverse: boolean): boolean {
  if (l.kind === 'is') return !mentions(l.e, STEP);
  if (!formMentions(l.form, STEP)) return true;
  return [...l.form.terms].every(([base, factor]) => (base === STEP ? factor > 0 !== reverse : !mentions(base, STEP)));
}

/** What is read of the results of a step or of one that runs after it. */
function fromThisOn(set: IndexSet, steps: Dim, reverse: boolean): IndexSet {
  const axes = new Map<Expr, Expr>(Array.from({ length: 11 }, (_, n) => [coordinate(n + 1), coordinate(n)] as const));
  axes.set(coordinate(0), LATER);
  const later = replace(set, (leaf) => axes.get(leaf));
  const order = where(reverse ? s.le(LATER, STEP) : s.le(STEP, LATER));
  return without(exists(and(order, later), LATER, steps), (l) => !shrinks(l, reverse));
}
