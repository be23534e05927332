/** What graphs are made of before any computation: inputs, parameters, constants, and projections of tuples. */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import type { Value } from '../graph.ts';
import { countOf, type Nd, nd } from '../nd.ts';
import { defineOp, makeValue, type Origin } from '../op.ts';
import { checkPromiseTypes } from '../promises.ts';
import { type TensorType, tensor } from '../type.ts';

const unbound = (name: string) => (): never =>
  fail('internal', `${name} has no value of its own; bind it before evaluation`);

/** A graph input. Its name is its key in `run`. */
export const input = defineOp({
  name: 'input',
  doc: 'A value given at run time.',
  inputs: [],
  attrs: {
    name: attr.string('key of the input'),
    dtype: attr.dtype('element type'),
    shape: attr.dims('sizes, symbolic ones by name'),
    doc: opt.string('', "meaning and units, quoted in the bundle's types"),
    binary: opt.bool(false, 'every element is 0 or 1, as its author promises'),
    count: opt.dim('elements of each line along the last axis that are not 0, as its author promises'),
    atLeast: opt.int(0, 'least number of them'),
    assumed: opt.bool(false, 'binary only by the name it has: a model may say what happens where it is not'),
  },
  type: (_, { dtype, shape, name, binary, count, atLeast }) => {
    for (const d of shape) if (typeof d === 'number' && d < 0) fail('attribute', `input "${name}" has size ${d}`);
    checkPromiseTypes(name, tensor(dtype, shape), { binary, count, atLeast });
    return tensor(dtype, shape);
  },
  eval: unbound('input'),
  lower: { kind: 'structural' },
  examples: [],
});

/** A parameter: bytes live in a weight store under its name. */
export const param = defineOp({
  name: 'param',
  doc: 'A weight, named as in the published checkpoint.',
  inputs: [],
  attrs: {
    name: attr.string('key in the weight store'),
    dtype: attr.dtype('element type'),
    shape: attr.dims('sizes, all static'),
  },
  type: (_, { dtype, shape, name }) => {
    if (!shape.every((d) => typeof d === 'number')) fail('shape', `parameter "${name}" needs a static shape`);
    for (const d of shape) if (Number(d) < 0) fail('attribute', `parameter "${name}" has size ${Number(d)}`);
    return tensor(dtype, shape);
  },
  eval: unbound('param'),
  lower: { kind: 'structural' },
  examples: [],
});

/** A literal tensor. */
export const constant = defineOp({
  name: 'constant',
  doc: 'A literal tensor.',
  inputs: [],
  attrs: { value: attr.tensor('elements in C order') },
  type: (_, { value }) => {
    if (value.data.length !== countOf(value.shape))
      fail('attribute', `${value.data.length} elements for shape [${value.shape.join(', ')}]`);
    return tensor(value.dtype, value.shape);
  },
  eval: (_, { value }) => value,
  lower: { kind: 'structural' },
  examples: [],
});

/** Result number `index` of an op with several. */
export const get = {
  def: defineOp({
    name: 'get',
    doc: 'One result of an op that has several.',
    inputs: ['tuple'],
    attrs: { index: attr.int('number of the result, from 0') },
    type: () => fail('internal', 'get is built by `project`'),
    eval: () => fail('internal', 'get is evaluated by the interpreter'),
    lower: { kind: 'structural' },
    examples: [],
  }).def,
};

/** Projects one result of a tuple value. */
export function project(value: Value, index: number, origin: Origin = {}): Value {
  const items = value.type.kind === 'tuple' ? value.type.items : [value.type];
  const type: TensorType | undefined = items[index];
  if (!type) fail('operand', `get: ${value.op.name} has results 0..${items.length - 1}, not ${index}`);
  if (value.type.kind === 'tensor') return value;
  return { kind: 'value', op: get.def, inputs: [value], attrs: { index }, type, name: origin.name, loc: origin.loc };
}

/** All results of a tuple value, or the value itself. */
export const projectAll = (value: Value): Value[] =>
  value.type.kind === 'tuple' ? value.type.items.map((_, i) => project(value, i)) : [value];

/** A scalar literal. */
export const scalar = (value: number, dtype: Nd['dtype'] = 'f32', origin?: Origin): Value =>
  makeValue(constant.def, [], { value: nd(dtype, [], [value]) }, origin);
