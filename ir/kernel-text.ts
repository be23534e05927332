/** Kernels as readable text, for goldens and `dump --emit kernel`. It is never read back. */
import { type Buffer, type Expr, makeExpr, type Var } from './expr.ts';
import { eachStmt, type Kernel, type Stmt } from './kernel.ts';
import { printExpr } from './print.ts';

/**
 * A kernel with its buffers, sizes and statements:
 *
 * ```
 * kernel scale(N, read x: f32[N], write y: f32[N]) {
 *   for i in 0..N step 4 as grid.x {
 *     let a: f32x4 = x[i]:4
 *     y[i] = a * 0.5
 *   }
 * }
 * ```
 *
 * Variables of one name are told apart by a number, so that the text is unambiguous and the same for equal kernels.
 */
export function printKernel(kernel: Kernel): string {
  const printer = new KernelPrinter(kernel);
  return printer.print();
}

class KernelPrinter {
  readonly #kernel: Kernel;
  /** Variables whose own name is taken by another, under a name of their own. */
  readonly #renamed = new Map<Expr, Expr>();
  readonly #rewritten = new Map<Expr, Expr>();
  readonly #lines: string[] = [];

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    const taken = new Set([...kernel.params.map((p) => printExpr(p)), ...kernel.buffers.map((b) => b.name)]);
    const seen = new Set<Expr>();
    eachStmt(kernel.body, (s) => {
      if (!('v' in s) || s.kind === 'set') return;
      if (seen.has(s.v)) return;
      seen.add(s.v);
      const info = s.v.arg as Var;
      let name = info.name;
      for (let n = 2; taken.has(name); n++) name = `${info.name}_${n}`;
      taken.add(name);
      if (name !== info.name) this.#renamed.set(s.v, makeExpr('var', s.v.dtype, s.v.lanes, [], { ...info, name }));
    });
  }

  print(): string {
    const { name, params, buffers, body } = this.#kernel;
    const args = [
      ...params.map((p) => this.#expr(p)),
      ...buffers.filter((b) => b.space === 'global').map((b) => `${b.access} ${this.#buffer(b)}`),
    ];
    this.#lines.push(`kernel ${name}(${args.join(', ')}) {`);
    for (const b of buffers) if (b.space !== 'global') this.#lines.push(`  ${b.space} ${this.#buffer(b)}`);
    this.#block(body, '  ');
    this.#lines.push('}');
    return `${this.#lines.join('\n')}\n`;
  }

  #buffer(b: Buffer): string {
    return `${b.name}: ${b.dtype}[${this.#expr(b.size)}]`;
  }

  #block(body: readonly Stmt[], indent: string): void {
    for (const s of body) this.#stmt(s, indent);
  }

  #stmt(s: Stmt, indent: string): void {
    const line = (text: string): void => void this.#lines.push(indent + text);
    const e = (x: Expr): string => this.#expr(x);
    switch (s.kind) {
      case 'for': {
        const step = s.step === 1 ? '' : ` step ${s.step}`;
        const bind = s.bind === 'serial' ? '' : ` as ${s.bind}`;
        line(`for ${e(s.v)} in ${this.#bound(s.from)}..${this.#bound(s.to)}${step}${bind} {`);
        this.#block(s.body, `${indent}  `);
        line('}');
        return;
      }
      case 'let':
      case 'var':
        line(`${s.kind} ${e(s.v)}: ${s.v.dtype}${s.v.lanes > 1 ? `x${s.v.lanes}` : ''} = ${e(s.value)}`);
        return;
      case 'subgroup':
        line(`let ${e(s.v)}: ${s.v.dtype}${s.v.lanes > 1 ? `x${s.v.lanes}` : ''} = subgroup ${s.op} ${e(s.value)}`);
        return;
      case 'set':
        line(`${e(s.v)} = ${e(s.value)}`);
        return;
      case 'store':
        line(`${s.to.name}[${e(s.at)}] = ${e(s.value)}`);
        return;
      case 'if':
        line(`if ${e(s.cond)} {`);
        this.#block(s.then, `${indent}  `);
        if (s.else.length > 0) {
          line('} else {');
          this.#block(s.else, `${indent}  `);
        }
        line('}');
        return;
      case 'routine': {
        const given = s.params.map((v, i) => `${e(v)} = ${e(s.args[i]!)}`).join(', ');
        line(`routine ${s.name}(${s.buffers.map((b) => b.name).join(', ')}; ${given}) {`);
        this.#block(s.body, `${indent}  `);
        line('}');
        return;
      }
      case 'touch':
        line(`touch ${s.from.name}[${e(s.at)}]`);
        return;
      case 'barrier':
      case 'fence':
        line(s.kind);
        return;
    }
  }

  /** A bound of a range, in parentheses where `..` would be hard to see. */
  #bound(e: Expr): string {
    return e.args.length === 0 ? this.#expr(e) : `(${this.#expr(e)})`;
  }

  #expr(e: Expr): string {
    return printExpr(this.#renamed.size === 0 ? e : this.#rename(e));
  }

  /** Exchanges variables only, which keeps the simplified form. */
  #rename(e: Expr): Expr {
    const other = this.#renamed.get(e) ?? this.#rewritten.get(e);
    if (other || e.args.length === 0) return other ?? e;
    const args = e.args.map((a) => this.#rename(a));
    const result = args.every((a, i) => a === e.args[i]) ? e : makeExpr(e.op, e.dtype, e.lanes, args, e.arg);
    this.#rewritten.set(e, result);
    return result;
  }
}
