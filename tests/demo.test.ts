import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { decode } from 'fast-png';
import { open } from '../runtime/index.ts';
import { buildDigits } from './demo/build.ts';
import { Canvas } from './demo/canvas.ts';
import { classify, judge, LOGIT_TOLERANCE } from './demo/classify.ts';
import { readDigits, readRecorded } from './demo/digits.ts';
import {
  compareRecorded,
  meanLoss,
  noiseFor,
  pasteVisible,
  reconstruct,
  removedPixels,
  unpatch,
} from './demo/reconstruct.ts';

const folder = mkdtempSync(join(tmpdir(), 'heddle-demo-'));
const digits = readDigits();
const recorded = readRecorded(digits);
const [vit, mae] = await Promise.all([
  buildDigits('vit', join(folder, 'vit')),
  buildDigits('mae', join(folder, 'mae')),
]);
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

const variants = [
  { name: 'plain SIMD', threads: 1, relaxed: false, batch: 1 },
  { name: 'relaxed SIMD', threads: 1, relaxed: true, batch: 1 },
  { name: 'two threads', threads: 2, relaxed: true, batch: 23 },
] as const;

for (const { name, batch, ...options } of variants)
  test(`every held-out image gets the class that PyTorch gives it: ${name}, batches of ${batch}`, async (t) => {
    const session = await open(vit.folder, options);
    const verdict = judge(await classify(session, digits.heldout, batch));
    session.dispose();
    t.deepEqual(
      verdict.disagree.map(({ digit, predicted }) => ({ file: digit.file, wants: digit.predicted, got: predicted })),
      [],
    );
    t.true(verdict.worstLogit <= LOGIT_TOLERANCE, `a logit is off by ${verdict.worstLogit}`);
    t.is(verdict.right, 356);
    t.true(verdict.ok);
  });

test('a wrong class, a logit out of tolerance and a NaN do not pass for PyTorch', async (t) => {
  const session = await open(vit.folder);
  const seen = await classify(session, digits.heldout.slice(0, 2));
  session.dispose();
  const [first, second] = [seen[0]!, seen[1]!];
  t.true(judge(seen).ok);
  t.false(judge([first, { ...second, predicted: (second.predicted + 1) % 10 }]).ok);
  t.false(judge([first, { ...second, logits: second.logits.map((x) => x + 2 * LOGIT_TOLERANCE) }]).ok);
  t.false(judge([first, { ...second, logits: second.logits.with(3, Number.NaN) }]).ok);
});

test('the class token divides its attention between the patches and itself', async (t) => {
  const session = await open(vit.folder);
  for (const { attention } of await classify(session, digits.heldout.slice(0, 10))) {
    t.is(attention.length, 4);
    for (const map of attention) {
      t.true(map.every((share) => share >= 0));
      const sum = map.reduce((total, share) => total + share, 0);
      t.true(sum > 0.5 && sum < 1, `patches have ${sum}`);
    }
  }
  session.dispose();
});

for (const { name, relaxed, threads } of variants)
  test(`masks, predictions and losses of the autoencoder are PyTorch's: ${name}`, async (t) => {
    const session = await open(mae.folder, { relaxed, threads });
    for (const one of recorded) {
      const difference = compareRecorded(await reconstruct(session, one.digit, one.noise), one);
      t.true(difference.ok, `${one.digit.file}: ${JSON.stringify(difference)}`);
    }
    session.dispose();
  });

test('another mask, another prediction and another loss do not pass for PyTorch', async (t) => {
  const session = await open(mae.folder);
  const one = recorded[0]!;
  const drawn = await reconstruct(session, one.digit, one.noise);
  session.dispose();
  t.true(compareRecorded(drawn, one).ok);
  t.false(compareRecorded({ ...drawn, mask: drawn.mask.map((m) => 1 - m) }, one).ok);
  t.false(compareRecorded({ ...drawn, prediction: drawn.prediction.map((x) => x * 1.001) }, one).ok);
  t.false(compareRecorded({ ...drawn, prediction: drawn.prediction.with(7, Number.NaN) }, one).ok);
  t.false(compareRecorded({ ...drawn, loss: drawn.loss * 1.001 }, one).ok);
});

test("over all held-out images the loss is PyTorch's within the scatter of masks", async (t) => {
  const session = await open(mae.folder);
  const drawn = [];
  for (const [index, digit] of digits.heldout.entries()) drawn.push(await reconstruct(session, digit, noiseFor(index)));
  session.dispose();
  const { mean, error } = meanLoss(drawn);
  t.true(error < 0.004, `standard error ${error}`);
  t.true(Math.abs(mean - digits.heldoutLoss) < 4 * error, `${mean} ± ${error}, PyTorch ${digits.heldoutLoss}`);
});

test('visible patches are pasted back unchanged and removed ones are drawn', async (t) => {
  const one = recorded[0]!;
  const pasted = pasteVisible({ ...one, ms: 0 });
  const drawn = unpatch(one.prediction);
  const removed = removedPixels(one.mask);
  t.is(removed.filter(Boolean).length, 48 * 4);
  for (const [at, x] of pasted.entries()) t.is(x, removed[at] ? drawn[at]! : one.digit.pixels[at]!);
  // Patch 9 is the second of the second row; its third value is the first pixel of its second row.
  t.is(unpatch(Float32Array.from({ length: 256 }, (_, i) => i))[3 * 16 + 2], 9 * 4 + 2);
});

test('a canvas draws text and images where it is told, and refuses what does not fit', (t) => {
  const canvas = new Canvas(8, 6, [9, 9, 9]);
  canvas.text(0, 0, 1, 'i', [1, 2, 3]);
  canvas.image(4, 2, 2, 2, (i) => [i, i, i]);
  const { width, height, channels, data } = decode(canvas.toPng());
  t.deepEqual([width, height, channels], [8, 6, 3]);
  const at = (x: number, y: number): number[] => [...data.subarray((y * 8 + x) * 3, (y * 8 + x) * 3 + 3)];
  t.deepEqual(
    [at(0, 0), at(0, 1), at(1, 1)],
    [
      [1, 2, 3],
      [9, 9, 9],
      [1, 2, 3],
    ],
  );
  t.deepEqual(
    [at(4, 2), at(7, 2), at(5, 5), at(6, 4)],
    [
      [0, 0, 0],
      [1, 1, 1],
      [2, 2, 2],
      [3, 3, 3],
    ],
  );
  t.throws(() => canvas.fill(4, 4, 5, 1, [0, 0, 0]), { message: /leaves the 8×6 picture/ });
  t.throws(() => canvas.text(0, 0, 1, 'é', [0, 0, 0]), { message: /no glyph/ });
});

test('the command prints what it sees, writes the pictures and ends with 0', (t) => {
  const main = fileURLToPath(new URL('./demo/main.js', import.meta.url));
  const out = join(folder, 'command');
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, out], { encoding: 'utf8' });
  t.is(status, 0, stderr);
  t.regex(stdout, /all +359 +356 +99\.16 %/);
  t.regex(stdout, /equal: same class on 359 of 359 images/);
  t.regex(stdout, /equal: masks, predictions and losses of 10 recorded runs/);
  t.notRegex(stdout, /NOT EQUAL/);
  for (const name of ['classes', 'attention', 'reconstruction']) {
    const { width, height } = decode(readFileSync(join(out, `${name}.png`)));
    t.true(width > 1000 && height > 700, `${name}: ${width}×${height}`);
  }
});
