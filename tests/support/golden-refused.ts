/**
 * Goldens of refusals: `tests/golden/refused/*.ir` hold a graph above `// expect`, and below it what the whole pipeline
 * refused and why, in the words that people are shown, with the multiply-accumulates before and after. A comment
 * `// with NAME = VALUE` above the graph sets an option of `compile`.
 */
import { optimise, type PassOptions } from '../../compiler/compile.ts';
import { remarkReport } from '../../compiler/report.ts';
import { countMacs } from '../../ir/macs.ts';
import { parseGraphs } from '../../ir/parse.ts';
import { printGraph } from '../../ir/text.ts';
import { verifyGraph } from '../../ir/verify.ts';

const OPTIONS: Readonly<Record<string, Omit<PassOptions, 'symbols'>>> = {
  'finiteMasks = keep': { finiteMasks: 'keep' },
  'strictNaN = true': { strictNaN: true },
};

/** What the file should be. @throws Error where the passes change what the graph computes, or an option is not known */
export function expectedRefusals(text: string, file: string): string {
  const comment = /^(?:\/\/(?! expect)[^\n]*\n)*/.exec(text)![0];
  const [graph, ...more] = parseGraphs(text.slice(comment.length).split(/^\/\/ expect$/m)[0]!, file);
  if (!graph || more.length > 0) throw new Error(`${file}: expected one graph above "// expect"`);
  verifyGraph(graph);
  const wishes = Array.from(comment.matchAll(/^\/\/ with (.*)$/gm), ([, wish]) => {
    const options = OPTIONS[wish!];
    if (!options) throw new Error(`${file}: no option "${wish}"; known: ${Object.keys(OPTIONS).join(', ')}`);
    return options;
  });
  const { optimised, remarks } = optimise('main', graph, { validate: true, ...Object.assign({}, ...wishes) });
  const missed = remarks.filter(({ kind }) => kind === 'missed').map(remarkReport);
  const lines = missed.map(({ pass, at, why }) => `${pass} at ${at}: ${why}\n`);
  const macs = `${countMacs(graph, {})} multiply-accumulates as written, ${countMacs(optimised, {})} as compiled\n`;
  return `${comment}${printGraph(graph)}// expect\n${macs}${lines.join('')}`;
}
