/**
 * `npm run conformance -- DIR [--device interpreter|wasm|webgpu] [--json FILE] [--update] [--only TEXT]`: runs a folder of ONNX
 * tests and compares with the expectations of the folder's name, where there are any. Exit status 1 on drift: a test that
 * should pass and does not, or one that passes and should not.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { projectRoot } from '../support/project.ts';
import { drift, type Expectations, expectationOf, toleranceOf } from './expectations.ts';
import { DEVICES, type Device, type Outcome, runTest, testsIn } from './suite.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: 'string', multiple: true },
    json: { type: 'string' },
    update: { type: 'boolean' },
    only: { type: 'string' },
  },
});
const folder = positionals[0];
// On WebGPU only where it is asked for: a driver in software takes minutes.
const devices = (values.device ?? DEVICES.filter((name) => name !== 'webgpu')) as readonly Device[];
if (!folder || !existsSync(folder) || devices.some((d) => !DEVICES.includes(d))) {
  console.error(
    'usage: npm run conformance -- DIR [--device interpreter|wasm|webgpu] [--json FILE] [--update] [--only TEXT]',
  );
  process.exit(2);
}
const root = resolve(folder);
const file = join(projectRoot, 'tests', 'conformance', 'expectations', `${basename(root)}.json`);
const expected = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Expectations) : undefined;
const results: Record<string, Readonly<Record<string, Outcome>>> = {};
for (const name of testsIn(root).filter((n) => n.includes(values.only ?? '')))
  results[name] = await runTest(join(root, name), devices, toleranceOf(root, name));

for (const device of devices) {
  const all = Object.values(results).map((r) => r[device]!);
  const count = (status: Outcome['status']): number => all.filter((o) => o.status === status).length;
  console.log(
    `${device}: ${count('pass')} of ${all.length} pass, ${count('unsupported')} unsupported, ${count('fail')} fail`,
  );
}
if (values.json) writeFileSync(values.json, `${JSON.stringify(results, null, 1)}\n`);
if (values.update) {
  const next = Object.entries(results).map(([name, outcomes]) => [
    name,
    { ...expected?.[name], ...expectationOf(outcomes) },
  ]);
  const merged = { ...(values.only ? expected : {}), ...Object.fromEntries(next) };
  writeFileSync(file, `${JSON.stringify(merged, null, 2)}\n`);
} else if (expected) {
  const lines = drift(results, expected);
  for (const line of lines) console.log(line);
  if (lines.length > 0) {
    console.error(`${lines.length} results differ from ${basename(file)}; look at each, then run with --update`);
    process.exitCode = 1;
  }
} else console.log(`no expectations for ${basename(root)}; --update writes them`);
