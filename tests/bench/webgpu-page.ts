/** The time to the first answer of a tiny model in Chromium, on either device. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compile } from '../../compiler/compile.ts';
import { dim, f32, input, model, nn, relu } from '../../frontends/dsl/index.ts';
import { seededWeights } from '../../frontends/zoo/seeded.ts';
import { closePage, launchBrowser, openPage } from '../support/chromium.ts';
import { serve } from '../support/server.ts';
import { type Summary, summarize } from './stats.ts';

/** What the page reports. */
interface Answer {
  readonly device: string;
  readonly adapter: string | null;
  readonly ms: number;
  readonly error?: string;
}

export interface FirstAnswer {
  readonly device: string;
  readonly adapter: string | null;
  readonly times: Summary;
}

const script = (device: string): string => `
const from = performance.now();
try {
  const { open } = await import('/bundle/index.js');
  const session = await open({ device: '${device}' });
  const { logits } = await session.run({ x: new Float32Array(784) });
  if (logits.data.length !== 10) throw new Error('the perceptron has no logits');
  const ms = performance.now() - from;
  globalThis.answer = { device: session.device, adapter: session.adapter ?? null, ms };
} catch (error) {
  globalThis.answer = { error: String(error) };
}`;

/** Milliseconds from importing a bundle of 101,770 parameters to its first result, in `pages` fresh pages. */
export async function measureFirstAnswers(pages: number): Promise<FirstAnswer[]> {
  const perceptron = model('perceptron', { x: input(f32, [dim('batch', { max: 64 }), 784]) }, ({ x }) => {
    const hidden = relu(nn.linear('fc1', { in: 784, out: 128 })(x));
    return { logits: nn.linear('fc2', { in: 128, out: 10 })(hidden) };
  });
  const folder = mkdtempSync(join(tmpdir(), 'heddle-first-'));
  const browser = await launchBrowser();
  try {
    const bundle = compile(perceptron, { weights: seededWeights(perceptron), target: ['wasm', 'webgpu'] });
    await bundle.write(join(folder, 'bundle'));
    const found: FirstAnswer[] = [];
    for (const device of ['webgpu', 'wasm']) {
      const server = await serve({
        folders: { '/bundle/': join(folder, 'bundle') },
        files: {
          '/favicon.ico': '',
          '/index.html': '<!doctype html><script type="module" src="/script.js"></script>',
          '/script.js': script(device),
        },
      });
      const answers: Answer[] = [];
      for (let i = 0; i < pages; i++) {
        const watched = await openPage(browser, `${server.origin}/index.html`);
        let answer: Answer | undefined;
        while (answer === undefined) {
          answer = await watched.page.evaluate<Answer | undefined>('globalThis.answer');
          await new Promise((done) => setTimeout(done, 20));
        }
        await closePage(watched);
        if (answer.error !== undefined) throw new Error(answer.error);
        answers.push(answer);
      }
      await server.close();
      const { device: used, adapter } = answers[0]!;
      found.push({ device: used, adapter, times: summarize(answers.map(({ ms }) => ms)) });
    }
    return found;
  } finally {
    await browser.close();
    rmSync(folder, { recursive: true });
  }
}
