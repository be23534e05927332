/** Damage to ONNX files, seeded: bytes that were hit at random, and models that say something impossible. */
import onnxProto from 'onnx-proto';

const { onnx } = onnxProto;
type Model = onnxProto.onnx.IModelProto;
type GraphProto = onnxProto.onnx.IGraphProto;
type NodeProto = onnxProto.onnx.INodeProto;
type TensorProto = onnxProto.onnx.ITensorProto;

/** Numbers in [0, 1) that depend on the seed alone (mulberry32). */
export function seededNumbers(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Damage {
  private readonly next: () => number;

  constructor(seed: number) {
    this.next = seededNumbers(seed);
  }

  private below(n: number): number {
    return Math.floor(this.next() * n);
  }
  private pick<T>(list: readonly T[]): T | undefined {
    return list[this.below(list.length)];
  }

  /** A file with some of its bytes lost, flipped, overwritten, doubled or moved. */
  bytes(file: Uint8Array): Uint8Array {
    const out = Uint8Array.from(file);
    if (file.length === 0) return out;
    // Mostly single bits: what leaves the structure whole reaches deeper.
    switch (this.pick([0, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6])) {
      case 0:
        return out.slice(0, this.below(file.length + 1));
      case 1: {
        for (let n = 1 + this.below(4); n > 0; n--) {
          const at = this.below(out.length);
          out[at]! ^= 1 << this.below(8);
        }
        return out;
      }
      case 2: {
        for (let n = 1 + this.below(8); n > 0; n--) out[this.below(out.length)] = this.below(256);
        return out;
      }
      case 3: {
        // Lengths and sizes that are as large as they can be.
        const at = this.below(out.length);
        out.fill(0xff, at, at + 1 + this.below(9));
        return out;
      }
      case 4: {
        const [from, size] = [this.below(out.length), 1 + this.below(64)];
        return Uint8Array.of(...out.subarray(0, from), ...out.subarray(from + size));
      }
      case 5: {
        const [from, size, to] = [this.below(out.length), 1 + this.below(64), this.below(out.length)];
        return Uint8Array.of(...out.subarray(0, to), ...out.subarray(from, from + size), ...out.subarray(to));
      }
      default: {
        const at = this.below(out.length);
        out.fill(0, at, at + 1 + this.below(16));
        return out;
      }
    }
  }

  /** A file that decodes, but whose model is impossible, or at least another one. */
  model(file: Uint8Array): Uint8Array {
    const decoded = onnx.ModelProto.decode(file);
    const { graph } = decoded;
    if (!graph) return file;
    for (let n = 1 + this.below(2); n > 0; n--) this.change(decoded, graph);
    return onnx.ModelProto.encode(decoded).finish();
  }

  private change(model: Model, graph: GraphProto): void {
    const nodes = graph.node ?? [];
    const node = this.pick(nodes);
    const tensors = [...(graph.initializer ?? []), ...nodes.flatMap((n) => tensorsOf(n))];
    const tensor = this.pick(tensors);
    const names = [...nodes.flatMap((n) => n.output ?? []), ...(graph.input ?? []).map((v) => v.name ?? '')];
    const kinds: readonly (() => void)[] = [
      // A name that stands elsewhere: cycles, wrong ranks, wrong types.
      () => this.replace(node?.input, this.pick(names)),
      () => this.replace(node?.output, this.pick(names)),
      () => node && Object.assign(node, { opType: this.pick(nodes)?.opType }),
      () => node && Object.assign(node, { opType: this.pick(['Nothing', '', 'Loop', 'Reshape', 'Gather', 'Einsum']) }),
      () => node && Object.assign(node, { domain: this.pick(['com.microsoft', 'nobody', 'ai.onnx.ml']) }),
      () => tensor && Object.assign(tensor, { dims: this.sizes(tensor) }),
      () => tensor && Object.assign(tensor, { dataType: this.below(28) }),
      () => tensor && this.external(tensor),
      () => this.value(this.pick([...(graph.input ?? []), ...(graph.output ?? [])])),
      () => this.attribute(node),
      () => node?.input?.splice(this.below(node.input.length + 1), 1),
      () => node?.input?.push(this.pick(names) ?? ''),
      () => node && nodes.push(node),
      () => Object.assign(graph, { node: [...nodes].reverse() }),
      () => tensor && graph.initializer?.push(tensor),
      () => Object.assign(model, { opsetImport: [{ domain: '', version: this.pick([0, 1, 6, 13, 24, 99, -1]) }] }),
      () => this.nest(graph),
      () => graph.output?.push({ name: this.pick(names) ?? 'none' }),
    ];
    this.pick(kinds)?.();
  }

  private replace(list: string[] | null | undefined, name: string | undefined): void {
    if (list && list.length > 0) list[this.below(list.length)] = name ?? '';
  }

  private sizes(tensor: TensorProto): number[] {
    const dims = [...(tensor.dims ?? [])].map(Number);
    const size = this.pick([0, -1, 2, 2 ** 31, 2 ** 40, 2 ** 53, 65536]) ?? 0;
    if (this.below(3) === 0) dims.push(size);
    else dims[this.below(Math.max(1, dims.length))] = size;
    return dims;
  }

  private external(tensor: TensorProto): void {
    const location = this.pick(['../secret', '/etc/hostname', 'weights.bin', '', '.', 'a/../../b', 'nul\0l']);
    const offset = this.pick(['0', '-1', '1e9', '99999999999999', 'x']);
    tensor.dataLocation = 1;
    tensor.externalData = [
      { key: 'location', value: location ?? '' },
      { key: 'offset', value: offset ?? '' },
      { key: 'length', value: this.pick(['4', '-4', '1e15']) ?? '' },
    ];
  }

  private value(info: onnxProto.onnx.IValueInfoProto | undefined): void {
    const type = info?.type?.tensorType;
    if (!type) return;
    const size = this.pick([0, -1, 1, 3, 2 ** 31, 2 ** 50]) ?? 0;
    const dims = type.shape?.dim ?? [];
    switch (this.below(3)) {
      case 0:
        type.elemType = this.below(28);
        break;
      case 1:
        type.shape = { dim: [...dims, { dimValue: size }] };
        break;
      default:
        dims[this.below(Math.max(1, dims.length))] = this.below(2) === 0 ? { dimValue: size } : { dimParam: 'n' };
        type.shape = { dim: dims };
    }
  }

  private attribute(node: NodeProto | undefined): void {
    const attribute = this.pick(node?.attribute ?? []);
    if (!node || !attribute) return;
    const number = this.pick([0, -1, 1, 2 ** 31, -(2 ** 40), 7]) ?? 0;
    switch (this.below(5)) {
      case 0:
        Object.assign(attribute, { i: number, type: 2 });
        break;
      case 1:
        Object.assign(attribute, { ints: [number, number], type: 7 });
        break;
      case 2:
        Object.assign(attribute, { s: new Uint8Array([110, 111]), type: 3 });
        break;
      case 3:
        Object.assign(attribute, { name: 'unheard_of' });
        break;
      default:
        Object.assign(attribute, { ints: [], i: 0, f: 0, t: null, g: null });
    }
  }

  /** The graph inside of branches inside of branches. */
  private nest(graph: GraphProto): void {
    let inner: GraphProto = { name: 'inner', node: graph.node ?? [], output: graph.output ?? [] };
    const condition = (graph.input ?? [])[0]?.name ?? 'c';
    for (let depth = this.pick([2, 30, 400]) ?? 2; depth > 0; depth--)
      inner = {
        name: 'branch',
        node: [
          {
            opType: 'If',
            input: [condition],
            output: (graph.output ?? []).map((v) => v.name ?? ''),
            attribute: [
              { name: 'then_branch', type: 5, g: inner },
              { name: 'else_branch', type: 5, g: { name: 'e', output: graph.output ?? [] } },
            ],
          },
        ],
        output: graph.output ?? [],
      };
    Object.assign(graph, { node: inner.node });
  }
}

const tensorsOf = (node: NodeProto): TensorProto[] => (node.attribute ?? []).flatMap((a) => (a.t ? [a.t] : []));
