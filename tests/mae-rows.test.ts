/**
 * A masked autoencoder that is written naively must not see what it removes: neither as it is written nor compiled, where
 * removed patches are not even embedded.
 */
import test, { type ExecutionContext } from 'ava';
import { mae } from '../frontends/zoo/mae.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { dropTokensPass } from '../passes/drop-tokens.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import type { Params, Tensors } from './support/replay.ts';
import { compileGraph } from './support/run-graph.ts';
import { maeInputs, modelParams, modelWeights, noise, tinyMae } from './support/token-models.ts';

const [ENTRIES, GRID, SIDE] = [2, 3, 2];
const PATCHES = GRID * GRID;
const AREA = SIDE * SIDE;
const RATIO = 0.5;
const VISIBLE = Math.trunc(PATCHES * (1 - RATIO));

/** Also where a few patches do not pay. */
const passes = pipelineFor().map((pass) =>
  pass.name === 'drop-tokens' ? dropTokensPass({ macsPerElement: 0, share: 0.999 }) : pass,
);
const whole = tinyMae({ maskRatio: RATIO });
const encoder = tinyMae({ maskRatio: RATIO, hasDecoder: false, latents: 'visible' });

/** The graph as written, as optimised, and as WebAssembly. */
type Run = (inputs: Tensors, params?: Params) => Tensors;
function forms(g: Graph): Readonly<Record<string, Run>> {
  const optimised = runPasses(g, passes);
  const compiled = compileGraph(optimised, modelWeights(g));
  return {
    'as written': (inputs, params = modelParams) => evaluate(g, { inputs, params }),
    optimised: (inputs, params = modelParams) => evaluate(optimised, { inputs, params }),
    compiled: (inputs) => compiled.run('wasm relaxed', inputs),
  };
}
const [WHOLE, ENCODER] = [forms(whole), forms(encoder)];

/** Places of the patches in the order of their noise: the first stay. */
const order = (entry: number): number[] => {
  const own = noise().data.slice(entry * PATCHES, (entry + 1) * PATCHES);
  return [...own.keys()].sort((a, b) => own[a]! - own[b]!);
};
/** Positions in `pixel_values` of a patch: rows, then columns. */
const pixelsOf = (entry: number, patch: number): number[] => {
  const [y, x] = [Math.floor(patch / GRID) * SIDE, (patch % GRID) * SIDE];
  const width = GRID * SIDE;
  return Array.from(
    { length: AREA },
    (_, i) => entry * width ** 2 + (y + Math.floor(i / SIDE)) * width + x + (i % SIDE),
  );
};
const withPixels = (change: (data: Float64Array) => void): Tensors => {
  const inputs = maeInputs();
  const data = inputs.pixel_values!.data.slice();
  change(data);
  return { ...inputs, pixel_values: { ...inputs.pixel_values!, data } };
};

const same = (t: ExecutionContext, a: Nd, b: Nd, note: string): void => {
  t.deepEqual([...a.data], [...b.data], note);
};
/** Mean squared error over removed patches, against targets that do not move. */
function loss(outputs: Tensors, targets: Tensors): number {
  let [sum, count] = [0, 0];
  for (let entry = 0; entry < ENTRIES; entry++)
    for (const patch of order(entry).slice(VISIBLE)) {
      const at = pixelsOf(entry, patch);
      const own = (entry * PATCHES + patch) * AREA;
      at.forEach((pixel, i) => {
        sum += (outputs.pred!.data[own + i]! - targets.pixel_values!.data[pixel]!) ** 2;
        count++;
      });
    }
  return sum / count;
}

test('pixels of removed patches change neither latents nor predictions nor the loss on the same targets', (t) => {
  const inputs = maeInputs();
  const moved = withPixels((data) => {
    for (let entry = 0; entry < ENTRIES; entry++)
      for (const patch of order(entry).slice(VISIBLE))
        for (const i of pixelsOf(entry, patch)) data[i] = 7 * data[i]! + 3;
  });
  for (const [form, run] of Object.entries(ENCODER)) same(t, run(moved).latent!, run(inputs).latent!, form);
  for (const [form, run] of Object.entries(WHOLE)) {
    const [before, after] = [run(inputs), run(moved)];
    same(t, after.pred!, before.pred!, form);
    t.is(loss(after, inputs), loss(before, inputs), form);
    t.not(after.loss!.data[0], before.loss!.data[0], `${form}: the loss of the model has other targets`);
  }
});

test('the loss of the model is that of its predictions', (t) => {
  const inputs = maeInputs();
  for (const [form, run] of Object.entries(WHOLE)) {
    const outputs = run(inputs);
    const got = outputs.loss!.data[0]!;
    t.true(Math.abs(got - loss(outputs, inputs)) <= 1e-6 * got, `${form}: ${got}`);
  }
});

test('removed patches in another order are the same to the encoder', (t) => {
  const inputs = maeInputs();
  const turned = withPixels((data) => {
    for (let entry = 0; entry < ENTRIES; entry++) {
      const removed = order(entry).slice(VISIBLE);
      const old = data.slice();
      removed.forEach((patch, n) => {
        const from = pixelsOf(entry, removed[(n + 1) % removed.length]!);
        pixelsOf(entry, patch).forEach((to, i) => {
          data[to] = old[from[i]!]!;
        });
      });
    }
  });
  for (const [form, run] of Object.entries(ENCODER)) same(t, run(turned).latent!, run(inputs).latent!, form);
});

test('in which order patches stay does not matter, only which', (t) => {
  const inputs = maeInputs();
  const data = inputs.noise!.data.slice();
  for (let entry = 0; entry < ENTRIES; entry++) {
    const kept = order(entry).slice(0, VISIBLE);
    const values = kept.map((patch) => inputs.noise!.data[entry * PATCHES + patch]!);
    kept.forEach((patch, n) => {
      data[entry * PATCHES + patch] = values[VISIBLE - 1 - n]!;
    });
  }
  const turned = { ...inputs, noise: { ...inputs.noise!, data } };
  for (const [form, run] of Object.entries(ENCODER)) same(t, run(turned).latent!, run(inputs).latent!, form);
  for (const [form, run] of Object.entries(WHOLE)) {
    same(t, run(turned).mask!, run(inputs).mask!, form);
    same(t, run(turned).pred!, run(inputs).pred!, form);
  }
});

test('another mask token is the same to the encoder, and another to the decoder', (t) => {
  const inputs = maeInputs();
  const other: Params = (name, type) => {
    const x = modelParams(name, type);
    return name === 'mask_token' ? { ...x, data: x.data.map((v) => 1 - 2 * v) } : x;
  };
  for (const form of ['as written', 'optimised']) {
    same(t, ENCODER[form]!(inputs, other).latent!, ENCODER[form]!(inputs).latent!, form);
    t.notDeepEqual([...WHOLE[form]!(inputs, other).pred!.data], [...WHOLE[form]!(inputs).pred!.data], form);
  }
});

test('from nothing removed to all but one: the encoder computes what stays', (t) => {
  const inputs = maeInputs();
  const macs: number[] = [];
  for (const ratio of [0, 1 / PATCHES, 0.5, (PATCHES - 1) / PATCHES]) {
    const visible = Math.trunc(PATCHES * (1 - ratio));
    const written = tinyMae({ maskRatio: ratio, hasDecoder: false, latents: 'visible' });
    const optimised = runPasses(written, passes);
    const [want, got] = [written, optimised].map((g) => evaluate(g, { inputs, params: modelParams }));
    t.is(
      want!.mask!.data.reduce((sum, x) => sum + x, 0),
      ENTRIES * (PATCHES - visible),
      `ratio ${ratio}`,
    );
    same(t, got!.latent!, want!.latent!, `ratio ${ratio}`);
    const [rows, width, mlp, layers] = [1 + visible, 4, 8, 2];
    const block = 4 * rows * width ** 2 + 2 * rows * width * mlp + 2 * rows ** 2 * width;
    t.is(countMacs(optimised), visible * AREA * width + layers * block, `ratio ${ratio}`);
    macs.push(countMacs(optimised));
  }
  t.deepEqual(
    macs,
    [...macs].sort((a, b) => b - a),
  );
});

test('how many patches stay is computed in doubles, as its authors compute it', (t) => {
  // int(100 · (1 − 0.9)) is 9, for 1 − 0.9 is less than a tenth.
  for (const [grid, ratio, visible] of [
    [14, 0.75, 49],
    [14, 0.9, 19],
    [10, 0.9, 9],
    [10, 0.5, 50],
  ] as const) {
    const stack = { layers: 1, width: 4, heads: 1, mlp: 4 };
    const { entries } = mae({
      ...stack,
      imageSize: grid,
      patchSize: 1,
      channels: 1,
      decoder: stack,
      maskRatio: ratio,
      hasDecoder: false,
      latents: 'visible',
    });
    const optimised = runPasses(entries.main!, passes);
    const rows = 1 + visible;
    t.is(countMacs(optimised), visible * 4 + 6 * rows * 16 + 2 * rows ** 2 * 4, `${grid ** 2} · ${ratio}`);
    const next = seeded(1);
    const count = grid ** 2;
    const inputs = {
      pixel_values: nd('f32', [1, 1, grid, grid], Array.from({ length: count }, next)),
      noise: nd('f32', [1, count], Array.from({ length: count }, next)),
    };
    const { mask } = evaluate(optimised, { inputs, params: modelParams });
    t.is(
      mask!.data.reduce((sum, x) => sum + x, 0),
      count - visible,
    );
  }
});
