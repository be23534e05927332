/** If, Loop and Scan: subgraphs see the values around them by name, so what ours take as operands is captured. */
import { type Graph, typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import type { Dim } from '../../ir/type.ts';
import type { GraphDraft } from './encode.ts';
import type { ExportEntries, ExportEntry } from './export-ops.ts';
import { type GraphWriter, int, ints } from './export-writer.ts';

/** Writes a subgraph: its first `own` inputs stay inputs, the others stand for tensors around it. */
export type BodyWriter = (g: Graph, own: number, outer: readonly string[]) => GraphDraft;

const results = (v: Value): number => (v.type.kind === 'tuple' ? v.type.items.length : 1);

const scan =
  (body: BodyWriter): ExportEntry =>
  (v, { w, inputs }) => {
    const { carried, closed, reverse } = v.attrs as { carried: number; closed: number; reverse: boolean };
    const own = inputs.length - closed;
    const [xs, stacks] = [own - carried, results(v) - carried];
    const ones = (n: number): number[] => new Array<number>(n).fill(1);
    return w.many('Scan', inputs.slice(0, own), results(v), {
      body: { graph: body(v.attrs.body as Graph, own, inputs.slice(own)) },
      num_scan_inputs: int(xs),
      ...(reverse && { scan_input_directions: ints(ones(xs)) }),
      ...(reverse && stacks > 0 && { scan_output_directions: ints(ones(stacks)) }),
    });
  };

const branch =
  (body: BodyWriter): ExportEntry =>
  (v, { w, inputs }) =>
    w.many('If', [inputs[0]!], results(v), {
      then_branch: { graph: body(v.attrs.then as Graph, 0, inputs.slice(1)) },
      else_branch: { graph: body(v.attrs.else as Graph, 0, inputs.slice(1)) },
    });

const loop =
  (body: BodyWriter): ExportEntry =>
  (v, cx) => {
    const { w, inputs } = cx;
    const { carried, maxTrips } = v.attrs as { carried: number; maxTrips: Dim };
    const own = 2 + carried;
    const made = w.many('Loop', inputs.slice(0, own), results(v), {
      body: { graph: body(v.attrs.body as Graph, own, inputs.slice(own)) },
    });
    const types = v.type.kind === 'tuple' ? v.type.items : [typeOf(v)];
    return made.map((name, i) => (i < carried ? name : filledUp(w, name, types[i]!.dtype, types[i]!.shape, maxTrips)));
  };

/** Rows behind the last trip, which ONNX leaves out, as zeros. */
function filledUp(
  w: GraphWriter,
  x: string,
  dtype: Parameters<GraphWriter['scalar']>[1],
  shape: readonly Dim[],
  most: Dim,
): string {
  const made = w.node('Shape', [x], { start: int(0), end: int(1) });
  const missing = w.node('Sub', [w.sizes([most]), made]);
  const rest = shape.slice(1);
  const size = rest.length === 0 ? missing : w.node('Concat', [missing, w.sizes(rest)], { axis: int(0) });
  const zeros = w.node('Expand', [w.constant(nd(dtype, [], [0])), size]);
  return w.node('Concat', [x, zeros], { axis: int(0) });
}

export const control = (body: BodyWriter): ExportEntries => ({ scan: scan(body), if: branch(body), loop: loop(body) });
