/**
 * Sequences and optional values. Lists of tensors exist while a file is read, not when it runs: their length and what stands
 * where must follow from the file and from shapes.
 */
import { fail } from '../../ir/diagnostic.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { gather } from '../../ir/ops/index.ts';
import { reshape, split } from '../../ir/ops/shape.ts';
import { projectAll } from '../../ir/ops/structural.ts';
import { type Dim, sameType } from '../../ir/type.ts';
import { computed, type Item, literalItem } from './item.ts';
import type { Node } from './node.ts';
import { joined, stacked } from './values.ts';

const HELP = 'sequences may be built, cut and joined; give tensors to other operators, to branches and to outputs';

function noTensor(what: string): never {
  return fail('unsupported', `${what} where a tensor is needed`, { help: HELP });
}

const absent = (what: string): Omit<Item, 'list'> => ({
  get type(): never {
    return noTensor(what);
  },
  dims: undefined,
  literal: false,
  constant: () => undefined,
  value: () => noTensor(what),
});

/** A sequence of tensors. */
const listItem = (list: readonly Item[]): Item =>
  Object.defineProperty(absent('a sequence stands'), 'list', { value: list }) as Item;
/** An optional value that has none. */
const NOTHING: Item = absent('an empty optional stands');

const count = (x: number): Item => literalItem(nd('i64', [], [x]));
const truth = (x: boolean): Item => literalItem(nd('bool', [], [x ? 1 : 0]));

function listAt(n: Node, i: number): readonly Item[] {
  return n.item(i).list ?? n.fail(`operand ${i} is no sequence`, 'the file is damaged', 'operand');
}

/** A position from operand `i`, counted from the end where it is negative; `most` is the last that is allowed. */
function positionAt(n: Node, i: number, length: number, most: number): number {
  const given = n.number(i) ?? most;
  const at = given < 0 ? given + length : given;
  if (!Number.isInteger(at) || at < 0 || at > most)
    n.fail(`position ${given} is outside a sequence of ${length}`, undefined, 'shape');
  return at;
}

function elementAt(n: Node): Item {
  const list = listAt(n, 0);
  if (n.item(1).constant() !== undefined) return list[positionAt(n, 1, list.length, list.length - 1)]!;
  // A position that comes with the data chooses among tensors of one type.
  const [first] = list;
  if (!first || !list.every((item) => sameType(item.type, first.type)))
    return n.fail('its position comes with the data, and its tensors differ in type', 'make the position a constant');
  const all = stacked(
    list.map((item) => item.value()),
    0,
  );
  return computed(gather([all, reshape([n.value(1)], { shape: [] })], { axis: 0 }));
}

function splitInto(n: Node): readonly Item[] {
  const x = n.value(0);
  const { shape } = typeOf(x);
  const axis = n.axis(n.int('axis', 0), shape.length);
  const keep = n.int('keepdims', 1) !== 0 || n.has(1);
  const size = shape[axis]!;
  const given = n.constant(1);
  let sizes: readonly Dim[];
  if (given && given.shape.length > 0) sizes = Array.from(given.data);
  else {
    if (typeof size !== 'number')
      return n.fail(`axis ${axis} has an open size, so its parts cannot be counted`, 'fix it in dims');
    const part = given ? given.data[0]! : 1;
    if (!(Number.isInteger(part) && part > 0)) n.fail(`its parts have ${part} elements`, undefined, 'shape');
    sizes = Array.from({ length: Math.ceil(size / part) }, (_, i) => Math.min(part, size - i * part));
  }
  if (sizes.length > MOST_PARTS) n.fail(`it has ${sizes.length} parts`, `it can have ${MOST_PARTS}`);
  const parts = sizes.length === 0 ? [] : projectAll(split([x], { axis, sizes }));
  const squeezed = (part: Value): Value => reshape([part], { shape: shape.toSpliced(axis, 1) });
  return parts.map((part) => computed(keep ? part : squeezed(part)));
}

/** Tensors of one sequence. */
const MOST_PARTS = 2 ** 12;

function joinedList(n: Node): Item {
  const list = listAt(n, 0).map((item) => item.value());
  if (list.length === 0) n.fail('the sequence is empty', undefined, 'shape');
  const fresh = n.int('new_axis', 0) !== 0;
  const axis = n.axis(n.int('axis'), typeOf(list[0]!).shape.length + (fresh ? 1 : 0));
  return computed(fresh ? stacked(list, axis) : joined(list, axis));
}

type Rule = (n: Node) => Item;
const RULES: Readonly<Record<string, Rule>> = {
  SequenceEmpty: (n) => {
    n.ignore('dtype');
    return listItem([]);
  },
  SequenceConstruct: (n) => listItem(n.items.map((_, i) => n.item(i))),
  SequenceAt: elementAt,
  SequenceInsert: (n) => {
    const list = listAt(n, 0);
    return listItem(list.toSpliced(positionAt(n, 2, list.length, list.length), 0, n.item(1)));
  },
  SequenceErase: (n) => {
    const list = listAt(n, 0);
    return listItem(list.toSpliced(positionAt(n, 1, list.length, list.length - 1), 1));
  },
  SequenceLength: (n) => count(listAt(n, 0).length),
  SplitToSequence: (n) => listItem(splitInto(n)),
  ConcatFromSequence: joinedList,
  Optional: (n) => {
    n.ignore('type');
    return n.items[0] ?? NOTHING;
  },
  OptionalHasElement: (n) => truth(n.has(0) && n.item(0) !== NOTHING),
  OptionalGetElement: (n) =>
    n.item(0) === NOTHING ? n.fail('the optional is empty', undefined, 'operand') : n.item(0),
};

export const readsSequences = (op: string): boolean => Object.hasOwn(RULES, op);

/** Results of a node on sequences or optional values; undefined for all others. */
export function onSequences(n: Node): Item[] | undefined {
  const { op, domain } = n.proto;
  if (domain !== '') return undefined;
  if (op === 'Identity' && (n.items[0]?.list || n.items[0] === NOTHING)) return [n.item(0)];
  if (!readsSequences(op)) return undefined;
  const result = RULES[op]!(n);
  n.finish();
  return [result];
}

/** Results of a body on every element of a sequence, one after another: a sequence for each. */
export function mapped(n: Node, body: (inputs: readonly Item[]) => readonly Item[]): Item[] {
  const first = listAt(n, 0);
  const rows = first.map((item, at) =>
    body([item, ...n.items.slice(1).map((other, i) => n.item(i + 1).list?.[at] ?? other!)]),
  );
  return Array.from({ length: n.outputs }, (_, i) => listItem(rows.map((row) => row[i] ?? noTensor('nothing stands'))));
}
