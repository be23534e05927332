/** Room for what is counted at run time: memory is laid out before any count is known. */
import { type Expr, exprNodes, type Sym } from '../ir/expr.ts';
import { add, floordiv, literal, max, min, mul, sub } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, type Dim } from '../ir/type.ts';

/** The most that each counted symbol can be, as a size over symbols that are known before anything runs or counted too. */
export class Capacities {
  private readonly most = new Map<Expr, Expr>();
  private readonly open = new Set<Expr>();

  add(symbol: Expr, capacity: Dim): void {
    const room = min(asExpr(capacity), (symbol.arg as Sym).max);
    // Whatever is counted by one name has as many; the least bound holds for all.
    const known = this.most.get(symbol);
    this.most.set(symbol, known ? min(known, room) : room);
  }

  /** Whether a size mentions a counted one. */
  mentions(size: Expr): boolean {
    return exprNodes(size).some((e) => this.most.has(e));
  }

  /** A bound of a size, at least what it is for every count; the size itself where it mentions none. */
  roomFor(size: Expr): Expr {
    return this.bound(size, true);
  }

  private bound(e: Expr, upper: boolean): Expr {
    if (!exprNodes(e).some((x) => this.most.has(x))) return e;
    const own = this.most.get(e);
    if (own) {
      if (!upper) return literal((e.arg as Sym).min);
      // Two sizes may each be declared to be the other one.
      if (this.open.has(e)) return literal((e.arg as Sym).max);
      this.open.add(e);
      const room = this.bound(own, true);
      this.open.delete(e);
      return room;
    }
    const [a, b] = e.args as [Expr, Expr];
    const [least, most] = boundsOf(e);
    switch (e.op) {
      case 'add':
        return add(this.bound(a, upper), this.bound(b, upper));
      case 'sub':
        return sub(this.bound(a, upper), this.bound(b, !upper));
      case 'min':
        return min(this.bound(a, upper), this.bound(b, upper));
      case 'max':
        return max(this.bound(a, upper), this.bound(b, upper));
      case 'mul':
        if (boundsOf(a)[0] >= 0 && boundsOf(b)[0] >= 0) return mul(this.bound(a, upper), this.bound(b, upper));
        break;
      case 'floordiv':
      case 'div':
        if (boundsOf(a)[0] >= 0 && boundsOf(b)[0] > 0) return floordiv(this.bound(a, upper), this.bound(b, !upper));
        break;
      case 'floormod':
      case 'rem':
        if (boundsOf(a)[0] < 0 || boundsOf(b)[0] <= 0) break;
        if (!upper) return literal(0);
        return min(this.bound(a, true), sub(this.bound(b, true), 1));
    }
    return literal(upper ? most : least);
  }
}
