/** Kernels for every region; regions that differ only in which values they touch are scheduled once. */
import type { Expr } from '../ir/expr.ts';
import type { AttrValue, Value } from '../ir/graph.ts';
import { typeOf } from '../ir/graph.ts';
import type { Kernel } from '../ir/kernel.ts';
import { printType } from '../ir/print.ts';
import { uniformConstant } from './access.ts';
import { BufferTable } from './buffers.ts';
import { controlBodies } from './control.ts';
import { type Partition, partition } from './partition.ts';
import type { Binding, Region, Stage } from './region.ts';
import type { Schedule } from './schedule/context.ts';
import { scheduleForGpu } from './schedule/gpu/index.ts';
import { onePerInvocation } from './schedule/gpu/invocations.ts';
import { scheduleNamed } from './schedule/index.ts';
import { scheduleLoop } from './schedule/loop.ts';
import type { Target } from './target.ts';

export interface ScheduledRegion {
  readonly region: Region;
  readonly stages: readonly Stage[];
  /** Programs of a control op's subgraphs, in the order of its graph attributes. */
  readonly bodies?: readonly ScheduledBody[];
}

export interface ScheduledProgram {
  readonly partition: Partition;
  readonly regions: readonly ScheduledRegion[];
}

export interface ScheduledBody {
  readonly program: ScheduledProgram;
  /** The subgraph's inputs by position; undefined where a static operand took the input's place. */
  readonly inputs: readonly (Value | undefined)[];
  readonly isStatic: (outer: Value) => boolean;
}

export function scheduleProgram(partition: Partition, target: Target): ScheduledProgram {
  const known = new Map<string, ScheduledRegion>();
  const regions = partition.regions.map((region): ScheduledRegion => {
    if (region.kind === 'control') return scheduleControl(region, partition, target);
    const key = signature(region, partition);
    const twin = known.get(key);
    if (twin) return { region, stages: twin.stages.map((stage) => rebind(stage, twin.region, region)) };
    const buffers = new BufferTable(region, partition);
    const scheduled = { region, stages: scheduleFor(target, region)({ region, target, buffers }) };
    known.set(key, scheduled);
    return scheduled;
  });
  return { partition, regions };
}

const scheduleFor = ({ name }: Target, { kind }: Region): Schedule =>
  name === 'webgpu' ? scheduleForGpu(kind) : scheduleNamed(kind);

function scheduleControl(region: Region, outer: Partition, target: Target): ScheduledRegion {
  const bodies = controlBodies(region, outer.isStatic).map(({ graph, inputs }) => ({
    program: scheduleProgram(partition(graph), target),
    inputs,
    isStatic: outer.isStatic,
  }));
  const schedule = target.name === 'webgpu' ? onePerInvocation(scheduleLoop) : scheduleLoop;
  const stages =
    region.root.op.name === 'loop' ? schedule({ region, target, buffers: new BufferTable(region, outer) }) : [];
  return { region, stages, bodies };
}

/** Every kernel of a program, those of subgraphs included, in a fixed order. */
export function* kernelsOf(program: ScheduledProgram): Generator<Kernel> {
  for (const { stages, bodies } of program.regions) {
    for (const stage of stages) yield stage.kernel;
    for (const body of bodies ?? []) yield* kernelsOf(body.program);
  }
}

function rebind(stage: Stage, from: Region, to: Region): Stage {
  const twin = (v: Value): Value => {
    const input = from.inputs.indexOf(v);
    if (input >= 0) return to.inputs[input]!;
    return to.outputs[from.outputs.indexOf(v)]!;
  };
  // An output that is also an input (a copied weight) is only ever bound as the output by `value`.
  const bind = (b: Binding): Binding =>
    b.kind === 'temp'
      ? b
      : b.kind === 'value' && from.outputs.includes(b.value)
        ? { ...b, value: to.outputs[from.outputs.indexOf(b.value)]! }
        : { ...b, value: twin(b.value) };
  return { ...stage, bindings: stage.bindings.map(bind) };
}

/** Equal for regions whose schedules are equal up to the values they are bound to. */
function signature(region: Region, program: Partition): string {
  const numbers = new Map<Value, number>();
  const lines: string[] = [region.kind];
  const inputs = new Map(region.inputs.map((v, i) => [v, i]));
  const visit = (v: Value, isRoot: boolean): number => {
    const seen = numbers.get(v);
    if (seen !== undefined) return seen;
    const input = inputs.get(v);
    let line: string;
    if (input !== undefined && !(isRoot && !program.isStatic(v)))
      line = `in${input}${program.isStatic(v) ? '!' : ''}${program.panels.has(v) ? 'p' : ''} ${printType(v.type)}`;
    else if (uniformConstant(v) !== undefined) line = `const ${uniformConstant(v)} ${printType(v.type)}`;
    else {
      const operands = v.inputs.map((x) => visit(x, false));
      const attrs = Object.entries(v.attrs).map(([k, a]) => `${k}=${attrKey(a)}`);
      line = `${v.op.name}(${operands.join(',')}) {${attrs.join(';')}} ${printType(v.type)} ${shapeKey(v)}`;
    }
    numbers.set(v, lines.length);
    lines.push(line);
    return lines.length - 1;
  };
  for (const v of [region.root, ...region.epilogue]) visit(v, true);
  lines.push(`out ${region.outputs.map((v) => visit(v, true)).join(',')}`);
  return lines.join('\n');
}

/** Symbols print by name only; their ranges are part of the type. */
const shapeKey = (v: Value): string =>
  v.type.kind === 'tuple'
    ? ''
    : typeOf(v)
        .shape.map((d) => (typeof d === 'number' ? d : `e${d.id}`))
        .join(',');

const objectKeys = new WeakMap<object, number>();
let nextKey = 0;
function attrKey(a: AttrValue): string {
  if (a === undefined || typeof a !== 'object') return String(a);
  if (Array.isArray(a)) return `[${(a as readonly AttrValue[]).map(attrKey).join(',')}]`;
  if ('lanes' in a) return `e${(a as Expr).id}`;
  let key = objectKeys.get(a);
  if (key === undefined) {
    key = nextKey++;
    objectKeys.set(a, key);
  }
  return `o${key}`;
}
