/** The module with the kernels: choosing, checking, compiling, connecting. */
import { HeddleError } from './error.ts';
import { builtin, inNode } from './host.ts';
import type { Step, WasmModules, WasmPart } from './manifest.ts';
import { readChecked, type Source } from './source.ts';
import type { Kernel } from './team.ts';

// (module (func (result v128) (f32x4.relaxed_madd (i8x16.splat (i32.const 0)) … …)))
const PROBE = Uint8Array.of(
  0,
  97,
  115,
  109,
  1,
  0,
  0,
  0,
  1,
  5,
  1,
  96,
  0,
  1,
  123,
  3,
  2,
  1,
  0,
  10,
  19,
  1,
  17,
  0,
  65,
  0,
  253,
  15,
  65,
  0,
  253,
  15,
  65,
  0,
  253,
  15,
  253,
  133,
  2,
  11,
);

/** Whether the engine has fused multiply-add. Node 20 has it behind a flag, which is set if need be. */
export function hasRelaxed(): boolean {
  if (WebAssembly.validate(PROBE)) return true;
  if (!inNode) return false;
  try {
    builtin<typeof import('node:v8')>('v8').setFlagsFromString('--experimental-wasm-relaxed-simd');
  } catch {
    return false;
  }
  return WebAssembly.validate(PROBE);
}

/** Reads, checks and compiles a module for a shared or a private memory. */
export async function compileModule(
  source: Source,
  info: WasmModules,
  part: WasmPart,
  shared: boolean,
  signal: AbortSignal,
): Promise<WebAssembly.Module> {
  const code = (await readChecked(source, info, signal)).subarray(part.from, part.from + part.bytes);
  if (code[part.memoryFlagAt] !== 3) {
    throw new HeddleError(
      'manifest',
      `manifest: memoryFlagAt of ${info.file} does not point at a shared memory's flag.`,
    );
  }
  if (!shared) code[part.memoryFlagAt] = 1;
  try {
    return await WebAssembly.compile(code);
  } catch (error) {
    throw new HeddleError(
      'support',
      `kernels ${info.file} do not compile: ${String(error)}. ` +
        "A page needs 'wasm-unsafe-eval' in its script-src, and an engine with WebAssembly SIMD.",
      { cause: error },
    );
  }
}

/** Links a module with a memory and with the functions of `Math`. @returns the exports `k0`, `k1`, … */
export async function connect(module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<Kernel[]> {
  const m: Record<string, WebAssembly.ImportValue> = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    const f: unknown = kind === 'function' && from === 'm' && Object.hasOwn(Math, name) && Reflect.get(Math, name);
    if (typeof f === 'function') m[name] = f as Kernel;
    else if (kind !== 'memory') {
      throw new HeddleError('support', `kernels import ${from}.${name}, which this runtime does not have.`);
    }
  }
  const { exports } = await WebAssembly.instantiate(module, { env: { memory }, m });
  const kernels: Kernel[] = [];
  for (let i = 0; ; i++) {
    const kernel = exports[`k${i}`];
    if (typeof kernel !== 'function') return kernels;
    kernels.push(kernel as Kernel);
  }
}

/** Checks that every launch names a kernel with as many parameters. @throws HeddleError `manifest` */
export function checkLaunches(steps: readonly Step[], kernels: readonly Kernel[]): void {
  for (const step of steps) {
    if ('loop' in step) checkLaunches(step.steps, kernels);
    else if ('then' in step) {
      checkLaunches(step.then, kernels);
      checkLaunches(step.else, kernels);
    } else if ('kernel' in step) {
      const { args, params, kernel, label } = step;
      const [has, wants] = [kernels[kernel]?.length, args.length + params.length + 2];
      if (has === wants) continue;
      const what = has === undefined ? 'is not in the kernels' : `has ${has} parameters`;
      throw new HeddleError('manifest', `manifest: ${label} calls k${kernel} with ${wants} values, which ${what}.`);
    }
  }
}
