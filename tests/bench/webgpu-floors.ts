/** What a GPU does at most: multiply-adds in registers, and words from one buffer to another. */

export interface Peaks {
  /** Multiply-adds count two. */
  readonly gflops: number;
  /** Bytes read and written. */
  readonly gigabytesPerSecond: number;
}

const GROUP = 256;
const CHAINS = 8;

const arithmetic = (trips: number): string => `
@group(0) @binding(0) var<storage, read_write> out: array<vec4f>;
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
  let k = vec4f(0.999);
  ${Array.from({ length: CHAINS }, (_, i) => `var s${i} = vec4f(f32(id.x) + ${i}.0);`).join('\n  ')}
  for (var i = 0; i < ${trips}; i++) {
    ${Array.from({ length: CHAINS }, (_, i) => `s${i} = fma(s${i}, k, k);`).join('\n    ')}
  }
  out[id.x] = ${Array.from({ length: CHAINS }, (_, i) => `s${i}`).join(' + ')};
}`;

const COPY = `
@group(0) @binding(0) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> given: array<vec4f>;
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) { out[id.x] = given[id.x]; }`;

/** The best of several tries on the device, which must have timestamps. */
export async function measurePeaks(device: GPUDevice, software: boolean): Promise<Peaks> {
  const [trips, groups, copied] = software ? [200, 64, 2 ** 24] : [4000, 4096, 2 ** 27];
  const flops = trips * CHAINS * 4 * 2 * groups * GROUP;
  const compute = await timed(device, arithmetic(trips), groups, [groups * GROUP * 16]);
  const copy = await timed(device, COPY, copied / 16 / GROUP, [copied, copied]);
  return { gflops: flops / compute / 1e6, gigabytesPerSecond: (2 * copied) / copy / 1e6 };
}

/** Milliseconds of the quickest of eight dispatches. */
async function timed(device: GPUDevice, code: string, groups: number, sizes: readonly number[]): Promise<number> {
  const pipeline = await device.createComputePipelineAsync({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }), entryPoint: 'main' },
  });
  const buffers = sizes.map((size) => device.createBuffer({ size, usage: GPUBufferUsage.STORAGE }));
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 });
  const resolved = device.createBuffer({ size: 16, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 8; round++) {
    const encoder = device.createCommandEncoder();
    const timestampWrites = { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
    const pass = encoder.beginComputePass({ timestampWrites });
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(groups);
    pass.end();
    encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const [from, to] = new BigUint64Array(staging.getMappedRange()) as unknown as readonly [bigint, bigint];
    best = Math.min(best, Number(to - from) / 1e6);
    staging.unmap();
  }
  for (const buffer of [...buffers, resolved, staging]) buffer.destroy();
  querySet.destroy();
  return best;
}
