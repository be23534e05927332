import test from 'ava';
import type { Browser } from 'playwright-core';
import { closePage, launchBrowser, openPage, valueIn } from './support/chromium.ts';
import { type ServeOptions, serve, strictPolicy } from './support/server.ts';
import { createGpu } from './support/swiftshader.ts';

/** What the probe page finds out about itself. */
interface Probe {
  readonly isolated: boolean;
  readonly sharedMemory: boolean;
  readonly compiles: string;
  readonly relaxedSimd: boolean;
  readonly evaluates: string;
  readonly adapter: string;
  readonly worker: number;
}

// (module (func (result v128) (f32x4.relaxed_madd (i8x16.splat (i32.const 0)) … …)))
const relaxedMadd = [
  ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
  ...[1, 5, 1, 0x60, 0, 1, 0x7b],
  ...[3, 2, 1, 0],
  ...[10, 19, 1, 17, 0, 0x41, 0, 0xfd, 0x0f, 0x41, 0, 0xfd, 0x0f, 0x41, 0, 0xfd, 0x0f, 0xfd, 0x85, 0x02, 0x0b],
];

const probeScript = `
const relaxed = new Uint8Array(${JSON.stringify(relaxedMadd)});
const attempt = async (work) => { try { await work(); return 'ok'; } catch (error) { return error.name; } };
const worker = new Worker('/worker.js', { type: 'module' });
const answer = new Promise((done, fail) => { worker.onmessage = (event) => done(event.data); worker.onerror = fail; });
worker.postMessage(20);
const adapter = await navigator.gpu?.requestAdapter();
globalThis.probe = {
  isolated: globalThis.crossOriginIsolated,
  sharedMemory: typeof SharedArrayBuffer === 'function',
  compiles: await attempt(() => WebAssembly.compile(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]))),
  relaxedSimd: WebAssembly.validate(relaxed),
  evaluates: await attempt(() => new Function('return 1')()),
  adapter: adapter ? adapter.info.architecture : 'none',
  worker: await answer,
};
`;

const site: ServeOptions = {
  files: {
    '/index.html': '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/probe.js"></script>',
    '/probe.js': probeScript,
    '/worker.js': 'onmessage = (event) => postMessage(event.data + 1);',
  },
};

let browser: Browser;
test.before(async () => {
  browser = await launchBrowser();
});
test.after.always(async () => {
  await browser?.close();
});

async function probe(options: ServeOptions): Promise<{ result: Probe; urls: readonly string[]; origin: string }> {
  const server = await serve({ ...site, ...options });
  try {
    const watched = await openPage(browser, `${server.origin}/index.html`);
    const result = await valueIn<Probe>(watched.page, 'probe');
    await closePage(watched);
    return { result, urls: watched.urls, origin: server.origin };
  } finally {
    await server.close();
  }
}

for (const isolated of [false, true]) {
  test(`a page ${isolated ? 'with' : 'without'} cross-origin isolation has WebGPU, relaxed SIMD and workers`, async (t) => {
    const { result, urls, origin } = await probe({ isolated });
    t.deepEqual(result, {
      isolated,
      sharedMemory: isolated,
      compiles: 'ok',
      relaxedSimd: true,
      evaluates: 'EvalError',
      adapter: 'swiftshader',
      worker: 21,
    });
    const own = ['/index.html', '/probe.js', '/worker.js'].map((path) => origin + path);
    t.deepEqual(urls.filter((url) => !url.startsWith('data:')).sort(), own);
  });
}

test('a policy without wasm-unsafe-eval refuses to compile, so the policy is in force', async (t) => {
  const { result } = await probe({ policy: strictPolicy.replace("'wasm-unsafe-eval'", '') });
  t.is(result.compiles, 'CompileError');
});

test('the server sends right types, refuses what lies outside its folders and records every request', async (t) => {
  const server = await serve({ folders: { '/app/': import.meta.dirname }, files: { '/a.wasm': new Uint8Array(4) } });
  t.teardown(() => server.close());
  const statuses = [];
  for (const path of ['/a.wasm', '/app/browser-smoke.test.js', '/app/..%2f..%2fpackage.json', '/none']) {
    const reply = await fetch(server.origin + path);
    statuses.push([reply.status, reply.headers.get('content-type')]);
  }
  t.deepEqual(statuses, [
    [200, 'application/wasm'],
    [200, 'text/javascript; charset=utf-8'],
    [404, 'text/plain'],
    [404, 'text/plain'],
  ]);
  t.deepEqual(
    server.requests.map(({ path, status }) => `${status} ${path}`),
    ['200 /a.wasm', '200 /app/browser-smoke.test.js', '404 /app/../../package.json', '404 /none'],
  );
});

test('Dawn in Node runs a compute shader', async (t) => {
  const adapter = await createGpu();
  const device = await adapter.requestDevice();
  const code = `
    @group(0) @binding(0) var<storage, read_write> data: array<f32>;
    @compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3u) {
      data[id.x] = data[id.x] * 2 + f32(id.x);
    }`;
  const pipeline = await device.createComputePipelineAsync({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }), entryPoint: 'main' },
  });
  const input = Float32Array.of(1, -2, 3.5, 1e6, 0, 7, 8, 9);
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const storage = device.createBuffer({ size: input.byteLength, usage });
  const staging = device.createBuffer({
    size: input.byteLength,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
  device.queue.writeBuffer(storage, 0, input);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: storage } }],
    }),
  );
  pass.dispatchWorkgroups(2);
  pass.end();
  encoder.copyBufferToBuffer(storage, 0, staging, 0, input.byteLength);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const output = [...new Float32Array(staging.getMappedRange())];
  device.destroy();
  t.deepEqual(output, [2, -3, 9, 2000003, 4, 19, 22, 25]);
});
