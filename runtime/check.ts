/** Refuses a manifest that could lead outside the memory or make no sense, before anything is allocated. */
import { HeddleError } from './error.ts';
import { type ElementType, FORMAT, type Manifest } from './manifest.ts';

/** Bytes of one element. */
export const elementBytes: Readonly<Record<ElementType, number>> = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  i64: 8,
  i32: 4,
  i16: 2,
  i8: 1,
  u64: 8,
  u32: 4,
  u16: 2,
  u8: 1,
  bool: 1,
};

/** Bytes that a 32-bit memory can hold. */
export const MAX_MEMORY = 2 ** 32 - 2 ** 16;
const MAX_BLOCK = 2 ** 26;

type Fields = Readonly<Record<string, unknown>>;
export type Check = (value: unknown, at: string) => void;

const show = (value: unknown): string => (JSON.stringify(value) ?? String(value)).slice(0, 60);

export function fail(at: string, value: unknown, want: string): never {
  throw new HeddleError('manifest', `manifest: ${at} is ${show(value)}, not ${want}. Compile the bundle again.`);
}

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export const nat =
  (max = MAX_MEMORY, min = 0): Check =>
  (value, at) => {
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
      fail(at, value, `an integer in ${min} … ${max}`);
    }
  };
export const text: Check = (value, at) => {
  if (typeof value !== 'string' || value.length > 10_000) fail(at, value, 'a string');
};
const matching =
  (pattern: RegExp, want: string): Check =>
  (value, at) => {
    if (typeof value !== 'string' || !pattern.test(value)) fail(at, value, want);
  };
export const file = matching(/^\w[\w.-]*$/, 'the name of a file in the folder');
export const hash = matching(/^[\da-f]{64}$/, 'a SHA-256 in hex');
const finite: Check = (value, at) => {
  if (!Number.isFinite(value)) fail(at, value, 'a number');
};

export const list =
  (item: Check): Check =>
  (value, at) => {
    if (!Array.isArray(value)) fail(at, value, 'a list');
    for (const [i, each] of value.entries()) item(each, `${at}[${i}]`);
  };
export const record =
  (item: Check): Check =>
  (value, at) => {
    if (!isFields(value)) fail(at, value, 'an object');
    for (const [key, each] of Object.entries(value)) item(each, `${at}.${key}`);
  };
export const shape =
  (fields: Readonly<Record<string, Check>>): Check =>
  (value, at) => {
    if (!isFields(value)) fail(at, value, 'an object');
    for (const [key, check] of Object.entries(fields)) check(value[key], at === '' ? key : `${at}.${key}`);
  };

/** A size over the symbols in `names`. */
const size =
  (names: ReadonlySet<string>): Check =>
  (value, at) => {
    if (typeof value === 'number') return nat(Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER)(value, at);
    if (typeof value === 'string') return names.has(value) ? undefined : fail(at, value, 'a declared symbol');
    if (!Array.isArray(value) || value.length !== 3 || !/^([-+*/%]|min|max)$/.test(String(value[0]))) {
      fail(at, value, 'a size');
    }
    size(names)(value[1], at);
    size(names)(value[2], at);
  };

function checkSteps(
  steps: unknown,
  at: string,
  /** Grows by what the steps count. */
  names: Set<string>,
  buffers: number,
  weights: number,
  scratch: number,
): void {
  const expr = size(names);
  const address: Check = (value, where) => {
    if (!isFields(value)) fail(where, value, 'an address');
    if ('s' in value) nat(Math.max(0, scratch - 1))(value.s, `${where}.s`);
    else if ('b' in value) nat(buffers - 1)(value.b, `${where}.b`);
    else nat(weights)(value.w, `${where}.w`);
    if (value.at !== undefined) expr(value.at, `${where}.at`);
  };
  const nested = (value: unknown, where: string, inner = names): void =>
    checkSteps(value, where, inner, buffers, weights, scratch);
  list((step, where) => {
    if (!isFields(step)) fail(where, step, 'a step');
    if ('kernel' in step) {
      shape({ kernel: nat(65535), args: list(address), params: list(expr), grid: expr, chunk: expr, label: text })(
        step,
        where,
      );
    } else if ('loop' in step) {
      shape({ loop: text, trips: expr })(step, where);
      if (names.has(step.loop as string)) fail(`${where}.loop`, step.loop, 'a new symbol');
      nested(step.steps, `${where}.steps`, new Set([...names, step.loop as string]));
    } else if ('if' in step) {
      address(step.if, `${where}.if`);
      nested(step.then, `${where}.then`, new Set(names));
      nested(step.else, `${where}.else`, new Set(names));
    } else if ('count' in step) {
      shape({ count: text, at: address, min: expr, max: expr })(step, where);
      nested(step.steps ?? [], `${where}.steps`);
      if (names.has(step.count as string)) fail(`${where}.count`, step.count, 'a new symbol');
      names.add(step.count as string);
    } else shape({ from: address, to: address, bytes: expr })(step, where);
  })(steps, at);
}

const symbol: Check = (value, at) => {
  const limit = nat(2 ** 31 - 1);
  shape({ name: text, min: limit, max: limit, multipleOf: nat(2 ** 31 - 1, 1), default: limit })(value, at);
};

export const entry =
  (weights: number): Check =>
  (value, at) => {
    shape({ symbols: list(symbol), buffers: list(shape({})), scratch: nat(2 ** 30), steps: list(shape({})) })(
      value,
      at,
    );
    const plan = value as Manifest['entries'][string];
    const names = new Set(plan.symbols.map((each) => each.name));
    const time = nat(2 ** 31 - 1, -1);
    list(shape({ bytes: size(names), first: time, last: time }))(plan.buffers, `${at}.buffers`);
    const last = plan.buffers.length - 1;
    const counted = new Set(names);
    checkSteps(plan.steps, `${at}.steps`, counted, plan.buffers.length, weights, plan.scratch);
    const port =
      (known: ReadonlySet<string>): Check =>
      (each, where) => {
        const dtype = (each as Fields | null)?.dtype;
        if (!Object.hasOwn(elementBytes, String(dtype))) fail(`${where}.dtype`, dtype, 'an element type');
        shape({ name: text, shape: list(size(known)), doc: text, buffer: nat(last) })(each, where);
      };
    for (const [key, ports, known] of [
      ['inputs', plan.inputs, names],
      ['outputs', plan.outputs, counted],
    ] as const) {
      list(port(known))(ports, `${at}.${key}`);
      if (new Set(ports.map((each) => each.name)).size < ports.length) {
        fail(
          `${at}.${key}`,
          ports.map((each) => each.name),
          'a list of different names',
        );
      }
      for (const { name, buffer } of ports) {
        // An input is written before the first step and an output is read after the last.
        const life = plan.buffers[buffer]!;
        const alive = key === 'inputs' ? life.first <= 0 : life.last >= plan.steps.length - 1;
        if (!alive)
          fail(`${at}.${key}: the life of ${name}`, [life.first, life.last], 'what its place in the plan needs');
      }
    }
  };

function weightsInfo(value: unknown, at: string): void {
  const natural = nat();
  shape({
    file,
    bytes: natural,
    memory: natural,
    segments: list(shape({})),
    block: nat(MAX_BLOCK, 64),
    sha256: hash,
  })(value, at);
  const info = value as Manifest['weights'];
  if (info.block % 64 !== 0) fail(`${at}.block`, info.block, 'a multiple of 64');
  list((each, where) => {
    shape({ from: natural, bytes: natural, to: natural })(each, where);
    const { from, bytes, to, stored } = each as (typeof info.segments)[number];
    if (stored !== 'raw' && stored !== 'f16') fail(`${where}.stored`, stored, '"raw" or "f16"');
    if (from + bytes > info.bytes) fail(`${where}.from + bytes`, from + bytes, `within the ${info.bytes} of the file`);
    const end = to + bytes * (stored === 'f16' ? 2 : 1);
    if (end > info.memory) fail(`${where}: its end in memory`, end, `within ${info.memory}`);
    if (stored === 'f16' && (from % 2 || bytes % 2 || to % 4)) fail(where, each, 'aligned to its elements');
  })(info.segments, `${at}.segments`);
}

const wasmBytes = nat(2 ** 26);
const wasmPart = shape({ from: wasmBytes, bytes: wasmBytes, memoryFlagAt: wasmBytes });

/** @throws HeddleError `manifest`, naming the field, its value and what it should be */
export function checkManifest(value: unknown): Manifest {
  try {
    const format = (value as Fields | null)?.heddle;
    if (format !== FORMAT) fail('heddle (the format)', format, `${FORMAT}, which this runtime reads`);
    shape({
      name: text,
      weights: weightsInfo,
      wasm: shape({ file, bytes: wasmBytes, sha256: hash, plain: wasmPart, relaxed: wasmPart }),
      entries: record(entry((value as Manifest).weights?.memory)),
      selftest: list(
        shape({
          entry: (name, at) => {
            if (!Object.hasOwn((value as Manifest).entries, String(name))) fail(at, name, 'an entry');
          },
          symbols: record(nat(2 ** 31 - 1)),
          outputs: list(shape({ name: text, at: list(nat()), values: list(finite) })),
          tolerance: finite,
        }),
      ),
    })(value, '');
    if (Object.keys((value as Manifest).entries).length === 0) fail('entries', {}, 'at least one entry');
    return value as Manifest;
  } catch (error) {
    // Sizes or steps nested too deep for the stack.
    if (error instanceof RangeError) fail('a size or step', '…', 'nested this deep');
    throw error;
  }
}
