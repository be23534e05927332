/**
 * The sets of ONNX tests beside the checkout against their expectations. `HEDDLE_SHARED` names their folder where it is
 * not `../shared`; where there is none, the test says so in one line.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { drift, type Expectations, toleranceOf } from './conformance/expectations.ts';
import { type Device, type Outcome, runTest, testsIn } from './conformance/suite.ts';
import { projectRoot, sharedRoot } from './support/project.ts';

/** Whole networks take the reference interpreter minutes: `npm run conformance -- ../shared/models` runs them too. */
const LONG = /^(onnx-light|ppocr|oww|use-lite|magika)/;
const SETS: Readonly<Record<string, readonly Device[]>> = {
  'onnx-node-tests': ['interpreter', 'wasm', 'webgpu'],
  'onnx-graph-tests': ['interpreter', 'wasm', 'webgpu'],
  models: ['interpreter', 'wasm'],
};

/** Models that a driver in software runs in seconds; `npm run conformance` runs all of them. */
const QUICK_ON_GPU = [
  'bilstm-tagger',
  'gru-classifier',
  'nn-transformer-encdec-causal',
  'nn-transformer-encoder-padmask',
  'rnn-tanh-relu',
  'scripted-greedy-loop',
  'tract-qlstm-int8',
];

test.serial('small pretrained models do what is expected of them on WebGPU', async (t) => {
  const folder = join(sharedRoot, 'models');
  if (!existsSync(folder)) {
    t.log('not run: there is no models beside the checkout');
    t.pass();
    return;
  }
  const file = join(projectRoot, 'tests', 'conformance', 'expectations', 'models.json');
  const expected = JSON.parse(readFileSync(file, 'utf8')) as Expectations;
  const results: Record<string, Readonly<Record<string, Outcome>>> = {};
  for (const name of QUICK_ON_GPU)
    results[name] = await runTest(join(folder, name), ['webgpu'], toleranceOf(folder, name));
  t.deepEqual(drift(results, expected), []);
});

for (const [set, devices] of Object.entries(SETS))
  test.serial(`${set} do what is expected of them`, async (t) => {
    t.timeout(15 * 60_000);
    const folder = join(sharedRoot, set);
    if (!existsSync(folder)) {
      t.log(`not run: there is no ${set} beside the checkout`);
      t.pass();
      return;
    }
    const file = join(projectRoot, 'tests', 'conformance', 'expectations', `${set}.json`);
    const expected = JSON.parse(readFileSync(file, 'utf8')) as Expectations;
    const results: Record<string, Readonly<Record<string, Outcome>>> = {};
    for (const name of testsIn(folder)) {
      const quick = devices.filter((device) => device !== 'interpreter' || !LONG.test(name));
      results[name] = await runTest(join(folder, name), quick, toleranceOf(folder, name));
    }
    t.deepEqual(drift(results, expected), []);
    const missing = Object.keys(expected).filter((name) => !Object.hasOwn(results, name));
    t.deepEqual(missing, [], 'expected tests are not in the folder');
  });
