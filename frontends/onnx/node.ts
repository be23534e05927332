/** A node of the file as the operators' entries read it: operands, attributes, and errors that say where. */
import { type Diagnostic, fail } from '../../ir/diagnostic.ts';
import { topoOrder, type Value } from '../../ir/graph.ts';
import type { Nd } from '../../ir/nd.ts';
import type { Dim, Shape, TensorType } from '../../ir/type.ts';
import type { Counting } from './counting.ts';
import type { Item } from './item.ts';
import { elementTypeNamed, type OnnxAttribute, type OnnxGraph, type OnnxNode } from './proto.ts';
import { type ExternalData, ndOf, scalarOf, weightOf } from './tensor.ts';

/** What an operator's entry gives: its results in order; undefined for one that is not supported. */
export type Results = Value | readonly (Value | undefined)[];
/** How an ONNX operator is written in ours. */
export type Entry = (n: Node) => Results;
export type Entries = Readonly<Record<string, Entry>>;

/** `Conv "stem" (ai.onnx, opset 17)`. */
export const nodeLabel = (node: OnnxNode, opset: number | undefined): string =>
  `${node.op}${node.name ? ` "${node.name}"` : node.outputs[0] ? ` giving "${node.outputs[0]}"` : ''} (${
    node.domain || 'ai.onnx'
  }, opset ${opset ?? 'unknown'})`;

export class Node {
  readonly proto: OnnxNode;
  /** Version of the node's domain. */
  readonly opset: number;
  readonly items: readonly (Item | undefined)[];
  /** Of the whole model. */
  readonly counting: Counting;
  private readonly external: ExternalData;
  private readonly read = new Set<string>();

  constructor(
    proto: OnnxNode,
    opset: number,
    items: readonly (Item | undefined)[],
    counting: Counting,
    external: ExternalData,
  ) {
    this.proto = proto;
    this.counting = counting;
    this.opset = opset;
    this.items = items;
    this.external = external;
  }

  /** The same node on other operands, and with other attributes where they are given. */
  on(items: readonly (Item | undefined)[], attributes = this.proto.attributes): Node {
    return new Node({ ...this.proto, attributes }, this.opset, items, this.counting, this.external);
  }

  get label(): string {
    return nodeLabel(this.proto, this.opset);
  }

  fail(message: string, help?: string, code: Diagnostic['code'] = 'unsupported'): never {
    return fail(code, `${this.label}: ${message}`, help === undefined ? {} : { help });
  }

  // Operands

  has(i: number): boolean {
    return this.items[i] !== undefined;
  }
  item(i: number): Item {
    return this.items[i] ?? this.fail(`operand ${i} is missing`, 'the file is damaged or of another opset', 'operand');
  }
  value(i: number): Value {
    return this.item(i).value();
  }
  optional(i: number): Value | undefined {
    return this.items[i]?.value();
  }
  /** All operands, of which there is at least one. */
  values(): Value[] {
    if (this.items.length === 0) this.fail('it has no operands', 'the file is damaged or of another opset', 'operand');
    return this.items.map((_, i) => this.value(i));
  }
  type(i: number): TensorType {
    return this.item(i).type;
  }
  shape(i: number): Shape {
    return this.type(i).shape;
  }
  rank(i: number): number {
    return this.type(i).shape.length;
  }
  /** Refuses an operand of another rank. */
  expectRank(i: number, ...ranks: readonly number[]): void {
    const rank = this.rank(i);
    if (!ranks.includes(rank)) this.fail(`operand ${i} has rank ${rank}, not ${ranks.join(' or ')}`, undefined, 'rank');
  }
  /** The elements of an operand that must be known when importing; undefined when it is absent. */
  constant(i: number): Nd | undefined {
    const item = this.items[i];
    if (!item) return undefined;
    return item.constant() ?? this.unknown(i, 'is only known when the model runs');
  }
  /** Refuses an operand whose elements are needed now; inputs that it comes from can be fixed. */
  private unknown(i: number, why: string): never {
    const inputs = topoOrder([this.value(i)]).filter((v) => v.op.name === 'input');
    const names = inputs.map((v) => JSON.stringify(v.attrs.name)).join(', ');
    const name = this.proto.inputs[i] ?? '';
    return this.fail(
      `operand ${i} ("${name}") ${why}`,
      names
        ? `make it a constant, fix input ${names} with the option "fixed", or, if it holds sizes, give their ranges as ${name}_0, … in dims`
        : 'make it a constant',
    );
  }
  /** The only element of a constant operand. */
  number(i: number): number | undefined {
    const x = this.constant(i);
    if (x && x.data.length !== 1)
      this.fail(`operand ${i} must be one number, not ${x.data.length}`, undefined, 'shape');
    return x?.data[0];
  }
  ints(i: number): readonly number[] | undefined {
    const x = this.constant(i);
    return x && Array.from(x.data);
  }
  /** Elements of an integer operand as sizes, which may mention symbols; undefined when it is absent. */
  dims(i: number): readonly Dim[] | undefined {
    const item = this.items[i];
    if (!item) return undefined;
    const constant = item.dims ? undefined : item.constant();
    const own = item.dims ?? (constant && Array.from(constant.data));
    const name = this.proto.inputs[i] ?? '';
    const dims =
      own ?? this.counting.sizesIn(item.value(), name) ?? this.unknown(i, 'is only known when the model runs');
    const wrong = dims.find((d) => typeof d === 'number' && !Number.isInteger(d));
    if (wrong !== undefined)
      this.fail(
        `operand ${i} ("${this.proto.inputs[i]}") holds ${String(wrong)}, which is no size`,
        undefined,
        'shape',
      );
    return dims;
  }

  // Results

  /** The first `count` elements (one i32) of values along an axis: a new size, named after this node's result. */
  cut(
    values: readonly Value[],
    count: Value,
    options: { readonly axis?: number; readonly min?: number } = {},
  ): Value[] {
    return this.counting.cut(this.proto.outputs[0] || this.proto.op, values, count, options);
  }

  /** Whether result `i` is read or is an output. */
  wants(i: number): boolean {
    return (this.proto.outputs[i] ?? '') !== '';
  }
  get outputs(): number {
    return this.proto.outputs.length;
  }

  // Attributes

  private attribute(name: string): OnnxAttribute | undefined {
    this.read.add(name);
    return this.proto.attributes.get(name);
  }
  hasAttribute(name: string): boolean {
    return this.attribute(name) !== undefined;
  }
  /** Marks attributes that make no difference to inference. */
  ignore(...names: readonly string[]): void {
    for (const name of names) this.read.add(name);
  }
  private required<T>(name: string, value: T | undefined): T {
    return value ?? this.fail(`attribute "${name}" is missing`, 'the file is damaged or of another opset', 'attribute');
  }
  int(name: string, usual?: number): number {
    const a = this.attribute(name);
    return this.required(name, a ? (a.i ?? (a.type === 2 ? 0 : undefined)) : usual);
  }
  float(name: string, usual?: number): number {
    const a = this.attribute(name);
    return this.required(name, a ? (a.f ?? (a.type === 1 ? 0 : undefined)) : usual);
  }
  string(name: string, usual?: string): string {
    const a = this.attribute(name);
    return this.required(name, a ? (a.s ?? (a.type === 3 ? '' : undefined)) : usual);
  }
  intList(name: string): readonly number[] | undefined {
    return this.attribute(name)?.ints;
  }
  /** A list with an entry for each of `count` axes; undefined, or empty, stands for the usual. */
  intsFor(name: string, count: number, usual: number): readonly number[] {
    const list = this.intList(name);
    if (!list || list.length === 0) return new Array<number>(count).fill(usual);
    if (list.length !== count)
      this.fail(`attribute "${name}" has ${list.length} entries, not ${count}`, undefined, 'attribute');
    return list;
  }
  floatList(name: string): readonly number[] | undefined {
    return this.attribute(name)?.floats;
  }
  stringList(name: string): readonly string[] | undefined {
    return this.attribute(name)?.strings;
  }
  tensor(name: string): Nd | undefined {
    const t = this.attribute(name)?.t;
    return t && ndOf(weightOf(t, `${this.label}: attribute "${name}"`, this.external));
  }
  dtype(name: string): ReturnType<typeof scalarOf> | undefined {
    const a = this.attribute(name);
    // Before opset 6 types went by their names.
    const type = a?.s === undefined ? a?.i : elementTypeNamed(a.s);
    return a && scalarOf(type ?? 0, `${this.label}: attribute "${name}"`);
  }
  /** ONNX's number of the element type that an attribute states; 0 where it is absent. */
  elementType(name: string): number {
    const a = this.attribute(name);
    return (a?.s === undefined ? a?.i : elementTypeNamed(a.s)) ?? 0;
  }
  graph(name: string): OnnxGraph {
    return this.required(name, this.attribute(name)?.g);
  }
  /** Refuses attributes that no one has read: they would change the result. */
  finish(): void {
    const unread = [...this.proto.attributes.keys()].filter((name) => !this.read.has(name));
    if (unread.length > 0)
      this.fail(`attribute ${unread.map((name) => `"${name}"`).join(', ')} is not supported`, undefined, 'attribute');
  }

  /** An axis counted from the start. */
  axis(axis: number, rank: number): number {
    const at = axis < 0 ? axis + rank : axis;
    if (!Number.isInteger(at) || at < 0 || at >= rank)
      this.fail(`axis ${axis} does not exist in rank ${rank}`, undefined, 'rank');
    return at;
  }
}
