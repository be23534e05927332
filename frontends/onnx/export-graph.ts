/** Graphs of ours as graphs of an ONNX file. */
import { fail } from '../../ir/diagnostic.ts';
import type { Expr } from '../../ir/expr.ts';
import { type Graph, topoOrder, typeOf, type Value } from '../../ir/graph.ts';
import type { Nd } from '../../ir/nd.ts';
import { projectAll } from '../../ir/ops/structural.ts';
import { printDim } from '../../ir/print.ts';
import { evaluateIndex, floordiv, sub, symbolsOf } from '../../ir/scalar.ts';
import { asExpr, type Dim } from '../../ir/type.ts';
import type { GraphDraft, TensorDraft } from './encode.ts';
import { attentions } from './export-attention.ts';
import { control } from './export-control.ts';
import { sizeTensor } from './export-expr.ts';
import { layers } from './export-layers.ts';
import { activations, type ExportEntries, reductions, writeValue } from './export-ops.ts';
import { quantization } from './export-quantize.ts';
import { movement } from './export-shape.ts';
import { type FileWriter, GraphWriter, int, Names, valueDraft } from './export-writer.ts';
import { annotate, inputEntries } from './provenance.ts';

/** Bytes of a parameter as its graph declares it. */
export type Initializer = (param: Value, name: string) => TensorDraft;

/** Where a symbol's size is read off: an axis of an input whose size is the symbol, or a multiple of it plus a number. */
interface Measure {
  readonly input: string;
  readonly axis: number;
  readonly size: Dim;
}

/** Writes the graphs of one file. */
export class ModelWriter implements FileWriter {
  readonly opset: number;
  private readonly names = new Names();
  private readonly root: GraphWriter;
  private readonly entries: ExportEntries;
  private readonly measures = new Map<Expr, Measure>();
  private readonly sizes = new Map<Expr, string>();
  private readonly initializer: Initializer;

  constructor(opset: number, initializer: Initializer) {
    this.opset = opset;
    this.initializer = initializer;
    this.root = new GraphWriter(this, this.names);
    const body = (g: Graph, own: number, outer: readonly string[]): GraphDraft => this.body(g, own, outer);
    this.entries = {
      ...activations,
      ...reductions,
      ...movement,
      ...layers,
      ...quantization,
      ...attentions,
      ...control(body),
    };
  }

  /** The outermost graph. */
  main(g: Graph, doc: string): GraphDraft {
    const known = new Map<Value, readonly string[]>();
    const keys = new Map<Value, string>();
    for (const v of g.inputs) known.set(v, [this.names.unique(String(v.attrs.name))]);
    for (const [key, v] of g.outputs) {
      if (this.names.has(key) && !g.inputs.some((x) => x.attrs.name === key && g.outputs.get(key) === x))
        fail('name', `"${key}" is both an input and an output of "${g.name}", which ONNX cannot tell apart`, {
          help: 'give one of them another name',
        });
      this.names.unique(key);
      if (!keys.has(v)) keys.set(v, key);
    }
    this.measure(g.inputs, known);
    const initializers: TensorDraft[] = [];
    this.write(this.root, [...g.outputs.values()], known, keys, initializers);
    const outputs = [...g.outputs].map(([key, v]) => {
      const [name] = known.get(v)!;
      this.root.begin(key);
      if (name !== key) this.root.rename(name!, key);
      return valueDraft(key, typeOf(v));
    });
    return {
      name: g.name,
      doc,
      nodes: this.root.nodes,
      initializers,
      inputs: g.inputs.map((v) => ({
        ...valueDraft(known.get(v)![0]!, typeOf(v), String(v.attrs.doc ?? '')),
        metadata: inputEntries(v),
      })),
      outputs,
      values: this.root.values.filter((info) => !g.outputs.has(info.name)),
    };
  }

  size(size: Dim): string {
    const e = asExpr(size);
    const known = this.sizes.get(e);
    if (known) return known;
    return this.root.outside(printDim(size), () => {
      const made = sizeTensor(this.root, e, (symbol) => this.symbol(symbol));
      this.sizes.set(e, made);
      return made;
    });
  }

  define(symbol: Expr, name: string): void {
    const wide = this.root.outside(printDim(symbol), () => this.root.cast(name, 'i32', 'i64'));
    this.sizes.set(symbol, wide);
  }

  private symbol(symbol: Expr): string {
    const known = this.sizes.get(symbol);
    if (known) return known;
    const from = this.measures.get(symbol);
    if (!from)
      return fail('unsupported', `the size ${printDim(symbol)} follows from no input, so ONNX cannot know it`, {
        help: 'fix it with --dim, or add an input whose shape has it',
      });
    const { root } = this;
    const axis = { start: int(from.axis), end: int(from.axis + 1) };
    const measured = root.node('Squeeze', [root.node('Shape', [from.input], axis), root.long(0)]);
    let made = measured;
    if (from.size !== symbol) {
      // size = a · symbol + b
      const b = evaluateIndex(asExpr(from.size), () => 0);
      const a = evaluateIndex(asExpr(from.size), () => 1) - b;
      made = sizeTensor(root, floordiv(sub(symbol, b), a), () => measured);
    }
    this.sizes.set(symbol, made);
    return made;
  }

  /** Finds an axis for each symbol: one that is the symbol itself, or else a multiple of it plus a number. */
  private measure(inputs: readonly Value[], names: ReadonlyMap<Value, readonly string[]>): void {
    const axes = inputs.flatMap((v) =>
      typeOf(v).shape.flatMap((size, axis) =>
        typeof size === 'number' ? [] : [{ input: names.get(v)![0]!, axis, size }],
      ),
    );
    for (const at of axes) if (at.size.op === 'sym' && !this.measures.has(at.size)) this.measures.set(at.size, at);
    for (const at of axes) {
      const [symbol, ...others] = symbolsOf(at.size);
      if (!symbol || others.length > 0 || this.measures.has(symbol)) continue;
      const value = (x: number): number => evaluateIndex(at.size, () => x);
      const step = value(1) - value(0);
      if (step > 0 && [2, 3, 7, 1000].every((x) => value(x) === value(0) + step * x)) this.measures.set(symbol, at);
    }
  }

  /** Writes what `outputs` need and `known` lacks. */
  private write(
    w: GraphWriter,
    outputs: readonly Value[],
    known: Map<Value, readonly string[]>,
    keys: ReadonlyMap<Value, string>,
    initializers: TensorDraft[] | undefined,
  ): void {
    const order = topoOrder(outputs);
    const wanted = (v: Value): string | undefined =>
      keys.get(v) ?? (v.name === undefined ? undefined : this.names.unique(v.name));
    const parts = new Map<Value, Value[]>();
    for (const v of order) if (v.op.name === 'get') parts.set(v.inputs[0]!, [...(parts.get(v.inputs[0]!) ?? []), v]);
    for (const v of order) {
      if (known.has(v)) continue;
      if (v.op.name === 'get') {
        known.set(v, [known.get(v.inputs[0]!)![v.attrs.index as number]!]);
        continue;
      }
      if (v.op.name === 'input') fail('internal', `input "${String(v.attrs.name)}" is not the graph's own`);
      if (v.op.name === 'param') {
        if (!initializers) fail('internal', 'a parameter inside a subgraph');
        const name = this.names.unique(String(v.attrs.name));
        initializers.push(this.initializer(v, name));
        known.set(v, [name]);
        continue;
      }
      const inputs = v.inputs.map((x) => known.get(x)![0]!);
      w.begin(v.name ?? v.op.name);
      const made =
        v.op.name === 'constant'
          ? [w.constant(v.attrs.value as Nd)]
          : writeValue(v, { w, inputs, inline: (built) => this.inline(w, built, v.inputs, inputs) }, this.entries);
      const types = v.type.kind === 'tuple' ? v.type.items : [v.type];
      const projections = parts.get(v) ?? [];
      const named = made.map((name, i) => {
        const part = v.type.kind === 'tuple' ? projections.find((p) => p.attrs.index === i) : v;
        const final =
          (part && wanted(part)) ?? this.names.unique(made.length > 1 ? `${v.name ?? v.op.name}.${i}` : v.op.name);
        const own = made.indexOf(name) === i ? name : w.node('Identity', [name]);
        w.rename(own, final);
        w.declare(final, types[i]!);
        return final;
      });
      known.set(v, named);
      const written = w.written();
      // What has no attributes is read as it was written, unless it is folded.
      const [only] = written;
      const plain =
        v.op.name === 'constant' ||
        (written.length === 1 &&
          only!.op === v.op.onnx?.op &&
          Object.keys(v.op.attrs).length === 0 &&
          v.inputs.some((x) => x.op.name !== 'constant'));
      annotate(v, inputs, named, written, plain);
    }
  }

  /** Values built on the operands of the value that is being written: nodes of the same group. */
  private inline(
    w: GraphWriter,
    built: Value | readonly Value[],
    operands: readonly Value[],
    inputs: readonly string[],
  ): string[] {
    const known = new Map<Value, readonly string[]>(operands.map((v, i) => [v, [inputs[i]!]]));
    const roots = (Array.isArray(built) ? (built as readonly Value[]) : projectAll(built as Value)).flat();
    const visit = (v: Value): readonly string[] => {
      const found = known.get(v);
      if (found) return found;
      const names = v.inputs.map((x) => visit(x)[0]!);
      let made: readonly string[];
      if (v.op.name === 'get') made = [visit(v.inputs[0]!)[v.attrs.index as number]!];
      else if (v.op.name === 'constant') made = [w.constant(v.attrs.value as Nd)];
      else
        made = writeValue(
          v,
          { w, inputs: names, inline: (more) => this.inline(w, more, v.inputs, names) },
          this.entries,
        );
      known.set(v, made);
      return made;
    };
    return roots.map((v) => visit(v)[0]!);
  }

  /** A subgraph: its first inputs are its own, the others are tensors around it. */
  private body(g: Graph, own: number, outer: readonly string[]): GraphDraft {
    const w = new GraphWriter(this, this.names);
    const known = new Map<Value, readonly string[]>();
    g.inputs.forEach((v, i) => {
      known.set(v, [i < own ? this.names.unique(String(v.attrs.name)) : outer[i - own]!]);
    });
    const inputs = g.inputs.slice(0, own).map((v) => valueDraft(known.get(v)![0]!, typeOf(v)));
    const given = new Set([...known.values()].map(([name]) => name));
    this.write(w, [...g.outputs.values()], known, new Map(), undefined);
    const used = new Set<string>();
    const outputs = [...g.outputs].map(([key, v]) => {
      const [name] = known.get(v)!;
      // A result must be a node's, and only once.
      let final = name!;
      if (given.has(final) || used.has(final)) {
        w.begin(key);
        final = this.names.unique(key);
        w.rename(name!, final);
      }
      used.add(final);
      return valueDraft(final, typeOf(v));
    });
    return {
      name: g.name,
      doc: '',
      nodes: w.nodes,
      initializers: [],
      inputs,
      outputs,
      values: w.values.filter((info) => !used.has(info.name)),
    };
  }
}
