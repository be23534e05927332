/** What passes may ask of weights: buffers that exporters store among them are constants of the model. */
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { aligned, toFloat32, type WeightStore, type WeightTensor } from '../ir/weights.ts';
import type { MaskOptions } from './mask-options.ts';

/** Larger tensors are not looked at. */
const MOST = 1 << 22;

/** Elements of parameters, read when they are asked for. */
export function factsOf(store: WeightStore): MaskOptions {
  const known = new Map<string, Nd | undefined>();
  return {
    contents: (name) => {
      if (known.has(name)) return known.get(name);
      const stored = store.get(name);
      const fits = stored && countOf(stored.shape) <= MOST;
      const elements = fits ? elementsOf(stored) : undefined;
      known.set(name, elements);
      return elements;
    },
  };
}

/** The elements of a stored tensor as numbers; undefined for types that masks are not made of. */
function elementsOf(tensor: WeightTensor): Nd | undefined {
  const { dtype, shape } = tensor;
  const numbers = (): ArrayLike<number> | undefined => {
    switch (dtype) {
      case 'f32':
      case 'f16':
        return toFloat32(tensor);
      case 'bool':
      case 'u8':
        return tensor.bytes;
      case 'i32': {
        const bytes = aligned(tensor.bytes, 4);
        return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
      }
      case 'i64': {
        const bytes = aligned(tensor.bytes, 8);
        return Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8), Number);
      }
      default:
        return undefined;
    }
  };
  const data = numbers();
  return data && data.length === countOf(shape) ? nd(dtype, shape, data) : undefined;
}
