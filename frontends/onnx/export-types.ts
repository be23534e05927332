/** Which element types the operators of ONNX take, and how others go through a wider one. */
import type { Scalar } from '../../ir/dtype.ts';
import type { AttributeDrafts } from './encode.ts';
import { type GraphWriter, widened } from './export-writer.ts';

const of = (words: string): ReadonlySet<Scalar> => new Set(words.split(' ') as Scalar[]);
const FLOATS = of('f16 f32 f64');
const FLOATS_BF = of('f16 f32 f64 bf16');
const WORDS_BF = of('f16 f32 f64 bf16 i32 i64 u32 u64');
const NUMBERS = of('f16 f32 f64 i8 i16 i32 i64 u8 u16 u32 u64');

/**
 * Element types of the first operand, where an operator does not take all of them. Types that came after opset 17 are
 * left out, so that the table holds for every opset that is written.
 */
const TAKES: Readonly<Record<string, ReadonlySet<Scalar>>> = {
  Neg: of('f16 f32 f64 bf16 i8 i16 i32 i64'),
  Relu: of('f16 f32 f64 bf16 i8 i16 i32 i64'),
  Pow: of('f16 f32 f64 bf16 i32 i64'),
  Round: FLOATS,
  Sin: FLOATS,
  Cos: FLOATS,
  Tan: FLOATS,
  Asin: FLOATS,
  Acos: FLOATS,
  Atan: FLOATS,
  Sinh: FLOATS,
  Cosh: FLOATS,
  Asinh: FLOATS,
  Acosh: FLOATS,
  Atanh: FLOATS,
  Softplus: FLOATS,
  Softsign: FLOATS,
  Elu: FLOATS,
  HardSigmoid: FLOATS,
  HardSwish: FLOATS,
  Mish: FLOATS,
  IsInf: of('f32 f64'),
  LeakyRelu: FLOATS_BF,
  Conv: FLOATS,
  ConvTranspose: FLOATS,
  MaxPool: of('f16 f32 f64 i8 u8'),
  AveragePool: FLOATS,
  Einsum: NUMBERS,
  MatMul: WORDS_BF,
  Gemm: WORDS_BF,
  TopK: NUMBERS,
  CumSum: WORDS_BF,
  ReduceSum: WORDS_BF,
  ReduceProd: WORDS_BF,
  ReduceMean: WORDS_BF,
  ReduceLogSumExp: WORDS_BF,
  ReduceMax: of('f16 f32 f64 bf16 i32 i64 u32 u64 i8 u8'),
  ReduceMin: of('f16 f32 f64 bf16 i32 i64 u32 u64 i8 u8'),
  LSTM: FLOATS,
  GRU: FLOATS,
  RNN: FLOATS,
  Range: of('f32 f64 i16 i32 i64'),
  BitShift: of('u8 u16 u32 u64'),
  Mod: of('f16 f32 f64 bf16 i8 i16 i32 i64 u8 u16 u32 u64'),
  RMSNormalization: FLOATS_BF,
};

/** Whether an operator takes elements of that type. */
export const takes = (op: string, dtype: Scalar): boolean => TAKES[op]?.has(dtype) ?? true;

/**
 * A node with one result whose operands may be of a type that the operator lacks: those of the first operand's type go
 * through a wider one, and so does a result of that type.
 */
export function typed(
  w: GraphWriter,
  op: string,
  inputs: readonly string[],
  dtypes: readonly Scalar[],
  result: Scalar,
  attributes: AttributeDrafts = {},
): string {
  const own = dtypes[0];
  if (own === undefined || takes(op, own)) return w.node(op, inputs, attributes);
  const wide = widened(own);
  const cast = inputs.map((x, i) => (dtypes[i] === own && x !== '' ? w.cast(x, own, wide) : x));
  const out = w.node(op, cast, attributes);
  return result === own ? w.cast(out, wide, own) : out;
}
