/** Instructions for one operation on values that are already on the stack: constants, memory, casts, wrap-around. */
import { intRange, isFloat, isInt, type Scalar, sizeOf } from '../ir/dtype.ts';
import type { Expr } from '../ir/expr.ts';
import { type FunctionBuilder, isOpName, type OpName, type ValType } from './wasm-encode.ts';
import { registerType } from './wasm-locals.ts';

/** A mnemonic put together from parts. @throws Error when there is no such instruction */
export function opName(name: string): OpName {
  if (!isOpName(name)) throw new Error(`wasm: there is no instruction ${name}`);
  return name;
}

/** True for types whose values stand unsigned in their register. */
export const isUnsignedIn = (dtype: Scalar): boolean => dtype === 'u32' || dtype === 'u64';
const suffix = (dtype: Scalar): 's' | 'u' => (dtype.startsWith('u') || dtype === 'bool' ? 'u' : 's');

export function pushConst(f: FunctionBuilder, e: Expr): void {
  const value = e.arg as number;
  switch (registerType(e)) {
    case 'f32':
      f.f32(value);
      return;
    case 'f64':
      f.f64(value);
      return;
    case 'i32':
      f.i32(wrap32(value));
      return;
    case 'i64':
      f.i64(BigInt.asIntN(64, BigInt(value)));
      return;
    case 'v128':
      if (e.dtype === 'f32') f.f32x4(value);
      else f.i32x4(e.dtype === 'bool' ? -value : wrap32(value));
  }
}
const wrap32 = (value: number): number => Number(BigInt.asIntN(32, BigInt(value)));

/** Reads an element, or four, at the address on the stack. */
export function pushLoad(f: FunctionBuilder, dtype: Scalar, lanes: number, offset: number): void {
  const size = sizeOf(dtype);
  if (lanes === 1) {
    const type = registerType({ dtype, lanes });
    f.mem(opName(size < 4 ? `${type}.load${size * 8}_${suffix(dtype)}` : `${type}.load`), offset);
    return;
  }
  const sign = suffix(dtype);
  if (size === 4) f.mem('v128.load', offset, 4);
  else if (size === 2) f.mem(opName(`v128.load16x4_${sign}`), offset, 2);
  else {
    f.mem('v128.load32_zero', offset, 1);
    f.op(opName(`i16x8.extend_low_i8x16_${sign}`)).op(opName(`i32x4.extend_low_i16x8_${sign}`));
    if (dtype === 'bool') f.i32x4(0).op('i32x4.ne');
  }
}

/** Writes the value on the stack, an element or four, at the address below it. */
export function pushStore(f: FunctionBuilder, dtype: Scalar, lanes: number, offset: number): void {
  const size = sizeOf(dtype);
  if (lanes === 1) {
    const type = registerType({ dtype, lanes });
    f.mem(opName(size < 4 ? `${type}.store${size * 8}` : `${type}.store`), offset);
    return;
  }
  if (size === 4) {
    f.mem('v128.store', offset, 4);
    return;
  }
  if (dtype === 'bool') f.i32x4(1).op('v128.and');
  // Narrowing saturates; every lane is in range already.
  if (size === 2) {
    f.f32x4(0).op(dtype === 'u16' ? 'i16x8.narrow_i32x4_u' : 'i16x8.narrow_i32x4_s');
    f.memLane('v128.store64_lane', 0, offset, 2);
  } else {
    f.f32x4(0).op('i16x8.narrow_i32x4_s');
    f.f32x4(0).op(dtype === 'i8' ? 'i8x16.narrow_i16x8_s' : 'i8x16.narrow_i16x8_u');
    f.memLane('v128.store32_lane', 0, offset, 1);
  }
}

/** Reduces the integer on the stack modulo 2^bits of a type narrower than its register. */
export function pushWrap(f: FunctionBuilder, dtype: Scalar, lanes: number): void {
  if (!isInt(dtype) || sizeOf(dtype) >= 4) return;
  const bits = sizeOf(dtype) * 8;
  if (lanes === 4) {
    if (dtype.startsWith('u')) f.i32x4(2 ** bits - 1).op('v128.and');
    else
      f.i32(32 - bits)
        .op('i32x4.shl')
        .i32(32 - bits)
        .op('i32x4.shr_s');
  } else if (dtype.startsWith('u')) f.i32(2 ** bits - 1).op('i32.and');
  else f.op(bits === 8 ? 'i32.extend8_s' : 'i32.extend16_s');
}

/** Turns the value of type `from` on the stack into `to`, as `roundTo` and `wrapInt` say. */
export function pushCast(f: FunctionBuilder, from: Scalar, to: Scalar, lanes: number, take: Take): void {
  if (from === to) return;
  if (lanes === 4) pushVectorCast(f, from, to);
  else if (to === 'bool') {
    const type = registerType({ dtype: from, lanes: 1 });
    pushZero(f, type);
    f.op(opName(`${type}.ne`));
  } else if (isFloat(to)) toFloat(f, from, to);
  else if (isFloat(from)) fromFloat(f, from, to, take);
  else betweenInts(f, from, to);
}

/** Hands out a local for the statement being printed. */
export type Take = (type: ValType) => ReturnType<FunctionBuilder['local']>;

function pushZero(f: FunctionBuilder, type: ValType): void {
  if (type === 'i32') f.i32(0);
  else if (type === 'i64') f.i64(0n);
  else if (type === 'f32') f.f32(0);
  else f.f64(0);
}

function toFloat(f: FunctionBuilder, from: Scalar, to: Scalar): void {
  if (isFloat(from)) f.op(to === 'f64' ? 'f64.promote_f32' : 'f32.demote_f64');
  else {
    const type = registerType({ dtype: from, lanes: 1 });
    f.op(opName(`${to}.convert_${type}_${isUnsignedIn(from) ? 'u' : 's'}`));
  }
}

function fromFloat(f: FunctionBuilder, from: Scalar, to: Scalar, take: Take): void {
  const type = registerType({ dtype: to, lanes: 1 });
  f.op(opName(`${type}.trunc_sat_${from}_${isUnsignedIn(to) ? 'u' : 's'}`));
  if (!isInt(to) || sizeOf(to) >= 4) return;
  const [low, high] = intRange(to);
  const x = take('i32');
  f.set(x);
  f.get(x).i32(high).get(x).i32(high).op('i32.lt_s').select().set(x);
  f.get(x).i32(low).get(x).i32(low).op('i32.gt_s').select();
}

function betweenInts(f: FunctionBuilder, from: Scalar, to: Scalar): void {
  const [source, target] = [from, to].map((dtype) => registerType({ dtype, lanes: 1 }));
  if (source === 'i32' && target === 'i64') f.op(from === 'u32' ? 'i64.extend_i32_u' : 'i64.extend_i32_s');
  if (source === 'i64' && target === 'i32') f.op('i32.wrap_i64');
  pushWrap(f, to, 1);
}

function pushVectorCast(f: FunctionBuilder, from: Scalar, to: Scalar): void {
  if (to === 'bool') {
    f.f32x4(0).op(from === 'f32' ? 'f32x4.ne' : 'i32x4.ne');
  } else if (from === 'bool') {
    if (to === 'f32') f.f32x4(1).op('v128.and');
    else f.i32x4(1).op('v128.and');
  } else if (to === 'f32') {
    f.op(from === 'u32' ? 'f32x4.convert_i32x4_u' : 'f32x4.convert_i32x4_s');
  } else if (from === 'f32') {
    f.op(to === 'u32' ? 'i32x4.trunc_sat_f32x4_u' : 'i32x4.trunc_sat_f32x4_s');
    if (isInt(to) && sizeOf(to) < 4) {
      const [low, high] = intRange(to);
      f.i32x4(high).op('i32x4.min_s').i32x4(low).op('i32x4.max_s');
    }
  } else pushWrap(f, to, 4);
}
