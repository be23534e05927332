/** Local variables of a WASM function: taken and given back by type, and the values they hold while a scope lasts. */
import type { Scalar } from '../ir/dtype.ts';
import type { Expr } from '../ir/expr.ts';
import type { FunctionBuilder, Local, ValType } from './wasm-encode.ts';

/** The register type of one value. Narrow integers and `bool` stand in an i32, four lanes in a v128. */
export function registerType(e: { readonly dtype: Scalar; readonly lanes: number }): ValType {
  if (e.lanes === 4 && LANED.has(e.dtype)) return 'v128';
  if (e.lanes !== 1) throw new Error(`wasm: no register holds ${e.lanes} lanes of ${e.dtype}`);
  switch (e.dtype) {
    case 'f64':
    case 'f32':
      return e.dtype;
    case 'i64':
    case 'u64':
      return 'i64';
    case 'f16':
    case 'bf16':
      throw new Error(`wasm: ${e.dtype} must be widened to f32 before printing`);
    default:
      return 'i32';
  }
}
const LANED = new Set<Scalar>(['f32', 'i32', 'u32', 'i16', 'u16', 'i8', 'u8', 'bool']);

interface Scope {
  readonly kind: 'block' | 'statement';
  readonly locals: Local[];
  readonly values: Expr[];
}

export class Locals {
  readonly #f: FunctionBuilder;
  readonly #free = new Map<ValType, Local[]>();
  /** What to give back and to forget when each open scope ends. */
  readonly #scopes: Scope[] = [{ kind: 'block', locals: [], values: [] }];
  readonly #values = new Map<Expr, Local>();

  constructor(f: FunctionBuilder) {
    this.#f = f;
  }

  /** A local of one's own until the end of the statement being printed, or of the block around it. */
  take(type: ValType, until: Scope['kind'] = 'statement'): Local {
    const local = this.#free.get(type)?.pop() ?? this.#f.local(type);
    this.#scopeOf(until).locals.push(local);
    return local;
  }

  /** The local that holds a value now. */
  find(e: Expr): Local | undefined {
    return this.#values.get(e);
  }

  /** Says that `local` holds `e` until the end of the statement, or of the block around it. */
  hold(e: Expr, local: Local, until: Scope['kind'] = 'statement'): void {
    if (!this.#values.has(e)) this.#scopeOf(until).values.push(e);
    this.#values.set(e, local);
  }

  /** Runs `body`; what it takes and holds is given back afterwards. */
  scope(kind: Scope['kind'], body: () => void): void {
    this.#scopes.push({ kind, locals: [], values: [] });
    body();
    const { locals, values } = this.#scopes.pop()!;
    for (const e of values) this.#values.delete(e);
    for (const local of locals) {
      const free = this.#free.get(local.type);
      if (free) free.push(local);
      else this.#free.set(local.type, [local]);
    }
  }

  #scopeOf(until: Scope['kind']): Scope {
    const scope = this.#scopes.findLast((s) => until === 'statement' || s.kind === 'block');
    if (!scope) throw new Error('wasm: no block is open');
    return scope;
  }
}
