/** What a compilation made, in numbers. */
import { gzipSync } from 'node:zlib';
import { printLoc } from '../ir/diagnostic.ts';
import type { Sym } from '../ir/expr.ts';
import { typeOf } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import type { Dim } from '../ir/type.ts';
import { describe, type Remark } from '../passes/pass.ts';
import { layoutArena } from '../runtime/arena.ts';
import type { EntryPlan, Manifest } from '../runtime/manifest.ts';
import { addPairs, executedPairs, NO_PAIRS, type Pairs } from './attention-pairs.ts';
import type { CompiledEntry } from './entry.ts';
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
  /** Multiply-accumulates of contractions as authored. */
  readonly macs: number;
  /** The same as planned, without the scores that masks let kernels skip. */
  readonly macsCompiled: number;
  /** Scores of attentions as planned, and how many of them kernels compute. */
  readonly pairs: Pairs;
  /** Bytes of weights, arena and scratch of one thread. */
  readonly peakBytes: number;
  readonly launches: number;
}

/** All counts at the sizes `at`. `macs` and `macsCompiled` are those of the first entry, `peakBytes` the largest. */
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

export const entryReport = (entry: CompiledEntry, manifest: Manifest, at: Sizes): EntryReport => ({
  name: entry.name,
  macs: countMacs(entry.authored, at),
  macsCompiled: plannedMacs(entry.relaxed, at),
  pairs: plannedPairs(entry.relaxed, at),
  peakBytes: peakBytes(entry.plan, manifest.weights.memory, at),
  launches: entry.plan.steps.length,
});

/** Bytes that one thread needs to run an entry. */
export function peakBytes(plan: EntryPlan, weights: number, at: Sizes): number {
  return weights + layoutArena(plan.buffers, at).bytes + plan.scratch;
}

/** Multiply-accumulates of the launches, trips of loops included; of a branch, those of its larger arm. */
export const plannedMacs = (program: ScheduledProgram, at: Sizes): number =>
  total(program, at, {
    none: 0,
    add: (a, b, times) => a + b * times,
    of: (r) => regionMacs(r, at),
    larger: (a, b) => Math.max(a, b),
  });

/** Scores of all attentions, counted in the same way. */
export const plannedPairs = (program: ScheduledProgram, at: Sizes): Pairs =>
  total(program, at, {
    none: NO_PAIRS,
    add: addPairs,
    of: ({ region: { root } }) => (root.op.name === 'attention' ? executedPairs(root, at) : NO_PAIRS),
    larger: (a, b) => (a.executed >= b.executed ? a : b),
  });

interface Tally<T> {
  readonly none: T;
  add(a: T, b: T, times: number): T;
  of(region: ScheduledRegion): T;
  larger(a: T, b: T): T;
}

function total<T>(program: ScheduledProgram, at: Sizes, tally: Tally<T>): T {
  let sum = tally.none;
  for (const each of program.regions) {
    sum = tally.add(sum, tally.of(each), 1);
    if (!each.bodies) continue;
    const parts = each.bodies.map((body) => total(body.program, at, tally));
    const { root } = each.region;
    if (root.op.name === 'scan') {
      const steps = typeOf(root.inputs[Number(root.attrs.carried)]!).shape[0]!;
      sum = tally.add(sum, parts[0]!, count(steps, at));
    } else if (root.op.name === 'loop') sum = tally.add(sum, parts[0]!, count(root.attrs.maxTrips as Dim, at));
    else sum = tally.add(sum, parts.reduce(tally.larger), 1);
  }
  return sum;
}

function regionMacs({ region: { root }, stages }: ScheduledRegion, at: Sizes): number {
  if (root.op.name !== 'attention') return stages.reduce((n, stage) => n + count(stage.macs, at), 0);
  const [width, valueWidth] = [root.inputs[0]!, root.inputs[2]!].map((x) => count(typeOf(x).shape[3]!, at));
  return executedPairs(root, at).executed * (width! + valueWidth!);
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
