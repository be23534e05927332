/** Inputs into typed arrays, and their shapes into symbol values. */
import type { DeviceInput, Input, InputData, Tensor, TensorData } from './api.ts';
import { HeddleError } from './error.ts';
import { type ElementType, type EntryPlan, type Port, type Size, sizeOf } from './manifest.ts';
import { checkOnes } from './promises.ts';
import { refuse, sizeText } from './refuse.ts';

export { refuse, sizeText };

interface ArrayClass {
  readonly name: string;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): TensorData;
  new (length: number): TensorData;
}

/** How elements of a type are handed in and out. */
export const arrayClass: Readonly<Record<ElementType, ArrayClass>> = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i64: BigInt64Array,
  i32: Int32Array,
  i16: Int16Array,
  i8: Int8Array,
  u64: BigUint64Array,
  u32: Uint32Array,
  u16: Uint16Array,
  u8: Uint8Array,
  bool: Uint8Array,
};

/** Other classes whose elements fit as they are. */
const alsoTaken: Readonly<Partial<Record<ElementType, string>>> = { i64: 'Int32Array', u8: 'Uint8ClampedArray' };

const tagOf = (value: unknown): string => Object.prototype.toString.call(value).slice(8, -1);

function describe(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value);
  return tagOf(value) === 'Object' ? `an object with ${Object.keys(value).join(', ') || 'nothing'}` : tagOf(value);
}

/** Plain numbers, bigints or booleans as elements of the port's type. */
function convert(port: Port, values: readonly unknown[]): TensorData {
  const out = new arrayClass[port.dtype](values.length);
  const big = /64Array/.test(tagOf(out)) && port.dtype !== 'f64';
  for (const [i, value] of values.entries()) {
    const kind = typeof value;
    const number = kind === 'boolean' ? Number(value) : value;
    const integer = port.dtype[0] !== 'f';
    let fits = typeof number === 'number' || (big && kind === 'bigint');
    if (fits && integer && kind !== 'bigint') fits = Number.isInteger(number);
    if (fits) {
      out[i] = (big ? BigInt(number as number | bigint) : number) as never;
      // biome-ignore lint/suspicious/noDoubleEquals: a bigint equals the number that it was made from
      fits = !integer || out[i] == number;
    }
    if (!fits) refuse(port, `has ${String(value)} at [${i}]`, `Give values that a ${port.dtype} can hold.`);
  }
  return out;
}

function elementsOf(port: Port, data: InputData): TensorData {
  const { dtype } = port;
  const want = arrayClass[dtype].name;
  let out: TensorData;
  if (Array.isArray(data) && want !== 'Uint16Array') out = convert(port, data);
  else if (Array.isArray(data) && dtype === 'u16') out = convert(port, data);
  else {
    const tag = tagOf(data);
    if (tag === alsoTaken[dtype])
      out = dtype === 'i64' ? BigInt64Array.from(data as Int32Array, BigInt) : (data as never);
    else if (tag === want) out = data as TensorData;
    else {
      const bits = dtype === 'f16' || dtype === 'bf16' ? ' holding the bits' : '';
      return refuse(port, `was given ${describe(data)}`, `Pass a ${want}${bits}.`);
    }
  }
  if (dtype === 'bool' || port.binary === true) {
    // biome-ignore lint/suspicious/noDoubleEquals: a bigint equals the number that it was made from
    const at = (out as Uint8Array).findIndex((value) => value != 0 && value != 1);
    const what = dtype === 'bool' ? 'A bool' : 'Each element';
    if (at >= 0) refuse(port, `has ${String(out[at])} at [${at}]`, `${what} is 0 or 1.`);
  }
  return out;
}

/**
 * How a device takes inputs that are there already: their elements, as many as `length`, and their shape; undefined for
 * any other input.
 */
export type TakeInput<D extends { readonly length: number }> = (
  port: Port,
  input: unknown,
) => { readonly elements: D; readonly shape: readonly number[] } | undefined;

/** Inputs ready to be copied, the symbols that they fix and the shape that each has. */
export interface Bound<D = never> {
  readonly data: readonly (TensorData | D)[];
  readonly symbols: Readonly<Record<string, number>>;
}

type Wrapped = Exclude<Input, InputData | DeviceInput>;

export const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);

class Solver {
  readonly values: Record<string, number> = Object.create(null) as Record<string, number>;

  known(size: Size): number | undefined {
    if (typeof size === 'number') return size;
    if (typeof size === 'string') return this.values[size];
    const ready = this.known(size[1]) !== undefined && this.known(size[2]) !== undefined;
    return ready ? sizeOf(size, this.values) : undefined;
  }

  /** Gives `size` the value when one symbol in it is free and the operators can be undone. */
  solve(size: Size, value: number): void {
    if (typeof size === 'string') this.values[size] ??= value;
    if (typeof size !== 'object') return;
    const [op, left, right] = size;
    const [a, b] = [this.known(left), this.known(right)];
    const [free, other] = a === undefined ? [left, b] : [right, a];
    if (other === undefined || (a !== undefined && b !== undefined)) return;
    if (op === '+') this.solve(free, value - other);
    else if (op === '-') this.solve(free, free === left ? value + other : other - value);
    else if (op === '*' && other !== 0) this.solve(free, value / other);
  }
}

/**
 * Checks the inputs of an entry against its ports.
 *
 * @throws HeddleError `input`: a missing or unknown name, a wrong class, shape or length, symbols that disagree between
 * inputs or leave their range
 */
export function bindInputs<D extends { readonly length: number } = never>(
  plan: EntryPlan,
  inputs: Readonly<Record<string, Input>>,
  take?: TakeInput<D>,
): Bound<D> {
  if (typeof inputs !== 'object' || inputs === null) {
    throw new HeddleError('input', `inputs are ${describe(inputs)}. Pass an object with one property per input.`);
  }
  const names = plan.inputs.map((port) => port.name);
  const list = names.join(', ') || 'none';
  for (const name of Object.keys(inputs)) {
    if (!names.includes(name)) throw new HeddleError('input', `there is no input "${name}". The inputs are: ${list}.`);
  }
  const given = plan.inputs.map((port) => {
    const input: Input | undefined = Object.hasOwn(inputs, port.name) ? inputs[port.name] : undefined;
    if (input === undefined || input === null) refuse(port, 'is missing', `The inputs are: ${list}.`);
    // What is promised can only be checked here.
    const taken = port.binary || port.ones ? undefined : take?.(port, input);
    if (taken !== undefined) {
      checkShape(port, taken.shape, taken.elements.length);
      return { port, ...taken };
    }
    const wrapped = tagOf(input) === 'Object' && 'data' in input;
    const { data, shape } = wrapped ? (input as Wrapped) : { data: input as InputData, shape: undefined };
    const elements = elementsOf(port, data);
    if (shape !== undefined) checkShape(port, shape, elements.length);
    return { port, elements, shape };
  });
  const solver = new Solver();
  let progress = -1;
  while (progress !== Object.keys(solver.values).length) {
    progress = Object.keys(solver.values).length;
    for (const { port, elements, shape } of given) {
      if (shape !== undefined) {
        for (const [i, dim] of port.shape.entries()) solver.solve(dim, shape[i]!);
        continue;
      }
      const open = port.shape.filter((dim) => solver.known(dim) === undefined);
      const rest = product(port.shape.map((dim) => solver.known(dim) ?? 1));
      if (open.length === 1 && rest > 0) solver.solve(open[0]!, elements.length / rest);
    }
  }
  const symbols = solver.values;
  for (const { port, elements, shape } of given) {
    const open = port.shape.find((dim) => solver.known(dim) === undefined);
    if (open !== undefined) refuse(port, `leaves ${sizeText(open)} open`, 'Pass { data, shape }.');
    const want = port.shape.map((dim) => sizeOf(dim, symbols));
    const where = port.shape.some((dim) => typeof dim !== 'number') ? ` where ${bindingText(symbols)}` : '';
    const wanted = `has shape [${want.join(', ')}]${where}`;
    if (shape?.some((dim, i) => dim !== want[i])) {
      refuse(port, `was given shape [${shape.join(', ')}] but ${wanted}`, 'Make the sizes of the inputs agree.');
    }
    if (product(want) !== elements.length) {
      const count = Math.round(product(want));
      refuse(port, `was given ${elements.length} elements but ${wanted}`, `Pass ${count} elements.`);
    }
    checkOnes(port, elements as TensorData, want, solver);
  }
  for (const { name, min, max, multipleOf, default: usual } of plan.symbols) {
    symbols[name] ??= usual;
    const value = symbols[name];
    if (Number.isInteger(value) && value >= min && value <= max && value % multipleOf === 0) continue;
    const step = multipleOf > 1 ? `, multiples of ${multipleOf}` : '';
    throw new HeddleError(
      'input',
      `size "${name}" is ${value} by the inputs; the bundle takes ${min} … ${max}${step}. ` +
        'Pad or cut the input, or compile with a wider range.',
    );
  }
  return { data: given.map(({ elements }) => elements), symbols };
}

const bindingText = (symbols: Readonly<Record<string, number>>): string =>
  Object.entries(symbols)
    .map(([name, value]) => `${name} = ${value}`)
    .join(', ') || 'no size is bound';

function checkShape(port: Port, shape: readonly number[], length: number): void {
  const text = `was given shape [${Array.from(shape).join(', ')}]`;
  if (shape.length !== port.shape.length) refuse(port, text, `Pass ${port.shape.length} dimensions.`);
  for (const dim of shape) {
    if (!Number.isSafeInteger(dim) || dim < 0) refuse(port, text, 'Sizes are integers from 0.');
  }
  if (product(shape) !== length) refuse(port, `${text} with ${length} elements`, `Pass ${product(shape)} elements.`);
}

/**
 * The bytes of an input whose turn has come.
 *
 * @throws HeddleError `input` when its buffer was transferred or resized since the call of `run`
 */
export function elementBytesOf(
  place: { readonly port: Port; readonly shape: readonly number[] },
  data: TensorData,
): Uint8Array {
  if (data.length !== product(place.shape)) refuse(place.port, 'changed while it waited', 'Leave it alone.');
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** A copy of elements that stand in memory. */
export function readTensor(memory: ArrayBufferLike, at: number, dtype: ElementType, shape: readonly number[]): Tensor {
  const data = new arrayClass[dtype](product(shape));
  new Uint8Array(data.buffer).set(new Uint8Array(memory, at, data.byteLength));
  return { dtype, shape, data };
}
