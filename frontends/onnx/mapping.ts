/** From an ONNX operator to its entry: operators that we keep say in their own object how they are spelled in ONNX. */
import type { Attrs, AttrValue } from '../../ir/graph.ts';
import { allOps, makeValue, type OpDef } from '../../ir/op.ts';
import '../../ir/ops/all.ts';
import { activations } from './import-only-activation.ts';
import { attentions } from './import-only-attention.ts';
import { dynamic } from './import-only-dynamic.ts';
import { linear } from './import-only-linear.ts';
import { losses } from './import-only-loss.ts';
import { microsoft } from './import-only-microsoft.ts';
import { normalization } from './import-only-norm.ts';
import { pads } from './import-only-pad.ts';
import { quantization } from './import-only-quantize.ts';
import { randoms } from './import-only-random.ts';
import { recurrent } from './import-only-recurrent.ts';
import { reductions } from './import-only-reduce.ts';
import { resizing } from './import-only-resize.ts';
import { samples } from './import-only-sample.ts';
import { scans } from './import-only-scan.ts';
import { shapes } from './import-only-shape.ts';
import { signals } from './import-only-signal.ts';
import { stateful } from './import-only-state.ts';
import { unpooling } from './import-only-unpool.ts';
import { windows } from './import-only-window.ts';
import type { Entries, Entry, Node } from './node.ts';

const importOnly: Entries = {
  ...activations,
  ...attentions,
  ...dynamic,
  ...losses,
  ...linear,
  ...microsoft,
  ...normalization,
  ...pads,
  ...quantization,
  ...randoms,
  ...recurrent,
  ...reductions,
  ...resizing,
  ...samples,
  ...scans,
  ...shapes,
  ...signals,
  ...stateful,
  ...unpooling,
  ...windows,
};

/** One attribute of ours, as the file gives it; undefined leaves our default. */
function attributeOf(n: Node, op: OpDef, ours: string, theirs: string): AttrValue {
  const schema = op.attrs[ours]!;
  if (!n.hasAttribute(theirs)) return undefined;
  if (schema.list) return schema.kind === 'float' ? n.floatList(theirs) : n.intList(theirs);
  switch (schema.kind) {
    case 'int':
      return n.int(theirs);
    case 'float':
      return n.float(theirs);
    case 'bool':
      return n.int(theirs) !== 0;
    case 'string':
      return n.string(theirs);
    case 'dtype':
      return n.dtype(theirs);
    default:
      return n.fail(`attribute "${theirs}" has no counterpart`);
  }
}

/** One attribute of ours that the file gives as an operand; undefined leaves our default. */
function operandOf(n: Node, op: OpDef, ours: string, at: number): AttrValue {
  const { list, kind } = op.attrs[ours]!;
  if (list) return kind === 'dim' ? n.dims(at) : n.ints(at);
  return kind === 'dim' ? n.dims(at)?.[0] : n.number(at);
}

function slotEntry(op: OpDef): Entry {
  const names = Object.entries(op.onnx!.attrs ?? {}) as [string, string][];
  const places = Object.entries(op.onnx!.operands ?? {}) as [string, number][];
  const given = new Set(places.map(([, at]) => at));
  return (n) => {
    const attrs = Object.fromEntries([
      ...names.map(([ours, theirs]) => [ours, attributeOf(n, op, ours, theirs)]),
      ...places.map(([ours, at]) => [ours, operandOf(n, op, ours, at)]),
    ]);
    const operands = n.items.flatMap((_, i) => (given.has(i) ? [] : [n.value(i)]));
    return makeValue(op, operands, attrs as Attrs);
  };
}

const keyOf = (domain: string, op: string): string => (domain === '' ? op : `${domain}:${op}`);

let table: ReadonlyMap<string, Entry> | undefined;

/** How that operator is imported; undefined when it is not supported. */
export function entryOf(domain: string, op: string): Entry | undefined {
  if (!table) {
    const slots = allOps().flatMap((def) => {
      const { onnx } = def;
      return onnx ? [[keyOf(onnx.domain ?? '', onnx.op), slotEntry(def)] as const] : [];
    });
    table = new Map([...slots, ...Object.entries(importOnly)]);
  }
  return table.get(keyOf(domain, op));
}
