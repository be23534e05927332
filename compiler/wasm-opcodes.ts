/** A WebAssembly value type. */
export type ValType = 'i32' | 'i64' | 'f32' | 'f64' | 'v128';

/**
 * What follows the opcode in the instruction stream: `mem` alignment and offset, `lane` a lane number, `mem-lane` both,
 * `shuffle` sixteen byte selectors, `v128` sixteen bytes, `zero` and `zero-zero` reserved zero bytes,
 * `data` a segment number.
 */
export type Immediate =
  | 'none'
  | 'mem'
  | 'lane'
  | 'mem-lane'
  | 'shuffle'
  | 'v128'
  | 'zero'
  | 'zero-zero'
  | 'data'
  | 'data-zero';

/** One row of the table: everything the encoder and the text printer know about an instruction. */
export interface Opcode<N extends string = string> {
  /** The mnemonic of the text format. */
  readonly name: N;
  /** 0 for a one-byte opcode, else the prefix byte: 0xfc, 0xfd (SIMD) or 0xfe (threads). */
  readonly prefix: number;
  /** The opcode byte, or the LEB128 number after the prefix. */
  readonly code: number;
  readonly params: readonly ValType[];
  readonly result: ValType | undefined;
  readonly imm: Immediate;
  /** Bytes that a memory access touches, which is also the largest legal alignment; 0 when it touches none. */
  readonly bytes: number;
  /** Lanes to choose from, for the immediates `lane` and `mem-lane`; else 0. */
  readonly lanes: number;
}

type Words<S extends string, Seen = never> = S extends `${infer A} ${infer R}` ? Words<R, Seen | A> : Seen | S;

const letters: Readonly<Record<string, ValType>> = { i: 'i32', l: 'i64', f: 'f32', d: 'f64', v: 'v128' };

function typeOf(letter: string): ValType {
  const type = letters[letter];
  if (type === undefined) throw new Error(`opcode table: '${letter}' is not one of ${Object.keys(letters).join(' ')}`);
  return type;
}

/**
 * Rows of one signature with consecutive codes; a `_` skips a code.
 *
 * @param prefix     prefix byte, or 0
 * @param code       code of the first name
 * @param signature  parameters, colon, result, one letter each: i i32, l i64, f f32, d f64, v v128
 */
function rows<const S extends string>(
  prefix: number,
  code: number,
  signature: string,
  names: S,
  imm: Immediate = 'none',
  size: { readonly bytes?: number; readonly lanes?: number } = {},
): Opcode<Exclude<Words<S>, '_'>>[] {
  const [params = '', result = ''] = signature.split(':');
  const shape = {
    params: [...params].map(typeOf),
    result: result === '' ? undefined : typeOf(result),
    imm,
    bytes: size.bytes ?? 0,
    lanes: size.lanes ?? 0,
  };
  const table: Opcode<Exclude<Words<S>, '_'>>[] = [];
  for (const [i, name] of names.split(' ').entries()) {
    if (name !== '_') table.push({ name: name as Exclude<Words<S>, '_'>, prefix, code: code + i, ...shape });
  }
  return table;
}

const core = [
  ...rows(0, 0x28, 'i:i', 'i32.load', 'mem', { bytes: 4 }),
  ...rows(0, 0x29, 'i:l', 'i64.load', 'mem', { bytes: 8 }),
  ...rows(0, 0x2a, 'i:f', 'f32.load', 'mem', { bytes: 4 }),
  ...rows(0, 0x2b, 'i:d', 'f64.load', 'mem', { bytes: 8 }),
  ...rows(0, 0x2c, 'i:i', 'i32.load8_s i32.load8_u', 'mem', { bytes: 1 }),
  ...rows(0, 0x2e, 'i:i', 'i32.load16_s i32.load16_u', 'mem', { bytes: 2 }),
  ...rows(0, 0x30, 'i:l', 'i64.load8_s i64.load8_u', 'mem', { bytes: 1 }),
  ...rows(0, 0x32, 'i:l', 'i64.load16_s i64.load16_u', 'mem', { bytes: 2 }),
  ...rows(0, 0x34, 'i:l', 'i64.load32_s i64.load32_u', 'mem', { bytes: 4 }),
  ...rows(0, 0x36, 'ii:', 'i32.store', 'mem', { bytes: 4 }),
  ...rows(0, 0x37, 'il:', 'i64.store', 'mem', { bytes: 8 }),
  ...rows(0, 0x38, 'if:', 'f32.store', 'mem', { bytes: 4 }),
  ...rows(0, 0x39, 'id:', 'f64.store', 'mem', { bytes: 8 }),
  ...rows(0, 0x3a, 'ii:', 'i32.store8', 'mem', { bytes: 1 }),
  ...rows(0, 0x3b, 'ii:', 'i32.store16', 'mem', { bytes: 2 }),
  ...rows(0, 0x3c, 'il:', 'i64.store8', 'mem', { bytes: 1 }),
  ...rows(0, 0x3d, 'il:', 'i64.store16', 'mem', { bytes: 2 }),
  ...rows(0, 0x3e, 'il:', 'i64.store32', 'mem', { bytes: 4 }),
  ...rows(0, 0x3f, ':i', 'memory.size', 'zero'),
  ...rows(0, 0x40, 'i:i', 'memory.grow', 'zero'),

  ...rows(0, 0x45, 'i:i', 'i32.eqz'),
  ...rows(0, 0x46, 'ii:i', 'i32.eq i32.ne i32.lt_s i32.lt_u i32.gt_s i32.gt_u i32.le_s i32.le_u i32.ge_s i32.ge_u'),
  ...rows(0, 0x50, 'l:i', 'i64.eqz'),
  ...rows(0, 0x51, 'll:i', 'i64.eq i64.ne i64.lt_s i64.lt_u i64.gt_s i64.gt_u i64.le_s i64.le_u i64.ge_s i64.ge_u'),
  ...rows(0, 0x5b, 'ff:i', 'f32.eq f32.ne f32.lt f32.gt f32.le f32.ge'),
  ...rows(0, 0x61, 'dd:i', 'f64.eq f64.ne f64.lt f64.gt f64.le f64.ge'),

  ...rows(0, 0x67, 'i:i', 'i32.clz i32.ctz i32.popcnt'),
  ...rows(0, 0x6a, 'ii:i', 'i32.add i32.sub i32.mul i32.div_s i32.div_u i32.rem_s i32.rem_u i32.and i32.or'),
  ...rows(0, 0x73, 'ii:i', 'i32.xor i32.shl i32.shr_s i32.shr_u i32.rotl i32.rotr'),
  ...rows(0, 0x79, 'l:l', 'i64.clz i64.ctz i64.popcnt'),
  ...rows(0, 0x7c, 'll:l', 'i64.add i64.sub i64.mul i64.div_s i64.div_u i64.rem_s i64.rem_u i64.and i64.or'),
  ...rows(0, 0x85, 'll:l', 'i64.xor i64.shl i64.shr_s i64.shr_u i64.rotl i64.rotr'),
  ...rows(0, 0x8b, 'f:f', 'f32.abs f32.neg f32.ceil f32.floor f32.trunc f32.nearest f32.sqrt'),
  ...rows(0, 0x92, 'ff:f', 'f32.add f32.sub f32.mul f32.div f32.min f32.max f32.copysign'),
  ...rows(0, 0x99, 'd:d', 'f64.abs f64.neg f64.ceil f64.floor f64.trunc f64.nearest f64.sqrt'),
  ...rows(0, 0xa0, 'dd:d', 'f64.add f64.sub f64.mul f64.div f64.min f64.max f64.copysign'),

  ...rows(0, 0xa7, 'l:i', 'i32.wrap_i64'),
  ...rows(0, 0xa8, 'f:i', 'i32.trunc_f32_s i32.trunc_f32_u'),
  ...rows(0, 0xaa, 'd:i', 'i32.trunc_f64_s i32.trunc_f64_u'),
  ...rows(0, 0xac, 'i:l', 'i64.extend_i32_s i64.extend_i32_u'),
  ...rows(0, 0xae, 'f:l', 'i64.trunc_f32_s i64.trunc_f32_u'),
  ...rows(0, 0xb0, 'd:l', 'i64.trunc_f64_s i64.trunc_f64_u'),
  ...rows(0, 0xb2, 'i:f', 'f32.convert_i32_s f32.convert_i32_u'),
  ...rows(0, 0xb4, 'l:f', 'f32.convert_i64_s f32.convert_i64_u'),
  ...rows(0, 0xb6, 'd:f', 'f32.demote_f64'),
  ...rows(0, 0xb7, 'i:d', 'f64.convert_i32_s f64.convert_i32_u'),
  ...rows(0, 0xb9, 'l:d', 'f64.convert_i64_s f64.convert_i64_u'),
  ...rows(0, 0xbb, 'f:d', 'f64.promote_f32'),
  ...rows(0, 0xbc, 'f:i', 'i32.reinterpret_f32'),
  ...rows(0, 0xbd, 'd:l', 'i64.reinterpret_f64'),
  ...rows(0, 0xbe, 'i:f', 'f32.reinterpret_i32'),
  ...rows(0, 0xbf, 'l:d', 'f64.reinterpret_i64'),
  ...rows(0, 0xc0, 'i:i', 'i32.extend8_s i32.extend16_s'),
  ...rows(0, 0xc2, 'l:l', 'i64.extend8_s i64.extend16_s i64.extend32_s'),

  ...rows(0xfc, 0, 'f:i', 'i32.trunc_sat_f32_s i32.trunc_sat_f32_u'),
  ...rows(0xfc, 2, 'd:i', 'i32.trunc_sat_f64_s i32.trunc_sat_f64_u'),
  ...rows(0xfc, 4, 'f:l', 'i64.trunc_sat_f32_s i64.trunc_sat_f32_u'),
  ...rows(0xfc, 6, 'd:l', 'i64.trunc_sat_f64_s i64.trunc_sat_f64_u'),
  ...rows(0xfc, 8, 'iii:', 'memory.init', 'data-zero'),
  ...rows(0xfc, 9, ':', 'data.drop', 'data'),
  ...rows(0xfc, 10, 'iii:', 'memory.copy', 'zero-zero'),
  ...rows(0xfc, 11, 'iii:', 'memory.fill', 'zero'),
];

const simd = [
  ...rows(0xfd, 0, 'i:v', 'v128.load', 'mem', { bytes: 16 }),
  ...rows(
    0xfd,
    1,
    'i:v',
    'v128.load8x8_s v128.load8x8_u v128.load16x4_s v128.load16x4_u v128.load32x2_s v128.load32x2_u',
    'mem',
    { bytes: 8 },
  ),
  ...rows(0xfd, 7, 'i:v', 'v128.load8_splat', 'mem', { bytes: 1 }),
  ...rows(0xfd, 8, 'i:v', 'v128.load16_splat', 'mem', { bytes: 2 }),
  ...rows(0xfd, 9, 'i:v', 'v128.load32_splat', 'mem', { bytes: 4 }),
  ...rows(0xfd, 10, 'i:v', 'v128.load64_splat', 'mem', { bytes: 8 }),
  ...rows(0xfd, 11, 'iv:', 'v128.store', 'mem', { bytes: 16 }),
  ...rows(0xfd, 12, ':v', 'v128.const', 'v128'),
  ...rows(0xfd, 13, 'vv:v', 'i8x16.shuffle', 'shuffle'),
  ...rows(0xfd, 14, 'vv:v', 'i8x16.swizzle'),
  ...rows(0xfd, 15, 'i:v', 'i8x16.splat i16x8.splat i32x4.splat'),
  ...rows(0xfd, 18, 'l:v', 'i64x2.splat'),
  ...rows(0xfd, 19, 'f:v', 'f32x4.splat'),
  ...rows(0xfd, 20, 'd:v', 'f64x2.splat'),
  ...rows(0xfd, 21, 'v:i', 'i8x16.extract_lane_s i8x16.extract_lane_u', 'lane', { lanes: 16 }),
  ...rows(0xfd, 23, 'vi:v', 'i8x16.replace_lane', 'lane', { lanes: 16 }),
  ...rows(0xfd, 24, 'v:i', 'i16x8.extract_lane_s i16x8.extract_lane_u', 'lane', { lanes: 8 }),
  ...rows(0xfd, 26, 'vi:v', 'i16x8.replace_lane', 'lane', { lanes: 8 }),
  ...rows(0xfd, 27, 'v:i', 'i32x4.extract_lane', 'lane', { lanes: 4 }),
  ...rows(0xfd, 28, 'vi:v', 'i32x4.replace_lane', 'lane', { lanes: 4 }),
  ...rows(0xfd, 29, 'v:l', 'i64x2.extract_lane', 'lane', { lanes: 2 }),
  ...rows(0xfd, 30, 'vl:v', 'i64x2.replace_lane', 'lane', { lanes: 2 }),
  ...rows(0xfd, 31, 'v:f', 'f32x4.extract_lane', 'lane', { lanes: 4 }),
  ...rows(0xfd, 32, 'vf:v', 'f32x4.replace_lane', 'lane', { lanes: 4 }),
  ...rows(0xfd, 33, 'v:d', 'f64x2.extract_lane', 'lane', { lanes: 2 }),
  ...rows(0xfd, 34, 'vd:v', 'f64x2.replace_lane', 'lane', { lanes: 2 }),
  ...rows(0xfd, 35, 'vv:v', 'i8x16.eq i8x16.ne i8x16.lt_s i8x16.lt_u i8x16.gt_s i8x16.gt_u i8x16.le_s'),
  ...rows(0xfd, 42, 'vv:v', 'i8x16.le_u i8x16.ge_s i8x16.ge_u'),
  ...rows(0xfd, 45, 'vv:v', 'i16x8.eq i16x8.ne i16x8.lt_s i16x8.lt_u i16x8.gt_s i16x8.gt_u i16x8.le_s'),
  ...rows(0xfd, 52, 'vv:v', 'i16x8.le_u i16x8.ge_s i16x8.ge_u'),
  ...rows(0xfd, 55, 'vv:v', 'i32x4.eq i32x4.ne i32x4.lt_s i32x4.lt_u i32x4.gt_s i32x4.gt_u i32x4.le_s'),
  ...rows(0xfd, 62, 'vv:v', 'i32x4.le_u i32x4.ge_s i32x4.ge_u'),
  ...rows(0xfd, 65, 'vv:v', 'f32x4.eq f32x4.ne f32x4.lt f32x4.gt f32x4.le f32x4.ge'),
  ...rows(0xfd, 71, 'vv:v', 'f64x2.eq f64x2.ne f64x2.lt f64x2.gt f64x2.le f64x2.ge'),
  ...rows(0xfd, 77, 'v:v', 'v128.not'),
  ...rows(0xfd, 78, 'vv:v', 'v128.and v128.andnot v128.or v128.xor'),
  ...rows(0xfd, 82, 'vvv:v', 'v128.bitselect'),
  ...rows(0xfd, 83, 'v:i', 'v128.any_true'),
  ...rows(0xfd, 84, 'iv:v', 'v128.load8_lane', 'mem-lane', { bytes: 1, lanes: 16 }),
  ...rows(0xfd, 85, 'iv:v', 'v128.load16_lane', 'mem-lane', { bytes: 2, lanes: 8 }),
  ...rows(0xfd, 86, 'iv:v', 'v128.load32_lane', 'mem-lane', { bytes: 4, lanes: 4 }),
  ...rows(0xfd, 87, 'iv:v', 'v128.load64_lane', 'mem-lane', { bytes: 8, lanes: 2 }),
  ...rows(0xfd, 88, 'iv:', 'v128.store8_lane', 'mem-lane', { bytes: 1, lanes: 16 }),
  ...rows(0xfd, 89, 'iv:', 'v128.store16_lane', 'mem-lane', { bytes: 2, lanes: 8 }),
  ...rows(0xfd, 90, 'iv:', 'v128.store32_lane', 'mem-lane', { bytes: 4, lanes: 4 }),
  ...rows(0xfd, 91, 'iv:', 'v128.store64_lane', 'mem-lane', { bytes: 8, lanes: 2 }),
  ...rows(0xfd, 92, 'i:v', 'v128.load32_zero', 'mem', { bytes: 4 }),
  ...rows(0xfd, 93, 'i:v', 'v128.load64_zero', 'mem', { bytes: 8 }),
  ...rows(0xfd, 94, 'v:v', 'f32x4.demote_f64x2_zero f64x2.promote_low_f32x4 i8x16.abs i8x16.neg i8x16.popcnt'),
  ...rows(0xfd, 99, 'v:i', 'i8x16.all_true i8x16.bitmask'),
  ...rows(0xfd, 101, 'vv:v', 'i8x16.narrow_i16x8_s i8x16.narrow_i16x8_u'),
  ...rows(0xfd, 103, 'v:v', 'f32x4.ceil f32x4.floor f32x4.trunc f32x4.nearest'),
  ...rows(0xfd, 107, 'vi:v', 'i8x16.shl i8x16.shr_s i8x16.shr_u'),
  ...rows(0xfd, 110, 'vv:v', 'i8x16.add i8x16.add_sat_s i8x16.add_sat_u i8x16.sub i8x16.sub_sat_s i8x16.sub_sat_u'),
  ...rows(0xfd, 116, 'v:v', 'f64x2.ceil f64x2.floor'),
  ...rows(0xfd, 118, 'vv:v', 'i8x16.min_s i8x16.min_u i8x16.max_s i8x16.max_u'),
  ...rows(0xfd, 122, 'v:v', 'f64x2.trunc'),
  ...rows(0xfd, 123, 'vv:v', 'i8x16.avgr_u'),
  ...rows(0xfd, 124, 'v:v', 'i16x8.extadd_pairwise_i8x16_s i16x8.extadd_pairwise_i8x16_u'),
  ...rows(0xfd, 126, 'v:v', 'i32x4.extadd_pairwise_i16x8_s i32x4.extadd_pairwise_i16x8_u i16x8.abs i16x8.neg'),
  ...rows(0xfd, 130, 'vv:v', 'i16x8.q15mulr_sat_s'),
  ...rows(0xfd, 131, 'v:i', 'i16x8.all_true i16x8.bitmask'),
  ...rows(0xfd, 133, 'vv:v', 'i16x8.narrow_i32x4_s i16x8.narrow_i32x4_u'),
  ...rows(0xfd, 135, 'v:v', 'i16x8.extend_low_i8x16_s i16x8.extend_high_i8x16_s i16x8.extend_low_i8x16_u'),
  ...rows(0xfd, 138, 'v:v', 'i16x8.extend_high_i8x16_u'),
  ...rows(0xfd, 139, 'vi:v', 'i16x8.shl i16x8.shr_s i16x8.shr_u'),
  ...rows(0xfd, 142, 'vv:v', 'i16x8.add i16x8.add_sat_s i16x8.add_sat_u i16x8.sub i16x8.sub_sat_s i16x8.sub_sat_u'),
  ...rows(0xfd, 148, 'v:v', 'f64x2.nearest'),
  ...rows(0xfd, 149, 'vv:v', 'i16x8.mul i16x8.min_s i16x8.min_u i16x8.max_s i16x8.max_u _ i16x8.avgr_u'),
  ...rows(0xfd, 156, 'vv:v', 'i16x8.extmul_low_i8x16_s i16x8.extmul_high_i8x16_s i16x8.extmul_low_i8x16_u'),
  ...rows(0xfd, 159, 'vv:v', 'i16x8.extmul_high_i8x16_u'),
  ...rows(0xfd, 160, 'v:v', 'i32x4.abs i32x4.neg'),
  ...rows(0xfd, 163, 'v:i', 'i32x4.all_true i32x4.bitmask'),
  ...rows(0xfd, 167, 'v:v', 'i32x4.extend_low_i16x8_s i32x4.extend_high_i16x8_s i32x4.extend_low_i16x8_u'),
  ...rows(0xfd, 170, 'v:v', 'i32x4.extend_high_i16x8_u'),
  ...rows(0xfd, 171, 'vi:v', 'i32x4.shl i32x4.shr_s i32x4.shr_u'),
  ...rows(0xfd, 174, 'vv:v', 'i32x4.add _ _ i32x4.sub _ _ _ i32x4.mul i32x4.min_s i32x4.min_u i32x4.max_s'),
  ...rows(0xfd, 185, 'vv:v', 'i32x4.max_u i32x4.dot_i16x8_s _ i32x4.extmul_low_i16x8_s i32x4.extmul_high_i16x8_s'),
  ...rows(0xfd, 190, 'vv:v', 'i32x4.extmul_low_i16x8_u i32x4.extmul_high_i16x8_u'),
  ...rows(0xfd, 192, 'v:v', 'i64x2.abs i64x2.neg'),
  ...rows(0xfd, 195, 'v:i', 'i64x2.all_true i64x2.bitmask'),
  ...rows(0xfd, 199, 'v:v', 'i64x2.extend_low_i32x4_s i64x2.extend_high_i32x4_s i64x2.extend_low_i32x4_u'),
  ...rows(0xfd, 202, 'v:v', 'i64x2.extend_high_i32x4_u'),
  ...rows(0xfd, 203, 'vi:v', 'i64x2.shl i64x2.shr_s i64x2.shr_u'),
  ...rows(0xfd, 206, 'vv:v', 'i64x2.add _ _ i64x2.sub _ _ _ i64x2.mul i64x2.eq i64x2.ne i64x2.lt_s i64x2.gt_s'),
  ...rows(0xfd, 218, 'vv:v', 'i64x2.le_s i64x2.ge_s i64x2.extmul_low_i32x4_s i64x2.extmul_high_i32x4_s'),
  ...rows(0xfd, 222, 'vv:v', 'i64x2.extmul_low_i32x4_u i64x2.extmul_high_i32x4_u'),
  ...rows(0xfd, 224, 'v:v', 'f32x4.abs f32x4.neg _ f32x4.sqrt'),
  ...rows(0xfd, 228, 'vv:v', 'f32x4.add f32x4.sub f32x4.mul f32x4.div f32x4.min f32x4.max f32x4.pmin f32x4.pmax'),
  ...rows(0xfd, 236, 'v:v', 'f64x2.abs f64x2.neg _ f64x2.sqrt'),
  ...rows(0xfd, 240, 'vv:v', 'f64x2.add f64x2.sub f64x2.mul f64x2.div f64x2.min f64x2.max f64x2.pmin f64x2.pmax'),
  ...rows(0xfd, 248, 'v:v', 'i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f32x4_u f32x4.convert_i32x4_s'),
  ...rows(0xfd, 251, 'v:v', 'f32x4.convert_i32x4_u i32x4.trunc_sat_f64x2_s_zero i32x4.trunc_sat_f64x2_u_zero'),
  ...rows(0xfd, 254, 'v:v', 'f64x2.convert_low_i32x4_s f64x2.convert_low_i32x4_u'),
];

const relaxed = [
  ...rows(0xfd, 256, 'vv:v', 'i8x16.relaxed_swizzle'),
  ...rows(0xfd, 257, 'v:v', 'i32x4.relaxed_trunc_f32x4_s i32x4.relaxed_trunc_f32x4_u'),
  ...rows(0xfd, 259, 'v:v', 'i32x4.relaxed_trunc_f64x2_s_zero i32x4.relaxed_trunc_f64x2_u_zero'),
  ...rows(0xfd, 261, 'vvv:v', 'f32x4.relaxed_madd f32x4.relaxed_nmadd f64x2.relaxed_madd f64x2.relaxed_nmadd'),
  ...rows(0xfd, 265, 'vvv:v', 'i8x16.relaxed_laneselect i16x8.relaxed_laneselect i32x4.relaxed_laneselect'),
  ...rows(0xfd, 268, 'vvv:v', 'i64x2.relaxed_laneselect'),
  ...rows(0xfd, 269, 'vv:v', 'f32x4.relaxed_min f32x4.relaxed_max f64x2.relaxed_min f64x2.relaxed_max'),
  ...rows(0xfd, 273, 'vv:v', 'i16x8.relaxed_q15mulr_s i16x8.relaxed_dot_i8x16_i7x16_s'),
  ...rows(0xfd, 275, 'vvv:v', 'i32x4.relaxed_dot_i8x16_i7x16_add_s'),
];

const threads = [
  ...rows(0xfe, 0x00, 'ii:i', 'memory.atomic.notify', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x01, 'iil:i', 'memory.atomic.wait32', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x02, 'ill:i', 'memory.atomic.wait64', 'mem', { bytes: 8 }),
  ...rows(0xfe, 0x03, ':', 'atomic.fence', 'zero'),
  ...rows(0xfe, 0x10, 'i:i', 'i32.atomic.load', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x11, 'i:l', 'i64.atomic.load', 'mem', { bytes: 8 }),
  ...rows(0xfe, 0x17, 'ii:', 'i32.atomic.store', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x18, 'il:', 'i64.atomic.store', 'mem', { bytes: 8 }),
  ...rows(0xfe, 0x1e, 'ii:i', 'i32.atomic.rmw.add', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x1f, 'il:l', 'i64.atomic.rmw.add', 'mem', { bytes: 8 }),
  ...rows(0xfe, 0x25, 'ii:i', 'i32.atomic.rmw.sub', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x2c, 'ii:i', 'i32.atomic.rmw.and', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x33, 'ii:i', 'i32.atomic.rmw.or', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x3a, 'ii:i', 'i32.atomic.rmw.xor', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x41, 'ii:i', 'i32.atomic.rmw.xchg', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x48, 'iii:i', 'i32.atomic.rmw.cmpxchg', 'mem', { bytes: 4 }),
  ...rows(0xfe, 0x49, 'ill:l', 'i64.atomic.rmw.cmpxchg', 'mem', { bytes: 8 }),
];

const table = [...core, ...simd, ...relaxed, ...threads];

/** The mnemonic of an instruction in the table; a misspelt one does not compile. */
export type OpName = (typeof table)[number]['name'];

/** Every instruction but constants, variables, calls and control, in order of prefix and code. */
export const opcodes: readonly Opcode<OpName>[] = table;

const byName = new Map<string, Opcode<OpName>>(opcodes.map((row) => [row.name, row]));

/** The row of a mnemonic. @throws Error when the table has no such row, which the type rules out */
export function opcode(name: OpName): Opcode<OpName> {
  const row = byName.get(name);
  if (row === undefined) throw new Error(`wasm opcode table: no instruction is called '${name}'`);
  return row;
}

/** True for a mnemonic of the table: a printer that builds `f32x4.${op}` from data checks it here. */
export function isOpName(name: string): name is OpName {
  return byName.has(name);
}

/** True when the instruction belongs to relaxed SIMD, which an engine may lack. */
export function isRelaxed(row: Opcode): boolean {
  return row.prefix === 0xfd && row.code >= 0x100;
}
