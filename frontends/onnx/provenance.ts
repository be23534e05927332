/**
 * What a file says about the graph that it was written from, so that reading it gives that graph again.
 *
 * One value of ours can take many nodes. They carry the name of their group, and the last of them carries the value as
 * text with a digest of both. The text is believed only while it and the nodes are those that were written: a tool that
 * changes them breaks the digest, and they are then read like any others.
 */
import { createHash } from 'node:crypto';
import { CompileError, type Loc } from '../../ir/diagnostic.ts';
import type { Sym } from '../../ir/expr.ts';
import { graph, graphValues, typeOf, type Value } from '../../ir/graph.ts';
import { makeValue } from '../../ir/op.ts';
import { constant, input, param, projectAll } from '../../ir/ops/structural.ts';
import { parseGraph } from '../../ir/parse.ts';
import { printDim } from '../../ir/print.ts';
import { printGraph, printSymbol } from '../../ir/text.ts';
import { type Dim, sameType } from '../../ir/type.ts';
import { encodeModel, type NodeDraft } from './encode.ts';
import { decodeModel, type OnnxAttribute, type OnnxGraph, type OnnxNode } from './proto.ts';

/** `producer_name` of files written here. */
export const PRODUCER = 'heddle';
/** Metadata of the model: ranges of its symbolic sizes, for which ONNX has names only. */
export const RANGES = 'heddle.sizes';
/** Metadata of a node: the position in the model's source that made it. */
const SOURCE = 'heddle.source';
/** Metadata of an input: what is promised of its elements. */
const PROMISES = { binary: 'heddle.binary', count: 'heddle.count', atLeast: 'heddle.atLeast' } as const;
const GROUP = 'heddle.group';
const VALUE = 'heddle.value';
const OPERANDS = 'heddle.operands';
const RESULTS = 'heddle.results';
const DIGEST = 'heddle.digest';

/** Longer texts are left out; the nodes alone then say what they compute. */
const MAX_TEXT = 1 << 20;

/** The size that a text stands for, over symbols of these ranges; undefined where it is none. */
export function parseSize(text: string, ranges: string): Dim | undefined {
  try {
    return typeOf(parseGraph(`symbols ${ranges}\ngraph g(%x: f32[${text}]) {\n  return y: %x\n}\n`).inputs[0]!)
      .shape[0];
  } catch (error) {
    if (error instanceof CompileError) return undefined;
    throw error;
  }
}

/** The position in the source that made a value, as metadata. */
export const sourceEntry = ({ loc }: Value): Readonly<Record<string, string>> | undefined =>
  loc && { [SOURCE]: `${loc.file}:${loc.line}:${loc.column}` };

/** What a file says of an input besides its type. */
export const inputEntries = (v: Value): Readonly<Record<string, string>> => ({
  ...sourceEntry(v),
  ...(v.attrs.binary === true && { [PROMISES.binary]: v.attrs.assumed === true ? 'assumed' : 'true' }),
  ...(v.attrs.count !== undefined && { [PROMISES.count]: printDim(v.attrs.count as Dim) }),
  ...(Number(v.attrs.atLeast) > 0 && { [PROMISES.atLeast]: String(v.attrs.atLeast) }),
});

/**
 * What a file promises of an input.
 *
 * @param sizeOf the size of that name in the graph that is being read
 */
export function promisesIn(
  { metadata }: { readonly metadata?: ReadonlyMap<string, string> },
  sizeOf: (name: string) => Dim,
): { readonly binary: boolean; readonly assumed: boolean; readonly count: Dim | undefined; readonly atLeast: number } {
  const [count, least] = [metadata?.get(PROMISES.count), metadata?.get(PROMISES.atLeast)];
  const size = count === undefined ? undefined : /^\d+$/.test(count) ? Number(count) : sizeOf(count);
  const binary = metadata?.get(PROMISES.binary);
  return {
    binary: binary === 'true' || binary === 'assumed',
    assumed: binary === 'assumed',
    count: size,
    atLeast: /^\d+$/.test(least ?? '') ? Number(least) : 0,
  };
}

/** Writes on the nodes of a value where they come from, and what they are together unless that is plain. */
export function annotate(
  v: Value,
  inputs: readonly string[],
  results: readonly string[],
  nodes: readonly NodeDraft[],
  plain: boolean,
): void {
  const source = sourceEntry(v);
  for (const node of nodes) node.metadata = { ...source };
  if (plain || nodes.length === 0) return;
  const text = textOf(v);
  if (holdsMuch(text)) return;
  const group = { [GROUP]: results[0]! };
  for (const node of nodes) node.metadata = { ...source, ...group };
  nodes.at(-1)!.metadata = {
    ...source,
    ...group,
    [VALUE]: text,
    [OPERANDS]: JSON.stringify(inputs),
    [RESULTS]: JSON.stringify(results),
    [DIGEST]: digest(decoded(nodes), text, inputs, results),
  };
}

/** A graph of one value over inputs of its operands' types. */
function textOf(v: Value): string {
  const args = v.inputs.map((x, i) => {
    const { dtype, shape } = typeOf(x);
    return input([], { name: `in${i}`, dtype, shape });
  });
  const alone: Value = { ...v, inputs: args, name: undefined, loc: undefined };
  const outputs = projectAll(alone).map((x, i) => [`out${i}`, x] as const);
  return printGraph(graph('value', args, outputs));
}

/** Nodes as a reader of the file will see them. */
function decoded(nodes: readonly NodeDraft[]): readonly OnnxNode[] {
  const pieces = encodeModel({
    irVersion: 10,
    opset: 1,
    producer: '',
    doc: '',
    metadata: {},
    graph: { name: '', doc: '', nodes, initializers: [], inputs: [], outputs: [], values: [] },
  });
  return decodeModel(Buffer.concat(pieces), 'a group of nodes').graph.nodes;
}

/** A digest of nodes and of what is said of them. */
function digest(
  nodes: readonly OnnxNode[],
  text: string,
  operands: readonly string[],
  results: readonly string[],
): string {
  const hash = createHash('sha256');
  const say = (...words: readonly (string | number)[]): void => {
    for (const word of words) hash.update(`${word}\0`);
  };
  const attribute = ({ name, f, i, s, t, g, floats, ints, strings }: OnnxAttribute): void => {
    say(name, f ?? '', i ?? '', s ?? '', ...floats, '', ...ints, '', ...strings);
    if (t) {
      say('tensor', t.type, ...t.dims);
      for (const part of [...t.raw, ...t.varints]) hash.update(part);
    }
    if (g) body(g);
  };
  const body = (g: OnnxGraph): void => {
    say('graph', ...g.inputs.map((v) => v.name), '', ...g.outputs.map((v) => v.name), g.initializers.length);
    all(g.nodes);
  };
  const all = (list: readonly OnnxNode[]): void => {
    for (const n of list) {
      say(n.domain, n.op, ...n.inputs, '', ...n.outputs, '');
      for (const a of [...n.attributes.values()].sort((p, q) => (p.name < q.name ? -1 : 1))) attribute(a);
    }
  };
  say(text, ...operands, '', ...results);
  all(nodes);
  return hash.digest('hex').slice(0, 32);
}

/** Where the model's source made a node, an input or a parameter. */
export function sourceOf({ metadata }: { readonly metadata?: ReadonlyMap<string, string> }): Loc | undefined {
  const found = /^(.*):(\d+):(\d+)$/s.exec(metadata?.get(SOURCE) ?? '');
  return found ? { file: found[1]!, line: Number(found[2]), column: Number(found[3]) } : undefined;
}

/** A value of ours that stands for a group of nodes. */
export interface Restored {
  readonly text: string;
  /** The nodes that it stands for, which are read where the text does not fit what is around it. */
  readonly nodes: readonly OnnxNode[];
}

/** Nodes of a graph with every group that is as it was written replaced by one node that carries its value. */
export function withGroups(nodes: readonly OnnxNode[], outputs: readonly string[]): readonly OnnxNode[] {
  const groups = new Map<string, OnnxNode[]>();
  for (const node of nodes) {
    const key = node.metadata?.get(GROUP);
    if (key !== undefined) groups.set(key, [...(groups.get(key) ?? []), node]);
  }
  if (groups.size === 0) return nodes;
  const readers = new Map<string, Set<string | undefined>>();
  const read = (name: string, by: string | undefined): void => {
    readers.set(name, (readers.get(name) ?? new Set()).add(by));
  };
  for (const node of nodes) eachRead(node, (name) => read(name, node.metadata?.get(GROUP)));
  for (const name of outputs) read(name, undefined);
  const replaced = new Map<OnnxNode, OnnxNode | undefined>();
  for (const [key, group] of groups) {
    const whole = wholeOf(group);
    if (!whole) continue;
    const inner = group.flatMap((n) => n.outputs).filter((name) => !whole.outputs.includes(name));
    if (inner.some((name) => [...(readers.get(name) ?? [])].some((by) => by !== key))) continue;
    for (const node of group) replaced.set(node, undefined);
    replaced.set(group.at(-1)!, whole);
  }
  return nodes.flatMap((node) => (replaced.has(node) ? (replaced.get(node) ?? []) : [node]));
}

function eachRead(node: OnnxNode, visit: (name: string) => void): void {
  node.inputs.forEach(visit);
  for (const { g } of node.attributes.values()) {
    if (!g) continue;
    for (const inner of g.nodes) eachRead(inner, visit);
    for (const { name } of g.outputs) visit(name);
  }
}

/** The group as one node; undefined where it is not as it was written. */
function wholeOf(group: readonly OnnxNode[]): OnnxNode | undefined {
  const last = group.at(-1)!;
  const text = last.metadata?.get(VALUE);
  const [operands, results] = [names(last, OPERANDS), names(last, RESULTS)];
  if (text === undefined || !operands || !results) return undefined;
  if (digest(group, text, operands, results) !== last.metadata?.get(DIGEST)) return undefined;
  const made = new Set(group.flatMap((n) => n.outputs));
  if (!results.every((name) => made.has(name)) || operands.some((name) => made.has(name))) return undefined;
  return { ...last, inputs: operands, outputs: results, attributes: new Map(), restored: { text, nodes: group } };
}

function names(node: OnnxNode, key: string): string[] | undefined {
  try {
    const list: unknown = JSON.parse(node.metadata?.get(key) ?? '');
    return Array.isArray(list) && list.every((name) => typeof name === 'string') ? list : undefined;
  } catch {
    return undefined;
  }
}

/** Elements of one literal that a text may hold: one word can stand for any number of them. */
const MAX_ELEMENTS = 65536;
const LITERAL = /= constant [^\n]*: \w+\[([\d, ]*)\]/g;
const holdsMuch = (text: string): boolean =>
  text.length > MAX_TEXT ||
  [...text.matchAll(LITERAL)].some(([, sizes]) => sizes!.split(',').reduce((n, d) => n * Number(d), 1) > MAX_ELEMENTS);

/** Whether the symbols that a text declares are those of the file as it is read: none has been narrowed. */
function sameSymbols(text: string, sizeOf: (name: string) => Dim): boolean {
  const [line] = text.split('\n', 1);
  if (!line!.startsWith('symbols ')) return true;
  const sizes = Array.from(line!.matchAll(/(\w+) in /g), ([, name]) => sizeOf(name!));
  const declared = sizes.map((d) => (typeof d !== 'number' && d.op === 'sym' ? printSymbol(d.arg as Sym) : ''));
  return line === `symbols ${declared.join(', ')}`;
}

/**
 * The results of a restored value on these operands; undefined where its text does not fit them.
 * @param sizeOf the size of that name in the graph that is being read
 */
export function restoredValues(
  node: OnnxNode,
  operands: readonly Value[],
  sizeOf: (name: string) => Dim,
): readonly Value[] | undefined {
  try {
    const { text } = node.restored!;
    if (holdsMuch(text) || !sameSymbols(text, sizeOf)) return undefined;
    const g = parseGraph(text);
    const made = graphValues(g).filter((v) => v.op.name !== 'input' && v.op.name !== 'get');
    const [v] = made;
    if (!v || made.length !== 1 || v.op === param.def || v.op === constant.def) return undefined;
    if (g.inputs.length !== operands.length) return undefined;
    if (g.inputs.some((x, i) => !sameType(x.type, operands[i]!.type) || v.inputs[i] !== x)) return undefined;
    const name = node.outputs.length === 1 ? node.outputs[0] : undefined;
    const whole = makeValue(v.op, operands, v.attrs, { name, loc: sourceOf(node) });
    const results = projectAll(whole);
    if (results.length !== node.outputs.length) return undefined;
    return results.map((x, i) => (x === whole ? x : { ...x, name: node.outputs[i] }));
  } catch (error) {
    // A text that is nested too deep for the parser's stack was not written here.
    if (error instanceof CompileError || error instanceof RangeError) return undefined;
    throw error;
  }
}
