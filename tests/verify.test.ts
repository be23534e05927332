import test from 'ava';
import { CompileError } from '../ir/diagnostic.ts';
import { type AttrValue, type Graph, graph, type Value } from '../ir/graph.ts';
import { attention, coords } from '../ir/ops/attention.ts';
import { add, exp, neg } from '../ir/ops/elementwise.ts';
import { split } from '../ir/ops/shape.ts';
import { constant, get, input, param, project } from '../ir/ops/structural.ts';
import { parseGraph } from '../ir/parse.ts';
import { le, literal, operand, symbol, variable } from '../ir/scalar.ts';
import { tensor } from '../ir/type.ts';
import { verifyGraph } from '../ir/verify.ts';
import '../ir/ops/all.ts';

const loc = { file: 'm.ts', line: 7, column: 3 };
const x = input([], { name: 'x', dtype: 'f32', shape: [2, 3] });
const y = input([], { name: 'y', dtype: 'f32', shape: [2, 3] });
const sum = add([x, y], {}, { name: 'sum', loc });
const parts = split([x], { axis: 1, sizes: [1, 2] }, { name: 'parts', loc });

/** A value as no constructor would build it. */
const bent = (value: Value, change: Partial<Value>): Value => ({ ...value, ...change });
const attrs = (value: Value, change: Record<string, AttrValue>): Value =>
  bent(value, { attrs: { ...value.attrs, ...change } });
const of = (...outputs: Value[]): Graph =>
  graph(
    'g',
    [x, y],
    outputs.map((v, i) => [`o${i}`, v] as const),
  );

const scan = (body: string): string => `graph g(%h: f32[3], %xs: f32[5, 3]) {
  %0 = scan %h, %xs {body = ${body}, carried = 1} : (f32[3], f32[5, 3])
  %1 = get %0 {index = 0} : f32[3]
  return o: %1
}`;
const body = parseGraph(scan('graph step(%h: f32[3], %x: f32[3]) {\n%s = add %h, %x : f32[3]\nreturn h: %s, y: %s }'));
const looped = [...body.outputs.values()][0]!.inputs[0]!;

function cycle(): Value {
  const inputs: Value[] = [x];
  const first = bent(neg([x], {}, { loc }), { inputs });
  inputs[0] = exp([first]);
  return first;
}

const [n9, n8] = [symbol('N', { max: 9 }), symbol('N', { max: 8 })];
const q = input([], { name: 'q', dtype: 'f32', shape: [1, 1, 4, 2] });
const stray = variable('b');
const masked = attention([q, q, q], { mask: le(coords.k, coords.q) });
const over = (v: Value): Graph => graph('g', [q], [['o', v]]);

const FAULTS: readonly (readonly [name: string, make: () => Graph, says: RegExp])[] = [
  ['a graph without outputs', () => graph('g', [x], []), /graph g: has no output/],
  ['an undeclared input', () => graph('g', [x], [['o', sum]]), /%\S+ = input: input "y" is not declared by graph g/],
  [
    'a twin of a declared input',
    () => of(add([x, input([], { name: 'y', dtype: 'f32', shape: [3] })])),
    /input "y" is not declared by graph g, though another of its name is/,
  ],
  [
    'two inputs of one name',
    () => graph('g', [x, input([], { name: 'x', dtype: 'f32', shape: [3] })], [['o', x]]),
    /a second input is named "x"/,
  ],
  ['another op among the inputs', () => graph('g', [x, y, sum], [['o', sum]]), /stands among the inputs of the graph/],
  ['a cycle', () => of(cycle()), /depends on itself/],
  [
    'a type that the op does not give',
    () => of(bent(sum, { type: tensor('f32', [3, 2]) })),
    /%sum = add: has type f32\[3, 2\], but its op gives f32\[2, 3\]/,
  ],
  [
    'operands that do not fit',
    () =>
      of(bent(sum, { inputs: [x, constant([], { value: { dtype: 'f32', shape: [4], data: new Float64Array(4) } })] })),
    /%sum = add: sizes/,
  ],
  ['a wrong number of operands', () => of(bent(sum, { inputs: [x] })), /%sum = add: takes \(.*\), not 1 operand/],
  [
    'a missing attribute',
    () => of(project(attrs(parts, { axis: undefined }), 0)),
    /%parts = split: attribute axis is missing/,
  ],
  [
    'an attribute of the wrong kind',
    () => of(project(attrs(parts, { axis: 'x' }), 0)),
    /attribute axis must be a whole number/,
  ],
  [
    'an attribute that the op does not know',
    () => of(attrs(sum, { axis: 1 })),
    /has an attribute "axis" that add does not know/,
  ],
  [
    'an op that is not registered',
    () => of(bent(sum, { op: { ...sum.op } })),
    /its op is not the registered one of that name/,
  ],
  ['a tuple as an output', () => of(parts), /output "o0" has 2 results; return one with get/],
  [
    'a tuple as an operand',
    () => of(bent(sum, { inputs: [x, parts] })),
    /reads split, which has several results, without get/,
  ],
  ['get of one result', () => of(bent(project(parts, 0), { inputs: [x] })), /get reads a value with one result/],
  [
    'get of a result that is not there',
    () => of(attrs(project(parts, 0), { index: 2 })),
    /there is no result 2: split has 2/,
  ],
  [
    'get of another type',
    () => of(attrs(project(parts, 0), { index: 1 })),
    /has type f32\[2, 1\], but result 1 is f32\[2, 2\]/,
  ],
  [
    'a parameter with two types',
    () =>
      of(
        add([
          param([], { name: 'w', dtype: 'f32', shape: [3] }),
          add([param([], { name: 'w', dtype: 'f32', shape: [2, 3] }), x]),
        ]),
      ),
    /parameter "w" is f32\[2, 3\] here and f32\[3\] elsewhere/,
  ],
  [
    'a symbol with two ranges',
    () =>
      graph(
        'g',
        [n9, n8].map((n, i) => input([], { name: `i${i}`, dtype: 'f32', shape: [n] })),
        [['o', constant([], { value: { dtype: 'f32', shape: [], data: new Float64Array(1) } })]],
      ),
    /symbol N has two ranges, 1\.\.9 .* and 1\.\.8/,
  ],
  [
    'a size that is no symbol',
    () => of(bent(sum, { type: tensor('f32', [stray]) })),
    /size b depends on b, which is no symbol/,
  ],
  ['a negative size', () => of(bent(sum, { type: tensor('f32', [-1]) })), /has a size of -1/],
  [
    'a mask over a foreign variable',
    () => over(attrs(masked, { mask: le(stray, coords.q) })),
    /attribute mask: b is none of the coordinates b, h, q, k/,
  ],
  [
    'a mask over a symbol named as a coordinate',
    () => over(attrs(masked, { mask: le(symbol('k', { max: 4 }), coords.q) })),
    /symbol k has the name of a coordinate/,
  ],
  [
    'a mask over an operand that is not there',
    () => over(attrs(masked, { mask: operand(3, 'bool', [coords.k]) })),
    /attribute mask: in3\[k\] reads an operand that is not there/,
  ],
  [
    'a mask over an operand of another type',
    () => over(attrs(masked, { mask: operand(0, 'bool', [coords.b, coords.h, coords.q, literal(0)]) })),
    /as bool, but it is f32/,
  ],
  [
    'a mask with too few coordinates',
    () => over(attrs(masked, { bias: operand(0, 'f32', [coords.b]) })),
    /has 1 coordinates for f32/,
  ],
  [
    'a subgraph that reads an outer value',
    () =>
      graph('g', body.inputs, [
        [
          'o',
          project(
            attrs(looped, {
              body: graph('step', (looped.attrs['body'] as Graph).inputs, [
                ['h', body.inputs[0]!],
                ['y', body.inputs[0]!],
              ]),
            }),
            0,
          ),
        ],
      ]),
    /input "h" is not declared by graph step, though another of its name is; a subgraph reads outer values only as operands/,
  ],
];

for (const [name, make, says] of FAULTS)
  test(`verify refuses ${name}`, (t) => {
    const error = t.throws(() => verifyGraph(make()), { instanceOf: CompileError });
    t.is(error!.code, 'verify');
    t.regex(error!.diagnostic.message, says);
  });

test('a fault names the value, its op, its position and the graph', (t) => {
  const error = t.throws(() => verifyGraph(of(bent(sum, { type: tensor('f32', [3, 2]) }))), {
    instanceOf: CompileError,
  });
  t.is(
    error!.message,
    `error[verify]: %sum = add: has type f32[3, 2], but its op gives f32[2, 3]
  --> m.ts:7:3
   = in graph g
   = %x : f32[2, 3]   from input
   = %y : f32[2, 3]   from input`,
  );
});

test('a fault in a subgraph names the graphs around it', (t) => {
  const step = looped.attrs['body'] as Graph;
  const inner = [...step.outputs.values()][0]!;
  const broken = graph('step', step.inputs, [
    ['h', bent(inner, { type: tensor('f32', [4]) })],
    ['y', inner],
  ]);
  const error = t.throws(
    () => verifyGraph(graph('g', body.inputs, [['o', project(attrs(looped, { body: broken }), 0)]])),
    { instanceOf: CompileError },
  );
  t.deepEqual(error!.diagnostic.notes?.[0], 'in graph g > step');
});

test('well-formed graphs pass, also with an input that nobody reads', (t) => {
  t.notThrows(() => verifyGraph(of(sum, project(parts, 1))));
  t.notThrows(() => verifyGraph(of(exp([x]))));
  t.notThrows(() => verifyGraph(body));
  t.notThrows(() => verifyGraph(over(masked)));
  t.is(get.def.name, 'get');
});

test('a lowered graph has no op that simpler ops define', (t) => {
  t.notThrows(() => verifyGraph(of(sum), { stage: 'lowered' }));
  t.throws(() => verifyGraph(of(project(parts, 0)), { stage: 'lowered' }), {
    message: /split is not allowed at stage "lowered": it must have been decomposed before/,
  });
});
