import {
  type Callable,
  encodeInstr,
  type FuncType,
  FunctionBuilder,
  type Global,
  type Instr,
  instrText,
  nameOf,
  nameText,
  pushS32,
  pushU32,
  signatureText,
  stringText,
  valueTypeByte,
} from './wasm-function.ts';
import type { ValType } from './wasm-opcodes.ts';

export {
  type Callable,
  type FuncType,
  FunctionBuilder,
  type Global,
  type Label,
  type Local,
  pushS32,
  pushS64,
  pushU32,
} from './wasm-function.ts';
export { isOpName, isRelaxed, type Opcode, type OpName, opcode, opcodes, type ValType } from './wasm-opcodes.ts';

/** Size limits of the imported memory, in pages of 64 KiB. */
export interface MemoryLimits {
  readonly min: number;
  /** Needed when `shared`. */
  readonly max?: number | undefined;
  /** Default false. */
  readonly shared?: boolean | undefined;
}

/** A module as bytes, and where a loader patches it. */
export interface EncodedModule {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /**
   * Index in `bytes` of the flag of the memory's limits, or undefined without a memory. With `max` given, writing
   * {@link unsharedMemoryFlag} or {@link sharedMemoryFlag} there turns the module into one for that kind of memory.
   */
  readonly memoryFlagOffset: number | undefined;
}

/** The flag of a memory with a maximum that one thread uses. */
export const unsharedMemoryFlag = 0x01;
/** The flag of a shared memory, which always has a maximum. */
export const sharedMemoryFlag = 0x03;

function pushName(out: number[], name: string): void {
  const bytes = new TextEncoder().encode(name);
  pushU32(out, bytes.length);
  out.push(...bytes);
}

interface Segment {
  /** Byte address in memory; undefined for a passive segment. */
  readonly at: number | undefined;
  readonly bytes: Uint8Array;
}

/**
 * A module under construction: at most one memory, always imported. Imports come before the first defined function.
 *
 * @example
 * const module = new ModuleBuilder();
 * module.importMemory('env', 'memory', { min: 1, max: 16 });
 * const f = module.function('add', ['i32', 'i32'], ['i32']);
 * f.get(f.param(0)).get(f.param(1)).op('i32.add');
 * module.export('add', f);
 * const bytes = module.toBytes();
 */
export class ModuleBuilder {
  readonly #types: FuncType[] = [];
  readonly #typeIndex = new Map<string, number>();
  readonly #imports: { readonly module: string; readonly field: string; readonly callable: Callable }[] = [];
  readonly #functions: FunctionBuilder[] = [];
  readonly #globals: { readonly global: Global; readonly value: number | bigint }[] = [];
  readonly #exports: { readonly name: string; readonly kind: 'func' | 'global'; readonly index: number }[] = [];
  readonly #segments: Segment[] = [];
  #memory: { readonly module: string; readonly field: string; readonly limits: MemoryLimits } | undefined;

  /** Imports the memory. @throws Error at a second memory, at limits out of order, or when shared without a maximum */
  importMemory(module: string, field: string, limits: MemoryLimits): this {
    const { min, max, shared = false } = limits;
    const where = `memory ${module}.${field}`;
    if (this.#memory !== undefined) throw new Error(`${where}: the module already imports a memory`);
    if (shared && max === undefined) throw new RangeError(`${where}: a shared memory needs a maximum`);
    for (const pages of [min, max ?? min]) {
      if (Number.isInteger(pages) && pages >= 0 && pages <= 65536) continue;
      throw new RangeError(`${where}: ${pages} pages are not in 0 … 65536`);
    }
    if (max !== undefined && max < min)
      throw new RangeError(`${where}: the maximum ${max} is below the minimum ${min}`);
    this.#memory = { module, field, limits: { min, max, shared } };
    return this;
  }

  /** Imports a function. @throws Error after the first defined function, whose index it would shift */
  importFunction(module: string, field: string, params: readonly ValType[], results: readonly ValType[]): Callable {
    if (this.#functions.length > 0) throw new Error(`import ${module}.${field}: comes after a defined function`);
    const callable = { name: `${module}.${field}`, index: this.#imports.length, type: { params, results } };
    this.#type(callable.type);
    this.#imports.push({ module, field, callable });
    return callable;
  }

  /** Starts a function; `name` is for people and for the text format. */
  function(name: string, params: readonly ValType[], results: readonly ValType[] = []): FunctionBuilder {
    const type = { params, results };
    this.#type(type);
    const builder = new FunctionBuilder(name, this.#imports.length + this.#functions.length, type);
    this.#functions.push(builder);
    return builder;
  }

  /** Takes back the function that was started last, before anything calls or exports it. */
  discard(f: FunctionBuilder): void {
    if (this.#functions.at(-1) !== f) throw new Error(`${f.name} is not the last function`);
    this.#functions.pop();
  }

  /** Defines a global with a constant start value; a bigint exactly for i64. */
  global(type: Exclude<ValType, 'v128'>, value: number | bigint, mutable = false): Global {
    if ((type === 'i64') !== (typeof value === 'bigint'))
      throw new TypeError(`global: ${value} is not a start value for ${type}`);
    const global = { index: this.#globals.length, type, mutable };
    this.#globals.push({ global, value });
    return global;
  }

  /** Exports a function or global. @throws Error when the name is taken */
  export(name: string, what: Callable | Global): this {
    if (this.#exports.some((taken) => taken.name === name)) throw new Error(`export '${name}' is defined twice`);
    this.#exports.push({ name, kind: 'mutable' in what ? 'global' : 'func', index: what.index });
    return this;
  }

  /**
   * A data segment.
   *
   * @param at  byte address to which instantiation copies it; omitted, the segment is passive, for `memory.init`
   * @returns its number
   */
  data(bytes: Uint8Array, at?: number): number {
    if (at !== undefined) pushU32([], at);
    this.#segments.push({ at, bytes });
    return this.#segments.length - 1;
  }

  #type(type: FuncType): number {
    const key = signatureText(type);
    const known = this.#typeIndex.get(key);
    if (known !== undefined) return known;
    this.#typeIndex.set(key, this.#types.length);
    this.#types.push(type);
    return this.#types.length - 1;
  }

  /** The binary module. */
  toBytes(): Uint8Array<ArrayBuffer> {
    return this.encode().bytes;
  }

  /** The binary module and the place of its memory flag. */
  encode(): EncodedModule {
    const out = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
    let memoryFlagOffset: number | undefined;
    pushSection(out, 1, this.#types, (type, to) => {
      to.push(0x60);
      for (const list of [type.params, type.results]) {
        pushU32(to, list.length);
        for (const value of list) to.push(valueTypeByte[value]);
      }
    });
    const imports = this.#memory === undefined ? this.#imports : [this.#memory, ...this.#imports];
    let flagInSection = 0;
    const importsStart = pushSection(out, 2, imports, (item, to) => {
      pushName(to, item.module);
      pushName(to, item.field);
      if ('callable' in item) {
        to.push(0x00);
        pushU32(to, this.#type(item.callable.type));
        return;
      }
      const { min, max, shared } = item.limits;
      to.push(0x02);
      flagInSection = to.length;
      to.push((max === undefined ? 0 : unsharedMemoryFlag) | (shared === true ? sharedMemoryFlag : 0));
      pushU32(to, min);
      if (max !== undefined) pushU32(to, max);
    });
    if (this.#memory !== undefined) memoryFlagOffset = importsStart + flagInSection;
    pushSection(out, 3, this.#functions, (f, to) => pushU32(to, this.#type(f.type)));
    pushSection(out, 6, this.#globals, ({ global, value }, to) => {
      to.push(valueTypeByte[global.type], global.mutable ? 1 : 0);
      encodeInstr(to, startValue(global.type, value), []);
      to.push(0x0b);
    });
    pushSection(out, 7, this.#exports, ({ name, kind, index }, to) => {
      pushName(to, name);
      to.push(kind === 'func' ? 0x00 : 0x03);
      pushU32(to, index);
    });
    if (this.#segments.some((segment) => segment.at === undefined)) {
      const count: number[] = [];
      pushU32(count, this.#segments.length);
      out.push(12, count.length, ...count);
    }
    pushSection(out, 10, this.#functions, (f, to) => f.encode(to));
    pushSection(out, 11, this.#segments, ({ at, bytes }, to) => {
      if (at === undefined) to.push(0x01);
      else {
        to.push(0x00, 0x41);
        pushS32(to, at);
        to.push(0x0b);
      }
      pushU32(to, bytes.length);
      for (const byte of bytes) to.push(byte);
    });
    return { bytes: Uint8Array.from(out), memoryFlagOffset };
  }

  /** The same module in the text format. */
  toWat(): string {
    const lines = ['(module'];
    if (this.#memory !== undefined) {
      const { module, field, limits } = this.#memory;
      const max = limits.max === undefined ? '' : ` ${limits.max}`;
      const shared = limits.shared === true ? ' shared' : '';
      lines.push(`  (import ${nameText(module)} ${nameText(field)} (memory ${limits.min}${max}${shared}))`);
    }
    for (const { module, field, callable } of this.#imports) {
      const signature = `(func ${nameOf(callable)}${signatureText(callable.type)})`;
      lines.push(`  (import ${nameText(module)} ${nameText(field)} ${signature})`);
    }
    for (const { global, value } of this.#globals) {
      const type = global.mutable ? `(mut ${global.type})` : global.type;
      lines.push(`  (global ${type} (${instrText(startValue(global.type, value))}))`);
    }
    for (const { name, kind, index } of this.#exports) lines.push(`  (export ${nameText(name)} (${kind} ${index}))`);
    for (const f of this.#functions) lines.push(f.toWat());
    for (const { at, bytes } of this.#segments) {
      lines.push(`  (data ${at === undefined ? '' : `(i32.const ${at | 0}) `}${stringText(bytes)})`);
    }
    return `${lines.join('\n')})\n`;
  }
}

function startValue(type: ValType, value: number | bigint): Instr {
  if (typeof value === 'bigint') return { kind: 'i64', value };
  return type === 'f32' || type === 'f64' ? { kind: type, value } : { kind: 'i32', value: value | 0 };
}

/** Appends a section unless it is empty. @returns the index in `out` at which the section's content starts */
function pushSection<T>(
  out: number[],
  id: number,
  items: readonly T[],
  encode: (item: T, to: number[]) => void,
): number {
  if (items.length === 0) return out.length;
  const content: number[] = [];
  pushU32(content, items.length);
  for (const item of items) encode(item, content);
  out.push(id);
  pushU32(out, content.length);
  const start = out.length;
  for (const byte of content) out.push(byte);
  return start;
}
