/**
 * Folds over any axes. Where the last axis folds, each result runs along it in vectors; where it stays, four results
 * stand side by side in a vector and fold together.
 */

import { isFloat } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { exprNodes } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import { add, cast, ceildiv, floordiv, ge, literal, min, mul, sub, variable } from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, elements, type Shape } from '../../ir/type.ts';
import { fillsLanes, lowerContext, unflatten } from '../access.ts';
import type { Stage } from '../region.ts';
import { makeStage, neighbours, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { nameCoordinates } from './element.ts';
import { Fold, wide } from './fold.ts';

/** Results of one grid unit when they fold side by side: a cache line of f32. */
const COLUMNS = 16;

/** Elements folded at a time, so that a sum of millions does not lose its small terms: a sum of sums of this many. */
const PART = 4096;

export function scheduleReduce(cx: ScheduleContext): readonly Stage[] {
  const r = new Reduction(cx);
  return [r.kept.at(-1) === r.shape.length - 1 && r.shape.length > 0 ? r.columns() : r.lines()];
}

/** A reduction taken apart: which axes fold, elements of the operand, how results are stored. */
export class Reduction {
  readonly cx: ScheduleContext;
  readonly shape: Shape;
  /** Axes of the operand that fold, and those that stay, ascending. */
  readonly folded: readonly number[];
  readonly kept: readonly number[];
  private readonly keepdims: boolean;
  readonly count: Expr;

  constructor(cx: ScheduleContext) {
    const { root } = cx.region;
    const { lower } = root.op;
    if (lower.kind !== 'reduce') throw new Error(`${root.op.name} is not a reduction`);
    const context = lowerContext(root);
    const gone = new Set(lower.axes(context));
    this.cx = cx;
    this.shape = typeOf(root.inputs[0]!).shape;
    const axes = this.shape.map((_, i) => i);
    this.folded = axes.filter((i) => gone.has(i));
    this.kept = axes.filter((i) => !gone.has(i));
    this.keepdims = lower.keep(context);
    this.count = elements(this.folded.map((i) => this.shape[i]!));
  }

  /** The last axis folds, or there is none: one result a grid unit. */
  lines(): Stage {
    const { cx, kept, count } = this;
    const keptShape = kept.map((i) => this.shape[i]!);
    const grid = elements(keptShape);
    const block = new Block();
    block.for(
      'u',
      0,
      grid,
      (u, body) => {
        const at = nameCoordinates(body, keptShape, u);
        const spec = { ...this.spec(), vectors: 4 };
        const inParts = isFloat(spec.dtype) && boundsOf(count)[1] > PART;
        const fold = inParts ? undefined : new Fold(body, spec);
        const parts = inParts ? body.var('parts', literal(spec.init, spec.dtype)) : undefined;
        const run = this.run(at);
        this.nest(body, this.folded.slice(0, this.folded.length - run), (outer, inner) => {
          const line = this.folded.slice(this.folded.length - run).map((i) => this.shape[i]!);
          const count = elements(line);
          const element = (i: Expr): Expr => this.element(at, [...outer, ...unflatten(line, i)]);
          if (fold) fold.line(inner, count, element);
          else if (parts)
            inner.for(
              'p',
              0,
              count,
              (p, part) => {
                const some = new Fold(part, spec);
                some.line(part, min(sub(count, p), PART), (i) => element(add(p, i)));
                part.set(parts, spec.step(parts, some.total(part)));
              },
              { step: PART },
            );
        });
        this.store(body, at, parts ?? fold!.total(body));
      },
      { bind: 'grid.x' },
    );
    return makeStage(cx, block, { grid, work: count });
  }

  /** The last axis stays: neighbouring results in vectors. */
  columns(): Stage {
    const { cx, kept, count } = this;
    const outerShape = kept.slice(0, -1).map((i) => this.shape[i]!);
    const width = asExpr(this.shape.at(-1)!);
    const blocks = ceildiv(width, COLUMNS);
    const grid = mul(elements(outerShape), blocks);
    const block = new Block();
    block.for(
      'u',
      0,
      grid,
      (u, body) => {
        const at = nameCoordinates(body, [...outerShape, blocks], u);
        const outer = at.slice(0, -1);
        const first = mul(at.at(-1)!, COLUMNS);
        if (!fillsLanes(this.spec().dtype)) {
          const end = min(add(first, COLUMNS), width);
          body.for('c', first, end, (c, inner) => this.sideBySide(inner, outer, c, 1, 1));
          return;
        }
        body.if(
          ge(width, add(first, COLUMNS)),
          (full) => this.sideBySide(full, outer, first, COLUMNS / 4, 4),
          (edge) => {
            const quads = add(first, mul(floordiv(sub(width, first), 4), 4));
            edge.for('c', first, quads, (c, inner) => this.sideBySide(inner, outer, c, 1, 4), { step: 4 });
            edge.for('c', quads, width, (c, inner) => this.sideBySide(inner, outer, c, 1, 1));
          },
        );
      },
      { bind: 'grid.x' },
    );
    return makeStage(cx, block, { grid, work: mul(count, COLUMNS) });
  }

  private sideBySide(block: Block, outer: readonly Expr[], column: Expr, vectors: number, lanes: 1 | 4): void {
    const { init, dtype, step } = this.spec();
    const acc = Array.from({ length: vectors }, (_, v) => block.var(`acc${v}`, literal(init, dtype, lanes)));
    const at = (v: number): Expr => add(column, v * lanes);
    this.nest(block, this.folded, (along, inner) => {
      for (const [v, a] of acc.entries()) {
        const x = neighbours([at(v)], lanes, ([c]) => this.element([...outer, c!], along));
        inner.set(a, step(a, x));
      }
    });
    for (const [v, a] of acc.entries()) this.store(block, [...outer, at(v)], a);
  }

  /** Trailing folded axes that one flat loop can cover: as many as read the operand without taking the index apart. */
  run(at: readonly Expr[]): number {
    const { folded, shape } = this;
    let most = 0;
    while (most < folded.length && folded.at(-1 - most) === shape.length - 1 - most) most++;
    for (let run = most; run > 1; run--) {
      const line = folded.slice(folded.length - run).map((i) => shape[i]!);
      const outer = folded
        .slice(0, folded.length - run)
        .map((i) => variable('o', 'i32', 1, { from: 0, to: asExpr(shape[i]!) }));
      const i = variable('i', 'i32', 1, { from: 0, to: elements(line) });
      if (!takesApart(this.element(at, [...outer, ...unflatten(line, i)]), i)) return run;
    }
    return Math.min(most, 1);
  }

  nest(
    block: Block,
    axes: readonly number[],
    body: (at: readonly Expr[], block: Block) => void,
    at: readonly Expr[] = [],
  ): void {
    const [axis, ...rest] = axes;
    if (axis === undefined) body(at, block);
    else block.for(`f${axis}`, 0, asExpr(this.shape[axis]!), (i, inner) => this.nest(inner, rest, body, [...at, i]));
  }

  /** @param kept coordinates of the axes that stay @param folded of the others */
  element(kept: readonly Expr[], folded: readonly Expr[]): Expr {
    const at = new Array<Expr>(this.shape.length);
    this.kept.forEach((axis, i) => {
      at[axis] = kept[i]!;
    });
    this.folded.forEach((axis, i) => {
      at[axis] = folded[i]!;
    });
    return cast(operandAt(this.cx, 0, at), this.spec().dtype);
  }

  spec(): { init: number; dtype: ReturnType<typeof wide>; step: (acc: Expr, x: Expr) => Expr } {
    const { root } = this.cx.region;
    const { lower } = root.op;
    if (lower.kind !== 'reduce') throw new Error(`${root.op.name} is not a reduction`);
    const context = lowerContext(root);
    return {
      init: lower.init(context),
      dtype: wide(typeOf(root).dtype),
      step: (acc, x) => lower.step(acc, x, context),
    };
  }

  store(block: Block, at: readonly Expr[], acc: Expr): void {
    const { root } = this.cx.region;
    const { lower } = root.op;
    const finish = lower.kind === 'reduce' ? lower.finish : undefined;
    const value = finish ? finish(acc, this.count, lowerContext(root)) : acc;
    const coordinates = this.keepdims
      ? this.shape.map((_, axis) => (this.kept.includes(axis) ? at[this.kept.indexOf(axis)]! : literal(0)))
      : at;
    storeResult(this.cx, block, coordinates, cast(value, typeOf(root).dtype));
  }
}

/** Whether the element divides something that depends on `i`. */
const takesApart = (e: Expr, i: Expr): boolean =>
  exprNodes(e).some((x) => (x.op === 'floordiv' || x.op === 'floormod') && exprNodes(x).includes(i));
