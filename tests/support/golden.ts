/**
 * Goldens: text files that hold a graph, and what must become of it.
 *
 * `tests/golden/text/*.ir` pin the text form itself: a file is what printing its graphs gives, or holds any spelling of
 * them above a line `// expect` and the printed form below. `tests/golden/<pass>/*.ir` hold `graph before` above that
 * line and `graph after` below; `tests/golden/wgsl/*.ir` the shaders of a graph (`golden-wgsl.ts`),
 * `tests/golden/refused/*.ir` what compiling refused of it and why (`golden-refused.ts`). Comment lines at the top belong to people and stay as they are.
 *
 * A pair is also run in the reference interpreter on seeded values, and never blessed when its halves disagree.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { CompileError } from '../../ir/diagnostic.ts';
import { isFloat } from '../../ir/dtype.ts';
import { evaluate } from '../../ir/evaluate.ts';
import type { Sym } from '../../ir/expr.ts';
import { type Graph, graph, type Value } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { seeded } from '../../ir/ops/example.ts';
import { parseGraphs } from '../../ir/parse.ts';
import { keepingPromises, promisesOf } from '../../ir/promises.ts';
import { printGraph, printGraphs } from '../../ir/text.ts';
import { sizeAt, type TensorType } from '../../ir/type.ts';
import { verifyGraph } from '../../ir/verify.ts';
import { roundingIn } from '../../passes/validate.ts';
import { expectedRefusals } from './golden-refused.ts';
import { expectedShaders } from './golden-wgsl.ts';
import { projectRoot } from './project.ts';
import '../../ir/ops/all.ts';

export const goldenRoot: string = join(projectRoot, 'tests', 'golden');

/** What the runner needs of a pass. */
export interface GoldenPass {
  run(graph: Graph, cx: { remark(kind: 'applied' | 'missed', at: Value, why: string): void }): Graph;
}

const EXPECT = '// expect';

/** Every golden as `folder/point`, sorted. */
export function goldenNames(root: string = goldenRoot): string[] {
  if (!existsSync(root)) return [];
  return readdirSync(root, { withFileTypes: true })
    .filter((folder) => folder.isDirectory())
    .flatMap(({ name }) =>
      readdirSync(join(root, name))
        .filter((f) => f.endsWith('.ir'))
        .map((f) => `${name}/${f.slice(0, -3)}`),
    )
    .sort();
}

/** The pass of that name. @throws Error when the pipeline knows none */
export async function goldenPass(name: string): Promise<GoldenPass> {
  const file = fileURLToPath(new URL('../../passes/pipeline.js', import.meta.url));
  const module: unknown = existsSync(file) ? await import(pathToFileURL(file).href) : {};
  const find = (module as { passNamed?: unknown }).passNamed;
  const pass: unknown = typeof find === 'function' ? find(name) : undefined;
  if (typeof pass !== 'object' || pass === null || !('run' in pass))
    throw new Error(
      `tests/golden/${name}: no pass is named "${name}" (passNamed of passes/pipeline.ts does not know it)`,
    );
  return pass as GoldenPass;
}

/**
 * What the file of a golden should be. `pass` is absent for the folder `text`.
 * @throws CompileError for text that does not parse; Error when the halves of a pair compute different values
 */
export function expectedGolden(text: string, file: string, pass: GoldenPass | undefined): string {
  const [comment, source, paired] = splitGolden(text);
  if (!pass) {
    const graphs = parseGraphs(source, file);
    for (const g of graphs) verifyGraph(g);
    const printed = printGraphs(graphs);
    return paired ? `${comment}${source}${EXPECT}\n${printed}` : comment + printed;
  }
  const [before, ...more] = parseGraphs(source, file);
  if (!before || more.length > 0)
    throw new Error(`${file}: expected one graph above "${EXPECT}", found ${more.length + (before ? 1 : 0)}`);
  verifyGraph(before);
  const missed: string[] = [];
  const remark = (kind: 'applied' | 'missed', _at: Value, why: string): void =>
    void (kind === 'missed' && missed.push(`// missed: ${why}\n`));
  const result = pass.run(before, { remark });
  const after = graph('after', result.inputs, result.outputs);
  verifyGraph(after);
  const disagreement = compareGraphs(before, after);
  if (disagreement)
    throw new Error(
      `${file}: before and after compute different values; nothing is blessed\n${disagreement}\n${printGraph(after)}`,
    );
  const head = printGraph(before);
  return `${comment}${head}${EXPECT}\n${withoutSymbols(printGraph(after), head)}${missed.join('')}`;
}

/** Leading comment lines; the text up to `// expect`; whether there is such a line. */
function splitGolden(text: string): [comment: string, source: string, paired: boolean] {
  const comment = /^(?:\/\/(?! expect)[^\n]*\n)*/.exec(text)![0];
  const rest = text.slice(comment.length);
  const at = rest.search(/^\/\/ expect$/m);
  return [comment, at < 0 ? rest : rest.slice(0, at), at >= 0];
}

/** Symbols declared above are not declared again below. */
function withoutSymbols(text: string, above: string): string {
  const line = /^symbols ([^\n]*)\n/.exec(text);
  if (!line) return text;
  const declared = /^symbols ([^\n]*)\n/.exec(above)?.[1]?.split(', ') ?? [];
  return line[1]!.split(', ').every((s) => declared.includes(s)) ? text.slice(line[0].length) : text;
}

/**
 * Runs both graphs on the same seeded values, symbols at their defaults. Integers start in 0..4 and shrink while they
 * are out of some op's range.
 *
 * @returns the first difference as a sentence; undefined when there is none
 */
export function compareGraphs(before: Graph, after: Graph): string | undefined {
  for (const integers of [5, 3, 2]) {
    try {
      return compareOn(before, after, integers);
    } catch (error) {
      if (!(error instanceof CompileError && error.code === 'range')) throw error;
    }
  }
  return compareOn(before, after, 1);
}

function compareOn(before: Graph, after: Graph, integers: number): string | undefined {
  const fill = (name: string, type: TensorType): Nd => fillTensor(name, type, integers);
  const inputs = Object.fromEntries(
    before.inputs.map((v) => {
      const [name, type] = [String(v.attrs.name), v.type as TensorType];
      if (!promisesOf(v).binary) return [name, fill(`input ${name}`, type)];
      const filled = fill(`input ${name}`, { ...type, dtype: 'bool' });
      const bits = keepingPromises(v, filled, (d) => sizeAt(d, (s) => (s.arg as Sym).default));
      return [name, nd(type.dtype, bits.shape, bits.data)];
    }),
  );
  const kept = new Set(after.inputs.map((v) => String(v.attrs.name)));
  const rest = Object.fromEntries(Object.entries(inputs).filter(([name]) => kept.has(name)));
  const [a, b] = [evaluate(before, { inputs, params: fill }), evaluate(after, { inputs: rest, params: fill })];
  if (Object.keys(a).join() !== Object.keys(b).join())
    return `outputs are ${Object.keys(a).join(', ')} and ${Object.keys(b).join(', ')}`;
  for (const [name, x] of Object.entries(a)) {
    const difference = firstDifference(x, b[name]!, Math.max(TOLERANCE, roundingIn(before)));
    if (difference) return `output ${name}: ${difference}`;
  }
  return undefined;
}

function fillTensor(name: string, type: TensorType, integers: number): Nd {
  const shape = type.shape.map((d) => sizeAt(d, (s) => (s.arg as Sym).default));
  const random = seeded([...name].reduce((hash, c) => (Math.imul(hash, 31) + c.charCodeAt(0)) | 0, 7));
  const value = isFloat(type.dtype)
    ? () => random() * 4 - 2
    : () => Math.floor(random() * (type.dtype === 'bool' ? 2 : integers));
  return nd(type.dtype, shape, Array.from({ length: shape.reduce((n, d) => n * d, 1) }, value));
}

/** Constants of graphs are f32: formulas that are equal on paper agree to some 1e-7 of the largest element, unless they round. */
const TOLERANCE = 1e-6;

function firstDifference(a: Nd, b: Nd, tolerance: number): string | undefined {
  if (a.dtype !== b.dtype || a.shape.join() !== b.shape.join())
    return `${a.dtype}[${a.shape.join(', ')}] before, ${b.dtype}[${b.shape.join(', ')}] after`;
  let largest = 0;
  for (const x of a.data) if (Number.isFinite(x)) largest = Math.max(largest, Math.abs(x));
  const bound = isFloat(a.dtype) ? largest * tolerance : 0;
  for (const [i, x] of a.data.entries()) {
    const y = b.data[i]!;
    if (!Object.is(x, y) && x !== y && !(Math.abs(x - y) <= bound)) return `element ${i} is ${x} before and ${y} after`;
  }
  return undefined;
}

/** One golden as found and as it should be; `update` writes the latter to its file. */
export async function runGolden(
  name: string,
  update: boolean,
  root: string = goldenRoot,
): Promise<{ readonly file: string; readonly found: string; readonly expected: string }> {
  const file = join(root, `${name}.ir`);
  const found = readFileSync(file, 'utf8');
  const folder = name.split('/')[0]!;
  const shown = relative(projectRoot, file);
  const expected =
    folder === 'wgsl'
      ? expectedShaders(found, shown)
      : folder === 'refused'
        ? expectedRefusals(found, shown)
        : expectedGolden(found, shown, folder === 'text' ? undefined : await goldenPass(folder));
  if (update && expected !== found) writeFileSync(file, expected);
  return { file: relative(projectRoot, file), found, expected };
}

/** `golden.js [--update] [folder or folder/point …]` */
async function main(args: readonly string[]): Promise<void> {
  const update = args.includes('--update');
  const chosen = args.filter((a) => !a.startsWith('--'));
  let failures = 0;
  for (const name of goldenNames()) {
    if (chosen.length > 0 && !chosen.some((c) => name === c || name.startsWith(`${c}/`))) continue;
    try {
      const { file, found, expected } = await runGolden(name, update);
      if (found === expected) continue;
      console.log(update ? `blessed ${file}` : `${file} differs; should be\n${expected}`);
      if (!update) failures++;
    } catch (error) {
      failures++;
      console.error(error instanceof Error ? error.message : error);
    }
  }
  if (failures > 0) {
    console.error(`${failures} golden${failures === 1 ? '' : 's'} failed`);
    process.exitCode = 1;
  }
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url))
  await main(process.argv.slice(2));
