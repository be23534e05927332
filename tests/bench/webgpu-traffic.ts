/** Bytes that the launches of a plan could not do without: each binding read or written once. */
import { type Address, type EntryPlan, type Step, sizeOf, type WebGpuPart } from '../../runtime/manifest.ts';
import { weightStarts } from '../../runtime/webgpu-weights.ts';

type Symbols = Readonly<Record<string, number>>;

/** By label. Trips of loops count; of branches the one that is taken when the word is not 0. */
export function trafficOf(part: WebGpuPart, plan: EntryPlan, weightBytes: number, at: Symbols): Map<string, number> {
  const starts = weightStarts(part, weightBytes);
  const bytesOf = (address: Address): number => {
    if ('b' in address) return sizeOf(plan.buffers[address.b]!.bytes, at);
    return 'w' in address ? (starts.find((start) => start > address.w) ?? address.w) - address.w : 0;
  };
  const found = new Map<string, number>();
  const walk = (steps: readonly Step[], times: number): void => {
    for (const step of steps) {
      if ('kernel' in step) {
        const bytes = step.args.reduce((sum, arg) => sum + bytesOf(arg), 0);
        found.set(step.label, (found.get(step.label) ?? 0) + times * bytes);
      } else if ('loop' in step) walk(step.steps, times * sizeOf(step.trips, at));
      else if ('if' in step) walk(step.then, times);
    }
  };
  walk(plan.steps, 1);
  return found;
}
