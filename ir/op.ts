/** Everything known about an operator, in one object; and the registry of all of them. */
import { attrProblem } from './attr.ts';
import type { AttrArgs, AttrSpecs, Attrs, AttrValue, OpDef, OpSpec, Value } from './core.ts';
import { CompileError, fail, type Loc, printLoc } from './diagnostic.ts';
import { typeOf } from './graph.ts';
import { printType } from './print.ts';

export type {
  AxisMap,
  AxisRole,
  EvalContext,
  Example,
  ExampleInput,
  Load,
  LowerContext,
  Lowering,
  NeedContext,
  OnnxMapping,
  OpDef,
  OpSpec,
  ScheduleName,
} from './core.ts';

/** How a call names its value: for people and diagnostics only. */
export interface Origin {
  readonly name?: string | undefined;
  readonly loc?: Loc | undefined;
}

/** A defined operator; calling it builds a value. */
export interface Op<S extends AttrSpecs> {
  (inputs: readonly Value[], ...rest: MaybeAttrs<S>): Value;
  readonly def: OpDef;
}
type MaybeAttrs<S extends AttrSpecs> =
  Record<string, never> extends AttrArgs<S>
    ? [attrs?: AttrArgs<S>, origin?: Origin]
    : [attrs: AttrArgs<S>, origin?: Origin];

const registry = new Map<string, OpDef>();

/** The operator of that name. */
export const opNamed = (name: string): OpDef | undefined => registry.get(name);
/** All operators, in order of definition. */
export const allOps = (): readonly OpDef[] => [...registry.values()];

export function defineOp<const S extends AttrSpecs>(spec: OpSpec<S>): Op<S> {
  if (registry.has(spec.name)) throw new Error(`op ${spec.name} is defined twice`);
  // The one place where attribute types are forgotten: `makeValue` checks attributes against the schema before any
  // function of the spec sees them.
  const def = spec as unknown as OpDef;
  registry.set(spec.name, def);
  const build = (inputs: readonly Value[], attrs?: AttrArgs<S>, origin?: Origin): Value =>
    makeValue(def, inputs, (attrs ?? {}) as Attrs, origin);
  return Object.assign(build, { def });
}

/** A value of `op`: attributes checked and completed, type inferred. Errors name the op and every operand. */
export function makeValue(op: OpDef, inputs: readonly Value[], given: Attrs = {}, origin: Origin = {}): Value {
  try {
    const attrs = completeAttrs(op, given);
    checkArity(op, inputs.length);
    const type = op.type(inputs.map(typeOf), attrs);
    return { kind: 'value', op, inputs, attrs, type, name: origin.name, loc: origin.loc };
  } catch (error) {
    if (!(error instanceof CompileError)) throw error;
    const { message } = error.diagnostic;
    const prefix = message.startsWith(`${op.name}:`) ? '' : `${op.name}: `;
    throw error.with({
      message: prefix + message,
      loc: error.diagnostic.loc ?? origin.loc,
      notes: operandFacts(op, inputs),
    });
  }
}

function completeAttrs(op: OpDef, given: Attrs): Attrs {
  const attrs: Record<string, AttrValue> = {};
  for (const name of Object.keys(given))
    if (!Object.hasOwn(op.attrs, name))
      fail('attribute', `no attribute "${name}"`, { help: `it has ${Object.keys(op.attrs).join(', ') || 'none'}` });
  for (const [name, schema] of Object.entries(op.attrs)) {
    const value = given[name] === undefined ? schema.default : given[name];
    const problem = attrProblem(schema, value);
    if (problem) fail('attribute', `attribute ${name} ${problem}`, { help: schema.doc });
    attrs[name] = value;
  }
  return attrs;
}

/** Refuses a number of operands that the op does not take. */
export function checkArity(op: OpDef, count: number): void {
  const most = op.inputs.at(-1)?.endsWith('...') ? Infinity : op.inputs.length;
  const least = op.inputs.filter((n) => !n.endsWith('?') && !n.endsWith('...')).length;
  if (count < least || count > most)
    fail('operand', `takes (${op.inputs.join(', ')}), not ${count} operand${count === 1 ? '' : 's'}`);
}

/** One line an operand: its role or name, its type, and where it came from. */
function operandFacts(op: OpDef, inputs: readonly Value[]): string[] {
  return inputs.map((value, i) => {
    const role = op.inputs[Math.min(i, op.inputs.length - 1)]?.replace(/\?$|\.\.\.$/, '') ?? `operand ${i}`;
    const from = value.op.name === 'param' ? `parameter "${String(value.attrs.name)}"` : `from ${value.op.name}`;
    const where = value.loc ? `, ${printLoc(value.loc)}` : '';
    return `${value.name ?? role} : ${printType(value.type)}   ${from}${where}`;
  });
}
