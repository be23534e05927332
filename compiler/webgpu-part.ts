/** The WebGPU part of a bundle: the same regions, scheduled, printed and planned for WebGPU over the same weights. */
import { createHash } from 'node:crypto';
import type { EntryPlan, WebGpuPart, WgslFile } from '../runtime/manifest.ts';
import { GpuKernelList, type PrintedShaders } from './gpu-kernels.ts';
import { WEBGPU } from './gpu-target.ts';
import type { Partition } from './partition.ts';
import { planEntry } from './plan.ts';
import { type ScheduledProgram, scheduleProgram } from './schedule-regions.ts';
import type { WeightPlan } from './weights.ts';

/** Of every weight in a bundle that WebGPU reads: what the offset of a binding is a multiple of. */
export const BINDING_ALIGN = 256;

export interface LoweredForGpu {
  /** By entry. */
  readonly programs: Readonly<Record<string, ScheduledProgram>>;
  readonly plans: Readonly<Record<string, EntryPlan>>;
  readonly shaders: PrintedShaders;
}

/** @throws CompileError `unsupported` for what WGSL lacks */
export function lowerForGpu(partitions: Readonly<Record<string, Partition>>, weights: WeightPlan): LoweredForGpu {
  const list = new GpuKernelList();
  const programs: Record<string, ScheduledProgram> = {};
  for (const [name, partition] of Object.entries(partitions)) {
    programs[name] = scheduleProgram(partition, WEBGPU);
    list.add(programs[name]);
  }
  const shaders = list.print();
  const plans: Record<string, EntryPlan> = {};
  for (const [name, program] of Object.entries(programs))
    plans[name] = planEntry(program, weights, shaders.numberOf, 'webgpu');
  return { programs, plans, shaders };
}

/** What the manifest says of it, and the bytes of its file. */
export function webGpuPart(
  { plans, shaders }: LoweredForGpu,
  file: string,
): { readonly part: WebGpuPart; readonly bytes: Uint8Array } {
  const sources = shaders.sources.map((source) => new TextEncoder().encode(compactWgsl(source)));
  const bytes = new Uint8Array(Buffer.concat(sources));
  const wgsl: WgslFile = {
    file,
    bytes: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    sources: sources.map((source) => source.length),
  };
  return { part: { entries: plans, wgsl, kernels: shaders.kernels, limits: {} }, bytes };
}

/**
 * WGSL on one line, without the blanks that separate nothing; sources have no comments. Blanks around `-` and `/` stay,
 * since two of the former, or a quotient by a dereferenced pointer, would become other tokens.
 */
export const compactWgsl = (source: string): string =>
  source.replace(/\s+/g, ' ').replace(/ ?([+*=<>,;:{}()&|?]) ?/g, '$1');
