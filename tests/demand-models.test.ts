/** Of every model of the specification demands name exactly the rows that brute force finds to be read. */
import test from 'ava';
import { Demand } from '../passes/demand.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { GARBAGE, leak, precision } from './support/demand-oracle.ts';
import { Replay } from './support/replay.ts';
import { modelParams, TOKEN_MODELS } from './support/token-models.ts';

/** The passes that stand before the one that asks for demands. */
const all = pipelineFor();
const before = all.slice(
  0,
  all.findIndex((pass) => pass.name === 'drop-tokens'),
);

for (const [name, make] of Object.entries(TOKEN_MODELS))
  test(`${name}: exactly what is read is named`, (t) => {
    const { graph, inputs, spare = {} } = make();
    const optimised = runPasses(graph, before);
    const run = new Replay(optimised, inputs, modelParams);
    const demand = new Demand(optimised);
    for (const kind of Object.keys(GARBAGE)) t.is(leak(demand, run, kind, 7), undefined, kind);
    const { missed, extra, read, named, rows } = precision(demand, run);
    t.deepEqual(missed, []);
    t.deepEqual(extra, spare);
    t.is(named, read + Object.values(spare).reduce((a, b) => a + b, 0));
    t.log(`${read} of ${rows} rows`);
  });
