/**
 * Cuts a graph into regions: one expensive op each, with the cheap ops before it (prologue, expanded where they are read)
 * and after it (epilogue, applied while results are still in registers).
 */
import { type CountedSize, countedIn, countsBefore } from '../ir/counts.ts';
import type { Expr } from '../ir/expr.ts';
import { countReaders, type Graph, graphValues, readsSizes, typeOf, type Value } from '../ir/graph.ts';
import { buffer } from '../ir/kernel.ts';
import { literal, sub, variable } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { elements, sameShape, staticShape } from '../ir/type.ts';
import { applyEpilogue, elementOf, flatten, uniformConstant } from './access.ts';
import { isControl } from './control.ts';
import { panelsOf, type Region, type RegionKind, type WeightLayout } from './region.ts';

export interface Partition {
  readonly graph: Graph;
  /** In execution order. */
  readonly regions: readonly Region[];
  /** Values whose bytes are known when the bundle is made. */
  readonly isStatic: (value: Value) => boolean;
  /** Values that stand in the arena: graph inputs and region outputs. */
  readonly materialised: ReadonlySet<Value>;
  /** Static values that some product takes in panels: they are stored once, in those. */
  readonly panels: ReadonlyMap<Value, WeightLayout>;
  /** Sizes that are counted when it runs. Regions that mention one have its count among their inputs. */
  readonly counted: readonly CountedSize[];
}

interface Draft {
  readonly root: Value;
  readonly epilogue: Value[];
}

/**
 * Ops that may be fused in one chain, and ops in one expanded expression. Far more than fusion gains by; it keeps the
 * expressions of a kernel within the stack of what walks them, and its operands within what a function can take.
 */
const MOST_DEEP = 64;
const MOST_WIDE = 512;

const kindOf = (v: Value): Value['op']['lower']['kind'] => v.op.lower.kind;
const isView = (v: Value): boolean => kindOf(v) === 'view';
const isArithmetic = (v: Value): boolean => kindOf(v) === 'pointwise' || kindOf(v) === 'element';
const isRoot = (v: Value): boolean => kindOf(v) === 'schedule' || kindOf(v) === 'reduce';
/** Reads each element of its operands once (a product packs them), so that they need not be in memory. */
const takesExpressions = ({ op: { lower } }: Value): boolean =>
  lower.kind === 'reduce' || (lower.kind === 'schedule' && lower.name === 'matmul-int8');
const isGet = (v: Value): boolean => v.op.name === 'get';

export function partition(graph: Graph): Partition {
  return new Partitioner(graph).run();
}

class Partitioner {
  private readonly graph: Graph;
  private readonly order: readonly Value[];
  private readonly readers: Map<Value, number>;
  private readonly readersOf = new Map<Value, Value[]>();
  private readonly statics = new Set<Value>();
  private readonly material = new Set<Value>();
  /** The region that ends in a value, while it may still grow. */
  private readonly tips = new Map<Value, Draft>();
  private readonly controls = new Set<Value>();
  private readonly outputs: ReadonlySet<Value>;
  /** Depth and number of the ops that computing an element of a value takes, where it is not in memory. */
  private readonly extents = new Map<Value, { readonly depth: number; readonly count: number }>();

  /** The counts of the sizes that a value mentions. */
  private readonly countsOf: (v: Value) => readonly Value[];

  constructor(graph: Graph) {
    this.graph = graph;
    this.countsOf = countsBefore(graph);
    this.order = graphValues(graph);
    this.readers = countReaders(graph);
    this.outputs = new Set(graph.outputs.values());
    for (const v of this.order)
      for (const x of new Set(v.inputs)) {
        const list = this.readersOf.get(x);
        if (list) list.push(v);
        else this.readersOf.set(x, [v]);
      }
  }

  run(): Partition {
    for (const v of this.order) this.place(v);
    for (const { count } of countedIn(this.graph)) this.requireStored(count);
    for (const v of this.outputs) if (v.op.name !== 'input' && !this.tips.has(v)) this.material.add(v);
    this.materialiseShared();
    for (const v of this.tips.keys()) if (v.type.kind === 'tensor') this.material.add(v);
    const regions = sortRegions(this.order.flatMap((v) => this.regionEndingIn(v)));
    const materialised = new Set([...this.graph.inputs, ...regions.flatMap((r) => r.outputs)]);
    const isStatic = (v: Value): boolean => this.statics.has(v);
    const panels = new Map<Value, WeightLayout>();
    for (const { kind, root } of regions) {
      const layout = kind === 'matmul' ? panelsOf(root, isStatic) : undefined;
      if (layout) panels.set(root.inputs[1]!, layout);
    }
    return { graph: this.graph, regions, isStatic, materialised, panels, counted: countedIn(this.graph) };
  }

  private place(v: Value): void {
    if (this.isStaticValue(v)) this.statics.add(v);
    else if (isGet(v)) this.material.add(v);
    else if (isControl(v)) {
      this.controls.add(v);
      if (v.type.kind === 'tensor') this.material.add(v);
      for (const x of v.inputs) this.requireStored(x);
    } else if (isRoot(v)) {
      this.tips.set(v, { root: v, epilogue: [] });
      for (const x of v.inputs) this.requireRows(x, takesExpressions(v));
    } else if (isArithmetic(v) || isView(v)) {
      const producer = this.fusableProducer(v);
      if (!producer) {
        this.limitExtent(v);
        return;
      }
      const draft = this.tips.get(producer)!;
      this.tips.delete(producer);
      draft.epilogue.push(v);
      this.tips.set(v, draft);
    } else if (kindOf(v) === 'structural' && v.op.name !== 'input') {
      throw new Error(`partition: ${v.op.name} has no plan yet`);
    } else if (kindOf(v) === 'decompose') {
      throw new Error(`partition: ${v.op.name} should have been decomposed`);
    }
  }

  private isStaticValue(v: Value): boolean {
    if (v.op.name === 'param' || v.op.name === 'constant') return true;
    if (v.type.kind === 'tuple' ? !v.type.items.every((t) => staticShape(t.shape)) : !staticShape(v.type.shape))
      return false;
    return v.inputs.length > 0 && !readsSizes(v) && v.inputs.every((x) => this.statics.has(x));
  }

  /** The operand whose region can compute `v` on its results before they reach memory. */
  private fusableProducer(v: Value): Value | undefined {
    const candidates = v.inputs.filter((u) => {
      const draft = this.tips.get(u);
      if (!draft || this.readers.get(u) !== 1 || this.outputs.has(u)) return false;
      if (draft.epilogue.length >= MOST_DEEP) return false;
      if (kindOf(v) === 'pointwise') return sameShape(typeOf(u).shape, typeOf(v).shape);
      return isView(v) && 'to' in v.op.lower && keepsUnitStride(draft, v);
    });
    return candidates.at(-1);
  }

  /** Stores a value that would otherwise make an expression too large, before anything is decided about its readers. */
  private limitExtent(v: Value): void {
    const extent = (): { readonly depth: number; readonly count: number } => {
      const operands = v.inputs.map((x) => this.extents.get(x) ?? { depth: 0, count: 1 });
      const depth = 1 + operands.reduce((most, x) => Math.max(most, x.depth), 0);
      return { depth, count: 1 + operands.reduce((sum, x) => sum + x.count, 0) };
    };
    let { depth, count } = extent();
    if (count >= MOST_WIDE)
      // Nothing was decided by how a view reads memory, so only arithmetic may still be stored.
      for (const x of v.inputs) if (isArithmetic(x) && this.extents.delete(x)) this.material.add(x);
    ({ depth, count } = extent());
    if (depth < MOST_DEEP && count < MOST_WIDE) this.extents.set(v, { depth, count });
    else this.material.add(v);
  }

  /** Makes sure an operand can be loaded: from memory through views, or as any expression when `anyExpression`. */
  private requireRows(x: Value, anyExpression: boolean): void {
    let base = x;
    while (isView(base) && !this.statics.has(base) && !this.tips.has(base) && !this.material.has(base))
      base = base.inputs[0]!;
    const inMemory = (v: Value): boolean =>
      this.statics.has(v) || v.op.name === 'input' || this.tips.has(v) || this.material.has(v);
    if (anyExpression) return;
    if (!inMemory(base)) this.material.add(base);
    if (base !== x && !this.readsUnitStride(x, base)) this.material.add(x);
  }

  /** Makes sure a value stands in memory by itself. */
  private requireStored(x: Value): void {
    if (!this.statics.has(x) && x.op.name !== 'input' && !this.tips.has(x)) this.material.add(x);
  }

  private readsUnitStride(x: Value, base: Value): boolean {
    const type = typeOf(x);
    const rank = type.shape.length;
    const stand = buffer('base', typeOf(base).dtype, elements(typeOf(base).shape));
    const sources = { bufferOf: (v: Value) => (v === base ? stand : undefined) };
    const at = type.shape.map((d, i) => variable(`i${i}`, 'i32', 1, { from: 0, to: i === rank - 1 ? sub(d, 1) : d }));
    const next = at.map((e, i) => (i === rank - 1 ? add1(e) : e));
    const [a, b] = [elementOf(x, at, sources), elementOf(x, next, sources)];
    if (a.op !== 'load' || b.op !== 'load') return false;
    return rank === 0 || sub(b.args[0]!, a.args[0]!) === literal(1) || type.shape.at(-1) === 1;
  }

  /** Arithmetic that would be computed more than once is stored instead. */
  private materialiseShared(): void {
    for (const v of [...this.order].reverse()) {
      if (!isArithmetic(v) || this.statics.has(v) || this.tips.has(v) || this.isInsideEpilogue(v)) continue;
      if (v.inputs.length === 0) continue; // iota and the like cost nothing to repeat
      if (this.finalReads(v) > 1 || this.readBroadcast(v)) this.material.add(v);
    }
  }

  private readonly epilogueMembers = new Set<Value>();
  private isInsideEpilogue(v: Value): boolean {
    if (this.epilogueMembers.size === 0)
      for (const draft of this.tips.values())
        for (const e of [draft.root, ...draft.epilogue]) this.epilogueMembers.add(e);
    return this.epilogueMembers.has(v);
  }

  private finalReads(v: Value): number {
    let count = this.outputs.has(v) ? 1 : 0;
    for (const r of this.readersOf.get(v) ?? [])
      count +=
        isView(r) && !this.material.has(r) && !this.isInsideEpilogue(r)
          ? this.finalReads(r)
          : r.inputs.filter((x) => x === v).length;
    return count;
  }

  private readBroadcast(v: Value): boolean {
    const size = elements(typeOf(v).shape);
    const wider = (r: Value): boolean => {
      if (r.type.kind === 'tuple') return false;
      const n = elements(typeOf(r).shape);
      if (isArithmetic(r) || isView(r)) {
        if (n !== size && boundsOf(sub(n, size))[1] > 0) return true;
        return isView(r) && !this.material.has(r) && (this.readersOf.get(r) ?? []).some(wider);
      }
      return false;
    };
    return (this.readersOf.get(v) ?? []).some(wider);
  }

  private regionEndingIn(v: Value): Region[] {
    const draft = this.tips.get(v);
    if (draft) {
      const tuple = v.type.kind === 'tuple';
      const outputs = tuple ? (this.readersOf.get(v) ?? []).filter(isGet) : [v];
      const kind: RegionKind = draft.root.op.lower.kind === 'schedule' ? draft.root.op.lower.name : 'reduce';
      return [this.region(kind, draft.root, outputs, draft.epilogue)];
    }
    if (this.controls.has(v)) {
      const outputs = v.type.kind === 'tuple' ? (this.readersOf.get(v) ?? []).filter(isGet) : [v];
      return [{ ...this.region('control', v, outputs, []), inputs: [...new Set([...v.inputs, ...this.countsOf(v)])] }];
    }
    // A result of several is written by the region of its op, unless it is known when the bundle is made.
    if (!this.material.has(v) || (isGet(v) && !this.statics.has(v))) return [];
    return [this.region('element', v, [v], [])];
  }

  private region(kind: RegionKind, root: Value, outputs: readonly Value[], epilogue: readonly Value[]): Region {
    const inputs: Value[] = [];
    const seen = new Set<Value>([root, ...epilogue]);
    // A constant that repeats one number is written into the code, except where a tile loads its operand.
    const loaded = new Set(
      kind === 'matmul' || kind === 'attention' ? root.inputs : kind === 'matmul-int8' ? [root.inputs[1]!] : [],
    );
    const waits = new Set<Value>();
    const visit = (x: Value): void => {
      if (seen.has(x)) return;
      seen.add(x);
      if (uniformConstant(x) !== undefined && !loaded.has(x)) return;
      for (const count of this.countsOf(x)) waits.add(count);
      if (this.statics.has(x) || this.material.has(x) || x.op.name === 'input') inputs.push(x);
      else x.inputs.forEach(visit);
    };
    if (this.statics.has(root)) inputs.push(root);
    else for (const v of [root, ...epilogue]) v.inputs.forEach(visit);
    for (const v of [root, ...epilogue]) for (const count of this.countsOf(v)) waits.add(count);
    for (const count of waits) if (!inputs.includes(count) && !this.statics.has(count)) inputs.push(count);
    return { kind, name: outputs[0]?.name ?? root.name ?? root.op.name, root, outputs, epilogue, inputs };
  }
}

const add1 = (e: Expr): Expr => sub(e, -1);

/** Four neighbours along the root's last axis stay neighbours in the result of the views. */
function keepsUnitStride(draft: Draft, view: Value): boolean {
  const root = typeOf(draft.root);
  const views = [...draft.epilogue.filter(isView), view];
  const rank = root.shape.length;
  if (rank === 0) return true;
  const at = root.shape.map((d, i) => variable(`i${i}`, 'i32', 1, { from: 0, to: i === rank - 1 ? sub(d, 1) : d }));
  const shape = typeOf(view).shape;
  const flat = (to: readonly Expr[]): Expr =>
    flatten(shape, applyEpilogue(draft.root, views, to, literal(0), { bufferOf: () => undefined }).at);
  return sub(flat(at.map((e, i) => (i === rank - 1 ? add1(e) : e))), flat(at)) === literal(1);
}

/** Regions after those that write what they read; otherwise in their given order. */
function sortRegions(regions: readonly Region[]): Region[] {
  const writer = new Map<Value, Region>();
  for (const r of regions) for (const v of r.outputs) writer.set(v, r);
  const sorted: Region[] = [];
  const state = new Map<Region, 'open' | 'done'>();
  const visit = (r: Region): void => {
    if (state.get(r) === 'done') return;
    if (state.get(r) === 'open') throw new Error(`partition: region ${r.name} depends on itself`);
    state.set(r, 'open');
    for (const x of r.inputs) {
      const w = writer.get(x);
      if (w && w !== r) visit(w);
    }
    state.set(r, 'done');
    sorted.push(r);
  };
  regions.forEach(visit);
  return sorted;
}
