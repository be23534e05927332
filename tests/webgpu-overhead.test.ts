/** What the runtime asks of a device for a run: nothing twice, and no more passes and submissions than it must. */
import test from 'ava';
import type { DeviceLike } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';
import { chain } from './bench/webgpu-dispatch.ts';
import { fakeDevice } from './support/fake-gpu.ts';
import { handGpuBundle } from './support/hand-wgsl.ts';

test('a thousand launches are a thousand dispatches in few passes, over bind groups that are made once', async (t) => {
  const { device, calls } = fakeDevice();
  const session = await open(handGpuBundle({ gpu: { main: chain(1000) } }), { device: device as DeviceLike });
  const x = new Float32Array(64);
  for (const groups of [1000, 0]) {
    Object.assign(calls, { dispatches: 0, passes: 0, bindGroups: 0, submissions: 0 });
    await session.run({ x, y: x });
    // Sixty-four launches a submission, each in one pass; the last one has the outputs too.
    t.deepEqual(calls, { dispatches: 1000, passes: 16, bindGroups: groups, submissions: 16 });
  }
  session.dispose();
});
