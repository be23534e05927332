/** The WebGPU part of a bundle: the same regions, scheduled, printed and planned for WebGPU over the same weights. */
import { createHash } from 'node:crypto';
import type { EntryPlan, WebGpuPart, WgslFile } from '../runtime/manifest.ts';
import { GpuKernelList, type PrintedShaders } from './gpu-kernels.ts';
import { WEBGPU, WEBGPU_SUBGROUPS } from './gpu-target.ts';
import type { Partition } from './partition.ts';
import { planEntry } from './plan.ts';
import { type ScheduledProgram, scheduleProgram } from './schedule-regions.ts';
import type { WeightPlan } from './weights.ts';

/** Kinds of devices, what all of them can run first. */
const TARGETS = [WEBGPU, WEBGPU_SUBGROUPS] as const;

export interface LoweredForGpu {
  /** By entry; for what every device has. */
  readonly programs: Readonly<Record<string, ScheduledProgram>>;
  readonly plans: Readonly<Record<string, EntryPlan>>;
  readonly shaders: PrintedShaders;
}

/** @throws CompileError `unsupported` for what WGSL lacks */
export function lowerForGpu(partitions: Readonly<Record<string, Partition>>, weights: WeightPlan): LoweredForGpu {
  const list = new GpuKernelList({ halves: weights.storage === 'f16' });
  const programs: Record<string, ScheduledProgram> = {};
  for (const [name, partition] of Object.entries(partitions)) {
    const all = TARGETS.map((target) => scheduleProgram(partition, target));
    programs[name] = all[0]!;
    list.add(all);
  }
  const shaders = list.print();
  const plans: Record<string, EntryPlan> = {};
  for (const [name, program] of Object.entries(programs))
    plans[name] = planEntry(program, weights.inFile, shaders.numberOf, 'webgpu');
  return { programs, plans, shaders };
}

/** What the manifest says of it, and its files: one for each kind of device for which kernels differ. */
export function webGpuPart({ plans, shaders }: LoweredForGpu): {
  readonly part: WebGpuPart;
  readonly files: ReadonlyMap<string, Uint8Array>;
} {
  const files = new Map<string, Uint8Array>();
  const texts = new Set<string>();
  const wgsl: WgslFile[] = [];
  for (const { sources, features } of shaders.sets) {
    const text = sources.map(compactWgsl).join('\n');
    if (texts.has(text)) continue;
    texts.add(text);
    const names = [...features].sort();
    const file = ['kernels', ...names, 'wgsl'].join('.');
    const bytes = new TextEncoder().encode(text);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    files.set(file, bytes);
    wgsl.unshift({ file, bytes: bytes.length, sha256, ...(names.length > 0 && { features: names }) });
  }
  return { part: { entries: plans, wgsl, kernels: shaders.kernels, limits: {} }, files };
}

/**
 * WGSL on one line, without the blanks that separate nothing; sources have no comments. Blanks around `-` and `/` stay,
 * since two of the former, or a quotient by a dereferenced pointer, would become other tokens.
 */
export const compactWgsl = (source: string): string =>
  source.replace(/\s+/g, ' ').replace(/ ?([+*=<>,;:{}()&|?]) ?/g, '$1');
