/**
 * A second plan for inputs that the first one does not suit: a mask that is binary by its name alone and holds other numbers,
 * more rows than a count may be, hardly a row that may be left out. The second plan computes every row, and takes such a
 * mask for the numbers that it holds. Kernels and weights are shared; the session chooses before anything runs.
 */
import { fail } from '../ir/diagnostic.ts';
import { type Graph, graphValues, topoOrder, typeOf } from '../ir/graph.ts';
import { withInterface } from '../ir/interface.ts';
import { packRows } from '../passes/pack-rows.ts';
import type { EntryPlan } from '../runtime/manifest.ts';
import type { ScheduledEntry } from './entry.ts';

type OptimisedEntry = Pick<ScheduledEntry, 'name' | 'authored' | 'optimised' | 'remarks'>;

/** What is done where inputs do not suit the plan: an error, or every row computed. */
export type Fallback = 'none' | 'dense';

/** From this share of rows on that are read, moving them costs what leaving out the others saves. */
const CROWDED = 0.9;

/** Name of the entry that computes every row. */
export const denseName = (entry: string): string => `${entry}.dense`;

/** The graphs of all entries with those that stand in for them: `main` and `main.dense`. */
export function withFallbacks(
  entries: readonly OptimisedEntry[],
  optimise: (name: string, graph: Graph, without: readonly string[]) => OptimisedEntry,
): {
  readonly entries: readonly OptimisedEntry[];
  readonly otherwise: Readonly<Record<string, EntryPlan['otherwise']>>;
} {
  const otherwise: Record<string, EntryPlan['otherwise']> = {};
  const all = entries.flatMap((entry) => {
    const { name, authored, optimised, remarks } = entry;
    const isPacked = remarks.some(({ pass, kind }) => pass === packRows.name && kind === 'applied');
    const mask = isPacked ? countedInput(optimised) : -1;
    if (mask < 0 && !authored.inputs.some((v) => v.attrs.assumed === true || isOpen(v.attrs.count))) return [entry];
    const dense = denseName(name);
    if (entries.some((other) => other.name === dense))
      fail('name', `entry "${dense}" is what the fallback of entry "${name}" is called`, { help: 'rename it' });
    otherwise[name] = { entry: dense, ...(mask >= 0 && { crowded: [mask, CROWDED] as const }) };
    return [entry, optimise(dense, unassuming(authored), [packRows.name])];
  });
  return { entries: all, otherwise };
}

/** The number of the input whose elements that are not 0 a graph counts; −1 where other values decide as well. */
function countedInput(graph: Graph): number {
  const counts = graphValues(graph).flatMap((v) => (v.op.name === 'counted' ? [v.inputs[1]!] : []));
  const found = topoOrder(counts).filter((v) => v.op.name === 'input');
  const [only] = found;
  return only && found.length === 1 && typeOf(only).shape.length > 1 ? graph.inputs.indexOf(only) : -1;
}

const isOpen = (count: unknown): boolean => count !== undefined && typeof count !== 'number';

/** The graph without what is only assumed of inputs, and without counts that a run may exceed. */
function unassuming(graph: Graph): Graph {
  const declare = Object.fromEntries(
    graph.inputs.flatMap((v) => {
      const { name, assumed, count } = v.attrs as { name: string; assumed?: boolean; count?: unknown };
      if (assumed === true && typeOf(v).dtype !== 'bool')
        return [[name, { binary: false, count: 'any', atLeast: 0 } as const]];
      return isOpen(count) ? [[name, { count: 'any' } as const]] : [];
    }),
  );
  return withInterface({ name: graph.name, entries: { graph } }, { declare }).entries.graph;
}
