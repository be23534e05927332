/** Initial weights from a seed: lazily, one independent stream a parameter, so that order and subset do not matter. */
import { fail } from '../../ir/diagnostic.ts';
import type { WeightStore, WeightTensor } from '../../ir/weights.ts';
import type { Parameter } from '../dsl/index.ts';
import { fillNormal, fillUniform, type Stream, streamOf } from './random.ts';

/**
 * A store whose tensors start as the model's parameters say. The same seed and name give the same bytes on every
 * machine and in every order of asking, except that `sinCos2d` tables are as exact as the platform's sine.
 */
export function seededWeights(
  model: { readonly name: string; readonly parameters: readonly Parameter[] },
  seed = 0,
): WeightStore {
  const parameters = new Map(model.parameters.map((parameter) => [parameter.name, parameter]));
  // Asking twice is common (a check, then packing): keep what is still in memory.
  const made = new Map<string, WeakRef<WeightTensor>>();
  return {
    source: `seeded weights of ${model.name} (seed ${seed})`,
    names: () => [...parameters.keys()],
    get(name) {
      const known = made.get(name)?.deref();
      const parameter = parameters.get(name);
      if (known || !parameter) return known;
      const { dtype, shape } = parameter;
      if (dtype !== 'f32') fail('unsupported', `parameter "${name}" is ${dtype}; only f32 is initialised`);
      const data = initialise(parameter, streamOf(name, seed));
      const tensor: WeightTensor = { dtype, shape, bytes: new Uint8Array(data.buffer) };
      made.set(name, new WeakRef(tensor));
      return tensor;
    },
  };
}

function initialise({ shape, init, name }: Parameter, stream: Stream): Float32Array {
  const out = new Float32Array(shape.reduce((n, d) => n * d, 1));
  switch (init.kind) {
    case 'constant':
      return out.fill(init.value);
    case 'normal':
      fillNormal(out, stream, init.std, Infinity);
      return out;
    case 'truncatedNormal':
      fillNormal(out, stream, init.std, 2);
      return out;
    case 'uniform':
      fillUniform(out, stream, init.bound);
      return out;
    case 'sinCos2d':
      return sinCosTable(name, shape, init.grid, out);
  }
}

/**
 * [sin x·ω | cos x·ω | sin y·ω | cos y·ω] for each cell of a square grid, ω from 1 to nearly 1/10000; the first row, of
 * the class token, is zero (He et al. 2021, `get_2d_sincos_pos_embed`, where x varies fastest).
 */
function sinCosTable(name: string, shape: readonly number[], grid: number, out: Float32Array): Float32Array {
  const width = shape.at(-1)!;
  if (width % 4 !== 0 || out.length !== (grid * grid + 1) * width)
    fail(
      'shape',
      `parameter "${name}": a position table of a ${grid}×${grid} grid is [1, ${grid * grid + 1}, a multiple of 4], not [${shape.join(', ')}]`,
    );
  const quarter = width / 4;
  for (let cell = 0; cell < grid * grid; cell++) {
    const row = (cell + 1) * width;
    for (let i = 0; i < quarter; i++) {
      const omega = 10000 ** -(i / quarter);
      const [x, y] = [(cell % grid) * omega, Math.floor(cell / grid) * omega];
      out[row + i] = Math.sin(x);
      out[row + quarter + i] = Math.cos(x);
      out[row + 2 * quarter + i] = Math.sin(y);
      out[row + 3 * quarter + i] = Math.cos(y);
    }
  }
  return out;
}
