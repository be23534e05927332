/**
 * The first k elements of each line in sorted order, by rank: an element stands where as many others come before it. Every
 * element is ranked by an invocation of its own, with no barrier and no list, and equal elements keep their order. Of long
 * lines, parts are ranked first, and then what each part might give.
 */
import type { Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { Block } from '../../../ir/kernel.ts';
import { normalizeAxis } from '../../../ir/ops/check.ts';
import {
  add,
  and,
  bool,
  cast,
  ceildiv,
  floordiv,
  ge,
  literal,
  load,
  lt,
  min,
  mul,
  not,
  or,
  select,
  sub,
} from '../../../ir/scalar.ts';
import { boundsOf } from '../../../ir/simplify.ts';
import { asExpr, type Dim, elements, type Shape } from '../../../ir/type.ts';
import type { Stage } from '../../region.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { isLarger, resultOf, scheduleTopK } from '../top-k.ts';
import { GROUP, invocations, onePerInvocation } from './invocations.ts';
import { isShort } from './rows.ts';

/** Elements of a part. */
const PART = 512;

export function scheduleTopKGpu(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape } = typeOf(root.inputs[0]!);
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  const size = asExpr(shape[axis]!);
  const k = asExpr(root.attrs.k as Dim);
  if (isShort(size)) return onePerInvocation(scheduleTopK)(cx);
  const ranking = new Ranking(cx, shape, axis, size, k);
  // Where parts give most of what they have, nothing is gained by ranking them first.
  return boundsOf(size)[1] > 2 * PART && boundsOf(k)[1] <= PART / 4 ? ranking.inParts() : [ranking.whole()];
}

class Ranking {
  readonly #cx: ScheduleContext;
  readonly #lines: Shape;
  readonly #axis: number;
  readonly #size: Expr;
  readonly #k: Expr;

  constructor(cx: ScheduleContext, shape: Shape, axis: number, size: Expr, k: Expr) {
    this.#cx = cx;
    this.#lines = shape.filter((_, i) => i !== axis);
    this.#axis = axis;
    this.#size = size;
    this.#k = k;
  }

  whole(): Stage {
    const size = this.#size;
    return this.#each([...this.#lines, size], size, (line, n, body) => {
      const rank = this.#rank(body, line, n, { count: size, position: (j) => j, exists: () => bool(true) });
      body.if(lt(rank, this.#k), (some) => this.#store(some, line, rank, n));
    });
  }

  inParts(): readonly Stage[] {
    const [size, k] = [this.#size, this.#k];
    const parts = ceildiv(size, PART);
    const candidates = mul(parts, k);
    const found = this.#cx.buffers.temp('found', 'i32', mul(elements(this.#lines), candidates));
    const slot = (line: readonly Expr[], n: Expr): Expr => add(mul(this.#flat(line), candidates), n);
    const first = this.#each([...this.#lines, mul(parts, PART)], literal(PART), (line, n, body) => {
      const part = body.let('part', mul(floordiv(n, PART), PART));
      const count = body.let('count', min(sub(size, part), PART));
      const own = body.let('own', sub(n, part));
      const out = body.let('out', mul(floordiv(n, PART), k));
      body.if(
        lt(own, count),
        (some) => {
          const exists = (): Expr => bool(true);
          const rank = this.#rank(some, line, n, { count, position: (j) => add(part, j), exists });
          some.if(lt(rank, k), (kept) => kept.store(found, slot(line, add(out, rank)), n));
        },
        // A part with fewer than k elements leaves places that say so.
        (none) => none.if(lt(own, k), (empty) => empty.store(found, slot(line, add(out, own)), literal(-1))),
      );
    });
    const second = this.#each([...this.#lines, candidates], candidates, (line, c, body) => {
      const n = body.let('position', load(found, slot(line, c)));
      body.if(ge(n, 0), (some) => {
        const position = (j: Expr): Expr => load(found, slot(line, j));
        const rank = this.#rank(some, line, n, { count: candidates, position, exists: (at) => ge(at, 0) });
        some.if(lt(rank, k), (kept) => this.#store(kept, line, rank, n));
      });
    });
    return [first, second];
  }

  #each(shape: Shape, work: Expr, body: (line: readonly Expr[], n: Expr, block: Block) => void): Stage {
    const block = new Block();
    const grid = invocations(block, elements(shape), (unit, inner) => {
      const at = nameCoordinates(inner, shape, unit);
      body(at.slice(0, -1), at.at(-1)!, inner);
    });
    return makeStage(this.#cx, block, { grid, work: mul(work, GROUP) });
  }

  /** How many of the candidates come before the element at `n`. */
  #rank(
    block: Block,
    line: readonly Expr[],
    n: Expr,
    among: { readonly count: Expr; position(j: Expr): Expr; exists(position: Expr): Expr },
  ): Expr {
    const { root } = this.#cx.region;
    const own = block.let('own', this.#element(line, n));
    const rank = block.var('rank', literal(0));
    block.for('j', 0, among.count, (j, body) => {
      const at = body.let('at', among.position(j));
      const there = among.exists(at);
      const other = body.let('other', this.#element(line, there === bool(true) ? at : select(there, at, n)));
      const before = (a: Expr, b: Expr): Expr => (root.attrs.largest === true ? isLarger(a, b) : isLarger(b, a));
      const ties = and(not(before(own, other)), lt(at, n));
      body.update('add', rank, cast(and(there, or(before(other, own), ties)), 'i32'));
    });
    return rank;
  }

  #element(line: readonly Expr[], n: Expr): Expr {
    return operandAt(this.#cx, 0, line.toSpliced(this.#axis, 0, n));
  }

  #store(block: Block, line: readonly Expr[], rank: Expr, n: Expr): void {
    const at = line.toSpliced(this.#axis, 0, rank);
    const [values, positions] = [resultOf(this.#cx, 0), resultOf(this.#cx, 1)];
    if (values) storeResult(this.#cx, block, at, this.#element(line, n), values);
    if (positions) storeResult(this.#cx, block, at, cast(n, 'i64'), positions);
  }

  #flat(line: readonly Expr[]): Expr {
    return this.#lines.reduce<Expr>((sum, d, i) => add(mul(sum, d), line[i]!), literal(0));
  }
}
