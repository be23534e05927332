/** What a well-formed graph is. Every pass's result is checked here, so a rule is stated once and holds everywhere. */
import { type AttrSpec, attrProblem } from './attr.ts';
import { countedBy, symbolsIn } from './counts.ts';
import { CompileError, type Diagnostic, fail, printLoc } from './diagnostic.ts';
import { type Expr, exprNodes, type Sym } from './expr.ts';
import { type AttrValue, type Graph, graphValues, isGraph, type Value } from './graph.ts';
import { checkArity, type OpDef, opNamed } from './op.ts';
import { printExpr, printType } from './print.ts';
import { valueNames } from './text.ts';
import { sameType, type TensorType, type ValueType } from './type.ts';

/** What a graph may contain, by how far it has been lowered. */
export const STAGES = {
  /** Every operator. */
  any: { admits: (_op: OpDef): boolean => true, why: '' },
  /** What the partitioner takes: operators defined by simpler ones have been replaced by those. */
  lowered: {
    admits: (op: OpDef): boolean => op.lower.kind !== 'decompose',
    why: 'it must have been decomposed before',
  },
} as const;

export type Stage = keyof typeof STAGES;

export interface VerifyOptions {
  /** Default `any`. */
  readonly stage?: Stage;
}

const MAX_GRAPH_DEPTH = 64;

/**
 * Checks a graph and its subgraphs: operands come first; reachable inputs are declared, with unique names; one
 * parameter or symbol name has one meaning; a size that is counted at run time has one count, and is mentioned in the
 * graph of that count and in its bodies only; attributes fit their schema; types are what the type rules infer; only
 * `get` reads a value with several results.
 *
 * @throws CompileError `verify`, naming the value, its op and where it was made
 */
export function verifyGraph(graph: Graph, options: VerifyOptions = {}): void {
  new Verifier(options.stage ?? 'any', countedAnywhere(graph)).graph(graph, []);
}

/** Every size that a value of the graph or of a body counts, with the graph and the value of the count. */
type Counts = ReadonlyMap<Expr, { readonly graph: Graph; readonly count: Value }>;

/** @throws CompileError `verify` when two values, or two graphs, count one size differently */
function countedAnywhere(root: Graph): Counts {
  const counts = new Map<Expr, { readonly graph: Graph; readonly count: Value }>();
  const seen = new Set<Graph>();
  const visit = (g: Graph, depth: number): void => {
    if (seen.has(g) || depth >= MAX_GRAPH_DEPTH) return;
    seen.add(g);
    for (const v of graphValues(g)) {
      for (const a of Object.values(v.attrs)) if (isGraph(a)) visit(a, depth + 1);
      if (v.op.name !== 'counted' || v.inputs.length !== 2) continue;
      const { size, count } = countedBy(v);
      if (typeof size === 'number') continue;
      const known = counts.get(size);
      if (known && (known.graph !== g || known.count !== count))
        throw located(problem(`size ${printExpr(size)} is counted twice, by different values`), g, v, [g.name]);
      counts.set(size, { graph: g, count });
    }
  };
  visit(root, 0);
  return counts;
}

/** A parameter or symbol as first met; one state serves a graph and all its subgraphs. */
class Verifier {
  readonly #stage: Stage;
  readonly #symbols = new Map<string, Expr>();
  readonly #params = new Map<string, Value>();
  readonly #checkedTypes = new Set<ValueType>();
  readonly #checkedExprs = new Set<Expr>();
  readonly #done = new Set<Graph>();
  readonly #counts: Counts;
  /** The graph that is checked and those around it. */
  readonly #around: Graph[] = [];
  #metCounted = false;

  constructor(stage: Stage, counts: Counts) {
    this.#stage = stage;
    this.#counts = counts;
  }

  graph(g: Graph, path: readonly string[]): void {
    if (this.#done.has(g)) return;
    if (path.length >= MAX_GRAPH_DEPTH) fail('verify', `graph ${g.name}: nested more than ${MAX_GRAPH_DEPTH} deep`);
    const order = graphValues(g);
    const inner = [...path, g.name];
    this.#around.push(g);
    this.#order(g, order, inner);
    this.#inputs(g, order, inner);
    for (const value of new Set([...g.inputs, ...order])) {
      try {
        this.#value(value, inner);
      } catch (error) {
        throw located(error, g, value, inner);
      }
    }
    if (g.outputs.size === 0) fail('verify', `graph ${g.name}: has no output`);
    for (const [name, value] of g.outputs)
      if (value.type.kind === 'tuple')
        throw located(
          problem(`output "${name}" has ${value.type.items.length} results; return one with get`),
          g,
          value,
          inner,
        );
    this.#mentions(g, order, inner);
    this.#around.pop();
    this.#done.add(g);
  }

  /** Counted sizes are known where they are mentioned, and counts do not depend on what they count. */
  #mentions(g: Graph, order: readonly Value[], path: readonly string[]): void {
    if (this.#counts.size === 0 && !this.#metCounted) return;
    const waits = new Map<Value, ReadonlySet<Value>>();
    for (const v of [...g.inputs, ...order]) {
      const own = Object.values(v.attrs).some(isGraph) ? symbolsIn({ ...v, attrs: {} }) : symbolsIn(v);
      for (const s of own) {
        if (!(s.arg as Sym).counted) continue;
        const known = this.#counts.get(s);
        const around = v.op.name === 'input' ? this.#around.slice(0, -1) : this.#around;
        if (known && around.includes(known.graph)) continue;
        const where = known ? `graph ${known.graph.name} counts` : 'nothing counts';
        throw located(problem(`mentions size ${printExpr(s)}, which ${where}`), g, v, path);
      }
      const counts = [...symbolsIn(v)].flatMap((s) => {
        const known = this.#counts.get(s);
        return known?.graph === g ? [known.count] : [];
      });
      waits.set(v, new Set(counts));
    }
    this.#acyclic(g, order, waits, path);
  }

  #acyclic(
    g: Graph,
    order: readonly Value[],
    waits: ReadonlyMap<Value, ReadonlySet<Value>>,
    path: readonly string[],
  ): void {
    const state = new Map<Value, 'open' | 'done'>();
    const before = (v: Value): Value[] => [...v.inputs, ...(waits.get(v) ?? [])];
    for (const root of order) {
      const stack = [root];
      while (stack.length > 0) {
        const v = stack.at(-1)!;
        const next = state.get(v) === 'done' ? undefined : before(v).find((x) => state.get(x) !== 'done');
        if (next !== undefined && state.get(next) === 'open')
          throw located(problem('mentions a size that is counted by what depends on it'), g, next, path);
        state.set(v, next === undefined ? 'done' : 'open');
        if (next === undefined) stack.pop();
        else stack.push(next);
      }
    }
  }

  /** Operands stand before their readers: false only for a cycle, which no builder can make. */
  #order(g: Graph, order: readonly Value[], path: readonly string[]): void {
    const position = new Map(order.map((v, i) => [v, i]));
    order.forEach((value, i) => {
      for (const operand of value.inputs)
        if (position.get(operand)! >= i) throw located(problem('depends on itself'), g, value, path);
    });
  }

  #inputs(g: Graph, order: readonly Value[], path: readonly string[]): void {
    const declared = new Set(g.inputs);
    const named = new Map<unknown, Value>();
    for (const value of g.inputs) {
      if (value.op.name !== 'input') throw located(problem('stands among the inputs of the graph'), g, value, path);
      const key = value.attrs.name;
      if (named.has(key)) throw located(problem(`a second input is named "${String(key)}"`), g, value, path);
      named.set(key, value);
    }
    for (const value of order) {
      if (value.op.name !== 'input' || declared.has(value)) continue;
      const twin = named.has(value.attrs.name) ? ', though another of its name is' : '';
      const rule = path.length > 1 ? '; a subgraph reads outer values only as operands' : '';
      throw located(
        problem(`input "${String(value.attrs.name)}" is not declared by graph ${g.name}${twin}${rule}`),
        g,
        value,
        path,
      );
    }
  }

  #value(value: Value, path: readonly string[]): void {
    const { op } = value;
    if (opNamed(op.name) !== op) throw problem('its op is not the registered one of that name');
    const stage = STAGES[this.#stage];
    if (!stage.admits(op)) throw problem(`${op.name} is not allowed at stage "${this.#stage}": ${stage.why}`);
    this.#type(value.type);
    if (op.name === 'get') {
      checkGet(value);
      return;
    }
    for (const operand of value.inputs)
      if (operand.type.kind === 'tuple')
        throw problem(`reads ${operand.op.name}, which has several results, without get`);
    const types = value.inputs.map((v) => v.type as TensorType);
    checkArity(op, value.inputs.length);
    for (const name of Object.keys(value.attrs))
      if (!Object.hasOwn(op.attrs, name)) throw problem(`has an attribute "${name}" that ${op.name} does not know`);
    for (const [name, schema] of Object.entries(op.attrs)) {
      const reason = attrProblem(schema, value.attrs[name]);
      if (reason) throw problem(`attribute ${name} ${reason}`);
      this.#attr(name, schema, value.attrs[name], types, path);
    }
    const inferred = op.type(types, value.attrs);
    if (!sameType(inferred, value.type))
      throw problem(`has type ${printType(value.type)}, but its op gives ${printType(inferred)}`);
    if (op.name === 'param') this.#param(value);
  }

  #param(value: Value): void {
    const name = String(value.attrs.name);
    const first = this.#params.get(name);
    if (first === undefined) this.#params.set(name, value);
    else if (!sameType(first.type, value.type))
      throw problem(`parameter "${name}" is ${printType(value.type)} here and ${printType(first.type)} elsewhere`);
  }

  #attr(name: string, schema: AttrSpec, attr: AttrValue, types: readonly TensorType[], path: readonly string[]): void {
    if (attr === undefined) return;
    if (Array.isArray(attr)) {
      for (const item of attr as readonly AttrValue[]) this.#attr(name, schema, item, types, path);
      return;
    }
    if (schema.kind === 'graph' && isGraph(attr)) this.graph(attr, path);
    if (schema.kind === 'dim' && typeof attr !== 'number') this.#size(attr as Expr);
    if (schema.kind === 'expr') this.#expr(name, schema, attr as Expr, types);
  }

  #expr(name: string, schema: AttrSpec, root: Expr, types: readonly TensorType[]): void {
    const coords = schema.coords ?? {};
    for (const e of exprNodes(root)) {
      if (e.op === 'sym') {
        this.#symbol(e);
        if (Object.hasOwn(coords, (e.arg as Sym).name))
          throw problem(`attribute ${name}: symbol ${printExpr(e)} has the name of a coordinate; rename the symbol`);
      } else if (e.op === 'var' && schema.coords && !Object.values(coords).includes(e)) {
        throw problem(
          `attribute ${name}: ${printExpr(e)} is none of the coordinates ${Object.keys(coords).join(', ')}`,
        );
      } else if (e.op === 'operand') {
        checkOperandRead(name, e, types);
      } else if (e.op === 'load' || e.lanes !== 1) {
        throw problem(`attribute ${name}: ${e.op} of ${e.lanes} lanes belongs in kernels`);
      }
    }
  }

  #type(type: ValueType): void {
    if (this.#checkedTypes.has(type)) return;
    for (const { shape } of type.kind === 'tuple' ? type.items : [type])
      for (const d of shape)
        if (typeof d !== 'number') this.#size(d);
        else if (!Number.isSafeInteger(d) || d < 0) throw problem(`has a size of ${d}`);
    this.#checkedTypes.add(type);
  }

  #size(size: Expr): void {
    if (this.#checkedExprs.has(size)) return;
    if (size.dtype !== 'i32' || size.lanes !== 1) throw problem(`size ${printExpr(size)} is no whole number`);
    for (const e of exprNodes(size))
      if (e.op === 'sym') this.#symbol(e);
      else if (e.op === 'var' || e.op === 'operand' || e.op === 'load')
        throw problem(`size ${printExpr(size)} depends on ${printExpr(e)}, which is no symbol`);
    this.#checkedExprs.add(size);
  }

  #symbol(e: Expr): void {
    const { name, counted } = e.arg as Sym;
    this.#metCounted ||= counted;
    const first = this.#symbols.get(name);
    if (first === undefined) this.#symbols.set(name, e);
    else if (first !== e)
      throw problem(`symbol ${name} has two ranges, ${range(first.arg as Sym)} and ${range(e.arg as Sym)}`);
  }
}

const range = (s: Sym): string => `${s.min}..${s.max} step ${s.multipleOf} default ${s.default}`;
const problem = (message: string): CompileError => new CompileError({ code: 'verify', message });

function checkGet(value: Value): void {
  const [from] = value.inputs;
  const index = value.attrs.index;
  if (value.inputs.length !== 1 || from?.type.kind !== 'tuple') throw problem('get reads a value with one result');
  const item = typeof index === 'number' ? from.type.items[index] : undefined;
  if (!item) throw problem(`there is no result ${String(index)}: ${from.op.name} has ${from.type.items.length}`);
  if (!sameType(item, value.type))
    throw problem(`has type ${printType(value.type)}, but result ${String(index)} is ${printType(item)}`);
}

function checkOperandRead(name: string, e: Expr, types: readonly TensorType[]): void {
  const type = types[e.arg as number];
  if (!type) throw problem(`attribute ${name}: ${printExpr(e)} reads an operand that is not there`);
  if (type.dtype !== e.dtype)
    throw problem(`attribute ${name}: ${printExpr(e)} as ${e.dtype}, but it is ${printType(type)}`);
  if (type.shape.length !== e.args.length)
    throw problem(`attribute ${name}: ${printExpr(e)} has ${e.args.length} coordinates for ${printType(type)}`);
}

/** The error as a fault of `value`: its printed name, op, position and the graphs around it. */
function located(error: unknown, g: Graph, value: Value, path: readonly string[]): unknown {
  if (!(error instanceof CompileError)) return error;
  if (error.diagnostic.notes?.some((n) => n.startsWith('in graph '))) return error;
  const { code, message, help, notes = [], loc } = error.diagnostic;
  const name = valueNames(g).get(value) ?? '(unnamed)';
  const extra: Partial<Diagnostic> = help === undefined ? {} : { help };
  const shown = message.startsWith(`${value.op.name}: `) ? message.slice(value.op.name.length + 2) : message;
  return new CompileError(
    {
      ...extra,
      code: 'verify',
      message: `${name} = ${value.op.name}: ${shown}`,
      loc: value.loc ?? loc,
      notes: [
        ...(code === 'verify' ? [] : [`the type rule says: ${code}`]),
        ...notes,
        `in graph ${path.join(' > ')}`,
        ...operandNotes(g, value),
      ],
    },
    { cause: error },
  );
}

function operandNotes(g: Graph, value: Value): string[] {
  const names = valueNames(g);
  return value.inputs.map(
    (v) =>
      `${names.get(v) ?? '(unnamed)'} : ${printType(v.type)}   from ${v.op.name}${v.loc ? `, ${printLoc(v.loc)}` : ''}`,
  );
}
