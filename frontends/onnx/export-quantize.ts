/** Quantised tensors and integer products in ONNX. */
import type { Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { cast, sub } from '../../ir/ops/elementwise.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { transpose } from '../../ir/ops/shape.ts';
import { type ExportEntries, slotAttributes } from './export-ops.ts';
import { type GraphWriter, int } from './export-writer.ts';

const isByte = (dtype: Scalar): boolean => dtype === 'i8' || dtype === 'u8';
/** One number for the whole tensor, or none. */
const isSingle = (v: Value | undefined): boolean => !v || typeOf(v).shape.every((d) => d === 1);

/** Whether (De)QuantizeLinear of the opset takes integers and floats of these types, and scales of so many positions. */
const linear = (opset: number, integer: Scalar, float: Scalar, block: number): boolean =>
  (isByte(integer) || integer === 'i32' || (opset >= 21 && (integer === 'i16' || integer === 'u16'))) &&
  (float === 'f32' || (float === 'f16' && opset >= 19)) &&
  (block === 0 || opset >= 21);

/** The last two axes exchanged. */
function swapped(x: Value): Value {
  const rank = typeOf(x).shape.length;
  return transpose([x], { perm: Array.from({ length: rank }, (_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i)) });
}

/** Operands whose scale and zero point have one shape, as ONNX wants them. */
function beside(v: Value, w: GraphWriter, inputs: readonly string[]): string[] {
  const [x = '', scale = '', zero] = inputs;
  if (zero === undefined) return [x, scale];
  const [own, other] = [v.inputs[1]!, v.inputs[2]!];
  const wide = (name: string, to: Value): string => w.node('Expand', [name, w.sizes(typeOf(to).shape)]);
  if (isSingle(own) === isSingle(other)) return [x, scale, zero];
  return isSingle(own) ? [x, wide(scale, other), zero] : [x, scale, wide(zero, own)];
}

export const quantization: ExportEntries = {
  quantize: (v, { w, inputs }) => {
    const { to, axis, block } = v.attrs as { to: Scalar; axis: number; block: number };
    const { dtype } = typeOf(v.inputs[0]!);
    if (to === 'i32' || !linear(w.opset, to, dtype, block)) return undefined;
    const operands = inputs[2] ? beside(v, w, inputs) : inputs.slice(0, 2);
    // Without a zero point the result is u8.
    if (!inputs[2] && to !== 'u8') {
      const { shape } = typeOf(v.inputs[1]!);
      const zero = w.scalar(0, to);
      operands.push(shape.length === 0 ? zero : w.node('Expand', [zero, w.sizes(shape)]));
    }
    return w.node('QuantizeLinear', operands, { axis: int(axis), ...(block > 0 && { block_size: int(block) }) });
  },
  dequantize: (v, { w, inputs }) => {
    const { axis, block } = v.attrs as { axis: number; block: number };
    if (!linear(w.opset, typeOf(v.inputs[0]!).dtype, typeOf(v).dtype, block)) return undefined;
    return w.node('DequantizeLinear', beside(v, w, inputs), {
      axis: int(axis),
      ...(block > 0 && { block_size: int(block) }),
    });
  },
  dynamic_quantize: (_, { w, inputs }) => w.many('DynamicQuantizeLinear', inputs, 3),
  integer_matmul: (v, { w, inputs, inline }) => {
    const [a, b, za, zb] = v.inputs as [Value, Value, Value | undefined, Value | undefined];
    const turned = v.attrs.transposeB === true;
    if (isByte(typeOf(a).dtype) && isSingle(za) && isSingle(zb)) {
      const scalars = [za, zb].map((z, i) =>
        z && typeOf(z).shape.length > 1 ? w.reshape(inputs[2 + i]!, []) : (inputs[2 + i] ?? ''),
      );
      return w.node('MatMulInteger', [inputs[0]!, turned ? inline(swapped(b))[0]! : inputs[1]!, ...scalars]);
    }
    const wide = (x: Value): Value => cast([x], { to: 'i32' });
    const left = za ? sub([wide(a), wide(za)]) : wide(a);
    // b's zero point follows its columns, so it is taken off where the columns are the last axis.
    const right = turned ? swapped(wide(b)) : wide(b);
    return inline(matmul([left, zb ? sub([right, wide(zb)]) : right]));
  },
  integer_conv: (v, { w, inputs, inline }) => {
    const { lower } = v.op;
    // Runtimes take no zero point a filter, though ONNX allows one.
    if ((!isSingle(v.inputs[2]) || !isSingle(v.inputs[3])) && lower.kind === 'decompose')
      return inline(lower.build(v.inputs, v.attrs));
    return w.node('ConvInteger', inputs, slotAttributes(v));
  },
};
