/**
 * How each buffer of a kernel stands in WGSL: the type of its elements there, and the binding that holds it.
 *
 * A buffer that is read four neighbours at a time is an array of vectors, as long as nobody writes less than a vector (two
 * invocations that write different parts of one vector would race). A kernel with more buffers than a stage may bind
 * takes the whole arena in one binding; a weight larger than a binding comes in pieces. Weights of halves stand two in a
 * word, which every device can read: no feature is needed for half the memory and half the traffic. Whether a half below
 * 2^-14 becomes zero is left to the device, as it is in all of WGSL.
 */
import { sizeOf } from '../ir/dtype.ts';
import { type Buffer, type Expr, exprNodes, type Lanes, type Sym } from '../ir/expr.ts';
import { eachStmt, type Kernel, stmtExprs } from '../ir/kernel.ts';
import { add, floordiv, floormod, literal } from '../ir/scalar.ts';
import type { WgslBinding } from '../runtime/manifest.ts';
import { type Access, typeName } from './wgsl-expr.ts';

export interface BindingLimits {
  /** Storage buffers of one stage: 8 on every device. */
  readonly storageBuffers: number;
  /** Bytes of one storage binding: 2^27 on every device. */
  readonly bindingBytes: number;
}
export const EVERY_DEVICE: BindingLimits = { storageBuffers: 8, bindingBytes: 2 ** 27 };

/** Lanes of the elements a buffer is declared with. */
export function viewsOf(kernel: Kernel): ReadonlyMap<Buffer, 1 | 4> {
  const multiple = new Multiples(kernel);
  const wide = new Set<Buffer>();
  const narrow = new Set<Buffer>();
  const note = (b: Buffer, at: Expr, lanes: Lanes, writes: boolean): void => {
    if (lanes === 4 && multiple.ofFour(at)) wide.add(b);
    else if (writes || lanes > 1) narrow.add(b);
  };
  eachStmt(kernel.body, (s) => {
    if (s.kind === 'store') note(s.to, s.at, s.value.lanes, true);
    for (const root of stmtExprs(s))
      for (const e of exprNodes(root)) if (e.op === 'load') note(e.arg as Buffer, e.args[0]!, e.lanes, false);
  });
  for (const b of kernel.buffers)
    if (b.space !== 'global' && (b.size.op !== 'const' || (b.size.arg as number) % 4 !== 0)) narrow.add(b);
  return new Map(kernel.buffers.map((b) => [b, wide.has(b) && !narrow.has(b) ? 4 : 1]));
}

/** Whether index expressions are multiples of four, knowing what names stand for. */
class Multiples {
  readonly #values = new Map<Expr, readonly Expr[]>();

  constructor(kernel: Kernel) {
    eachStmt(kernel.body, (s) => {
      if (s.kind === 'let') this.#values.set(s.v, [s.value]);
      else if (s.kind === 'for') this.#values.set(s.v, [s.from, literal(s.step)]);
      else if (s.kind === 'routine') s.params.forEach((v, i) => void this.#values.set(v, [s.args[i]!]));
    });
  }

  ofFour(e: Expr): boolean {
    const { op, args } = e;
    if (op === 'const') return (e.arg as number) % 4 === 0;
    if (op === 'sym') return (e.arg as Sym).multipleOf % 4 === 0;
    if (op === 'var') return this.#values.get(e)?.every((x) => this.ofFour(x)) ?? false;
    if (op === 'add' || op === 'sub' || op === 'min' || op === 'max') return args.every((x) => this.ofFour(x));
    if (op === 'select') return args.slice(1).every((x) => this.ofFour(x));
    if (op === 'mul') return args.some((x) => this.ofFour(x)) || args.every((x) => this.#even(x));
    if (op === 'shl') return this.ofFour(args[0]!) || (args[1]!.op === 'const' && (args[1]!.arg as number) >= 2);
    if (op === 'floormod') return args.every((x) => this.ofFour(x));
    return floormod(e, 4) === literal(0);
  }

  #even(e: Expr): boolean {
    return e.op === 'const' && (e.arg as number) % 2 === 0;
  }
}

/** Where the buffers of one kernel are bound, and how their elements are read and written. */
export interface Places {
  readonly bindings: readonly WgslBinding[];
  /** Declarations of the module. */
  readonly declarations: readonly string[];
  /** Names of the word offsets that follow the launch's parameters. */
  readonly offsets: readonly string[];
  access(b: Buffer): Access & Store;
}

export interface Store {
  store(at: Expr, value: Expr, print: (e: Expr) => string): readonly string[];
}

/**
 * @param buffers  the kernel's buffers after legalisation, global ones first in argument order
 * @param params  name of the uniform struct
 */
export function placeBuffers(
  buffers: readonly Buffer[],
  names: ReadonlyMap<Buffer, string>,
  options: {
    readonly isWeight: (b: Buffer) => boolean;
    /** Weights that stand as halves. */
    readonly pairs: ReadonlySet<Buffer>;
    /** Memory whose elements stand as f16. */
    readonly narrow: ReadonlySet<Buffer>;
    readonly views: ReadonlyMap<Buffer, 1 | 4>;
    readonly limits: BindingLimits;
    readonly params: string;
  },
): Places {
  const { isWeight, pairs, narrow, views, limits, params } = options;
  const global = buffers.filter((b) => b.space === 'global');
  const pieces = new Map(
    global.filter(isWeight).map((b) => [b, piecesOf(b, pairs.has(b) ? 2 : sizeOf(b.dtype), limits.bindingBytes)]),
  );
  const weights = global.filter(isWeight);
  const arena = global.filter((b) => !isWeight(b));
  const weightBindings = weights.reduce((n, b) => n + pieces.get(b)!.length, 0);
  const mergesArena = arena.length + weightBindings > limits.storageBuffers;
  const mergesWeights = mergesArena && 1 + weightBindings > limits.storageBuffers;
  const bindings: WgslBinding[] = [];
  const declarations: string[] = [];
  const offsets: string[] = [];
  const table = new Map<Buffer, Access & Store>();
  const declare = (access: 'read' | 'read_write', name: string, type: string, binding: WgslBinding): void => {
    bindings.push(binding);
    declarations.push(`@group(0) @binding(${bindings.length}) var<storage, ${access}> ${name}: array<${type}>;`);
  };
  const merge = (list: readonly Buffer[], whole: 'arena' | 'weights'): void => {
    const args = list.map((b) => global.indexOf(b));
    declare(
      whole === 'arena' ? 'read_write' : 'read',
      whole,
      'u32',
      whole === 'arena' ? { arena: args } : { weights: args },
    );
    for (const b of list) {
      const offset = `at_${names.get(b)!}`;
      offsets.push(offset);
      if (!pairs.has(b)) table.set(b, merged(b, whole, `${params}.${offset}`));
      else readHalves(b, 1, (at) => `${whole}[${params}.${offset} + (${at})]`);
    }
  };
  const readHalves = (b: Buffer, lanes: 1 | 4, word: (at: string) => string): void => {
    const name = `${names.get(b)!}_at`;
    declarations.push(halfReader(name, lanes, word));
    table.set(
      b,
      view(name, lanes, (element) => `${name}(${element})`),
    );
  };
  for (const b of global) {
    if (isWeight(b) ? mergesWeights : mergesArena) continue;
    const name = names.get(b)!;
    const lanes = views.get(b)!;
    const half = pairs.has(b);
    const type = half ? (lanes === 1 ? 'u32' : 'vec2u') : typeName(b.dtype, lanes);
    const parts = pieces.get(b) ?? [];
    const arg = global.indexOf(b);
    if (parts.length > 1) {
      for (const [i, part] of parts.entries()) declare('read', `${name}_${i}`, type, { arg, ...part });
      const reader = half ? `${name}_words` : `${name}_at`;
      declarations.push(pieceReader(reader, name, parts, type, half ? (lanes === 1 ? 4 : 8) : 4 * lanes));
      const read = (element: string): string => `${reader}(${element})`;
      if (half) readHalves(b, lanes, read);
      else table.set(b, view(reader, lanes, read));
    } else {
      declare(isWeight(b) ? 'read' : 'read_write', name, type, { arg });
      if (half) readHalves(b, lanes, (at) => `${name}[${at}]`);
      else table.set(b, view(name, lanes));
    }
  }
  if (mergesArena && arena.length > 0) merge(arena, 'arena');
  if (mergesWeights && weights.length > 0) merge(weights, 'weights');
  for (const b of buffers) {
    if (b.space === 'global') continue;
    const held = view(names.get(b)!, views.get(b)!);
    table.set(b, narrow.has(b) ? converted(held, names.get(b)!, views.get(b)!) : held);
  }
  return { bindings, declarations, offsets, access: (b) => table.get(b)! };
}

/** Byte ranges that a binding can hold. */
function piecesOf(b: Buffer, each: number, most: number): readonly { readonly from: number; readonly bytes: number }[] {
  if (b.size.op !== 'const') return [{ from: 0, bytes: 0 }];
  const bytes = (b.size.arg as number) * each;
  const step = Math.floor(most / 256) * 256;
  const count = Math.max(1, Math.ceil(bytes / step));
  return Array.from({ length: count }, (_, i) => ({ from: i * step, bytes: Math.min(step, bytes - i * step) }));
}

/** @param size  bytes of what the function gives */
function pieceReader(
  reader: string,
  name: string,
  parts: readonly { readonly from: number; readonly bytes: number }[],
  type: string,
  size: number,
): string {
  const first = (i: number): number => parts[i]!.from / size;
  const read = parts.map((_, i) => {
    const value = `${name}_${i}[i - ${first(i)}]`;
    return i === parts.length - 1 ? `return ${value};` : `if (i < ${first(i + 1)}) { return ${value}; }`;
  });
  return `fn ${reader}(i: i32) -> ${type} { ${read.join(' ')} }`;
}

/** One element or four, as f32. @param word  reads the words that hold them */
function halfReader(reader: string, lanes: 1 | 4, word: (at: string) => string): string {
  if (lanes === 1) return `fn ${reader}(i: i32) -> f32 { return unpack2x16float(${word('i >> 1u')})[i & 1]; }`;
  const words = `let words = ${word('i')};`;
  const four = 'vec4f(unpack2x16float(words.x), unpack2x16float(words.y))';
  return `fn ${reader}(i: i32) -> vec4f { ${words} return ${four}; }`;
}

const LANES = 'xyzw';

/** An array of elements or of vectors. */
function view(name: string, lanes: 1 | 4, element = (at: string): string => `${name}[${at}]`): Access & Store {
  return {
    load(at, count, print) {
      if (lanes === 1) {
        if (count === 1) return element(print(at));
        const parts = Array.from({ length: count }, (_, j) => element(print(add(at, j))));
        return `vec${count}(${parts.join(', ')})`;
      }
      const vector = element(print(floordiv(at, 4)));
      if (count === 4) return vector;
      const lane = floormod(at, 4);
      return lane.op === 'const' ? `${vector}.${LANES[lane.arg as number]!}` : `${vector}[${print(lane)}]`;
    },
    store(at, value, print) {
      if (lanes === 4) return [`${element(print(floordiv(at, 4)))} = ${print(value)};`];
      if (value.lanes === 1) return [`${element(print(at))} = ${print(value)};`];
      const text = print(value);
      return Array.from({ length: value.lanes }, (_, j) => `${element(print(add(at, j)))} = ${text}.${LANES[j]!};`);
    },
  };
}

/** WGSL's name of halves where they stand. */
export const halfName = (lanes: 1 | 4): string => (lanes === 1 ? 'f16' : 'vec4<f16>');

/** Elements that stand as f16 and are computed as f32. */
function converted(held: Store, name: string, lanes: 1 | 4): Access & Store {
  const wide = lanes === 1 ? 'f32' : 'vec4f';
  return {
    ...view(name, lanes, (at) => `${wide}(${name}[${at}])`),
    store: (at, value, print) =>
      held.store(at, value, print).map((line) => line.replace(/ = (.*);$/, ` = ${halfName(lanes)}($1);`)),
  };
}

/** Words of a binding that holds more than this buffer. */
function merged(b: Buffer, whole: string, offset: string): Access & Store {
  const word = (at: string): string => `${whole}[${offset} + ${at}]`;
  const read = (at: string): string => (b.dtype === 'u32' ? word(at) : `bitcast<${b.dtype}>(${word(at)})`);
  return {
    load(at, count, print) {
      if (count === 1) return read(print(at));
      return `vec${count}(${Array.from({ length: count }, (_, j) => read(print(add(at, j)))).join(', ')})`;
    },
    store(at, value, print) {
      const text = print(value);
      return Array.from({ length: value.lanes }, (_, j) => {
        const lane = value.lanes === 1 ? text : `${text}.${LANES[j]!}`;
        return `${word(print(add(at, j)))} = ${b.dtype === 'u32' ? lane : `bitcast<u32>(${lane})`};`;
      });
    },
  };
}
