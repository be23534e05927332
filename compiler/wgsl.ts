/** Kernels as WGSL compute shaders, one small module for each. */
import { isFloat } from '../ir/dtype.ts';
import type { Buffer, Expr, Sym, Var } from '../ir/expr.ts';
import { eachStmt, type Kernel, type Stmt } from '../ir/kernel.ts';
import { boundsOf } from '../ir/simplify.ts';
import type { WgslKernel } from '../runtime/manifest.ts';
import { type BindingLimits, EVERY_DEVICE, halfName, type Places, placeBuffers, viewsOf } from './wgsl-access.ts';
import { ExprPrinter, Library, typeName } from './wgsl-expr.ts';
import { halfMemory } from './wgsl-halves.ts';
import { legalizeForWgsl } from './wgsl-legalize.ts';
import { Names } from './wgsl-names.ts';

/** Workgroups in one dimension of a dispatch; more come in rows. */
const ROW = 65535;

export interface WgslShader {
  readonly source: string;
  readonly kernel: WgslKernel;
  /** What the source enables. */
  readonly features: readonly string[];
}

export interface WgslOptions {
  /** Default: what every device binds. */
  readonly limits?: BindingLimits | undefined;
  /** Whether weights of f32 stand in their file as halves. Default false. */
  readonly halves?: boolean | undefined;
  /** Whether devices have the feature `shader-f16`. Default false. */
  readonly f16?: boolean | undefined;
}

/**
 * Prints one kernel.
 *
 * @param isWeight  which of its global buffers are read from the weights, where elements stand as in the weight file
 * @throws CompileError `unsupported` for f64; Error for a kernel that is not one `grid.x` loop
 */
export function printWgsl(kernel: Kernel, isWeight: (b: Buffer) => boolean, options: WgslOptions = {}): WgslShader {
  return new ShaderPrinter(kernel, isWeight, options).print();
}

class ShaderPrinter {
  readonly #kernel: Kernel;
  readonly #library = new Library();
  readonly #names = new Names();
  /** Text of variables and symbols. */
  readonly #text = new Map<Expr, string>();
  readonly #places: Places;
  readonly #printer: ExprPrinter;
  readonly #params: readonly string[];
  readonly #workgroup: [number, number, number] = [1, 1, 1];
  readonly #buffers = new Map<Buffer, string>();
  readonly #mutable = new Set<Expr>();
  readonly #views: ReadonlyMap<Buffer, 1 | 4>;
  /** Memory whose elements stand as f16. */
  readonly #narrow: ReadonlySet<Buffer>;
  #lines: string[] = [];
  #indent = '  ';

  constructor(
    kernel: Kernel,
    isWeight: (b: Buffer) => boolean,
    { limits = EVERY_DEVICE, halves = false, f16 = false }: WgslOptions,
  ) {
    const legal = legalizeForWgsl(kernel, isWeight);
    this.#kernel = legal.kernel;
    const weights = new Set(legal.buffers.filter((_, i) => isWeight(kernel.buffers[i]!)));
    const isHalf = ({ dtype }: Buffer): boolean => dtype === 'f16' || (halves && dtype === 'f32');
    const pairs = new Set(legal.buffers.filter((b, i) => weights.has(b) && isHalf(kernel.buffers[i]!)));
    for (const b of legal.buffers) this.#buffers.set(b, this.#names.fresh(b.name));
    this.#params = kernel.params.map((p) => this.#names.fresh((p.arg as Sym).name));
    kernel.params.forEach((p, i) => void this.#text.set(p, `params.${this.#params[i]!}`));
    this.#views = viewsOf(legal.kernel);
    this.#narrow = f16 ? halfMemory(legal.kernel, pairs) : new Set();
    if (this.#narrow.size > 0) this.#library.features.add('shader-f16');
    this.#places = placeBuffers(legal.buffers, this.#buffers, {
      isWeight: (b) => weights.has(b),
      pairs,
      narrow: this.#narrow,
      views: this.#views,
      limits,
      params: 'params',
    });
    this.#printer = new ExprPrinter(this.#library, this.#text, (b) => this.#places.access(b));
    this.#measure(legal.kernel.body);
  }

  print(): WgslShader {
    const { body, buffers } = this.#kernel;
    for (const b of buffers) if (b.space === 'local') this.#line(`var ${this.#declared(b)};`);
    this.#block(body);
    const code = this.#lines;
    const params = [...this.#params, ...this.#places.offsets];
    const shared = buffers.filter((b) => b.space === 'shared').map((b) => `var<workgroup> ${this.#declared(b)};`);
    const [x, y] = this.#workgroup;
    const args = ['@builtin(workgroup_id) group: vec3u'];
    if (x * y > 1) args.push('@builtin(local_invocation_id) local: vec3u');
    const { features } = this.#library;
    const source = [
      ...[...features].map((name) => `enable ${name.replace('shader-', '')};`),
      ...(params.length > 0
        ? [
            `struct Params { ${params.map((name) => `${name}: i32`).join(', ')} }`,
            '@group(0) @binding(0) var<uniform> params: Params;',
          ]
        : []),
      ...this.#places.declarations,
      ...shared,
      ...this.#library.text(),
      `@compute @workgroup_size(${y > 1 ? `${x}, ${y}` : x})`,
      `fn main(${args.join(', ')}) {`,
      ...code,
      '}',
      '',
    ].join('\n');
    const kernel: WgslKernel = {
      workgroup: this.#workgroup,
      bindings: this.#places.bindings,
      params: this.#params.length,
    };
    return { source, kernel, features: [...features] };
  }

  #declared(b: Buffer): string {
    if (b.size.op !== 'const') throw new Error(`${b.space} buffer ${b.name} of ${this.#kernel.name} has no fixed size`);
    const lanes = this.#views.get(b)!;
    const type = this.#narrow.has(b) ? halfName(lanes) : typeName(b.dtype, lanes);
    return `${this.#buffers.get(b)!}: array<${type}, ${(b.size.arg as number) / lanes}>`;
  }

  /** The number of invocations: the longest loop over them, along each axis. */
  #measure(body: readonly Stmt[]): void {
    eachStmt(body, (s) => {
      if (s.kind !== 'for' || !s.bind.startsWith('thread.')) return;
      if (s.from.op !== 'const' || s.to.op !== 'const') throw new Error('the size of a workgroup is not fixed');
      const axis = s.bind === 'thread.x' ? 0 : 1;
      const extent = Math.ceil(((s.to.arg as number) - (s.from.arg as number)) / s.step);
      this.#workgroup[axis] = Math.max(this.#workgroup[axis], extent);
    });
  }

  #line(text: string): void {
    this.#lines.push(this.#indent + text);
  }

  #inside(body: () => void): void {
    const outer = this.#indent;
    this.#indent += '  ';
    this.#names.scope(body);
    this.#indent = outer;
  }

  #expr(e: Expr): string {
    return this.#printer.shared(e, (line) => this.#line(line));
  }

  #define(v: Expr): string {
    const name = this.#names.fresh((v.arg as Var).name);
    this.#text.set(v, name);
    return name;
  }

  #block(body: readonly Stmt[]): void {
    for (const s of body) this.#stmt(s);
  }

  #stmt(s: Stmt): void {
    switch (s.kind) {
      case 'for':
        if (s.bind === 'serial') this.#loop(s);
        else if (s.bind === 'grid.x') this.#grid(s);
        else if (s.bind === 'thread.x' || s.bind === 'thread.y') this.#thread(s);
        else throw new Error(`kernel ${this.#kernel.name}: ${s.bind} is not printed`);
        return;
      case 'let': {
        const value = this.#expr(s.value);
        this.#line(`let ${this.#define(s.v)} = ${value};`);
        return;
      }
      case 'var': {
        const value = this.#expr(s.value);
        this.#line(`var ${this.#define(s.v)} = ${value};`);
        this.#mutable.add(s.v);
        return;
      }
      case 'subgroup': {
        const value = this.#expr(s.value);
        // Integers have no NaN that a builtin could lose.
        const plain = (s.op === 'min' || s.op === 'max') && !isFloat(s.value.dtype);
        const join = this.#library.call(`${plain ? 'raw_' : ''}subgroup_${s.op}`, [s.value]);
        this.#line(`let ${this.#define(s.v)} = ${join}(${value});`);
        return;
      }
      case 'set':
        this.#line(`${this.#text.get(s.v)!} = ${this.#expr(s.value)};`);
        return;
      case 'store':
        this.#store(s);
        return;
      case 'if':
        if (s.then.length === 0 && s.else.length === 0) return;
        this.#line(`if (${this.#expr(s.cond)}) {`);
        this.#inside(() => this.#block(s.then));
        if (s.else.length > 0) {
          this.#line('} else {');
          this.#inside(() => this.#block(s.else));
        }
        this.#line('}');
        return;
      case 'barrier':
        this.#line('workgroupBarrier();');
        return;
      case 'fence':
      case 'touch':
        return;
      case 'routine':
        s.params.forEach((v, i) => {
          const value = this.#expr(s.args[i]!);
          this.#line(`let ${this.#define(v)} = ${value};`);
        });
        this.#block(s.body);
        return;
    }
  }

  #store(s: Stmt & { readonly kind: 'store' }): void {
    const access = this.#places.access(s.to);
    const { value } = s;
    if (value.lanes > 1 && value.op !== 'var') {
      // Printed once where it is stored lane by lane.
      const text = this.#expr(value);
      const lines = access.store(s.at, value, (e) => (e === value ? text : this.#printer.print(e)));
      if (lines.length === 1) {
        this.#line(lines[0]!);
        return;
      }
      const name = this.#names.fresh('stored');
      this.#line(`let ${name} = ${text};`);
      for (const line of access.store(s.at, value, (e) => (e === value ? name : this.#printer.print(e))))
        this.#line(line);
      return;
    }
    const text = this.#expr(value);
    for (const line of access.store(s.at, value, (e) => (e === value ? text : this.#printer.print(e))))
      this.#line(line);
  }

  #loop(s: Stmt & { readonly kind: 'for' }): void {
    const from = this.#expr(s.from);
    let to = this.#expr(s.to);
    if (s.to.args.length > 0 || this.#mutable.has(s.to)) {
      // Evaluated once, before the loop.
      const end = this.#names.fresh('end');
      this.#line(`let ${end} = ${to};`);
      to = end;
    }
    this.#names.scope(() => {
      const v = this.#define(s.v);
      const next = s.step === 1 ? `${v}++` : `${v} += ${s.step}`;
      this.#line(`for (var ${v} = ${from}; ${v} < ${to}; ${next}) {`);
      this.#inside(() => this.#block(s.body));
      this.#line('}');
    });
  }

  #grid(s: Stmt & { readonly kind: 'for' }): void {
    const v = this.#define(s.v);
    const [least, most] = boundsOf(s.to);
    if (s.from.op !== 'const' || s.from.arg !== 0 || s.step !== 1)
      throw new Error(`kernel ${this.#kernel.name}: a grid starts at 0`);
    if (most <= ROW) this.#line(`let ${v} = i32(group.x);`);
    else {
      this.#line(`let ${v} = i32(group.x + group.y * ${ROW}u);`);
      // The last row of workgroups may go beyond the grid; one row never does.
      if (least !== most || most % ROW !== 0) this.#line(`if (${v} >= ${this.#expr(s.to)}) { return; }`);
    }
    this.#block(s.body);
  }

  #thread(s: Stmt & { readonly kind: 'for' }): void {
    const axis = s.bind === 'thread.x' ? 0 : 1;
    const id = `i32(local.${'xy'[axis]!})`;
    const [from, to] = [s.from.arg as number, s.to.arg as number];
    const steps = s.step === 1 ? id : `${id} * ${s.step}`;
    const v = this.#define(s.v);
    this.#line(`let ${v} = ${from === 0 ? steps : `${from} + ${steps}`};`);
    const extent = Math.ceil((to - from) / s.step);
    if (extent === this.#workgroup[axis]) {
      this.#block(s.body);
      return;
    }
    this.#line(`if (${v} < ${to}) {`);
    this.#inside(() => this.#block(s.body));
    this.#line('}');
  }
}
