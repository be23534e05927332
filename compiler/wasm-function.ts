import { type Opcode, type OpName, opcode, type ValType } from './wasm-opcodes.ts';

/** The byte that stands for a value type. */
export const valueTypeByte: Readonly<Record<ValType, number>> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};
const noResult = 0x40;

/** The signature of a function: parameter types, result types. */
export interface FuncType {
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
}

/** A parameter or local variable of one function. */
export interface Local {
  readonly index: number;
  readonly type: ValType;
}

/** A module variable. */
export interface Global {
  readonly index: number;
  readonly type: ValType;
  readonly mutable: boolean;
}

/** Anything that `call` accepts: an imported or a defined function. */
export interface Callable {
  readonly name: string;
  readonly index: number;
  readonly type: FuncType;
}

/** The target of a branch: the end of a block or `if`, the start of a loop. Valid inside that construct only. */
export interface Label {
  readonly id: number;
}

/** An instruction, as both printers read it. */
export type Instr =
  | {
      readonly kind: 'op';
      readonly row: Opcode;
      readonly offset: number;
      readonly align: number;
      readonly lane: number;
    }
  | { readonly kind: 'bytes'; readonly row: Opcode; readonly bytes: readonly number[] }
  | { readonly kind: 'i32'; readonly value: number }
  | { readonly kind: 'i64'; readonly value: bigint }
  | { readonly kind: 'f32' | 'f64'; readonly value: number }
  | { readonly kind: 'variable'; readonly word: keyof typeof variableByte; readonly index: number }
  | { readonly kind: 'call'; readonly callee: Callable }
  | {
      readonly kind: 'enter';
      readonly word: keyof typeof enterByte;
      readonly id: number;
      readonly result: ValType | undefined;
    }
  | { readonly kind: 'else' | 'end' }
  | { readonly kind: 'branch'; readonly word: keyof typeof branchByte; readonly id: number }
  | { readonly kind: 'plain'; readonly word: keyof typeof plainByte };

const variableByte = {
  'local.get': 0x20,
  'local.set': 0x21,
  'local.tee': 0x22,
  'global.get': 0x23,
  'global.set': 0x24,
} as const;
const enterByte = { block: 0x02, loop: 0x03, if: 0x04 } as const;
const branchByte = { br: 0x0c, br_if: 0x0d } as const;
const plainByte = { unreachable: 0x00, nop: 0x01, return: 0x0f, drop: 0x1a, select: 0x1b } as const;

/** Appends an unsigned LEB128 number. @throws RangeError unless `value` is an integer in 0 … 2³²−1 */
export function pushU32(out: number[], value: number): void {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) {
    throw new RangeError(`wasm encoder: ${value} is not an unsigned 32-bit integer`);
  }
  let rest = value;
  while (rest >= 0x80) {
    out.push((rest & 0x7f) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  out.push(rest);
}

/** Appends a signed LEB128 number of at most 64 bits. @throws RangeError outside −2⁶³ … 2⁶³−1 */
export function pushS64(out: number[], value: bigint): void {
  if (BigInt.asIntN(64, value) !== value) throw new RangeError(`wasm encoder: ${value} is not a signed 64-bit integer`);
  let rest = value;
  for (;;) {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    if ((rest === 0n && low < 0x40) || (rest === -1n && low >= 0x40)) {
      out.push(low);
      return;
    }
    out.push(low | 0x80);
  }
}

/** Appends a signed LEB128 number of at most 32 bits; 2³¹ … 2³²−1 stand for their signed twins. */
export function pushS32(out: number[], value: number): void {
  if (!Number.isInteger(value) || value < -0x8000_0000 || value > 0xffff_ffff) {
    throw new RangeError(`wasm encoder: ${value} is not a 32-bit integer`);
  }
  pushS64(out, BigInt(value | 0));
}

function floatBytes(value: number, size: 4 | 8): number[] {
  const view = new DataView(new ArrayBuffer(size));
  if (size === 4) view.setFloat32(0, value, true);
  else view.setFloat64(0, value, true);
  return [...new Uint8Array(view.buffer)];
}

function floatText(value: number, size: 4 | 8): string {
  if (Number.isNaN(value)) return 'nan';
  const rounded = size === 4 ? Math.fround(value) : value;
  if (!Number.isFinite(rounded)) return rounded < 0 ? '-inf' : 'inf';
  return Object.is(rounded, -0) ? '-0' : String(rounded);
}

/** A quoted string of the text format. */
export function stringText(bytes: Iterable<number>): string {
  let text = '"';
  for (const byte of bytes) {
    const plain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c;
    text += plain ? String.fromCharCode(byte) : `\\${byte.toString(16).padStart(2, '0')}`;
  }
  return `${text}"`;
}

/** A quoted name of the text format. */
export const nameText = (name: string): string => stringText(new TextEncoder().encode(name));

/** ` (param …) (result …)`, the empty string for a function that has neither. */
export function signatureText(type: FuncType): string {
  const list = (word: string, types: readonly ValType[]): string =>
    types.length === 0 ? '' : ` (${word} ${types.join(' ')})`;
  return list('param', type.params) + list('result', type.results);
}

/**
 * One function: declare locals and append instructions in stack order; every method but `param` and `local` returns the
 * builder. Immediates and branch targets are checked here, operand types by the engine.
 */
export class FunctionBuilder implements Callable {
  readonly name: string;
  readonly index: number;
  readonly type: FuncType;
  /** The parameters, in order. */
  readonly params: readonly Local[];
  readonly #locals: ValType[] = [];
  readonly #code: Instr[] = [];
  #labels = 0;
  readonly #open: number[] = [];

  constructor(name: string, index: number, type: FuncType) {
    this.name = name;
    this.index = index;
    this.type = type;
    this.params = type.params.map((param, i) => ({ index: i, type: param }));
  }

  /** The parameter at a position. @throws RangeError when there is none */
  param(position: number): Local {
    const param = this.params[position];
    if (param === undefined)
      throw new RangeError(`function ${this.name} has ${this.params.length} parameters, not ${position + 1}`);
    return param;
  }

  /** A new local variable, zero at entry. */
  local(type: ValType): Local {
    this.#locals.push(type);
    return { index: this.params.length + this.#locals.length - 1, type };
  }

  get(from: Local | Global): this {
    return this.#variable('get', from);
  }

  set(to: Local | Global): this {
    return this.#variable('set', to);
  }

  tee(to: Local): this {
    return this.#push({ kind: 'variable', word: 'local.tee', index: to.index });
  }

  #variable(word: 'get' | 'set', variable: Local | Global): this {
    const space = 'mutable' in variable ? 'global' : 'local';
    return this.#push({ kind: 'variable', word: `${space}.${word}`, index: variable.index });
  }

  /** @param value  an integer in −2³¹ … 2³²−1 */
  i32(value: number): this {
    pushS32([], value);
    return this.#push({ kind: 'i32', value: value | 0 });
  }

  /** @param value  an integer in −2⁶³ … 2⁶³−1 */
  i64(value: bigint): this {
    pushS64([], value);
    return this.#push({ kind: 'i64', value });
  }

  /** @param value  rounded to f32; every NaN becomes the canonical one */
  f32(value: number): this {
    return this.#push({ kind: 'f32', value: Math.fround(value) });
  }

  f64(value: number): this {
    return this.#push({ kind: 'f64', value });
  }

  /** Sixteen bytes, lane 0 first. */
  v128(bytes: Iterable<number>): this {
    return this.#bytes('v128.const', bytes, 255);
  }

  /** Four f32 lanes of one value. */
  f32x4(value: number): this {
    const lane = floatBytes(value, 4);
    return this.v128([...lane, ...lane, ...lane, ...lane]);
  }

  /** Four i32 lanes of one value. */
  i32x4(value: number): this {
    const lane = [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff];
    return this.v128([...lane, ...lane, ...lane, ...lane]);
  }

  /** `i8x16.shuffle`: selectors 0 … 15 take bytes of the first operand, 16 … 31 of the second. */
  shuffle(selectors: Iterable<number>): this {
    return this.#bytes('i8x16.shuffle', selectors, 31);
  }

  #bytes(name: OpName, bytes: Iterable<number>, max: number): this {
    const list = [...bytes];
    if (list.length !== 16 || list.some((byte) => !Number.isInteger(byte) || byte < 0 || byte > max)) {
      throw new RangeError(`${name} in ${this.name} wants 16 numbers in 0 … ${max}, not [${list.join(', ')}]`);
    }
    return this.#push({ kind: 'bytes', row: opcode(name), bytes: list });
  }

  /** An instruction without immediates; `memory.copy` and the like count as such. */
  op(name: OpName): this {
    const row = this.#row(name, ['none', 'zero', 'zero-zero']);
    return this.#push({ kind: 'op', row, offset: 0, align: 0, lane: 0 });
  }

  /** A lane instruction: extract or replace. */
  lane(name: OpName, lane: number): this {
    const row = this.#row(name, ['lane']);
    return this.#push({ kind: 'op', row, offset: 0, align: 0, lane: this.#lane(row, lane) });
  }

  /**
   * A load, store or atomic access.
   *
   * @param offset  bytes added to the address operand, without wrapping
   * @param align   promised alignment in bytes, a power of two; default and maximum (and the only legal one for
   *                atomics) is the size of the access. A false promise costs time, never a wrong result
   */
  mem(name: OpName, offset = 0, align?: number): this {
    const row = this.#row(name, ['mem']);
    return this.#push({ kind: 'op', row, offset, align: this.#align(row, offset, align), lane: 0 });
  }

  /** A load into, or a store of, one lane; `offset` and `align` as in {@link mem}. */
  memLane(name: OpName, lane: number, offset = 0, align?: number): this {
    const row = this.#row(name, ['mem-lane']);
    return this.#push({ kind: 'op', row, offset, align: this.#align(row, offset, align), lane: this.#lane(row, lane) });
  }

  /** `memory.init` or `data.drop` of a data segment. */
  data(name: 'memory.init' | 'data.drop', segment: number): this {
    return this.#push({ kind: 'op', row: opcode(name), offset: 0, align: 0, lane: segment });
  }

  #row(name: OpName, allowed: readonly Opcode['imm'][]): Opcode {
    const row = opcode(name);
    if (allowed.includes(row.imm)) return row;
    throw new Error(`${name} in ${this.name} carries the immediate '${row.imm}'; use the method made for that kind`);
  }

  #lane(row: Opcode, lane: number): number {
    if (Number.isInteger(lane) && lane >= 0 && lane < row.lanes) return lane;
    throw new RangeError(`${row.name} in ${this.name}: lane ${lane} is not in 0 … ${row.lanes - 1}`);
  }

  #align(row: Opcode, offset: number, align: number = row.bytes): number {
    pushU32([], offset);
    const power = Math.log2(align);
    const legal =
      Number.isInteger(power) && power >= 0 && (row.prefix === 0xfe ? align === row.bytes : align <= row.bytes);
    if (legal) return align;
    const need = row.prefix === 0xfe ? 'exactly' : 'a power of two up to';
    throw new RangeError(`${row.name} in ${this.name}: alignment ${align} must be ${need} ${row.bytes}`);
  }

  call(callee: Callable): this {
    return this.#push({ kind: 'call', callee });
  }

  drop(): this {
    return this.#push({ kind: 'plain', word: 'drop' });
  }

  /** Takes the first of two values when the i32 on top is not 0, else the second. */
  select(): this {
    return this.#push({ kind: 'plain', word: 'select' });
  }

  return(): this {
    return this.#push({ kind: 'plain', word: 'return' });
  }

  unreachable(): this {
    return this.#push({ kind: 'plain', word: 'unreachable' });
  }

  nop(): this {
    return this.#push({ kind: 'plain', word: 'nop' });
  }

  /** `block`: a branch to the label leaves it. */
  block(body: (end: Label) => void, result?: ValType): this {
    return this.#enter('block', result, (label) => body(label));
  }

  /** `loop`: a branch to the label starts the next round; falling out of the body ends it. */
  loop(body: (start: Label) => void, result?: ValType): this {
    return this.#enter('loop', result, (label) => body(label));
  }

  /** `if`, on the i32 on top of the stack: a branch to the label leaves it. */
  if(then: (end: Label) => void, otherwise?: (end: Label) => void, result?: ValType): this {
    return this.#enter('if', result, (label) => {
      then(label);
      if (otherwise === undefined) return;
      this.#push({ kind: 'else' });
      otherwise(label);
    });
  }

  #enter(word: keyof typeof enterByte, result: ValType | undefined, body: (label: Label) => void): this {
    const id = this.#labels++;
    this.#push({ kind: 'enter', word, id, result });
    this.#open.push(id);
    body({ id });
    this.#open.pop();
    return this.#push({ kind: 'end' });
  }

  br(to: Label): this {
    return this.#branch('br', to);
  }

  /** Branches when the i32 on top is not 0. */
  brIf(to: Label): this {
    return this.#branch('br_if', to);
  }

  #branch(word: keyof typeof branchByte, to: Label): this {
    if (!this.#open.includes(to.id)) throw new Error(`${word} in ${this.name}: the target is not around this place`);
    return this.#push({ kind: 'branch', word, id: to.id });
  }

  #push(instr: Instr): this {
    this.#code.push(instr);
    return this;
  }

  /** Appends the body as the code section wants it: its size, the locals in runs, the instructions. */
  encode(out: number[]): void {
    const runs: { type: ValType; count: number }[] = [];
    for (const type of this.#locals) {
      const last = runs.at(-1);
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    const body: number[] = [];
    pushU32(body, runs.length);
    for (const { type, count } of runs) {
      pushU32(body, count);
      body.push(valueTypeByte[type]);
    }
    const open: number[] = [];
    for (const instr of this.#code) encodeInstr(body, instr, open);
    body.push(0x0b);
    pushU32(out, body.length);
    for (const byte of body) out.push(byte);
  }

  /** The function in the text format, one instruction a line, indented by nesting. */
  toWat(): string {
    const lines = [`  (func ${nameOf(this)}${signatureText(this.type)}`];
    if (this.#locals.length > 0) lines.push(`    (local ${this.#locals.join(' ')})`);
    let depth = 2;
    for (const instr of this.#code) {
      if (instr.kind === 'end' || instr.kind === 'else') depth--;
      lines.push('  '.repeat(depth) + instrText(instr));
      if (instr.kind === 'enter' || instr.kind === 'else') depth++;
    }
    return `${lines.join('\n')})`;
  }
}

/** The text-format identifier of a function; its index keeps it unique, whatever characters the name has. */
export function nameOf(callee: Callable): string {
  return `$${callee.name.replace(/[^A-Za-z0-9_.-]/g, '_')}#${callee.index}`;
}

/** Appends one instruction; `open` are the labels around it, outermost first. */
export function encodeInstr(out: number[], instr: Instr, open: number[]): void {
  switch (instr.kind) {
    case 'op':
      encodeOp(out, instr.row, instr);
      break;
    case 'bytes':
      encodeOpcode(out, instr.row);
      out.push(...instr.bytes);
      break;
    case 'i32':
      out.push(0x41);
      pushS32(out, instr.value);
      break;
    case 'i64':
      out.push(0x42);
      pushS64(out, instr.value);
      break;
    case 'f32':
      out.push(0x43, ...floatBytes(instr.value, 4));
      break;
    case 'f64':
      out.push(0x44, ...floatBytes(instr.value, 8));
      break;
    case 'variable':
      out.push(variableByte[instr.word]);
      pushU32(out, instr.index);
      break;
    case 'call':
      out.push(0x10);
      pushU32(out, instr.callee.index);
      break;
    case 'enter':
      open.push(instr.id);
      out.push(enterByte[instr.word], instr.result === undefined ? noResult : valueTypeByte[instr.result]);
      break;
    case 'else':
      out.push(0x05);
      break;
    case 'end':
      open.pop();
      out.push(0x0b);
      break;
    case 'branch':
      out.push(branchByte[instr.word]);
      pushU32(out, open.length - 1 - open.indexOf(instr.id));
      break;
    case 'plain':
      out.push(plainByte[instr.word]);
  }
}

function encodeOpcode(out: number[], row: Opcode): void {
  if (row.prefix === 0) {
    out.push(row.code);
    return;
  }
  out.push(row.prefix);
  pushU32(out, row.code);
}

function encodeOp(out: number[], row: Opcode, { offset, align, lane }: Extract<Instr, { kind: 'op' }>): void {
  encodeOpcode(out, row);
  if (row.imm === 'mem' || row.imm === 'mem-lane') {
    pushU32(out, Math.log2(align));
    pushU32(out, offset);
  }
  if (row.imm === 'lane' || row.imm === 'mem-lane') out.push(lane);
  if (row.imm === 'data' || row.imm === 'data-zero') pushU32(out, lane);
  if (row.imm === 'zero' || row.imm === 'data-zero') out.push(0);
  if (row.imm === 'zero-zero') out.push(0, 0);
}

/** One instruction of the text format. */
export function instrText(instr: Instr): string {
  switch (instr.kind) {
    case 'op':
      return opText(instr.row, instr);
    case 'bytes':
      return instr.row.imm === 'v128'
        ? `v128.const i8x16 ${instr.bytes.join(' ')}`
        : `${instr.row.name} ${instr.bytes.join(' ')}`;
    case 'i32':
    case 'i64':
      return `${instr.kind}.const ${instr.value}`;
    case 'f32':
      return `f32.const ${floatText(instr.value, 4)}`;
    case 'f64':
      return `f64.const ${floatText(instr.value, 8)}`;
    case 'variable':
      return `${instr.word} ${instr.index}`;
    case 'call':
      return `call ${nameOf(instr.callee)}`;
    case 'enter':
      return `${instr.word} $${instr.id}${instr.result === undefined ? '' : ` (result ${instr.result})`}`;
    case 'else':
    case 'end':
      return instr.kind;
    case 'branch':
      return `${instr.word} $${instr.id}`;
    case 'plain':
      return instr.word;
  }
}

function opText(row: Opcode, { offset, align, lane }: Extract<Instr, { kind: 'op' }>): string {
  let text: string = row.name;
  if (row.bytes > 0 && offset > 0) text += ` offset=${offset}`;
  if (row.bytes > 0 && align !== row.bytes) text += ` align=${align}`;
  if (row.lanes > 0 || row.imm === 'data' || row.imm === 'data-zero') text += ` ${lane}`;
  return text;
}
