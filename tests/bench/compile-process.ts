/**
 * The child process that compiles one workload: writes its bundle and prints one line of JSON (`Preparation`) on stdout.
 * Its arguments are the workload's name and the folder.
 */
import { compile } from '../../compiler/compile.ts';
import type { Preparation } from './competitor.ts';
import { heddleModel } from './heddle-models.ts';
import { findModel } from './models.ts';
import { peakRss } from './peak-rss.ts';
import { seededWeights } from './weights.ts';

const [name = '', folder = ''] = process.argv.slice(2);
const start = performance.now();
const { model, weights, symbols } = heddleModel(findModel(name), seededWeights);
const bundle = compile(model, { weights, symbols });
await bundle.write(folder);
const report: Preparation = { ms: performance.now() - start, peakRssBytes: peakRss() };
console.log(JSON.stringify(report));
