/** What one core of this machine does at most: a loop of independent multiply-adds that never leaves the registers. */
import { ModuleBuilder } from '../wasm-encode.ts';

/** Chains of dependent operations in flight: more than latency × units of any present core, fewer than its registers. */
const CHAINS = 10;
const TRIPS = 1_000_000;
const LANES = 4;

/** Multiply-accumulates per second of one thread, the best of several tries, with fused operations or without. */
export function measureCeiling(fused: boolean): number {
  const module = new ModuleBuilder();
  const f = module.function('peak', ['i32'], ['f32']);
  const sums = Array.from({ length: CHAINS }, () => f.local('v128'));
  const factor = f.local('v128');
  f.f32x4(0.999).set(factor);
  f.loop((start) => {
    for (const sum of sums) {
      if (fused) f.get(sum).get(factor).get(factor).op('f32x4.relaxed_madd').set(sum);
      else f.get(sum).get(factor).op('f32x4.mul').get(factor).op('f32x4.add').set(sum);
    }
    f.get(f.param(0)).i32(1).op('i32.sub').tee(f.param(0)).brIf(start);
  });
  f.get(sums[0]!);
  for (const sum of sums.slice(1)) f.get(sum).op('f32x4.add');
  f.lane('f32x4.extract_lane', 0);
  module.export('peak', f);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.toBytes()));
  const peak = instance.exports.peak as (trips: number) => number;
  let best = 0;
  for (let round = 0; round < 8; round++) {
    const from = performance.now();
    peak(TRIPS);
    best = Math.max(best, (TRIPS * CHAINS * LANES * 1000) / (performance.now() - from));
  }
  return best;
}
