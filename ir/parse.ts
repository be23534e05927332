/** Graphs from text: the inverse of `printGraph`, with a position in every error. */
import type { AttrSpec } from './attr.ts';
import { CompileError, fail, type Loc, printLoc } from './diagnostic.ts';
import { isFloat, isScalar, roundTo, type Scalar } from './dtype.ts';
import type { Expr } from './expr.ts';
import { type Attrs, type AttrValue, type Graph, graph, type Value } from './graph.ts';
import { Lexer, type Token } from './lex.ts';
import { countOf, type Nd } from './nd.ts';
import { allOps, makeValue, type OpDef, opNamed } from './op.ts';
import { constant, get, input, param, project } from './ops/structural.ts';
import { type ExprScope, parseExpr } from './parse-expr.ts';
import { printType } from './print.ts';
import { symbol } from './scalar.ts';
import { didYouMean } from './suggest.ts';
import { numberDtype } from './text.ts';
import { type Dim, dim, sameType, staticShape, type TensorType, tensor, tuple, type ValueType } from './type.ts';

const MAX_GRAPH_DEPTH = 64;
/** Of one constant. */
const MAX_ELEMENTS = 2 ** 28;

/**
 * All graphs of a text, in order. A `symbols` declaration holds for the graphs below it. Only operators that some
 * imported module has defined are known.
 *
 * @param file names the text in errors
 * @throws CompileError `syntax` for text outside the grammar; the type rules' own errors, positioned; `shape` or
 *   `dtype` when a printed type is not the type of its value
 */
export function parseGraphs(text: string, file = 'text'): Graph[] {
  const parser = new Parser(new Lexer(text, file));
  return parser.file();
}

/** The only graph of a text. @throws CompileError also when there are several, or none */
export function parseGraph(text: string, file = 'text'): Graph {
  const graphs = parseGraphs(text, file);
  if (graphs.length !== 1) fail('syntax', `${file}: expected one graph, found ${graphs.length}`);
  return graphs[0]!;
}

/** An attribute as read, before its schema can be applied: a tensor's numbers await the result type. */
type Elements = { readonly items: readonly number[]; readonly list: boolean; readonly at: Token };
type Operand = Value | number;

class Parser {
  readonly #lexer: Lexer;
  readonly #symbols = new Map<string, Expr>();
  #depth = 0;

  constructor(lexer: Lexer) {
    this.#lexer = lexer;
  }

  file(): Graph[] {
    const graphs: Graph[] = [];
    while (this.#lexer.peek.kind !== 'end') {
      if (this.#lexer.accept('symbols')) this.#symbolList();
      else if (this.#lexer.at('graph')) graphs.push(this.#graph());
      else this.#lexer.unexpected('"graph" or "symbols"');
    }
    return graphs;
  }

  #symbolList(): void {
    const here = new Set<string>();
    do {
      const token = this.#lexer.peek;
      const name = this.#lexer.identifier('the name of a symbol');
      if (here.has(name)) this.#lexer.error(`symbol ${name} is declared twice`, token);
      here.add(name);
      this.#lexer.expect('in', 'and a range such as 1..64');
      const min = this.#integer('the least size');
      this.#lexer.expect('..', 'and the greatest size');
      const max = this.#integer('the greatest size');
      const multipleOf = this.#lexer.accept('step') ? this.#integer('a step') : 1;
      const preferred = this.#lexer.accept('default') ? { default: this.#integer('a default size') } : {};
      const counted = this.#lexer.accept('counted');
      try {
        this.#symbols.set(name, symbol(name, { min, max, multipleOf, ...preferred, counted }));
      } catch (error) {
        if (error instanceof RangeError) this.#lexer.error(error.message, token);
        throw error;
      }
    } while (this.#lexer.accept(','));
  }

  #graph(): Graph {
    if (this.#depth >= MAX_GRAPH_DEPTH) this.#lexer.error(`graphs are nested more than ${MAX_GRAPH_DEPTH} deep`);
    this.#depth++;
    this.#lexer.expect('graph', '');
    const name = this.#lexer.name('the name of the graph');
    const scope = new Map<string, { readonly value: Value; readonly at: Token }>();
    const inputs: Value[] = [];
    this.#lexer.expect('(', 'and the inputs of the graph');
    while (!this.#lexer.at(')')) {
      if (inputs.length > 0) this.#lexer.expect(',', 'or ")" after an input');
      inputs.push(this.#input(scope));
    }
    this.#lexer.next();
    this.#lexer.expect('{', 'and the statements of the graph');
    while (!this.#lexer.at('return')) this.#statement(scope);
    this.#lexer.next();
    const outputs = new Map<string, Value>();
    do {
      const token = this.#lexer.peek;
      const key = this.#lexer.name('the name of an output');
      if (outputs.has(key)) this.#lexer.error(`output ${key} is returned twice`, token);
      this.#lexer.expect(':', 'and the value of the output');
      outputs.set(key, this.#use(scope));
    } while (this.#lexer.accept(','));
    this.#lexer.expect('}', 'after the returned values');
    this.#depth--;
    return graph(name, inputs, outputs);
  }

  #input(scope: Scope): Value {
    const token = this.#lexer.peek;
    const name = this.#define(scope, 'an input');
    if (token.kind === 'value' && !token.quoted && /^\d/.test(token.text))
      this.#lexer.error('an input needs a name, not a number', token);
    this.#lexer.expect(':', 'and the type of the input');
    const type = this.#tensorType();
    const said: { doc: string; binary: boolean; assumed: boolean; count?: Dim; atLeast: number } = {
      doc: '',
      binary: false,
      assumed: false,
      atLeast: 0,
    };
    if (this.#lexer.accept('{')) {
      do {
        const word = (['binary', 'assumed', 'count', 'atLeast'] as const).find((w) => this.#lexer.accept(w));
        if (word === undefined) this.#lexer.expect('doc', 'or binary, assumed, count, atLeast (of an input)');
        this.#lexer.expect('=', 'and what it is');
        if (word === undefined) said.doc = this.#string('the meaning of the input');
        else if (word === 'count') said.count = this.#dim();
        else if (word === 'atLeast') said.atLeast = this.#integer('a number of elements');
        else {
          this.#lexer.expect('true', 'or no attribute at all');
          said[word] = true;
        }
      } while (this.#lexer.accept(','));
      this.#lexer.expect('}', 'after the attributes');
    }
    const attrs = { name: name!, dtype: type.dtype, shape: type.shape, ...said };
    const value = makeValue(input.def, [], attrs, { name, loc: this.#loc() });
    scope.set(keyOf(token), { value, at: token });
    return value;
  }

  /** The name a statement or input defines; undefined for a number. */
  #define(scope: Scope, what: string): string | undefined {
    const token = this.#lexer.peek;
    if (token.kind !== 'value') this.#lexer.unexpected(`${what} such as %x`);
    const known = scope.get(keyOf(token));
    if (known) {
      const { loc } = this.#lexer.where(known.at);
      this.#lexer.error(`%${token.text} is defined twice, first at line ${loc.line}`);
    }
    this.#lexer.next();
    return !token.quoted && /^\d/.test(token.text) ? undefined : token.text;
  }

  #use(scope: Scope): Value {
    const token = this.#lexer.peek;
    if (token.kind !== 'value') this.#lexer.unexpected('a value such as %x');
    const known = scope.get(keyOf(token));
    if (!known)
      this.#lexer.error(`%${token.text} is not defined above`, token, {
        // Only a short list is searched: a text with many mistakes must not take quadratic time.
        help: didYouMean(
          token.text,
          [...scope.values()].slice(-500).map((d) => d.at.text),
        ),
      });
    this.#lexer.next();
    return known.value;
  }

  #statement(scope: Scope): void {
    const at = this.#lexer.peek;
    const name = this.#define(scope, 'a statement or "return"');
    this.#lexer.expect('=', `after %${at.text}`);
    const opToken = this.#lexer.peek;
    const op = this.#operator();
    const operands = this.#operands(scope);
    const types = operands.map((v) => (typeof v === 'number' ? undefined : v.type));
    const attrs = this.#lexer.at('{')
      ? this.#attrs(op, types, numberDtype(operands))
      : new Map<string, AttrValue | Elements>();
    this.#lexer.expect(':', `and the type of %${at.text}`);
    const typeToken = this.#lexer.peek;
    const type = this.#type();
    const span = { at: at.at, end: this.#lexer.previousEnd };
    const loc = this.#loc();
    const value = this.#positioned(span, loc, () => this.#make(op, operands, attrs, type, opToken, { name, loc }));
    if (!sameType(value.type, type)) {
      const [a, b] = [value.type, type];
      const code = a.kind === 'tensor' && b.kind === 'tensor' && a.dtype !== b.dtype ? 'dtype' : 'shape';
      const message = `%${at.text} is written as ${printType(type)}, but ${op.name} gives ${printType(value.type)}`;
      fail(code, message, this.#lexer.where(typeToken));
    }
    scope.set(keyOf(at), { value, at });
  }

  #operator(): OpDef {
    const token = this.#lexer.peek;
    const name = this.#lexer.identifier('the name of an op');
    const op = opNamed(name);
    if (!op)
      this.#lexer.error(`there is no op "${name}"`, token, {
        help: didYouMean(
          name,
          allOps().map((o) => o.name),
        ),
      });
    if (op === input.def) this.#lexer.error('inputs are declared in the head of the graph', token);
    return op;
  }

  #operands(scope: Scope): Operand[] {
    const operands: Operand[] = [];
    if (this.#lexer.at('{') || this.#lexer.at(':')) return operands;
    do {
      operands.push(this.#lexer.peek.kind === 'value' ? this.#use(scope) : this.#number('an operand'));
    } while (this.#lexer.accept(','));
    return operands;
  }

  #make(
    op: OpDef,
    operands: readonly Operand[],
    attrs: ReadonlyMap<string, AttrValue | Elements>,
    type: ValueType,
    at: Token,
    origin: { readonly name: string | undefined; readonly loc: Loc | undefined },
  ): Value {
    const dtype = numberDtype(operands);
    const inputs = operands.map((v) => {
      if (typeof v !== 'number') return v;
      if (dtype === undefined)
        return this.#lexer.error('a bare number needs an operand that is no constant beside it, for its dtype', at);
      return makeValue(
        constant.def,
        [],
        { value: this.#elements({ items: [v], list: false, at }, dtype, []) },
        { loc: origin.loc },
      );
    });
    const given: Record<string, AttrValue> = {};
    for (const [name, value] of attrs) given[name] = isElements(value) ? this.#ofType(value, type) : value;
    if (op === get.def) {
      const [from] = inputs;
      if (inputs.length !== 1 || from?.type.kind !== 'tuple')
        fail('operand', 'get: takes one value with several results');
      if (typeof given.index !== 'number') fail('attribute', 'get: attribute index is missing');
      return project(from, given.index, origin);
    }
    if (op === param.def && type.kind === 'tensor') Object.assign(given, { dtype: type.dtype, shape: type.shape });
    return makeValue(op, inputs, given as Attrs, origin);
  }

  /** Errors of type rules, with the position in this text; the position in the model's source becomes a note. */
  #positioned(span: Pick<Token, 'at' | 'end'>, source: Loc | undefined, build: () => Value): Value {
    try {
      return build();
    } catch (error) {
      if (error instanceof CompileError) {
        if (error.code === 'syntax') throw error;
        throw error.with({ ...this.#lexer.where(span), ...(source ? { notes: [`made at ${printLoc(source)}`] } : {}) });
      }
      if (error instanceof TypeError) this.#lexer.error(error.message, span);
      throw error;
    }
  }

  #attrs(
    op: OpDef,
    types: readonly (ValueType | undefined)[],
    bare: Scalar | undefined,
  ): Map<string, AttrValue | Elements> {
    const attrs = new Map<string, AttrValue | Elements>();
    const operands = types.map((t): TensorType => (t?.kind === 'tensor' ? t : tensor(bare ?? 'f32', [])));
    this.#lexer.expect('{', 'before attributes');
    do {
      const token = this.#lexer.peek;
      const name = this.#lexer.identifier('the name of an attribute');
      const schema = Object.hasOwn(op.attrs, name) ? op.attrs[name] : undefined;
      if (!schema) {
        const known = Object.keys(op.attrs);
        const help = didYouMean(name, known) ?? `it has ${known.join(', ') || 'none'}`;
        this.#lexer.error(`${op.name} has no attribute "${name}"`, token, { help });
      }
      if (attrs.has(name)) this.#lexer.error(`attribute ${name} is given twice`, token);
      this.#lexer.expect('=', `after attribute ${name}`);
      attrs.set(name, schema.list ? this.#list(schema, operands, name) : this.#attr(op, schema, operands, name));
    } while (this.#lexer.accept(','));
    this.#lexer.expect('}', 'or "," after an attribute');
    return attrs;
  }

  #list(schema: AttrSpec, operands: readonly TensorType[], name: string): readonly AttrValue[] {
    const items: AttrValue[] = [];
    this.#lexer.expect('[', `and the items of ${name}`);
    while (!this.#lexer.at(']')) {
      if (items.length > 0) this.#lexer.expect(',', 'or "]" in a list');
      items.push(this.#attr(undefined, schema, operands, name) as AttrValue);
    }
    this.#lexer.next();
    return items;
  }

  #attr(op: OpDef | undefined, schema: AttrSpec, operands: readonly TensorType[], name: string): AttrValue | Elements {
    const lexer = this.#lexer;
    switch (schema.kind) {
      case 'int':
      case 'float':
        return this.#number(`a number for ${name}`);
      case 'bool':
        if (lexer.accept('true')) return true;
        return lexer.accept('false') ? false : lexer.unexpected(`true or false for ${name}`);
      case 'string':
        return this.#string(`a string for ${name}`);
      case 'dtype':
        return this.#dtype();
      case 'dim':
        return this.#dim();
      case 'expr': {
        const names = new Map([...this.#symbols, ...Object.entries(schema.coords ?? {})]);
        return parseExpr(lexer, { names, operands }, 'f32');
      }
      case 'graph':
        return this.#graph();
      case 'tensor':
        return op === constant.def ? this.#bareElements() : this.#tensor();
    }
  }

  /** `[1, 2, 3]`, or `1` for a scalar and for a tensor that repeats one element. */
  #bareElements(): Elements {
    const at = this.#lexer.peek;
    if (!this.#lexer.accept('[')) return { items: [this.#number('an element')], list: false, at };
    return { items: this.#numbers(']'), list: true, at };
  }

  /** `i32[3](1, 2, 3)` */
  #tensor(): Nd {
    const type = this.#tensorType();
    const at = this.#lexer.expect('(', 'and the elements');
    const items = this.#numbers(')');
    return this.#ofType({ items, list: items.length !== 1, at }, type);
  }

  #numbers(close: string): number[] {
    const items: number[] = [];
    while (!this.#lexer.at(close)) {
      if (items.length > 0) this.#lexer.expect(',', `or "${close}" after an element`);
      items.push(this.#number('an element'));
    }
    this.#lexer.next();
    return items;
  }

  #ofType(elements: Elements, type: ValueType): Nd {
    const shape = type.kind === 'tensor' ? staticShape(type.shape) : undefined;
    if (type.kind === 'tuple' || !shape) return this.#lexer.error('a constant needs a static shape', elements.at);
    return this.#elements(elements, type.dtype, shape);
  }

  #elements({ items, list, at }: Elements, dtype: Scalar, shape: readonly number[]): Nd {
    const count = countOf(shape);
    if (items.length !== (list ? count : 1))
      this.#lexer.error(`${items.length} elements for ${count} of shape [${shape.join(', ')}]`, at);
    for (const x of items)
      if (!isFloat(dtype) && roundTo(dtype, x) !== x) this.#lexer.error(`${x} is not a value of ${dtype}`, at);
    if (count > MAX_ELEMENTS) this.#lexer.error(`a constant of ${count} elements is too large`, at);
    const data = Float64Array.from(items, (x) => roundTo(dtype, x));
    return { dtype, shape, data: list ? data : new Float64Array(count).fill(data[0]!) };
  }

  #type(): ValueType {
    if (!this.#lexer.accept('(')) return this.#tensorType();
    const items: TensorType[] = [];
    while (!this.#lexer.at(')')) {
      if (items.length > 0) this.#lexer.expect(',', 'or ")" in a tuple type');
      items.push(this.#tensorType());
    }
    this.#lexer.next();
    return tuple(...items);
  }

  #tensorType(): TensorType {
    const dtype = this.#dtype();
    const shape: Dim[] = [];
    if (!this.#lexer.accept('[')) return tensor(dtype, shape);
    while (!this.#lexer.at(']')) {
      if (shape.length > 0) this.#lexer.expect(',', 'or "]" in a shape');
      shape.push(this.#dim());
    }
    this.#lexer.next();
    return tensor(dtype, shape);
  }

  #dtype(): Scalar {
    const { kind, text } = this.#lexer.peek;
    if (kind !== 'id' || !isScalar(text)) return this.#lexer.unexpected('an element type such as f32');
    this.#lexer.next();
    return text;
  }

  #dim(): Dim {
    const at = this.#lexer.peek;
    const scope: ExprScope = { names: this.#symbols };
    // Plain sizes may exceed the range of index arithmetic; they are not expressions.
    const size = dim(parseExpr(this.#lexer, scope, 'i64'));
    if (typeof size === 'number') return size;
    if (size.dtype !== 'i32') return this.#lexer.error('a size must be a whole number', at);
    return size;
  }

  #number(what: string): number {
    const negative = this.#lexer.accept('-');
    const token = this.#lexer.peek;
    const word = token.kind === 'id' ? WORDS.get(token.text) : undefined;
    const value = token.kind === 'number' ? token.number : word;
    if (value === undefined) return this.#lexer.unexpected(what);
    this.#lexer.next();
    return negative ? -value : value;
  }

  #integer(what: string): number {
    const token = this.#lexer.peek;
    if (token.kind !== 'number' || !Number.isSafeInteger(token.number)) return this.#lexer.unexpected(what);
    this.#lexer.next();
    return token.number;
  }

  #string(what: string): string {
    return this.#lexer.peek.kind === 'string' ? this.#lexer.next().text : this.#lexer.unexpected(what);
  }

  #loc(): Loc | undefined {
    const token = this.#lexer.peek;
    if (token.kind !== 'loc') return undefined;
    this.#lexer.next();
    return token.loc;
  }
}

type Scope = Map<string, { readonly value: Value; readonly at: Token }>;
const WORDS = new Map([
  ['inf', Infinity],
  ['nan', NaN],
  ['true', 1],
  ['false', 0],
]);

/** `%"0"` and `%0` are different values. */
const keyOf = (token: Token): string =>
  token.kind === 'value' && !token.quoted && /^\d/.test(token.text) ? `%${token.text}` : `"${token.text}`;
const isElements = (a: AttrValue | Elements): a is Elements => typeof a === 'object' && 'items' in a && 'at' in a;
