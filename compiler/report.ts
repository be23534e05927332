/** What a compilation made, in numbers. */
import { gzipSync } from 'node:zlib';
import { withCapacities } from '../ir/counts.ts';
import { printLoc } from '../ir/diagnostic.ts';
import type { Sym } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import type { Nd } from '../ir/nd.ts';
import type { Dim } from '../ir/type.ts';
import { describe, type Remark } from '../passes/pass.ts';
import { layoutArena } from '../runtime/arena.ts';
import type { EntryPlan, Manifest } from '../runtime/manifest.ts';
import { addPairs, executedPairs, NO_PAIRS, type Pairs } from './attention-pairs.ts';
import type { CompiledEntry } from './entry.ts';
import { Sample } from './sample.ts';
import type { ScheduledProgram, ScheduledRegion } from './schedule-regions.ts';

export interface FileReport {
  readonly path: string;
  readonly bytes: number;
  /** Bytes after `gzip -9`; null for weights, which hardly shrink and take long. */
  readonly gzip: number | null;
}

export interface RemarkReport {
  readonly pass: string;
  readonly kind: 'applied' | 'missed';
  /** The value's name or op, with the author's line where it is known. */
  readonly at: string;
  readonly why: string;
}

export interface EntryReport {
  readonly name: string;
  /** Sizes at which things are counted: the report's, and those that sample inputs decide. */
  readonly at: Readonly<Record<string, number>>;
  /** Multiply-accumulates of contractions as authored. */
  readonly macs: number;
  /** The same as planned, without the scores that masks let kernels skip. */
  readonly macsCompiled: number;
  /** The same if kernels computed no score but those that masks allow: they take queries in blocks. */
  readonly macsAllowed: number;
  /** Scores of attentions as planned, and how many of them kernels compute. */
  readonly pairs: Pairs;
  /** Bytes of weights, arena and scratch of one thread. */
  readonly peakBytes: number;
  readonly launches: number;
}

/**
 * All counts at the sizes `at`. `macs`, `macsCompiled` and `macsAllowed` are those of the first entry, `peakBytes` the largest. What depends
 * on data is counted as the most there can be, unless sample inputs were given.
 */
export interface CompileReport {
  readonly target: 'wasm' | 'wasm,webgpu';
  readonly at: Readonly<Record<string, number>>;
  readonly files: readonly FileReport[];
  /** Gzipped bytes of everything but the weights. */
  readonly runtimeGzip: number;
  readonly weightsBytes: number;
  readonly peakBytes: number;
  readonly macs: number;
  readonly macsCompiled: number;
  readonly macsAllowed: number;
  /** Functions in each variant of the kernels. */
  readonly kernels: number;
  readonly entries: readonly EntryReport[];
  readonly remarks: readonly RemarkReport[];
}

type Sizes = Readonly<Record<string, number>>;

export function fileReports(files: ReadonlyMap<string, Uint8Array>, weights: string): FileReport[] {
  return [...files].map(([path, bytes]) => ({
    path,
    bytes: bytes.length,
    gzip: path === weights ? null : gzipSync(bytes, { level: 9 }).length,
  }));
}

export function entryReport(
  entry: CompiledEntry,
  manifest: Manifest,
  sizes: Sizes,
  inputs: Readonly<Record<string, Nd>> = {},
): EntryReport {
  const sample = sampleFor(entry, inputs, sizes);
  const at = withCapacities(entry.relaxed.partition.counted, sample?.sizes ?? sizes);
  return {
    name: entry.name,
    at,
    macs: countMacs(entry.authored, at),
    macsCompiled: plannedMacs(entry.relaxed, at, sample),
    macsAllowed: allowedMacs(entry.relaxed, at, sample),
    pairs: plannedPairs(entry.relaxed, at, sample),
    peakBytes: peakBytes(entry.plan, manifest.weights.memory, at),
    launches: entry.plan.steps.length,
  };
}

/** What sample inputs decide of an entry; undefined where none of them is one of its inputs. */
export function sampleFor(
  { relaxed }: Pick<CompiledEntry, 'relaxed'>,
  inputs: Readonly<Record<string, Nd>>,
  at: Sizes,
): Sample | undefined {
  const names = relaxed.partition.graph.inputs.map((v) => String(v.attrs.name));
  return names.some((name) => Object.hasOwn(inputs, name)) ? Sample.of(relaxed, inputs, at) : undefined;
}

/** Bytes that one thread needs to run an entry. */
export function peakBytes(plan: EntryPlan, weights: number, at: Sizes): number {
  return weights + layoutArena(plan.buffers, at).bytes + plan.scratch;
}

/**
 * Multiply-accumulates of the launches, trips of loops included; of a branch, those of the arm that is taken, or of the larger
 * where a sample does not say.
 */
export const plannedMacs = (program: ScheduledProgram, at: Sizes, sample?: Sample): number =>
  total(program, at, sample, macsTally('executed'));

/** The same, of attention only the scores that masks allow. */
export const allowedMacs = (program: ScheduledProgram, at: Sizes, sample?: Sample): number =>
  total(program, at, sample, macsTally('allowed'));

const macsTally = (pairs: 'executed' | 'allowed'): Tally<number> => ({
  none: 0,
  add: (a, b, times) => a + b * times,
  of: (r, at, sample) => regionMacs(r, at, sample, pairs),
  larger: (a, b) => Math.max(a, b),
});

/** Scores of all attentions, counted in the same way. */
export const plannedPairs = (program: ScheduledProgram, at: Sizes, sample?: Sample): Pairs =>
  total(program, at, sample, {
    none: NO_PAIRS,
    add: addPairs,
    of: ({ region: { root } }) => (root.op.name === 'attention' ? pairsOf(root, at, sample) : NO_PAIRS),
    larger: (a, b) => (a.executed >= b.executed ? a : b),
  });

const pairsOf = (attention: Value, at: Sizes, sample: Sample | undefined): Pairs =>
  sample ? sample.pairs(attention) : executedPairs(attention, at);

interface Tally<T> {
  readonly none: T;
  add(a: T, b: T, times: number): T;
  of(region: ScheduledRegion, at: Sizes, sample: Sample | undefined): T;
  larger(a: T, b: T): T;
}

function total<T>(program: ScheduledProgram, sizes: Sizes, sample: Sample | undefined, tally: Tally<T>): T {
  const at = withCapacities(program.partition.counted, sizes);
  let sum = tally.none;
  for (const each of program.regions) {
    sum = tally.add(sum, tally.of(each, at, sample), 1);
    if (!each.bodies) continue;
    const { root } = each.region;
    const part = (n: number): T => {
      const body = each.bodies![n]!;
      const inner = sample?.inside(root, body);
      return total(body.program, inner?.sizes ?? at, inner, tally);
    };
    const taken = root.op.name === 'if' ? sample?.value(root.inputs[0]!)?.data[0] : undefined;
    if (root.op.name === 'scan') {
      const steps = typeOf(root.inputs[Number(root.attrs.carried)]!).shape[0]!;
      sum = tally.add(sum, part(0), count(steps, at));
    } else if (root.op.name === 'loop') sum = tally.add(sum, part(0), count(root.attrs.maxTrips as Dim, at));
    // Graph attributes stand in the order of the op: what is done where the condition holds comes first.
    else if (taken !== undefined) sum = tally.add(sum, part(taken !== 0 ? 0 : 1), 1);
    else sum = tally.add(sum, each.bodies.map((_, n) => part(n)).reduce(tally.larger), 1);
  }
  return sum;
}

function regionMacs(
  { region: { root }, stages }: ScheduledRegion,
  at: Sizes,
  sample?: Sample,
  pairs: 'executed' | 'allowed' = 'executed',
): number {
  if (root.op.name !== 'attention') return stages.reduce((n, stage) => n + count(stage.macs, at), 0);
  const [width, valueWidth] = [root.inputs[0]!, root.inputs[2]!].map((x) => count(typeOf(x).shape[3]!, at));
  return pairsOf(root, at, sample)[pairs] * (width! + valueWidth!);
}

/** Multiply-accumulates of the launches by the label that profiles show. */
export function macsByLabel(program: ScheduledProgram, at: Sizes): Record<string, number> {
  const found: Record<string, number> = {};
  for (const each of program.regions) found[each.region.name] = (found[each.region.name] ?? 0) + regionMacs(each, at);
  return found;
}

/** A count as an exact number: sizes as i32 expressions would wrap. */
function count(e: Dim, at: Sizes): number {
  if (typeof e === 'number') return e;
  const args = (): [number, number] => [count(e.args[0]!, at), count(e.args[1]!, at)];
  switch (e.op) {
    case 'const':
      return e.arg as number;
    case 'sym': {
      const { name, default: usual } = e.arg as Sym;
      return at[name] ?? usual;
    }
    case 'cast':
      return count(e.args[0]!, at);
    case 'add':
      return args().reduce((a, b) => a + b);
    case 'sub':
      return args().reduce((a, b) => a - b);
    case 'mul':
      return args().reduce((a, b) => a * b);
    case 'div':
    case 'floordiv':
      return Math.floor(args().reduce((a, b) => a / b));
    case 'rem':
    case 'floormod':
      return args().reduce((a, b) => a % b);
    case 'min':
      return Math.min(...args());
    case 'max':
      return Math.max(...args());
    default:
      throw new Error(`a count may not use ${e.op}`);
  }
}

export const remarkReport = ({ pass, kind, at, why }: Remark): RemarkReport => ({
  pass,
  kind,
  at: `${describe(at)}${at.loc ? ` (${printLoc(at.loc)})` : ''}`,
  why,
});
