/** `--sample`: inputs at which work that depends on data is counted. */
import { isFloat } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { type Dim, sizeAt } from '../../ir/type.ts';
import type { Bundle } from '../bundle.ts';
import type { ImageOptions } from './images.ts';
import { usage } from './terminal.ts';
import { readInputs, toNd } from './values.ts';

export const SAMPLE_HELP =
  'count work that depends on data at this input: mask=lengths:12,7 (that many ones in each row), ids=FILE.json or .npy; may be repeated';

const AS_STORED: ImageOptions = { mean: [0], std: [1], scale: 1 };

/**
 * Sample inputs by name. An input that several entries have must be of one type in all of them.
 *
 * @param pairs `NAME=FILE` or `NAME=lengths:12,7,…`, a row for each length
 * @throws CompileError `usage` for a pair that is none or lengths that do not fit, `name` for an input that no entry has, and
 *   what `readInputs` throws
 */
export function readSamples(pairs: readonly string[], bundle: Bundle): Record<string, Nd> {
  const inputs = new Map<string, Value>();
  for (const { authored } of bundle.entries) for (const v of authored.inputs) inputs.set(String(v.attrs.name), v);
  const samples: Record<string, Nd> = {};
  const files: string[] = [];
  for (const pair of pairs) {
    const [, name, list] = /^([^=]+)=lengths:(.*)$/.exec(pair) ?? [];
    const input = name === undefined ? undefined : inputs.get(name);
    if (name === undefined || input === undefined) files.push(pair);
    else samples[name] = fromLengths(name, list!, input, bundle.at);
  }
  const ports = [...inputs].map(([name, v]) => ({ name, dtype: typeOf(v).dtype, shape: [] }));
  for (const [name, values] of Object.entries(readInputs(files, ports, AS_STORED)))
    samples[name] = toNd(values, typeOf(inputs.get(name)!).dtype);
  return samples;
}

/** [B, N] with so many ones first in each row, zeros behind them. */
function fromLengths(name: string, list: string, input: Value, at: Bundle['at']): Nd {
  const lengths = list.split(',').map(Number);
  const { dtype, shape } = typeOf(input);
  if (shape.length !== 2 || isFloat(dtype))
    return usage(`--sample ${name} gives lengths`, `input "${name}" does not say which of [batch, slots] count`);
  const size = (d: Dim): number => sizeAt(d, (e) => at[(e.arg as { name: string }).name] ?? 1);
  const slots = size(shape[1]!);
  const wrong = lengths.find((n) => !Number.isInteger(n) || n < 0 || n > slots);
  if (wrong !== undefined)
    usage(`--sample ${name}: ${Number.isNaN(wrong) ? list : wrong} is no length`, `lengths are 0 to ${slots}`);
  const data = lengths.flatMap((n) => Array.from({ length: slots }, (_, i) => (i < n ? 1 : 0)));
  return nd(dtype, [lengths.length, slots], data);
}
