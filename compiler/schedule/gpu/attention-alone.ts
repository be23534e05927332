/**
 * Attention of few queries and keys, or of heads too wide for workgroup memory: one invocation for each query walks the
 * keys with an online softmax. No barrier, and short code.
 */
import type { Expr } from '../../../ir/expr.ts';
import { Block, buffer } from '../../../ir/kernel.ts';
import {
  add,
  bool,
  eq,
  exp,
  fma,
  le,
  literal,
  load,
  lt,
  mul,
  not,
  or,
  select,
  splat,
  sub,
  sumLanes,
  zero,
} from '../../../ir/scalar.ts';
import { packLanes } from '../../access.ts';
import type { Stage } from '../../region.ts';
import { makeStage, operandAt, storeResult } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import type { GpuReach } from './attention-reach.ts';
import { type Attention, larger, NONE } from './attention-scores.ts';
import { GROUP, invocations } from './invocations.ts';

export function attentionAlone(a: Attention, reach: GpuReach): Stage {
  const { cx, width, valueWidth } = a;
  const out = buffer('result', 'f32', valueWidth, { space: 'local', access: 'readwrite' });
  const lanes = width % 4 === 0 ? 4 : 1;
  const wide = valueWidth % 4 === 0 ? 4 : 1;
  const pack = (n: 1 | 4, element: (j: number) => Expr): Expr =>
    n === 1 ? element(0) : packLanes([0, 1, 2, 3].map(element));
  const units = mul(mul(a.batch, a.heads), a.queries);
  const block = new Block();
  const grid = invocations(block, units, (unit, body) => {
    const [b, h, q] = nameCoordinates(body, [a.batch, a.heads, a.queries], unit) as [Expr, Expr, Expr];
    const at = { b, h, q };
    const g = a.keyHead(body, h);
    const top = body.var('top', literal(NONE, 'f32'));
    const sum = body.var('sum', zero('f32'));
    const found = a.unmasked ? body.var('found', bool(false)) : undefined;
    body.for('e', 0, valueWidth, (e, inner) => inner.store(out, e, zero('f32', wide)), { step: wide });
    const empty = (): Expr => (found ? not(found) : le(top, literal(NONE, 'f32')));
    reach.walk(body, reach.ofQuery({ b, h, first: q }), 1, empty, (k, solid, turn) => {
      const product = turn.var('product', zero('f32', lanes));
      turn.for(
        'd',
        0,
        width,
        (d, inner) => {
          const along = (n: number, row: Expr, head: Expr): Expr =>
            pack(lanes, (j) => operandAt(cx, n, [b, head, row, add(d, j)]));
          inner.set(product, fma(along(0, q, h), along(1, k, g), product));
        },
        { step: lanes },
      );
      const value = a.scaled(lanes === 1 ? product : sumLanes(product));
      const s = a.scores(turn, [{ at, k, value }], solid, true)[0]!;
      const any = found ? turn.let('any', or(found, lt(literal(NONE, 'f32'), s.masked))) : undefined;
      const score = any ? turn.let('score', select(any, s.masked, s.plain)) : s.masked;
      // The first allowed key makes the sums start anew.
      const keep = any && found ? turn.let('keep', eq(any, found)) : undefined;
      const before = keep ? select(keep, top, NONE) : top;
      const now = turn.let('now', larger(before, score));
      const decay = exp(sub(top, now));
      const alpha = turn.let('alpha', keep ? select(keep, decay, 0) : decay);
      const weight = turn.let('weight', exp(sub(score, now)));
      turn.set(top, now);
      turn.set(sum, add(mul(sum, alpha), weight));
      if (found && any) turn.set(found, any);
      turn.for(
        'e',
        0,
        valueWidth,
        (e, inner) => {
          const value = pack(wide, (j) => operandAt(cx, 2, [b, g, k, add(e, j)]));
          inner.store(out, e, fma(splat(weight, wide), value, mul(load(out, e, wide), splat(alpha, wide))));
        },
        { step: wide },
      );
    });
    a.storeLse(body, at, top, sum);
    const output = a.output(0);
    if (!output) return;
    const inverse = body.let('inverse', a.inverse(sum));
    body.for(
      'e',
      0,
      valueWidth,
      (e, inner) => {
        const value = inner.let('value', a.result(load(out, e, wide), sum, inverse));
        storeResult(cx, inner, [b, h, q, e], value, output);
      },
      { step: wide },
    );
  });
  return makeStage(cx, block, { grid, work: mul(a.keys, GROUP * (width + valueWidth)), macs: a.macs });
}
