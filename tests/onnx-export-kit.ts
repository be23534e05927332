/** What tests of written ONNX files share: graphs without names for people, and runs in onnxruntime. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bytesOf } from '../frontends/onnx/export-writer.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { type Graph, graph, graphValues, isGraph, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { parseGraphs } from '../ir/parse.ts';
import { printGraph } from '../ir/text.ts';
import { goldenRoot } from './support/golden.ts';

/** A graph's text without names of values, which are for people and no part of what it is. */
export function bareText(g: Graph, { locs = true }: { readonly locs?: boolean } = {}): string {
  return printGraph(withoutNames(g), { locs });
}

function withoutNames(g: Graph): Graph {
  const copies = new Map<Value, Value>();
  for (const v of [...graphValues(g), ...g.inputs]) {
    if (copies.has(v)) continue;
    const attrs = Object.entries(v.attrs).map(([name, a]) => [name, isGraph(a) ? withoutNames(a) : a] as const);
    copies.set(v, {
      ...v,
      name: undefined,
      attrs: Object.fromEntries(attrs),
      inputs: v.inputs.map((x) => copies.get(x)!),
    });
  }
  return graph(
    g.name,
    g.inputs.map((v) => copies.get(v)!),
    [...g.outputs].map(([key, v]) => [key, copies.get(v)!]),
  );
}

/** The graphs of a golden file: both halves of a pair, or the printed half of a file of the text form. */
export function goldenGraphs(name: string): readonly Graph[] {
  const text = readFileSync(join(goldenRoot, `${name}.ir`), 'utf8');
  for (const part of [text.replace('// expect', ''), text.split('// expect')[1] ?? '', text]) {
    try {
      return parseGraphs(part);
    } catch (error) {
      if (!(error instanceof CompileError)) throw error;
    }
  }
  return [];
}

const ORT_TYPES = {
  f64: ['float64', Float64Array],
  f32: ['float32', Float32Array],
  f16: ['float16', Uint16Array],
  bf16: ['bfloat16', Uint16Array],
  i64: ['int64', BigInt64Array],
  u64: ['uint64', BigUint64Array],
  i32: ['int32', Int32Array],
  u32: ['uint32', Uint32Array],
  i16: ['int16', Int16Array],
  u16: ['uint16', Uint16Array],
  i8: ['int8', Int8Array],
  u8: ['uint8', Uint8Array],
  bool: ['bool', Uint8Array],
} as const;

/** The number that a bit pattern of 16 bits stands for. */
function half(bits: number): number {
  const [sign, exponent, mantissa] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return mantissa ? Number.NaN : sign * Infinity;
  return exponent === 0 ? sign * 2 ** -24 * mantissa : sign * 2 ** (exponent - 15) * (1 + mantissa / 1024);
}

/**
 * Runs a file in onnxruntime, as it is written (no rewriting of its own, which has faults of its own).
 * @throws Error what onnxruntime says
 */
export async function runOrt(
  bytes: Uint8Array,
  inputs: Readonly<Record<string, Nd>>,
  outputs: Readonly<Record<string, Nd>>,
): Promise<Record<string, Nd>> {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const session = await InferenceSession.create(bytes, { logSeverityLevel: 4, graphOptimizationLevel: 'disabled' });
  try {
    const feeds = Object.entries(inputs).map(([name, x]) => {
      const [type, Elements] = ORT_TYPES[x.dtype];
      const data = new Elements(bytesOf(x).buffer as ArrayBuffer);
      return [name, new Tensor(type as 'float32', data as Float32Array, [...x.shape])] as const;
    });
    const results = await session.run(Object.fromEntries(feeds));
    return Object.fromEntries(
      Object.entries(outputs).map(([name, { dtype }]) => {
        const { data, dims } = results[name]!;
        const list = Array.from(data as ArrayLike<number | bigint>, Number);
        const bits = dtype === 'f16' && data instanceof Uint16Array;
        return [name, nd(dtype, [...dims], bits ? list.map(half) : list)];
      }),
    );
  } finally {
    await session.release();
  }
}

/** The first element that differs by more than `tolerance` · (1 + |wanted|); undefined where all agree. */
export function firstDifference(
  wanted: Readonly<Record<string, Nd>>,
  actual: Readonly<Record<string, Nd>>,
  tolerance = 1e-5,
): string | undefined {
  for (const [name, a] of Object.entries(wanted)) {
    const b = actual[name];
    if (!b || a.dtype !== b.dtype || a.shape.join() !== b.shape.join())
      return `${name} is ${a.dtype}[${a.shape}], not ${b?.dtype}[${b?.shape}]`;
    const own = a.dtype === 'f16' ? Math.max(tolerance, 2e-3) : tolerance;
    for (let i = 0; i < a.data.length; i++) {
      const [x, y] = [a.data[i]!, b.data[i]!];
      const same = x === y || (Number.isNaN(x) && Number.isNaN(y)) || Math.abs(x - y) <= own * (1 + Math.abs(x));
      if (!same) return `${name}[${i}] is ${y}, not ${x}`;
    }
  }
  return undefined;
}

/** The same file where no node says what it was written from. */
export function withoutProvenance(bytes: Uint8Array): Uint8Array {
  const text = Buffer.from(bytes).toString('latin1');
  return new Uint8Array(Buffer.from(text.replaceAll('heddle.value', 'someone.else'), 'latin1'));
}
