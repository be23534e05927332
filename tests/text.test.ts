import test from 'ava';
import fc from 'fast-check';
import { CompileError } from '../ir/diagnostic.ts';
import { isFloat, roundTo, SCALARS } from '../ir/dtype.ts';
import { type AttrValue, type Graph, graph, isGraph, topoOrder, type Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { allOps } from '../ir/op.ts';
import { add, cast, exp, maximum, mul, neg, select } from '../ir/ops/elementwise.ts';
import { exampleGraph } from '../ir/ops/example.ts';
import { concat, reshape, split, transpose } from '../ir/ops/shape.ts';
import { input, param, project, scalar } from '../ir/ops/structural.ts';
import { parseGraph, parseGraphs } from '../ir/parse.ts';
import { symbol } from '../ir/scalar.ts';
import { printElement, printGraph, printGraphs } from '../ir/text.ts';
import { sameType } from '../ir/type.ts';
import { verifyGraph } from '../ir/verify.ts';
import '../ir/ops/all.ts';

/** Where two graphs differ in more than sharing, as a path; undefined when they are equal. */
function difference(a: Graph, b: Graph, path = a.name): string | undefined {
  if (a.name !== b.name || a.inputs.length !== b.inputs.length) return path;
  if ([...a.outputs.keys()].join() !== [...b.outputs.keys()].join()) return `${path}: outputs`;
  const pairs = new Map<Value, Value>();
  const stack: [Value, Value][] = [...a.outputs].map(([name, v]) => [v, b.outputs.get(name)!]);
  for (const [i, v] of a.inputs.entries()) stack.push([v, b.inputs[i]!]);
  for (let top = stack.pop(); top; top = stack.pop()) {
    const [x, y] = top;
    if (pairs.get(x) === y) continue;
    pairs.set(x, y);
    const here = `${path} > ${x.op.name}`;
    if (x.op !== y.op || x.inputs.length !== y.inputs.length || !sameType(x.type, y.type)) return here;
    for (const [name, attr] of Object.entries(x.attrs))
      if (!sameAttr(attr, y.attrs[name], here)) return `${here}.${name}`;
    for (const [i, v] of x.inputs.entries()) stack.push([v, y.inputs[i]!]);
  }
  return undefined;
}

function sameAttr(a: AttrValue, b: AttrValue, path: string): boolean {
  if (Array.isArray(a))
    return (
      Array.isArray(b) &&
      a.length === b.length &&
      a.every((x: AttrValue, i) => sameAttr(x, (b as AttrValue[])[i], path))
    );
  if (typeof a !== 'object' || typeof b !== 'object') return Object.is(a, b);
  if (isGraph(a)) return isGraph(b) && difference(a, b, path) === undefined;
  if ('data' in a) return sameNd(a, b as Nd);
  return a === b;
}

const sameNd = (a: Nd, b: Nd): boolean =>
  a.dtype === b.dtype &&
  a.shape.join() === b.shape.join() &&
  a.data.length === b.data.length &&
  a.data.every((x, i) => Object.is(x, b.data[i]));

for (const op of allOps().filter((o) => o.examples.length > 0))
  test(`examples of ${op.name} print, parse to the same graph, and verify`, (t) => {
    for (const example of op.examples) {
      const g = exampleGraph(op, example);
      const text = printGraph(g);
      const parsed = parseGraph(text);
      t.is(difference(g, parsed), undefined, text);
      t.is(printGraph(parsed), text);
      verifyGraph(parsed);
    }
  });

/** A random graph of f32[N, 4] and f32[4, N] values and what hangs off them, from a list of choices. */
function build(choices: readonly (readonly [op: number, a: number, b: number, name: number])[]): Graph {
  const n = symbol('N', { max: 64, default: 5 });
  const x = input([], { name: 'x', dtype: 'f32', shape: [n, 4] });
  const y = input([], { name: 'y.1', dtype: 'f32', shape: [n, 4], doc: 'second "operand"\n' });
  const values: Value[] = [x, y, param([], { name: 'w/0', dtype: 'f32', shape: [4] })];
  const pick = (i: number): Value => values[i % values.length]!;
  const wide = (i: number): Value =>
    values.filter((v) => v.type.kind === 'tensor' && v.type.shape.length === 2)[i % 2]!;
  for (const [op, a, b, named] of choices) {
    const name = named < 4 ? ['a', 'b', '0', 'not an identifier'][named] : undefined;
    const origin = {
      name,
      loc: named % 3 === 0 ? { file: named % 2 ? 'm.ts' : 'a b.ts', line: a + 1, column: b + 1 } : undefined,
    };
    switch (op % 9) {
      case 0:
        values.push(add([pick(a), pick(b)], {}, origin));
        break;
      case 1:
        values.push(
          mul(
            [pick(a), scalar([0.1, -0, 1e30, NaN, -Infinity][b % 5]!, 'f32', named % 2 ? { name: 'c' } : {})],
            {},
            origin,
          ),
        );
        break;
      case 2:
        values.push(neg([pick(a)], {}, origin));
        break;
      case 3:
        values.push(maximum([scalar(b), pick(a)], {}, origin));
        break;
      case 4:
        values.push(cast([cast([pick(a)], { to: 'f16' }, origin)], { to: 'f32' }));
        break;
      case 5:
        values.push(transpose([transpose([wide(a)], { perm: [1, 0] }, origin)], { perm: [1, 0] }));
        break;
      case 6:
        values.push(project(split([wide(a)], { axis: 1, sizes: [3, 1] }, origin), b % 2, origin), exp([wide(b)]));
        break;
      case 7:
        values.push(reshape([reshape([wide(a)], { shape: [4, n] }, origin)], { shape: [n, 4] }));
        break;
      case 8:
        values.push(select([cast([wide(a)], { to: 'bool' }), wide(b), scalar(b / 3)], {}, origin));
        break;
    }
    // What came out of a split broadcasts with nothing wider than one column.
    if (op % 9 === 6 && b % 2 === 0)
      values.splice(
        -2,
        1,
        concat([values.at(-2)!, project(split([wide(a)], { axis: 1, sizes: [3, 1] }), 1)], { axis: 1 }),
      );
  }
  return graph(
    'random',
    [x, y],
    values.slice(-2).map((v, i) => [`out ${i}`, v] as const),
  );
}

test('random graphs print, parse to the same graph, and verify', (t) => {
  const small = fc.nat(20);
  fc.assert(
    fc.property(fc.array(fc.tuple(small, small, small, fc.nat(9)), { maxLength: 25 }), (choices) => {
      const g = build(choices);
      const text = printGraph(g);
      const parsed = parseGraph(text);
      t.is(difference(g, parsed), undefined, text);
      t.is(printGraph(parsed), text);
      verifyGraph(parsed);
    }),
    { numRuns: 300 },
  );
});

test('elements print as decimals that give them back exactly', (t) => {
  const any = fc.oneof(fc.double(), fc.float(), fc.integer());
  fc.assert(
    fc.property(fc.constantFrom(...SCALARS), any, (dtype, x) => {
      const value = roundTo(dtype, x);
      const text = printElement(value, dtype);
      const read = parseGraph(`graph g() { %c = constant {value = ${text}} : ${dtype} return c: %c }`);
      const { data } = read.outputs.get('c')!.attrs['value'] as Nd;
      t.true(Object.is(data[0], value), `${dtype} ${value} printed as ${text}, read as ${data[0]}`);
    }),
    { numRuns: 1000 },
  );
  t.is(printElement(Math.fround(0.1), 'f32'), '0.1');
  t.true(SCALARS.filter(isFloat).every((d) => printElement(-0, d) === '-0'));
});

test('several graphs share one declaration of symbols', (t) => {
  const text = `symbols N in 1..9, M in 2..8 step 2
graph first(%x: f32[N]) {
  return x: %x
}
graph second(%x: f32[M, N]) {
  return x: %x
}
`;
  t.is(printGraphs(parseGraphs(text)), text);
  t.is(printGraph(parseGraphs(text)[1]!).split('\n')[0], 'symbols M in 2..8 step 2, N in 1..9');
});

test('positions can be left out', (t) => {
  const text = 'graph g(%x: f32 @ a.ts:1:2) {\n  %y = neg %x : f32 @ a.ts:3:4\n  return y: %y\n}\n';
  t.is(printGraph(parseGraph(text)), text);
  t.is(printGraph(parseGraph(text), { locs: false }), text.replace(/ @ a\.ts:\d:\d/g, ''));
});

test('a long list of inputs prints one a line', (t) => {
  const inputs = Array.from({ length: 12 }, (_, i) => input([], { name: `input_${i}`, dtype: 'f32', shape: [2, 3] }));
  const text = printGraph(graph('many', inputs, [['x', inputs[3]!]]));
  t.true(text.startsWith('graph many(\n    %input_0: f32[2, 3],\n'));
  t.is(printGraph(parseGraph(text)), text);
});

/** A statement inside a graph with some values to use. */
const inside = (statement: string): string =>
  `symbols N in 1..8\ngraph g(%x: f32[2, 3], %y: f32[3, 4], %keep: bool[2]) {\n  ${statement}\n  return x: %x\n}\n`;

/** Text, the error's code, line and column, and what the message or help must say. */
const FAULTS: readonly (readonly [text: string, code: string, at: string, says: RegExp])[] = [
  ['', 'syntax', '', /expected one graph, found 0/],
  ['grph g() {}', 'syntax', '1:1', /expected "graph" or "symbols", found "grph"/],
  ['graph g(%x: f32[2]', 'syntax', '1:19', /expected "," or "\)" after an input, found the end of the text/],
  ['graph g(%x: f33) { return x: %x }', 'syntax', '1:13', /expected an element type such as f32, found "f33"/],
  ['graph g(%0: f32) { return x: %0 }', 'syntax', '1:9', /an input needs a name, not a number/],
  ['graph g(%x: f32[K]) { return x: %x }', 'syntax', '1:17', /nothing is named "K" here/],
  ['symbols N in 1..8\ngraph g(%x: f32[NN]) { return x: %x }', 'syntax', '2:17', /known names: N/],
  ['symbols N in 9..8\ngraph g(%x: f32[N]) { return x: %x }', 'syntax', '1:9', /no admissible size in 9\.\.8/],
  ['symbols N in 1..8, N in 1..9', 'syntax', '1:20', /symbol N is declared twice/],
  [
    inside('%z = matmull %x, %y : f32[2, 4]'),
    'syntax',
    '3:8',
    /there is no op "matmull"[\s\S]*did you mean "matmul"\?/,
  ],
  [
    inside('%z = select %kep, %x, %x : f32[2, 3]'),
    'syntax',
    '3:15',
    /%kep is not defined above[\s\S]*did you mean "keep"\?/,
  ],
  [inside('%z = matmul %x, %x : f32[2, 3]'), 'shape', '3:3', /matmul: /],
  [
    inside('%z = matmul %x, %y : f32[2, 5]'),
    'shape',
    '3:24',
    /%z is written as f32\[2, 5\], but matmul gives f32\[2, 4\]/,
  ],
  [inside('%z = neg %x : f64[2, 3]'), 'dtype', '3:17', /%z is written as f64\[2, 3\], but neg gives f32\[2, 3\]/],
  [inside('%z = neg %x, : f32[2, 3]'), 'syntax', '3:16', /expected an operand, found ":"/],
  [inside('%z = neg %x, %x : f32[2, 3]'), 'operand', '3:3', /neg: takes \(/],
  [inside('%x = neg %x : f32[2, 3]'), 'syntax', '3:3', /%x is defined twice, first at line 2/],
  [
    inside('%z = cast %x {too = f16} : f16[2, 3]'),
    'syntax',
    '3:17',
    /cast has no attribute "too"[\s\S]*did you mean "to"\?/,
  ],
  [inside('%z = cast %x {to = f16, to = f16} : f16[2, 3]'), 'syntax', '3:27', /attribute to is given twice/],
  [inside('%z = cast %x : f16[2, 3]'), 'attribute', '3:3', /attribute to /],
  [inside('%z = transpose %x {perm = [1, 0.5]} : f32[3, 2]'), 'attribute', '3:3', /each item must be a whole number/],
  [
    inside('%z = transpose %x {perm = [1 0]} : f32[3, 2]'),
    'syntax',
    '3:32',
    /expected "," or "\]" in a list, found "0"/,
  ],
  [inside('%z = reshape %x {shape = [6 + %x]} : f32[6]'), 'syntax', '3:33', /expected an expression, found "x"/],
  [inside('%z = constant {value = [1, 2]} : f32[3]'), 'syntax', '3:26', /2 elements for 3 of shape \[3\]/],
  [inside('%z = constant {value = 1.5} : i32'), 'syntax', '3:26', /1\.5 is not a value of i32/],
  [inside('%z = constant {value = 1} : f32[N]'), 'syntax', '3:26', /a constant needs a static shape/],
  [inside('%z = add 1, 2 : f32'), 'syntax', '3:8', /a bare number needs an operand that is no constant beside it/],
  [inside('%z = param {name = "w"} : f32[N]'), 'shape', '3:3', /parameter "w" needs a static shape/],
  [inside('%z = input {name = "w"} : f32'), 'syntax', '3:8', /inputs are declared in the head of the graph/],
  [inside('%z = get %x {index = 0} : f32[2, 3]'), 'operand', '3:3', /get: takes one value with several results/],
  [inside('%z = param {name = "w} : f32'), 'syntax', '3:22', /a string does not end on its line/],
  [inside('%z = param {name = "\\q"} : f32'), 'syntax', '3:22', /escape that JSON does not know/],
  [inside('%z = neg %x : f32[2, 3] @ file'), 'syntax', '3:27', /expected file:line:column after "@"/],
  [inside('%z = neg $x : f32[2, 3]'), 'syntax', '3:12', /unexpected character "\$"/],
];

for (const [text, code, at, says] of FAULTS)
  test(`a fault is located: ${says.source}`, (t) => {
    const error = t.throws(() => parseGraph(text, 'f.ir'), { instanceOf: CompileError });
    const { loc, frame, message, help = '' } = error!.diagnostic;
    t.is(error!.code, code as CompileError['code'], error!.message);
    t.is(loc ? `${loc.line}:${loc.column}` : '', at, error!.message);
    t.regex(`${message}\n${help}`, says);
    if (loc) t.regex(frame ?? '', /\^/);
  });

const attended = (mask: string): string =>
  `graph g(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 5, 4], %keep: bool[1, 5]) {
  %o = attention %q, %k, %k, %keep {mask = ${mask}} : f32[1, 2, 3, 4]
  return o: %o
}
`;

test('faults in expressions are located', (t) => {
  const cases: readonly [mask: string, says: RegExp][] = [
    ['kk <= q', /nothing is named "kk" here/],
    ['in4[b, k]', /there is no operand 4: the op has 4/],
    ['in3[k]', /1 coordinate for in3, which is bool\[1, 5\]/],
    ['x3[b, k]', /expected an operand such as in0\[…\], found "x3\["/],
    ['mni(k, q) == 0', /there is no scalar function "mni"/],
    ['min(k) == 0', /min takes 2 arguments, not 1/],
    ['k <= in0[b, h, q, 0]', /scalar operands differ: i32 and f32/],
    ['k == 0.5', /0\.5 is not a value of i32/],
    ['(k <= q', /expected "\)" after the expression/],
    ['k %q', /"%q" cannot stand in an expression/],
    ['k <=', /expected an expression, found "}"/],
  ];
  for (const [mask, says] of cases) {
    const error = t.throws(() => parseGraph(attended(mask)), { instanceOf: CompileError, code: 'syntax' } as never);
    t.regex(error!.message, says);
    t.is((error as CompileError).diagnostic.loc?.line, 2);
  }
  t.notThrows(() => parseGraph(attended('k <= q && in3[b, k] || !(k - q < -2)')));
});

test('hostile texts are refused without exhausting the stack', (t) => {
  const deep = 100_000;
  const texts = [
    attended('('.repeat(deep)),
    attended('!'.repeat(deep)),
    attended('-'.repeat(deep)),
    attended('min('.repeat(deep)),
    attended(`k${' + q'.repeat(deep)} == 0`),
    attended('in3['.repeat(deep)),
    `graph g(%x: f32[${'('.repeat(deep)}`,
    `graph g(%x: f32[${'1'.repeat(deep)}]) { return x: %x }`,
    `graph g(%x: bool) { ${'%y = if %x {then = graph t() { '.repeat(deep)}`,
    '"'.repeat(deep),
    '@'.repeat(deep),
    '%'.repeat(deep),
    '/'.repeat(deep),
    `symbols ${'N,'.repeat(deep)}`,
  ];
  for (const text of texts) t.throws(() => parseGraph(text), { instanceOf: CompileError });
});

test('a long chain parses, prints and verifies in linear time and constant stack', (t) => {
  const count = 100_000;
  const lines = ['graph chain(%x: f32[2]) {'];
  for (let i = 0; i < count; i++) lines.push(`  %v${i} = neg ${i === 0 ? '%x' : `%v${i - 1}`} : f32[2]`);
  const text = `${lines.join('\n')}\n  return y: %v${count - 1}\n}\n`;
  const g = parseGraph(text);
  t.is(topoOrder(g.outputs.values()).length, count + 1);
  verifyGraph(g);
  t.true(printGraph(g) === text);
});
