/** ONNX files as models: names resolved, functions inlined, sizes computed, every operator written in ours. */
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { CompileError, fail } from '../../ir/diagnostic.ts';
import { isInt, type Scalar } from '../../ir/dtype.ts';
import { type Graph, graph, graphValues, typeOf, type Value } from '../../ir/graph.ts';
import { type Interface, withInterface } from '../../ir/interface.ts';
import type { Model } from '../../ir/model.ts';
import { countOf, type Nd } from '../../ir/nd.ts';
import { input, param, projectAll } from '../../ir/ops/structural.ts';
import { printType } from '../../ir/print.ts';
import type { WeightStore, WeightTensor } from '../../ir/weights.ts';
import { Agreement } from './agreement.ts';
import { controlOf, type Reading } from './control.ts';
import { Counting } from './counting.ts';
import { folded, onSizes } from './fold.ts';
import { computed, type Item, literalItem, stored } from './item.ts';
import { modern } from './legacy.ts';
import { entryOf } from './mapping.ts';
import { metOperands } from './meet.ts';
import { narrowOf } from './narrow.ts';
import { narrowItem, onNarrow } from './narrow-nodes.ts';
import { Node, nodeLabel, type Results } from './node.ts';
import { orderedNodes, readsOf } from './order.ts';
import {
  decodeModel,
  type OnnxAttribute,
  type OnnxFunction,
  type OnnxGraph,
  type OnnxModel,
  type OnnxNode,
  type OnnxSparse,
  type OnnxTensor,
  type OnnxValueInfo,
} from './proto.ts';
import { PRODUCER, promisesIn, RANGES, restoredValues, sourceOf, withGroups } from './provenance.ts';
import { hiddenName, Scope } from './scope.ts';
import { onSequences } from './sequence.ts';
import { dense } from './sparse.ts';
import { type DimRange, Symbols } from './symbols.ts';
import { type ExternalData, elementCount, ndOf, scalarOf, weightOf } from './tensor.ts';
import { functionKey, type UnsupportedNode, unsupportedNodes } from './unsupported.ts';

export interface ImportOptions {
  /** Name of the model; the graph's name, or the file's, when not given. */
  readonly name?: string | undefined;
  /** Ranges of symbolic sizes by their name in the file: `{ batch: '1..8', sequence: 128 }`. Default 1..4096. */
  readonly dims?: Readonly<Record<string, DimRange>> | undefined;
  /** Shapes of inputs for which the file states none. Words are names of symbolic sizes. */
  readonly shapes?: Readonly<Record<string, readonly (number | string)[]>> | undefined;
  /** Inputs that are constants of the model: axes, shapes and the like that the file leaves to its caller. */
  readonly fixed?: Readonly<Record<string, Nd>> | undefined;
  /**
   * Integer inputs that hold nothing but 0 and 1, which is checked when they are given. Default: those that are called what
   * exporters call masks of tokens and pixels, such as `attention_mask`; what is assumed by name alone may turn out to be
   * otherwise where the bundle has a plan for that, see `fallback` of `compile`.
   */
  readonly binary?: readonly string[] | undefined;
  /** What callers promise of inputs, by name: that they hold 0 and 1, and how many of a line are 1. */
  readonly declare?: Interface['declare'];
  /** Which rows of outputs are read, by name: `{ last_hidden_state: { where: 'attention_mask' }, logits: { rows: 'last' } }`. */
  readonly observe?: Interface['observe'];
  /** Most trips of a loop whose number of trips is only known when it runs. */
  readonly maxTrips?: number | undefined;
  /** Folder in which external data may stand, when the model is given as bytes. Default: none may be read. */
  readonly folder?: string | undefined;
}

export interface ImportedModel {
  readonly model: Model;
  /** Every parameter that the model reads, under the name of its initializer. */
  readonly weights: WeightStore;
  readonly producer: string;
  /** Versions of operator sets by domain; the standard domain is `''`. */
  readonly opsets: ReadonlyMap<string, number>;
}

/** Opset versions of the standard domain whose operators are known. */
const OPSETS = [1, 28] as const;
/** Most elements of a tensor that are looked at while importing. */
const MAX_KNOWN = 16384;
/** Integer tensors up to this size are literals: axes, shapes, tables of positions. */
const MAX_LITERAL = 256;
/** Nodes after inlining; functions that call functions can grow without end. */
const MAX_NODES = 1_000_000;
const MAX_CALLS = 32;
/** Inputs of published models that are 1 for what exists and 0 for padding, or the other way round. */
const MASKS: readonly string[] = [
  'attention_mask',
  'encoder_attention_mask',
  'decoder_attention_mask',
  'input_mask',
  'padding_mask',
  'pixel_mask',
  'bool_masked_pos',
];

/**
 * Reads an ONNX model for inference.
 *
 * @param source a path, or the bytes of a file
 * @throws CompileError `file` for damaged files, `unsupported` naming every operator that is not supported, with its
 *   node, domain and opset; `shape`, `dtype`, … where an operator's operands do not fit
 */
export function importOnnx(source: string | Uint8Array, options: ImportOptions = {}): ImportedModel {
  const { name, folder, proto } = readOnnx(source, options.folder);
  const imported = importLearning(proto, name, folder, options, new Agreement());
  return { ...imported, model: withInterface(imported.model, options) };
}

/** Reads the file again for every fact about its sizes that shows on the way. */
function importLearning(
  proto: OnnxModel,
  name: string,
  folder: string | undefined,
  options: ImportOptions,
  agreement: Agreement,
): ImportedModel {
  for (;;)
    try {
      return new Importer(proto, name, { folder }, options, agreement).run();
    } catch (error) {
      if (!agreement.learn(error)) throw error;
    }
}

/** Bytes and names of a source. @throws CompileError `file` */
export function readOnnx(
  source: string | Uint8Array,
  folder?: string,
): { readonly name: string; readonly folder: string | undefined; readonly proto: OnnxModel } {
  if (typeof source !== 'string') return { name: 'model.onnx', folder, proto: decodeModel(source, 'the model') };
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(source);
  } catch (error) {
    return fail('file', `${source}: ${error instanceof Error ? error.message : String(error)}`);
  }
  return { name: source, folder: folder ?? dirname(source), proto: decodeModel(bytes, source) };
}

class Importer implements Reading {
  readonly maxTrips: number | undefined;
  private readonly proto: OnnxModel;
  private readonly source: string;
  private readonly external: ExternalData;
  private readonly options: ImportOptions;
  private readonly symbols: Symbols;
  private readonly counting: Counting;
  /** Whether heddle wrote the file: then initializers are its parameters and Constant nodes its literals. */
  private readonly own: boolean;
  private readonly functions: ReadonlyMap<string, OnnxFunction>;
  private readonly tensors = new Map<string, { readonly tensor: OnnxTensor; readonly what: string }>();
  private nodes = 0;
  private calls = 0;
  /** Nodes of the main graph that were refused, where all of them are asked for; else the first ends the import. */
  private refused: UnsupportedNode[] | undefined;
  /** Names that no value has because of them. */
  private readonly lost = new Set<string>();

  constructor(proto: OnnxModel, source: string, external: ExternalData, options: ImportOptions, agreement: Agreement) {
    this.proto = proto;
    this.source = source;
    this.external = external;
    this.options = options;
    this.maxTrips = options.maxTrips;
    this.own = proto.producer === PRODUCER;
    this.symbols = new Symbols(options.dims ?? {}, agreement, this.own ? proto.metadata.get(RANGES) : undefined);
    this.counting = new Counting(this.symbols);
    this.functions = new Map(proto.functions.map((f) => [functionKey(f.domain, f.name, f.overload), f]));
  }

  /**
   * Every node that is refused: reading goes on behind it, without what depends on its results.
   * @throws CompileError where the file itself is at fault
   */
  refusals(): readonly UnsupportedNode[] {
    const found: UnsupportedNode[] = [];
    this.refused = found;
    try {
      this.run();
    } catch (error) {
      if (found.length === 0) throw error;
    }
    return found;
  }

  run(): ImportedModel {
    const { proto, source } = this;
    this.checkOpsets();
    const missing = this.refused ? [] : unsupportedNodes(proto);
    if (missing.length > 0)
      fail(
        'unsupported',
        `${source}: ${missing.length} operator${missing.length === 1 ? ' is' : 's are'} not supported`,
        {
          notes: missing.map((u) => `${u.at}: ${u.why}`),
          help: 'replace these operators before exporting',
        },
      );
    const scope = new Scope(undefined, 'inline', proto.opsets);
    const { initializers, sparse } = proto.graph;
    const initialised = new Set([...initializers, ...sparse.map((t) => t.values)].map((t) => t.name));
    const given = proto.graph.inputs.filter((v) => !initialised.has(v.name));
    const inputs: Value[] = [];
    for (const info of given) {
      const value = this.input(info);
      const fixed = this.fixed(info.name, value);
      const item = fixed ?? computed(value);
      const format = narrowOf(info.type);
      this.declare(scope, info.name, format ? narrowItem(item, format, info.name) : item, 'an input');
      if (!fixed) inputs.push(value);
    }
    for (const name of Object.keys(this.options.fixed ?? {}))
      if (!given.some((info) => info.name === name)) fail('name', `${source}: there is no input "${name}" to fix`);
    const results = this.body(proto.graph, scope, source);
    if (results.length === 0) fail('verify', `${source}: the graph has no outputs`, { help: 'export the model again' });
    this.symbols.finish(source);
    const name = identifier(this.options.name ?? (proto.graph.name || basename(source, '.onnx')));
    const outputs = results.map(
      (item, i) => [proto.graph.outputs[i]!.name, (item.narrow?.wide ?? item).value()] as const,
    );
    if (new Set(outputs.map(([key]) => key)).size !== outputs.length)
      fail('name', `${source}: two outputs of the graph have one name`, { help: 'export the model again' });
    const main = this.counting.anchored(graph(name, inputs, outputs));
    const doc = proto.graph.doc || proto.doc;
    return {
      model: { name, ...(doc ? { doc } : {}), entries: { main } },
      weights: this.store(main),
      producer: proto.producer,
      opsets: proto.opsets,
    };
  }

  subgraph(g: OnnxGraph, scope: Scope, inputs: readonly Item[]): Item[] {
    if (inputs.length !== g.inputs.length)
      fail('operand', `subgraph "${g.name}" has ${g.inputs.length} inputs, but is given ${inputs.length}`);
    for (const [i, info] of g.inputs.entries()) this.declare(scope, info.name, inputs[i]!, 'an input');
    return this.body(g, scope, `subgraph "${g.name}"`);
  }

  private checkOpsets(): void {
    const { proto, source } = this;
    const version = proto.opsets.get('');
    if (version === undefined) {
      if (proto.opsets.size === 0)
        fail('file', `${source}: states no operator set`, { help: 'export the model again' });
      return;
    }
    const [least, most] = OPSETS;
    if (version < least || version > most)
      fail('unsupported', `${source}: opset ${version} of ai.onnx is not supported`, {
        help: `supported: ${least} to ${most}; convert the model with onnx.version_converter`,
      });
  }

  private input(info: OnnxValueInfo): Value {
    const what = `${this.source}: input "${info.name}"`;
    if (info.kind !== 'tensor')
      fail('unsupported', `${what} is a ${info.kind}, not a tensor`, {
        help: 'export the model with tensors as inputs',
      });
    const format = narrowOf(info.type);
    const dtype = format?.wide ?? scalarOf(info.type, what);
    const given = this.options.shapes?.[info.name] ?? info.shape;
    if (!given) fail('rank', `${what} has no shape`, { help: 'give one in the option `shapes`' });
    const shape = given.map((d, axis) => this.symbols.size(d, `${info.name}_${axis}`));
    const known = isInt(dtype) && (this.options.binary ?? (this.own ? [] : MASKS)).includes(info.name);
    const said = promisesIn(info, (text) => this.symbols.size(text, info.name));
    const binary = said.binary || known;
    const assumed = said.assumed || (known && !said.binary && this.options.binary === undefined);
    const attrs = { name: info.name, dtype, shape, doc: info.doc, ...said, binary, assumed };
    return countable(input([], attrs, { name: info.name, loc: sourceOf(info) }), what);
  }

  private fixed(name: string, declared: Value): Item | undefined {
    const { fixed } = this.options;
    if (!fixed || !Object.hasOwn(fixed, name)) return undefined;
    const value = fixed[name]!;
    const { dtype, shape } = typeOf(declared);
    const fits =
      shape.length === value.shape.length && shape.every((d, i) => typeof d !== 'number' || d === value.shape[i]);
    if (dtype !== value.dtype || !fits)
      fail(
        'shape',
        `${this.source}: input "${name}" is fixed to ${value.dtype}[${value.shape.join(', ')}], which does not fit`,
      );
    return literalItem(value);
  }

  private declare(scope: Scope, name: string, item: Item, what: string): void {
    if (scope.has(name))
      fail('name', `${this.source}: ${what} "${name}" has the name of another value`, {
        help: 'every value of a graph needs a name of its own; export the model again',
      });
    scope.set(name, item);
  }

  /** Reads initializers and nodes; the results are the graph's outputs. */
  private body(g: OnnxGraph, scope: Scope, what: string): Item[] {
    for (const t of g.sparse) {
      const own = `${what}: sparse initializer "${t.values.name}"`;
      this.declare(scope, t.values.name, this.sparse(t, own, scope), 'an initializer');
    }
    for (const t of g.initializers)
      this.declare(scope, t.name, this.tensor(t, t.name, `${what}: initializer "${t.name}"`, scope), 'an initializer');
    const outputs = g.outputs.map((v) => v.name);
    const nodes = withGroups(g.nodes, outputs);
    this.runNodes(orderedNodes({ nodes, outputs, opsets: scope.opsets, what }), scope);
    return outputs.map((name) => this.find(scope, name, what));
  }

  private find(scope: Scope, name: string, what: string): Item {
    return (
      scope.get(name) ??
      fail('name', `${what}: nothing gives "${name}"`, { help: 'the file is damaged; export the model again' })
    );
  }

  private runNodes(nodes: readonly OnnxNode[], scope: Scope): void {
    for (const proto of nodes) {
      if (++this.nodes > MAX_NODES)
        fail('unsupported', `${this.source}: more than ${MAX_NODES} nodes after functions are inlined`);
      const opset = scope.opsets.get(proto.domain) ?? this.proto.opsets.get(proto.domain);
      if (proto.restored) {
        this.restore(proto, proto.restored.nodes, scope);
        continue;
      }
      const collects = this.refused && scope === scope.root;
      if (collects && readsOf(proto).some((name) => this.lost.has(name))) {
        for (const name of proto.outputs) this.lost.add(name);
        continue;
      }
      try {
        const items = this.node(proto, opset, scope);
        for (const [i, name] of proto.outputs.entries()) {
          if (name === '') continue;
          const item = items[i] ?? fail('unsupported', `result ${i} ("${name}") is not supported`);
          this.declare(scope, name, item, 'a result');
        }
      } catch (error) {
        const at = nodeLabel(proto, opset);
        const fault = located(error, at, this.source);
        if (!collects || !(fault instanceof CompileError)) throw fault;
        const why = fault.diagnostic.message.replace(`${at}: `, '');
        this.refused!.push({ op: proto.op, domain: proto.domain, at, why });
        for (const name of proto.outputs) this.lost.add(name);
      }
    }
  }

  /** A group of nodes as the value that it was written from, or node by node where that does not fit. */
  private restore(proto: OnnxNode, nodes: readonly OnnxNode[], scope: Scope): void {
    const label = nodeLabel(proto, undefined);
    const values = restoredValues(
      proto,
      proto.inputs.map((name) => this.find(scope, name, label).value()),
      (name) => this.symbols.size(name, name),
    );
    if (!values) this.runNodes(nodes, scope);
    else for (const [i, name] of proto.outputs.entries()) this.declare(scope, name, computed(values[i]!), 'a result');
  }

  private node(given: OnnxNode, opset: number | undefined, scope: Scope): Item[] {
    const proto = withAttributes(given, scope);
    const label = nodeLabel(proto, opset);
    const items = proto.inputs.map((name) => (name === '' ? undefined : this.find(scope, name, label)));
    while (items.length > 0 && items.at(-1) === undefined) items.pop();
    const callee = this.functions.get(functionKey(proto.domain, proto.op, proto.overload));
    if (callee) return this.call(callee, proto, items, scope);
    const n = modern(new Node(proto, opset ?? 1, items, this.counting, this.external));
    const control = controlOf(proto.domain, proto.op);
    if (control) return control(n, scope, this);
    if (proto.op === 'Constant' && proto.domain === '' && n.hasAttribute('value')) {
      const tensor = proto.attributes.get('value')!.t ?? n.fail('attribute "value" holds no tensor');
      const name = proto.outputs[0] ?? proto.name;
      if (!this.own) return [this.tensor(tensor, name, label, scope)];
      return [literalItem(ndOf(weightOf(tensor, label, this.external)), { name, loc: sourceOf(proto) })];
    }
    const sparse = proto.domain === '' && proto.op === 'Constant' ? proto.attributes.get('sparse_value') : undefined;
    if (sparse?.sparse) return [this.sparse(sparse.sparse, label, scope)];
    const lists = onSequences(n);
    if (lists) return lists;
    const narrow = onNarrow(n, (node) => this.entry(node));
    if (narrow) return narrow;
    const run = (operands: readonly (Item | undefined)[]): Item[] => this.entry(n.on(operands));
    return onSizes(n, run) ?? run(n.items);
  }

  /** The node through its entry; results of literals are literals. */
  private entry(given: Node): Item[] {
    const n = metOperands(given);
    const entry = entryOf(n.proto.domain, n.proto.op) ?? n.fail('the operator is not supported');
    const results = resultsOf(entry(n));
    n.finish();
    const literal = n.items.every((item) => item === undefined || item.literal);
    return results.map((value, i) => {
      if (!value) return n.wants(i) ? n.fail(`result ${i} is not supported`) : undefined;
      countable(value, `${n.label}: result ${i}`);
      const known = literal ? folded(value) : undefined;
      if (known) return literalItem(known);
      const source = n.items.find((item) => item && !item.dims && item.value() === value);
      const [name, loc] = [value.name ?? n.proto.outputs[i], value.loc ?? sourceOf(n.proto)];
      return source ?? computed(name === value.name && loc === value.loc ? value : { ...value, name, loc });
    }) as Item[];
  }

  private call(callee: OnnxFunction, proto: OnnxNode, items: readonly (Item | undefined)[], scope: Scope): Item[] {
    if (++this.calls > MAX_CALLS)
      fail('unsupported', `functions call each other more than ${MAX_CALLS} deep`, { help: 'the file is damaged' });
    const attributes = new Map([...callee.defaults, ...proto.attributes]);
    const inner = new Scope(scope, 'function', new Map([...this.proto.opsets, ...callee.opsets]), attributes);
    for (const [i, name] of callee.inputs.entries()) {
      const item = items[i];
      if (item) this.declare(inner, name, item, 'an input');
    }
    const what = `function ${callee.domain}:${callee.name}`;
    const present = (node: OnnxNode): OnnxNode => ({
      ...node,
      // An operand that the call leaves out is left out everywhere.
      inputs: node.inputs.map((name) => (callee.inputs.includes(name) && !inner.has(name) ? '' : name)),
    });
    const nodes = callee.nodes.map(present);
    this.runNodes(orderedNodes({ nodes, outputs: callee.outputs, opsets: inner.opsets, what }), inner);
    this.calls--;
    return callee.outputs.map((name) => this.find(inner, name, what));
  }

  /** A literal where it is small, else a parameter of the whole model. */
  private tensor(tensor: OnnxTensor, name: string, what: string, scope: Scope): Item {
    const format = narrowOf(tensor.type);
    if (format) return narrowItem(this.wideTensor(tensor, format.wide, name, what, scope), format, name);
    return this.wideTensor(tensor, scalarOf(tensor.type, what), name, what, scope);
  }

  /** @param dtype the type in which its elements are stored here */
  private wideTensor(tensor: OnnxTensor, dtype: Scalar, name: string, what: string, scope: Scope): Item {
    const count = elementCount(tensor, what);
    const elements = (): Nd => ndOf(weightOf(tensor, what, this.external));
    const small = count <= 1 || (count <= MAX_LITERAL && dtype !== 'f32' && dtype !== 'f16' && dtype !== 'f64');
    if (!this.own && (small || countOf(tensor.dims) === 0)) return literalItem(elements());
    let key = name || 'constant';
    for (let i = 2; this.tensors.has(key); i++) key = `${name}#${i}`;
    this.tensors.set(key, { tensor, what });
    const value = param([], { name: key, dtype, shape: tensor.dims }, { name: key, loc: sourceOf(tensor) });
    const item = stored(value, () =>
      count <= MAX_KNOWN ? elements() : fail('unsupported', `${what}: ${count} elements are too many to know here`),
    );
    scope.root.set(hiddenName(key), item);
    return scope.get(hiddenName(key))!;
  }

  /** A stored tensor of few elements, spread over zeros. */
  private sparse({ values, indices, dims }: OnnxSparse, what: string, scope: Scope): Item {
    const elements = this.tensor(values, values.name, `${what}: values`, scope).value();
    return computed(dense(elements, ndOf(weightOf(indices, `${what}: indices`, this.external)), dims, what));
  }

  private store(main: Graph): WeightStore {
    const used = graphValues(main).flatMap((v) => (v.op.name === 'param' ? [String(v.attrs.name)] : []));
    const read = (name: string): WeightTensor | undefined => {
      const found = this.tensors.get(name);
      return found && weightOf(found.tensor, found.what, this.external);
    };
    const names = new Set(used);
    return { source: this.source, names: () => [...names], get: (name) => (names.has(name) ? read(name) : undefined) };
  }
}

/** Elements of one tensor: positions are counted in 32 bits. */
const MOST_ELEMENTS = 2 ** 31 - 1;

/** Refuses a tensor whose fixed sizes alone make more elements than can be counted. */
function countable(value: Value, what: string): Value {
  let count = 1;
  for (const d of typeOf(value).shape) if (typeof d === 'number' && d !== 0) count *= d;
  const empty = typeOf(value).shape.includes(0);
  if (count > MOST_ELEMENTS && !empty)
    fail('shape', `${what} has ${printType(value.type)}, more than ${MOST_ELEMENTS} elements`, {
      help: 'the file may be damaged; fix its sizes with the option `dims`',
    });
  return value;
}

/** Results in order; an operator with several has a tuple. */
const resultsOf = (results: Results): readonly (Value | undefined)[] =>
  'kind' in results ? projectAll(results) : results;

/** Attributes that refer to the function call take its values; those it leaves out disappear. */
function withAttributes(node: OnnxNode, scope: Scope): OnnxNode {
  let call: Scope | undefined = scope;
  while (call && call.kind !== 'function') call = call.parent;
  const given = call?.attributes;
  if (!given || ![...node.attributes.values()].some((a) => a.ref !== undefined)) return node;
  const attributes = new Map<string, OnnxAttribute>();
  for (const [name, a] of node.attributes) {
    if (a.ref === undefined) attributes.set(name, a);
    else {
      const value = given.get(a.ref);
      if (value) attributes.set(name, { ...value, name });
    }
  }
  return { ...node, attributes };
}

const identifier = (name: string): string => name.replaceAll(/[^A-Za-z0-9_]+/g, '_').replace(/^(?=[0-9]|$)/, '_');

/** The same error with the innermost node, once, and the file. */
function located(error: unknown, label: string, source: string): unknown {
  if (!(error instanceof CompileError)) {
    // An operator met operands that its entry does not expect: rather a node to look at than a stack.
    const why = error instanceof Error ? error.message : String(error);
    const facts = {
      notes: [`in ${source}`],
      help: 'the operands may not fit the operator; if they do, report the file',
    };
    return new CompileError({ code: 'internal', message: `${label}: ${why}`, ...facts }, { cause: error });
  }
  const { message, notes = [] } = error.diagnostic;
  if (message.includes('(ai.onnx, opset') || message.startsWith(label) || notes.some((n) => n.startsWith('in node ')))
    return error;
  return error.with({ notes: [`in node ${label} of ${source}`] });
}

/**
 * Every node of a file that cannot be imported, with its domain and opset, and why: unknown operators, and known ones
 * with attributes or operands that are not supported. Nodes that read the results of such a node are not looked at.
 * @throws CompileError for what an import throws where no node is at fault: damaged files, inputs without shapes, …
 */
export function unsupportedOps(source: string | Uint8Array, options: ImportOptions = {}): readonly UnsupportedNode[] {
  const { name, folder, proto } = readOnnx(source, options.folder);
  const unknown = unsupportedNodes(proto);
  const known = new Set(unknown.map(({ at }) => at));
  const agreement = new Agreement();
  // Sizes are learnt from what would be refused.
  if (unknown.length === 0)
    try {
      importLearning(proto, name, folder, options, agreement);
    } catch (error) {
      if (!(error instanceof CompileError)) throw error;
    }
  const refused = new Importer(proto, name, { folder }, options, agreement).refusals();
  return [...unknown, ...refused.filter(({ at }) => !known.has(at))];
}
