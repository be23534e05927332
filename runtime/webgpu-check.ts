/** Refuses a WebGPU part that could make no sense, before any device is asked for. */
import { type Check, entry, fail, file, hash, list, nat, record, shape, text } from './check.ts';
import type { Launch, Manifest, Step, WebGpuPart } from './manifest.ts';

/** Every launch of a plan, those in loops and branches included. */
export function eachLaunch(steps: readonly Step[], visit: (launch: Launch) => void): void {
  for (const step of steps) {
    if ('kernel' in step) visit(step);
    else if ('steps' in step) eachLaunch(step.steps ?? [], visit);
    else if ('if' in step) {
      eachLaunch(step.then, visit);
      eachLaunch(step.else, visit);
    }
  }
}

const source: Check = (value, at) => {
  shape({ file, bytes: nat(2 ** 26), sha256: hash })(value, at);
  list(text)((value as WebGpuPart['wgsl'][number]).features ?? [], `${at}.features`);
};

const binding: Check = (value, at) => {
  const fields = value as Readonly<Record<string, unknown>> | null;
  const argument = nat(1000);
  if (fields && 'arg' in fields) {
    shape('from' in fields ? { arg: argument, from: nat(), bytes: nat(undefined, 1) } : { arg: argument })(value, at);
    if (Number(fields.from ?? 0) % 256 !== 0) fail(`${at}.from`, fields.from, 'a multiple of 256');
  } else if (fields && 'arena' in fields) shape({ arena: list(argument) })(value, at);
  else shape({ weights: list(argument) })(value, at);
};

/** What of the part depends on launches: kernels exist, and take what they are given. */
function checkLaunches(part: WebGpuPart, steps: readonly Step[], at: string): void {
  eachLaunch(steps, ({ kernel: number, args, params, label }) => {
    const where = `${at}: ${label}`;
    for (const arg of args) {
      if ('s' in arg || arg.at !== undefined) fail(where, arg, 'an address without scratch or offset');
      if ('w' in arg && arg.w % 256 !== 0) fail(where, arg, 'a weight at a multiple of 256');
    }
    const kernel = part.kernels[number];
    if (kernel === undefined) return fail(where, number, 'a kernel of this bundle');
    if (kernel.params !== params.length) fail(where, params.length, `${kernel.params} parameters`);
    for (const each of kernel.bindings) {
      const used = 'arg' in each ? [each.arg] : 'arena' in each ? each.arena : each.weights;
      for (const i of used) {
        const arg = args[i];
        const right = 'arena' in each ? 'b' : 'weights' in each || 'from' in each ? 'w' : undefined;
        if (arg === undefined || (right !== undefined && !(right in arg))) fail(where, arg, 'what the kernel binds');
      }
    }
  });
}

/** Copies are launches on WebGPU. */
function refuseCopies(steps: readonly Step[], at: string): void {
  for (const step of steps) {
    if ('loop' in step) refuseCopies(step.steps, at);
    else if ('if' in step) {
      refuseCopies(step.then, at);
      refuseCopies(step.else, at);
    } else if ('from' in step) fail(at, step, 'a step that WebGPU has');
  }
}

const portsText = (plan: Manifest['entries'][string]): string =>
  JSON.stringify(
    [plan.inputs, plan.outputs].map((ports) => ports.map(({ name, dtype, shape: s }) => [name, dtype, s])),
  );

/** @throws HeddleError `manifest`, naming the field, its value and what it should be */
export function checkWebGpu(manifest: Manifest): WebGpuPart {
  const part = manifest.webgpu!;
  const { weights, entries } = manifest;
  shape({
    wgsl: list(source),
    kernels: list(shape({ bindings: list(binding), params: nat(1000) })),
    limits: record(nat(Number.MAX_SAFE_INTEGER)),
    entries: record(entry(Math.ceil(weights.bytes / 256) * 256)),
  })(part, 'webgpu');
  for (const [name, plan] of Object.entries(entries)) {
    const at = `webgpu.entries.${name}`;
    const same = part.entries[name];
    if (same === undefined || portsText(same) !== portsText(plan)) fail(at, null, 'the entry of the same ports');
    checkLaunches(part, same.steps, at);
    refuseCopies(same.steps, at);
  }
  return part;
}
