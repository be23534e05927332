/**
 * Positions of true elements first, in order: a running count says where each position goes. Long lines are cut into
 * blocks, which are counted, given their places, and written one by one, so that threads share them.
 */
import type { Buffer, Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import { add, cast, ceildiv, eq, literal, load, min, mul, select, sub } from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, elements } from '../../ir/type.ts';
import type { Stage } from '../region.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { nameCoordinates } from './element.ts';

/** Elements of one block. */
const BLOCK = 4096;

export function schedulePositions(cx: ScheduleContext): readonly Stage[] {
  const { shape } = typeOf(cx.region.root.inputs[0]!);
  const lines = shape.slice(0, -1);
  const width = asExpr(shape.at(-1)!);
  const isTrue = (at: readonly Expr[], i: Expr): Expr => cast(operandAt(cx, 0, [...at, i]), 'i32');
  const [order, counts] = [resultOf(cx, 0), resultOf(cx, 1)];
  const count = (block: Block, at: readonly Expr[], from: Expr, to: Expr): Expr => {
    const sum = block.var('sum', literal(0));
    block.for('i', from, to, (i, body) => body.update('add', sum, isTrue(at, i)));
    return block.let('count', sum);
  };
  /** `before` of the true elements stand in front of `from`, `all` in the line. */
  const write = (block: Block, at: readonly Expr[], from: Expr, to: Expr, before: Expr, all: Expr): void => {
    if (!order) return;
    const next = block.var('next', before);
    block.for('i', from, to, (i, body) => {
      const yes = body.let('yes', isTrue(at, i));
      const place = body.let('place', select(eq(yes, 1), next, add(all, sub(i, next))));
      storeResult(cx, body, [...at, place], i, order);
      body.update('add', next, yes);
    });
  };
  const each = (grid: Expr, work: Expr, body: (u: Expr, block: Block) => void): Stage => {
    const block = new Block();
    block.for('u', 0, grid, body, { bind: 'grid.x' });
    return makeStage(cx, block, { grid, work });
  };
  const rows = elements(lines);
  if (boundsOf(width)[1] <= BLOCK)
    return [
      each(rows, mul(width, 4), (u, body) => {
        const at = nameCoordinates(body, lines, u);
        const all = count(body, at, literal(0), width);
        if (counts) storeResult(cx, body, at, all, counts);
        write(body, at, literal(0), width, literal(0), all);
      }),
    ];
  const blocks = ceildiv(width, BLOCK);
  const units = [...lines, blocks];
  // One more for each line: the count of all.
  const stride = add(blocks, 1);
  const sums: Buffer = cx.buffers.temp('sums', 'i32', mul(rows, stride));
  const part = (u: Expr, body: Block): { at: Expr[]; slot: Expr; last: Expr; from: Expr; to: Expr } => {
    const coordinates = nameCoordinates(body, units, u);
    const [at, n] = [coordinates.slice(0, -1), coordinates.at(-1)!];
    const row = lines.reduce<Expr>((sum, d, i) => add(mul(sum, d), at[i]!), literal(0));
    const first = body.let('first', mul(row, stride));
    const from = body.let('from', mul(n, BLOCK));
    const to = body.let('to', min(add(from, BLOCK), width));
    return { at, slot: add(first, n), last: add(first, blocks), from, to };
  };
  return [
    each(mul(rows, blocks), literal(BLOCK), (u, body) => {
      const { at, slot, from, to } = part(u, body);
      body.store(sums, slot, count(body, at, from, to));
    }),
    each(rows, mul(blocks, 2), (u, body) => {
      const at = nameCoordinates(body, lines, u);
      const first = body.let('first', mul(u, stride));
      const sum = body.var('sum', literal(0));
      body.for('n', 0, blocks, (n, inner) => {
        const own = inner.let('own', load(sums, add(first, n)));
        inner.store(sums, add(first, n), sum);
        inner.update('add', sum, own);
      });
      body.store(sums, add(first, blocks), sum);
      if (counts) storeResult(cx, body, at, sum, counts);
    }),
    ...(order
      ? [
          each(mul(rows, blocks), literal(2 * BLOCK), (u, body) => {
            const { at, slot, last, from, to } = part(u, body);
            const [before, all] = [body.let('before', load(sums, slot)), body.let('all', load(sums, last))];
            write(body, at, from, to, before, all);
          }),
        ]
      : []),
  ];
}

/** The output that takes result number `index`; undefined when nobody reads it. */
export function resultOf({ region }: ScheduleContext, index: number): Value | undefined {
  return region.outputs.find((v) => v.attrs.index === index);
}
