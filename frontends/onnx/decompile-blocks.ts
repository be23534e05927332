/** Repeated blocks of a graph: layers that differ in their parameters only become one function and a loop. */
import { type Graph, graph, graphValues, topoOrder, typeOf, type Value } from '../../ir/graph.ts';
import type { Nd } from '../../ir/nd.ts';
import { input, projectAll } from '../../ir/ops/structural.ts';
import { printGraph, valueNames } from '../../ir/text.ts';

/** A line of the program: a value, written with what it absorbs. */
export interface Line {
  readonly value: Value;
  /** What the line reads: operands, those of absorbed values in place of these. */
  readonly operands: readonly Value[];
  /** The product that a linear layer is written with. */
  readonly product: Value | undefined;
  readonly signature: string;
}

/** What a line reads at one of its operands, the same in every round. */
export type Source =
  /** Line `at` of the same round. */
  | { readonly kind: 'inner'; readonly at: number; readonly part: number | undefined }
  | { readonly kind: 'carried'; readonly slot: number }
  | { readonly kind: 'fixed'; readonly slot: number }
  | { readonly kind: 'varying'; readonly slot: number }
  | { readonly kind: 'param'; readonly slot: number }
  | { readonly kind: 'same' };

/** A value that a round takes from the one before it. */
export interface Carried {
  readonly at: number;
  readonly part: number | undefined;
  readonly initial: Value;
}

export interface Loop {
  readonly kind: 'loop';
  readonly start: number;
  readonly length: number;
  readonly rounds: number;
  /** By line of a round and operand. */
  readonly sources: readonly (readonly Source[])[];
  readonly carried: readonly Carried[];
  /** Values around the loop that every round reads. */
  readonly fixed: readonly Value[];
  /** Values around the loop of which every round reads its own. */
  readonly varying: readonly (readonly Value[])[];
  /** Names of parameters, one for each round. */
  readonly params: readonly (readonly Value[])[];
  /** Lines, or parts of them, that are read outside the loop. */
  readonly kept: readonly { readonly at: number; readonly part: number | undefined }[];
}
export type Step = { readonly kind: 'line'; readonly at: number } | Loop;

export interface Plan {
  readonly lines: readonly Line[];
  readonly steps: readonly Step[];
  /** Constants that are written where they are read. */
  readonly inline: ReadonlySet<Value>;
}

const isLine = (v: Value): boolean => !['input', 'param', 'get'].includes(v.op.name);
/** The value behind a projection, and which of its results. */
export const behind = (v: Value): { readonly value: Value; readonly part: number | undefined } =>
  v.op.name === 'get' ? { value: v.inputs[0]!, part: v.attrs.index as number } : { value: v, part: undefined };

/** Constants that the text form shows inside their readers. */
function inlineConstants(g: Graph): Set<Value> {
  const copies = new Map<Value, Value>();
  for (const v of [...graphValues(g), ...g.inputs])
    if (!copies.has(v)) copies.set(v, { ...v, name: undefined, inputs: v.inputs.map((x) => copies.get(x)!) });
  const bare = graph(
    g.name,
    g.inputs.map((v) => copies.get(v)!),
    [...g.outputs].map(([key, v]) => [key, copies.get(v)!]),
  );
  const named = valueNames(bare);
  return new Set([...copies].flatMap(([v, copy]) => (v.op.name === 'constant' && !named.has(copy) ? [v] : [])));
}

/** Products that only a bias is added to: lines of linear layers. */
function absorbed(values: readonly Value[], g: Graph): Map<Value, Value> {
  const readers = new Map<Value, number>();
  for (const v of values) for (const x of v.inputs) readers.set(x, (readers.get(x) ?? 0) + 1);
  for (const v of g.outputs.values()) readers.set(v, (readers.get(v) ?? 0) + 1);
  const found = new Map<Value, Value>();
  for (const v of values) {
    const [product, bias] = v.inputs;
    if (v.op.name !== 'add' || product?.op.name !== 'matmul' || bias?.op.name !== 'param') continue;
    const weight = product.inputs[1]!;
    const fits =
      readers.get(product) === 1 &&
      product.attrs.transposeB === true &&
      product.attrs.transposeA !== true &&
      weight.op.name === 'param' &&
      typeOf(weight).shape.length === 2 &&
      typeOf(bias).shape.length === 1;
    if (fits) found.set(v, product);
  }
  return found;
}

/** What a value is but for where its operands come from. */
function signatureOf(v: Value, inline: ReadonlySet<Value>): string {
  const args = v.inputs.map((x, i) => input([], { name: `in${i}`, dtype: typeOf(x).dtype, shape: typeOf(x).shape }));
  const alone: Value = { ...v, inputs: args, name: undefined, loc: undefined };
  const text = printGraph(
    graph(
      'line',
      args,
      projectAll(alone).map((x, i) => [`out${i}`, x] as const),
    ),
    { locs: false },
  );
  const kinds = v.inputs.map((x) => {
    if (inline.has(x)) return String((x.attrs.value as Nd).data[0]);
    return x.op.name === 'param' ? 'param' : 'value';
  });
  return `${text}${kinds.join()}`;
}

/** The lines of a graph, with repeated ones as loops. */
export function planOf(g: Graph): Plan {
  const inline = inlineConstants(g);
  const values = graphValues(g);
  const linear = absorbed(values, g);
  const hidden = new Set(linear.values());
  const lineOf = (value: Value): Line => {
    const product = linear.get(value);
    const operands = product ? [...product.inputs, value.inputs[1]!] : value.inputs;
    const signature = signatureOf(value, inline) + (product ? signatureOf(product, inline) : '');
    return { value, operands, product, signature };
  };
  const lines = values.filter((v) => isLine(v) && !inline.has(v) && !hidden.has(v)).map(lineOf);
  const first = stepsOf(lines, g);
  // What loops read from around them comes before them, so that it does not stand inside the first round.
  const early = new Set<Value>();
  for (const step of first)
    if (step.kind === 'loop') for (const v of topoOrder(step.fixed.map((x) => behind(x).value))) early.add(v);
  const sorted = [...lines.filter((l) => early.has(l.value)), ...lines.filter((l) => !early.has(l.value))];
  const second = stepsOf(sorted, g);
  return second.length < first.length ? { lines: sorted, steps: second, inline } : { lines, steps: first, inline };
}

function stepsOf(lines: readonly Line[], g: Graph): Step[] {
  const context = new Context(lines, g);
  const steps: Step[] = [];
  const cover = (from: number, to: number): void => {
    const loop = context.best(from, to);
    if (!loop) {
      for (let at = from; at < to; at++) steps.push({ kind: 'line', at });
      return;
    }
    cover(from, loop.start);
    steps.push(loop);
    cover(loop.start + loop.length * loop.rounds, to);
  };
  cover(0, lines.length);
  return steps;
}

/** Rounds shorter than this read better written out. */
const LEAST_LINES = 4;
/** Lines that a loop must save. */
const LEAST_SAVED = 8;
/** What a value that passes in or out of a round costs, in lines. */
const PASSING = 2;

class Context {
  private readonly lines: readonly Line[];
  private readonly kinds: readonly number[];
  private readonly index = new Map<Value, number>();
  /** Lines that read each line, or −1 for outputs of the graph, with the part they read. */
  private readonly readers = new Map<Value, { readonly by: number; readonly part: number | undefined }[]>();

  constructor(lines: readonly Line[], g: Graph) {
    this.lines = lines;
    const numbers = new Map<string, number>();
    this.kinds = lines.map(({ signature }) => {
      if (!numbers.has(signature)) numbers.set(signature, numbers.size);
      return numbers.get(signature)!;
    });
    lines.forEach((line, i) => {
      this.index.set(line.value, i);
    });
    const read = (v: Value, by: number): void => {
      const { value, part } = behind(v);
      const list = this.readers.get(value) ?? [];
      list.push({ by, part });
      this.readers.set(value, list);
    };
    lines.forEach((line, i) => {
      for (const v of line.operands) read(v, i);
    });
    for (const v of g.outputs.values()) read(v, -1);
  }

  /** The loop that saves most among the lines from … to − 1. */
  best(from: number, to: number): Loop | undefined {
    let found: Loop | undefined;
    let most = LEAST_SAVED - 1;
    for (let length = LEAST_LINES; 2 * length <= to - from; length++) {
      let run = 0;
      for (let i = from; i + length <= to; i++) {
        if (i + length < to && this.kinds[i] === this.kinds[i + length]) {
          run++;
          continue;
        }
        if (run >= length && (Math.floor(run / length) + 1) * length > most)
          for (let start = i - run; start < i - run + length && start + 2 * length <= i + length; start++) {
            const rounds = Math.floor((i + length - start) / length);
            const loop = this.loop(start, length, rounds);
            const saved = loop ? (rounds - 1) * length - PASSING * passing(loop) : 0;
            if (saved > most) [found, most] = [loop, saved];
          }
        run = 0;
      }
    }
    return found;
  }

  private loop(start: number, length: number, rounds: number): Loop | undefined {
    const end = start + length * rounds;
    const carried: Carried[] = [];
    const [fixed, varying, params]: [Value[], Value[][], Value[][]] = [[], [], []];
    const same = (list: readonly Value[], other: readonly Value[]): boolean => list.every((v, r) => v === other[r]);
    const slotOf = (lists: Value[][], list: Value[]): number => {
      const known = lists.findIndex((other) => same(list, other));
      return known < 0 ? lists.push(list) - 1 : known;
    };
    const round = (v: Value): number => {
      const at = this.index.get(behind(v).value);
      return at === undefined || at < start ? -1 : at >= end ? rounds : Math.floor((at - start) / length);
    };
    const place = (v: Value): number => (this.index.get(behind(v).value)! - start) % length;
    const classify = (list: Value[]): Source | undefined => {
      const [head, ...tail] = list as [Value, ...Value[]];
      if (head.op.name === 'param') {
        if (list.every((v) => v === head)) return { kind: 'same' };
        return list.every((v) => v.op.name === 'param') ? { kind: 'param', slot: slotOf(params, list) } : undefined;
      }
      if (head.op.name === 'constant' && !this.index.has(head)) return { kind: 'same' };
      const { part } = behind(list.at(-1)!);
      const at = place(list.at(-1)!);
      if (list.every((v, r) => round(v) === r && place(v) === at && behind(v).part === part))
        return { kind: 'inner', at, part };
      const before = tail.every((v, r) => round(v) === r && place(v) === at && behind(v).part === part);
      if (before && round(head) === -1) {
        const known = carried.findIndex((c) => c.at === at && c.part === part && c.initial === head);
        return { kind: 'carried', slot: known < 0 ? carried.push({ at, part, initial: head }) - 1 : known };
      }
      if (!list.every((v) => round(v) === -1)) return undefined;
      if (!list.every((v) => v === head)) return { kind: 'varying', slot: slotOf(varying, list) };
      const known = fixed.indexOf(head);
      return { kind: 'fixed', slot: known < 0 ? fixed.push(head) - 1 : known };
    };
    const sources: Source[][] = [];
    for (let j = 0; j < length; j++) {
      const row: Source[] = [];
      for (let k = 0; k < this.lines[start + j]!.operands.length; k++) {
        const list = Array.from({ length: rounds }, (_, r) => this.lines[start + r * length + j]!.operands[k]!);
        const source = classify(list);
        if (!source) return undefined;
        row.push(source);
      }
      // A line is written by its operands, so one of them cannot stand for two things.
      const operands = this.lines[start + j]!.operands;
      for (const [k, source] of row.entries()) {
        const twin = operands.indexOf(operands[k]!);
        if (twin < k && JSON.stringify(row[twin]) !== JSON.stringify(source)) return undefined;
      }
      sources.push(row);
    }
    const kept: { at: number; part: number | undefined }[] = [];
    for (let i = start; i < end; i++)
      for (const { by, part } of this.readers.get(this.lines[i]!.value) ?? []) {
        const at = (i - start) % length;
        if (by >= start && by < end) continue;
        if (!kept.some((k) => k.at === at && k.part === part)) kept.push({ at, part });
      }
    return { kind: 'loop', start, length, rounds, sources, carried, fixed, varying, params, kept };
  }
}

const passing = ({ carried, fixed, varying, kept, params }: Loop): number =>
  carried.length + fixed.length + varying.length + kept.length + params.filter((vs) => !pattern(namesOf(vs))).length;

/** Names of parameters, one for each round. */
export const namesOf = (params: readonly Value[]): string[] => params.map((v) => String(v.attrs.name));

/**
 * How names follow from the number of the round, as text of a template: `blocks.${i}.weight`; undefined where they do not.
 */
export function pattern(names: readonly string[]): ((i: string) => string) | undefined {
  const split = names.map((name) => name.split(/(\d+)/));
  const [first] = split as [string[]];
  if (split.some((parts) => parts.length !== first.length)) return undefined;
  const varies = first.map((part, n) => split.some((parts) => parts[n] !== part));
  const base = Number(first[varies.indexOf(true)]);
  const follows = varies.every(
    (v, n) => !v || (n % 2 === 1 && split.every((parts, r) => parts[n] === String(base + r))),
  );
  if (!follows || !varies.includes(true)) return undefined;
  return (i) => {
    const number = base === 0 ? i : `${i} + ${base}`;
    const text = first.map((part, n) =>
      varies[n] ? `\${${number}}` : part.replaceAll('\\', '\\\\').replaceAll('`', '\\`').replaceAll('${', '\\${'),
    );
    return `\`${text.join('')}\``;
  };
}
