/**
 * Masks of bits that come at run time, with their limits: for each row that such a mask tells apart the first key it allows,
 * the last one, and how far the first run of allowed keys goes. Kernels then skip what lies outside and mask nothing within
 * the first run, as they do for lengths. Layers that share a mask share its limits, since these are values of the graph.
 */
import { mentions } from '../ir/affine.ts';
import { type Expr, exprNodes } from '../ir/expr.ts';
import { type Graph, graphValues, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { attention, coords, scoreTerm } from '../ir/ops/attention.ts';
import { add, less, or, select } from '../ir/ops/elementwise-binary.ts';
import { reduceMax, reduceMin } from '../ir/ops/reduce.ts';
import { iota } from '../ir/ops/shape.ts';
import { scalar } from '../ir/ops/structural.ts';
import { conjuncts, type Domain, normalPredicate, rowSpan } from '../ir/predicate.ts';
import { printExpr } from '../ir/print.ts';
import * as s from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import type { Dim } from '../ir/type.ts';
import { domainOf } from './masks.ts';
import type { Pass, PassContext } from './pass.ts';
import { mapAllBodies, replaceValues } from './rewrite.ts';

/** Below so many keys attention is a small part of a block, and finding limits costs as much as it saves. */
const FEWEST_KEYS = 1024;
/** Beyond every key. */
const NEVER = 2 ** 30;

/** The part of a mask that reads bits and whose hull nobody knows. */
function unbounded(mask: Expr, domain: Domain): { readonly loose: readonly Expr[]; readonly rest: readonly Expr[] } {
  const parts = conjuncts(normalPredicate(mask, domain));
  const keys = s.index(domain.keys!);
  const isLoose = (e: Expr): boolean => {
    if (!mentions(e, coords.k) || !exprNodes(e).some((x) => x.op === 'operand')) return false;
    const { lo, hi } = rowSpan(e, domain.keys!, undefined, domain);
    return lo === s.literal(0) && hi === keys;
  };
  return { loose: parts.filter(isLoose), rest: parts.filter((e) => !isLoose(e)) };
}

function bounded(value: Value, cx: PassContext): Value | undefined {
  const mask = value.attrs.mask as Expr | undefined;
  const domain = domainOf(value);
  if (!mask || boundsOf(s.index(domain.keys!))[1] < FEWEST_KEYS) return undefined;
  const { loose, rest } = unbounded(mask, domain);
  if (loose.length === 0 || (cx.mayRewrite && !cx.mayRewrite())) return undefined;
  const bits = loose.reduce((a, b) => s.and(a, b));
  // Only what the bits read, so that equal masks of different layers have equal limits.
  const used = [...new Set(exprNodes(bits).flatMap((e) => (e.op === 'operand' ? [e.arg as number] : [])))];
  const own = (root: Expr): Expr =>
    s.substitute(root, (e) =>
      e.op === 'operand' ? s.operand(used.indexOf(e.arg as number), e.dtype, e.args.map(own)) : undefined,
    );
  const along = (c: Expr, size: Dim | undefined): Dim => (mentions(bits, c) ? size! : 1);
  const shape = [
    along(coords.b, domain.batch),
    along(coords.h, domain.heads),
    along(coords.q, domain.queries),
    domain.keys!,
  ];
  const allowed = scoreTerm(
    used.map((n) => value.inputs[n]!),
    { expr: own(bits), shape },
  );
  const place = iota([], { axis: 3, shape: [1, 1, 1, domain.keys!], dtype: 'i32' });
  const [none, never] = [scalar(0, 'i32'), scalar(NEVER, 'i32')];
  const over = { axes: [3], keepdims: true } as const;
  const lo = reduceMin([select([allowed, place, never])], over);
  const end = reduceMax([select([allowed, add([place, scalar(1, 'i32')]), none])], over);
  const gap = reduceMin([select([or([allowed, less([place, lo])]), never, place])], over);
  const inputs = [...value.inputs, lo, end, gap];
  const limit = (n: number): Expr => {
    const at = [coords.b, coords.h, coords.q].map((c, axis) => (shape[axis] === 1 ? s.literal(0) : c));
    return s.operand(value.inputs.length + n, 'i32', [...at, s.literal(0)]);
  };
  const within = [s.le(limit(0), coords.k), s.lt(coords.k, limit(1)), s.or(s.lt(coords.k, limit(2)), bits)];
  const whole = normalPredicate(
    [...rest, ...within].reduce((a, b) => s.and(a, b)),
    domain,
  );
  cx.remark('applied', value, `${printExpr(bits)}: its first and last key are found before`);
  const { name, loc } = value;
  return makeValue(value.op, inputs, { ...value.attrs, mask: whole }, { name, loc });
}

export const boundMasks: Pass = {
  name: 'bound-masks',
  doc: 'Masks of bits say where their first and last key are; legal because the limits hold of every allowed key.',
  run(graph: Graph, cx: PassContext): Graph {
    const current = mapAllBodies(graph, (body) => boundMasks.run(body, cx));
    const replaced = new Map<Value, Value>();
    for (const v of graphValues(current)) {
      if (v.op !== attention.def) continue;
      const to = bounded(v, cx);
      if (to) replaced.set(v, to);
    }
    return replaced.size === 0 ? current : replaceValues(current, replaced);
  },
};
