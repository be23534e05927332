/**
 * Products of one value with several weights become one product with the weights side by side.
 *
 * q, k and v of an attention read the same tokens: x[M, D] · Wq, Wk, Wv[D, N] is x · [Wq Wk Wv] in one pass over x, followed
 * by slices. The concatenated weight depends on parameters alone, so it is laid out when the bundle is made.
 */
import { type Graph, graphValues, typeOf, type Value } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { add } from '../ir/ops/elementwise-binary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { concat, reshape, sliceAxis } from '../ir/ops/shape.ts';
import { constant, param } from '../ir/ops/structural.ts';
import { elements, sameShape } from '../ir/type.ts';
import { is, isOne, rankOf, shapeOf, staticValues } from './facts.ts';
import { mergeIntegerProducts } from './merge-integer-products.ts';
import { describe, type Pass, type PassContext } from './pass.ts';
import { mapAllBodies, readersOf, replaceValues } from './rewrite.ts';

/** x · weight (+ bias): one linear map of a group. */
interface Linear {
  readonly product: Value;
  readonly bias: Value | undefined;
  /** The product, or its sum with the bias. */
  readonly root: Value;
}

class Merger {
  readonly #graph: Graph;
  readonly #cx: PassContext;
  readonly #statics: ReadonlySet<Value>;
  readonly #readers: ReadonlyMap<Value, readonly Value[]>;
  readonly #outputs: ReadonlySet<Value>;

  constructor(graph: Graph, cx: PassContext) {
    this.#graph = graph;
    this.#cx = cx;
    this.#statics = staticValues(graph);
    this.#readers = readersOf(graph);
    this.#outputs = new Set(graph.outputs.values());
  }

  run(): Graph {
    const replaced = new Map<Value, Value>();
    const groups = this.#groups();
    const sharing = this.#sharedBy(groups);
    for (const group of groups) {
      if (group.length < 2) continue;
      const members = group.filter((m) => this.#mayJoin(m, sharing));
      if (members.length < 2) continue;
      if (this.#cx.mayRewrite && !this.#cx.mayRewrite()) break;
      for (const [member, slice] of merge(members)) replaced.set(member.root, slice);
      const names = members.map((m) => weightName(m.product.inputs[1]!)).join(', ');
      this.#cx.remark(
        'applied',
        members[0]!.root,
        `${members.length} products of ${describe(members[0]!.product.inputs[0]!)} became one, with ${names}`,
      );
    }
    return replaced.size > 0 ? replaceValues(this.#graph, replaced) : this.#graph;
  }

  /** Linear maps that read one value with weights stored the same way, in order. */
  #groups(): Linear[][] {
    const groups = new Map<Value, Map<boolean, Linear[]>>();
    for (const v of graphValues(this.#graph)) {
      if (!is(v, matmul) || v.attrs.transposeA === true) continue;
      const [x, weight] = v.inputs as [Value, Value];
      if (rankOf(weight) !== 2 || !this.#statics.has(weight) || this.#statics.has(x)) continue;
      const byOrder = groups.get(x) ?? new Map<boolean, Linear[]>();
      groups.set(x, byOrder);
      const transposed = v.attrs.transposeB === true;
      byOrder.set(transposed, [...(byOrder.get(transposed) ?? []), this.#linear(v)]);
    }
    return [...groups.values()].flatMap((g) => [...g.values()]);
  }

  /** A product with the bias that is added to it, where nothing else reads the product. */
  #linear(product: Value): Linear {
    const [reader, ...others] = this.#readers.get(product) ?? [];
    const plain = { product, bias: undefined, root: product };
    if (!reader || others.length > 0 || !is(reader, add) || this.#outputs.has(product)) return plain;
    const bias = reader.inputs.find((x) => x !== product);
    if (!bias || !this.#statics.has(bias) || !sameShape(shapeOf(reader), shapeOf(product))) return plain;
    const columns = shapeOf(product).at(-1)!;
    const isVector =
      shapeOf(bias).slice(0, -1).every(isOne) && sameShape([elements(shapeOf(bias))], [elements([columns])]);
    return isVector ? { product, bias, root: reader } : plain;
  }

  /** The groups that read each weight, by the weights that they read it with. */
  #sharedBy(groups: readonly (readonly Linear[])[]): ReadonlyMap<Value, ReadonlySet<string>> {
    const ids = new Map([...this.#statics].map((v, i) => [v, i]));
    const sharing = new Map<Value, Set<string>>();
    for (const group of groups) {
      const key = group.map((m) => ids.get(m.product.inputs[1]!)).join();
      for (const m of group) {
        const weight = m.product.inputs[1]!;
        sharing.set(weight, (sharing.get(weight) ?? new Set()).add(key));
      }
    }
    return sharing;
  }

  #mayJoin(m: Linear, sharing: ReadonlyMap<Value, ReadonlySet<string>>): boolean {
    const refuse = (why: string): boolean => {
      this.#cx.remark('missed', m.root, why);
      return false;
    };
    if (this.#outputs.has(m.root)) return refuse('its result is an output, which a slice would have to be copied to');
    const weight = m.product.inputs[1]!;
    const inGroups = (this.#readers.get(weight) ?? []).every(
      (r) => is(r, matmul) && r.inputs[1] === weight && r.inputs[0] !== weight,
    );
    if (!inGroups || sharing.get(weight)!.size > 1 || this.#outputs.has(weight))
      return refuse('its weight is also read on its own, so the joined weight would be stored twice');
    const elementwise = (this.#readers.get(m.root) ?? []).find(
      (r) => r.op.lower.kind === 'pointwise' && sameShape(shapeOf(r), shapeOf(m.root)),
    );
    if (elementwise)
      return refuse(`${describe(elementwise)} is computed on its own product while that is in registers`);
    return true;
  }
}

/** One product for all members, and for each member the slice that is its result. */
function merge(members: readonly Linear[]): Map<Linear, Value> {
  const [first] = members as [Linear];
  const [x] = first.product.inputs as [Value];
  const transposeB = first.product.attrs.transposeB === true;
  const weights = members.map((m) => m.product.inputs[1]!);
  const origin = { loc: first.root.loc };
  let all = matmul([x, concat(weights, { axis: transposeB ? 0 : 1 })], { transposeB }, origin);
  if (members.some((m) => m.bias)) all = add([all, concat(members.map(biasOf), { axis: 0 })], {}, origin);
  const axis = rankOf(all) - 1;
  let start = 0;
  return new Map(
    members.map((m) => {
      const from = start;
      start += columnsOf(m);
      const { name, loc } = m.root;
      return [m, { ...sliceAxis(all, axis, from, start), name, loc }];
    }),
  );
}

const weightName = (v: Value): string => (is(v, param) ? `"${String(v.attrs.name)}"` : describe(v));
const columnsOf = (m: Linear): number => shapeOf(m.product).at(-1) as number;

/** The bias as a vector; zeros where a member has none. */
function biasOf(m: Linear): Value {
  const shape = [columnsOf(m)];
  if (m.bias) return sameShape(shapeOf(m.bias), shape) ? m.bias : reshape([m.bias], { shape });
  return constant([], { value: nd(typeOf(m.product).dtype, shape) });
}

export const mergeProjections: Pass = {
  name: 'merge-projections',
  doc: 'Products of one value with several weights become one product; legal because columns of a product are independent.',
  run: (graph, cx) => {
    const bodies = mapAllBodies(graph, (body) => mergeProjections.run(body, cx));
    return new Merger(mergeIntegerProducts(bodies, cx), cx).run();
  },
};
