/** Loops and branches: the steps of their bodies over buffers that live as long as the whole loop. */
import { typeOf, type Value } from '../ir/graph.ts';
import type { Dim } from '../ir/type.ts';
import type { Address, Size, Step } from '../runtime/manifest.ts';
import type { Places, Planner } from './planner.ts';
import type { Region } from './region.ts';
import type { ScheduledBody, ScheduledRegion } from './schedule-regions.ts';
import { sizeOf } from './size.ts';

export function* planControl(planner: Planner, scheduled: ScheduledRegion, places: Places): Generator<Step> {
  const { region, bodies } = scheduled;
  switch (region.root.op.name) {
    case 'scan':
      yield planScan(planner, region, bodies![0]!, places);
      return;
    case 'loop':
      yield planLoop(planner, scheduled, places);
      return;
    default:
      yield planBranch(planner, region, bodies!, places);
  }
}

/** Byte address `at` further on. */
const moved = (address: Address, at: Size): Address => {
  if ('s' in address) throw new Error('scratch has no items');
  return { ...address, at: address.at === undefined ? at : ['+', address.at, at] };
};

/** Where result `index` of a control op goes; undefined when nobody reads it. */
function resultOf(region: Region, index: number): Value | undefined {
  if (region.root.type.kind === 'tensor') return index === 0 ? region.outputs[0] : undefined;
  return region.outputs.find((v) => v.attrs.index === index);
}

/** Plans the body with its inputs at `inputs`; results whose `wanted` address is given are written there directly. */
function planBody(
  planner: Planner,
  body: ScheduledBody,
  inputs: readonly (Address | undefined)[],
  wanted: readonly (Address | undefined)[],
): { readonly steps: Step[]; readonly results: readonly Address[] } {
  const { partition } = body.program;
  const places: Places = new Map();
  const steps: Step[] = [];
  const taken = new Set<Address>();
  body.inputs.forEach((v, i) => {
    const address = inputs[i];
    if (!v || !address) return;
    const inside = 's' in address || address.at !== undefined;
    if (planner.addressesItems || !(inside || taken.has(address))) places.set(v, address);
    else {
      // An item, or a second name of one buffer, stands in a buffer of its own.
      const own = planner.buffer(planner.bytesOf(v));
      steps.push(planner.copy(address, own, v));
      places.set(v, own);
    }
    taken.add(address);
  });
  const outputs = [...partition.graph.outputs.values()];
  const direct = new Map<Value, Address>();
  outputs.forEach((v, i) => {
    const address = wanted[i];
    if (!address || (!planner.addressesItems && 'at' in address)) return;
    if (!direct.has(v) && partition.materialised.has(v) && v.op.name !== 'input') direct.set(v, address);
  });
  steps.push(...planner.counts(partition, undefined, places));
  for (const region of body.program.regions) {
    for (const output of region.region.outputs)
      places.set(output, direct.get(output) ?? planner.buffer(planner.bytesOf(output)));
    steps.push(...planner.region(region, places), ...planner.counts(partition, region.region, places));
  }
  const results = outputs.map((v) => planner.read(v, places, partition.isStatic));
  outputs.forEach((v, i) => {
    const to = wanted[i];
    if (to && results[i] !== to) steps.push(planner.copy(results[i]!, to, v));
  });
  return { steps, results };
}

function planScan(planner: Planner, region: Region, body: ScheduledBody, places: Places): Step {
  const { root } = region;
  const [carried, closed] = [Number(root.attrs.carried), Number(root.attrs.closed)];
  const symbol = planner.loopSymbol();
  const read = (v: Value): Address => planner.read(v, places, body.isStatic);
  const states = root.inputs.slice(0, carried);
  const xs = root.inputs.slice(carried, root.inputs.length - closed);
  const trips = sizeOf(typeOf(xs[0]!).shape[0]!);
  // States stand in the results when somebody reads those, so that the last trip leaves them in place.
  const stateAt = states.map(
    (v, i) => placeOf(planner, resultOf(region, i), places) ?? planner.buffer(planner.bytesOf(v)),
  );
  const itemBytes = (v: Value): Size => sizeOf(planner.bytesOf(v, typeOf(v).shape.slice(1)));
  const items = xs.map((v) => moved(read(v), ['*', symbol, itemBytes(v)]));
  const outer = root.inputs.slice(root.inputs.length - closed).map(read);
  const outputs = [...body.program.partition.graph.outputs.values()];
  const wanted = outputs.map((_, i) => {
    if (i < carried) return undefined;
    const stack = resultOf(region, i);
    const at = placeOf(planner, stack, places);
    return stack && at && moved(at, ['*', symbol, itemBytes(stack)]);
  });
  const { steps, results } = planBody(planner, body, [...stateAt, ...items, ...outer], wanted);
  const loop: Step = {
    loop: symbol,
    trips,
    reverse: root.attrs.reverse === true,
    steps: [...steps, ...nextStates(planner, outputs.slice(0, carried), results, stateAt)],
  };
  return sequence(planner, [...states.map((v, i) => planner.copy(read(v), stateAt[i]!, v)), loop]);
}

/** New states move to where the next trip reads them, by way of spare buffers: a state may be another one's old value. */
function nextStates(
  planner: Planner,
  values: readonly Value[],
  from: readonly Address[],
  to: readonly Address[],
): Step[] {
  const overlapping = from.slice(0, to.length).some((f) => to.includes(f));
  if (!overlapping) return values.map((v, i) => planner.copy(from[i]!, to[i]!, v));
  const spare = values.map((v) => planner.buffer(planner.bytesOf(v)));
  return [
    ...values.map((v, i) => planner.copy(from[i]!, spare[i]!, v)),
    ...values.map((v, i) => planner.copy(spare[i]!, to[i]!, v)),
  ];
}

function placeOf(planner: Planner, value: Value | undefined, places: Places): Address | undefined {
  return value && planner.touch(places.get(value), value.op.name);
}

/** Several steps as one, so that liveness counts them as one. */
function sequence(planner: Planner, steps: readonly Step[]): Step {
  if (steps.length === 1) return steps[0]!;
  return { loop: planner.loopSymbol(), trips: 1, reverse: false, steps };
}

function planBranch(planner: Planner, region: Region, bodies: readonly ScheduledBody[], places: Places): Step {
  const [condition, ...operands] = region.root.inputs as [Value, ...Value[]];
  const arm = (body: ScheduledBody): Step[] => {
    const inputs = operands.map((v) => planner.read(v, places, body.isStatic));
    const outputs = [...body.program.partition.graph.outputs.values()];
    const wanted = outputs.map((_, i) => placeOf(planner, resultOf(region, i), places));
    return planBody(planner, body, inputs, wanted).steps;
  };
  return {
    if: planner.read(condition, places, bodies[0]!.isStatic),
    then: arm(bodies[0]!),
    else: arm(bodies[1]!),
  };
}

/** A bounded loop whose trips stop counting once the condition fails: the later ones only look at a flag. */
function planLoop(planner: Planner, { region, stages, bodies }: ScheduledRegion, places: Places): Step {
  const { root } = region;
  const body = bodies![0]!;
  const carried = Number(root.attrs.carried);
  const symbol = planner.loopSymbol();
  const read = (v: Value): Address => planner.read(v, places, body.isStatic);
  const [, condition, ...operands] = root.inputs as [Value, Value, ...Value[]];
  const states = operands.slice(0, carried);
  const stateAt = states.map(
    (v, i) => placeOf(planner, resultOf(region, i), places) ?? planner.buffer(planner.bytesOf(v)),
  );
  const temps = new Map<string, Address>();
  const [head, ...fills] = stages.map((stage) => planner.launch(stage, region.name, places, temps));
  const [conditionAt, trip, alive] = ['condition', 'trip', 'alive'].map((name) => temps.get(name)!) as [
    Address,
    Address,
    Address,
  ];
  const outputs = [...body.program.partition.graph.outputs.values()];
  const wanted = outputs.map((_, i) => {
    const stack = i > carried ? resultOf(region, i - 1) : undefined;
    const at = placeOf(planner, stack, places);
    return stack && at && moved(at, ['*', symbol, sizeOf(planner.bytesOf(stack, typeOf(stack).shape.slice(1)))]);
  });
  const inputs = [trip, alive, ...stateAt, ...operands.slice(carried).map(read)];
  const { steps, results } = planBody(planner, body, inputs, wanted);
  const next = nextStates(planner, outputs.slice(0, carried + 1), results, [conditionAt, ...stateAt]);
  const loop: Step = {
    loop: symbol,
    trips: sizeOf(root.attrs.maxTrips as Dim),
    reverse: false,
    steps: [
      { ...head!, params: [symbol] },
      { if: alive, then: [...steps, ...next], else: [] },
    ],
  };
  const start = [
    planner.copy(read(condition), conditionAt, condition),
    ...states.map((v, i) => planner.copy(read(v), stateAt[i]!, v)),
  ];
  return sequence(planner, [...fills, ...start, loop]);
}
