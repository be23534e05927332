/**
 * The child process of `masked.ts`: opens a bundle, warms up, runs, and prints one line of JSON (`MaskedReport`) on stdout.
 * Its only argument is a `MaskedTask` as JSON.
 */
import { writeFileSync } from 'node:fs';
import type { Input } from '../../runtime/api.ts';
import { open } from '../../runtime/open.ts';
import type { MaskedReport, MaskedTask } from './masked.ts';
import { MASKED_MODELS } from './masked-models.ts';
import { bytesOf } from './weights.ts';

const task = JSON.parse(process.argv[2] ?? '{}') as MaskedTask;
const model = MASKED_MODELS.find(({ name }) => name === task.model);
if (!model) throw new Error(`no model "${task.model}"`);
const inputs = Object.fromEntries(
  Object.entries(model.inputs()).map(([name, { dtype, shape, data }]): [string, Input] => [
    name,
    { shape, data: dtype === 'i64' ? BigInt64Array.from(data, BigInt) : Float32Array.from(data) },
  ]),
);
const session = await open(task.folder, { device: 'wasm', threads: 1, relaxed: true });
const { entry } = model;
const outputs = await session.run(inputs, { entry });
if (task.outputs !== undefined)
  for (const [name, { data }] of Object.entries(outputs))
    writeFileSync(`${task.outputs}/${name}.f32`, bytesOf(Float32Array.from(data as ArrayLike<number>)));
const start = performance.now();
while (task.runs > 0 && performance.now() - start < task.warmupMs) await session.run(inputs, { entry });
const wallMs: number[] = [];
const cpu = process.cpuUsage();
for (let i = 0; i < task.runs; i++) {
  const from = performance.now();
  await session.run(inputs, { entry });
  wallMs.push(performance.now() - from);
}
const used = process.cpuUsage(cpu);
const cpuMs = task.runs === 0 ? 0 : (used.user + used.system) / 1000 / task.runs;
const report: MaskedReport = { wallMs, cpuMs };
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
