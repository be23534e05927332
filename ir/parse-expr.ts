/** Scalar expressions from text: sizes over symbols, masks over coordinates. The inverse of `printExpr`. */
import { isFloat, isScalar, type Scalar } from './dtype.ts';
import { BINARY, type BinaryOp, type Expr, type ExprOp, TERNARY, UNARY, type UnaryOp } from './expr.ts';
import type { Lexer, Token } from './lex.ts';
import { INFIX, printType } from './print.ts';
import { binary, bitcast, bool, cast, fma, literal, operand, select, unary } from './scalar.ts';
import { didYouMean } from './suggest.ts';
import type { TensorType } from './type.ts';

/** What names in an expression mean. */
export interface ExprScope {
  /** Symbols and coordinates. */
  readonly names: ReadonlyMap<string, Expr>;
  /** Types of the operands that `in0[…]`, `in1[…]` read; absent where an expression may not read operands. */
  readonly operands?: readonly TensorType[] | undefined;
}

/** A parsed expression before its literals have a dtype. */
interface Node {
  readonly op: ExprOp;
  /** Undefined for a literal, and for operators on literals only: they take the dtype of what stands beside them. */
  readonly dtype: Scalar | undefined;
  readonly args: readonly Node[];
  /** A literal's value, a name's expression, or an operand's number. */
  readonly leaf?: number | Expr;
  /** Whether it can only be a float: so that literals alone below `exp` are. */
  readonly real: boolean;
  readonly height: number;
  readonly at: Token;
}

/** Deeper than any written expression, shallow enough for the recursive algebra of `simplify.ts`. */
const MAX_HEIGHT = 1000;

const SYMBOLS = new Map(
  Object.entries(INFIX).map(([op, [symbol, strength]]) => [symbol, { op: op as BinaryOp, strength }]),
);
const ARITY = new Map<string, number>([
  ...UNARY.filter((op) => !['cast', 'bitcast', 'splat', 'extract', 'neg'].includes(op)).map((op) => [op, 1] as const),
  ...BINARY.map((op) => [op, 2] as const),
  ...TERNARY.map((op) => [op, 3] as const),
]);
/** Functions of floats only. */
const REAL = new Set<ExprOp>(['exp', 'log', 'sqrt', 'tanh', 'erf', 'sin', 'cos', 'pow']);
const COMPARISONS = new Set(['lt', 'le', 'eq', 'ne']);

/** Reads one expression; literals that nothing else types are `expected` (sizes: `i32`). */
export function parseExpr(lexer: Lexer, scope: ExprScope, expected: Scalar = 'i32'): Expr {
  return build(lexer, parseInfix(lexer, scope, 1, 0), expected);
}

function node(
  lexer: Lexer,
  op: ExprOp,
  dtype: Scalar | undefined,
  args: readonly Node[],
  at: Token,
  leaf?: number | Expr,
): Node {
  const height = 1 + Math.max(0, ...args.map((a) => a.height));
  if (height > MAX_HEIGHT) lexer.error(`an expression is nested more than ${MAX_HEIGHT} deep`, at);
  const typed = op === 'select' ? args.slice(1) : COMPARISONS.has(op) ? [] : args;
  const real = REAL.has(op) || typed.some((a) => a.real) || (typeof leaf === 'number' && !Number.isInteger(leaf));
  return { op, dtype, args, real, height, at, ...(leaf === undefined ? {} : { leaf }) };
}

function parseInfix(lexer: Lexer, scope: ExprScope, least: number, depth: number): Node {
  let left = parsePrefix(lexer, scope, depth);
  for (;;) {
    const token = lexer.peek;
    const infix = token.kind === 'punct' || token.kind === 'id' ? SYMBOLS.get(token.text) : undefined;
    if (token.kind === 'value')
      lexer.error(`"%${token.text}" cannot stand in an expression (write "% " for the remainder)`);
    if (!infix || infix.strength < least) return left;
    lexer.next();
    const right = parseInfix(lexer, scope, infix.strength + 1, depth);
    const dtype = COMPARISONS.has(infix.op) ? 'bool' : (left.dtype ?? right.dtype);
    left = node(lexer, infix.op, dtype, [left, right], token);
  }
}

function parsePrefix(lexer: Lexer, scope: ExprScope, depth: number): Node {
  const token = lexer.peek;
  if (depth > MAX_HEIGHT) lexer.error(`an expression is nested more than ${MAX_HEIGHT} deep`);
  if (lexer.accept('(')) {
    const inner = parseInfix(lexer, scope, 1, depth + 1);
    lexer.expect(')', 'after the expression');
    return inner;
  }
  if (lexer.accept('!')) {
    const inner = parsePrefix(lexer, scope, depth + 1);
    return node(lexer, 'not', inner.dtype, [inner], token);
  }
  if (lexer.accept('-')) {
    const inner = parsePrefix(lexer, scope, depth + 1);
    if (typeof inner.leaf === 'number' && inner.op === 'const')
      return node(lexer, 'const', inner.dtype, [], token, -inner.leaf);
    return node(lexer, 'neg', inner.dtype, [inner], token);
  }
  if (token.kind === 'number') {
    lexer.next();
    return node(lexer, 'const', undefined, [], token, token.number);
  }
  if (token.kind !== 'id') return lexer.unexpected('an expression');
  lexer.next();
  if (lexer.at('(')) return parseCall(lexer, scope, depth, token);
  if (lexer.at('[')) return parseOperand(lexer, scope, depth, token);
  const known = scope.names.get(token.text);
  if (known) return node(lexer, known.op, known.dtype, [], token, known);
  switch (token.text) {
    case 'true':
      return node(lexer, 'const', 'bool', [], token, bool(true));
    case 'false':
      return node(lexer, 'const', 'bool', [], token, bool(false));
    case 'inf':
      return node(lexer, 'const', undefined, [], token, Infinity);
    case 'nan':
      return node(lexer, 'const', undefined, [], token, NaN);
  }
  const names = [...scope.names.keys()];
  return lexer.error(`nothing is named "${token.text}" here`, token, {
    help: didYouMean(token.text, names) ?? (names.length > 0 ? `known names: ${names.join(', ')}` : undefined),
  });
}

function parseList(lexer: Lexer, scope: ExprScope, depth: number, close: string): Node[] {
  const items: Node[] = [];
  lexer.next();
  while (!lexer.at(close)) {
    if (items.length > 0) lexer.expect(',', `or "${close}" in a list`);
    items.push(parseInfix(lexer, scope, 1, depth + 1));
  }
  lexer.next();
  return items;
}

/** `min(a, b)`, `f32(a)`, `bits_i32(a)`. */
function parseCall(lexer: Lexer, scope: ExprScope, depth: number, token: Token): Node {
  const { text } = token;
  const to = text.startsWith('bits_') ? text.slice('bits_'.length) : text;
  const arity = isScalar(to) ? 1 : ARITY.get(text);
  if (arity === undefined)
    lexer.error(`there is no scalar function "${text}"`, token, { help: didYouMean(text, ARITY.keys()) });
  const args = parseList(lexer, scope, depth, ')');
  if (args.length !== arity)
    lexer.error(`${text} takes ${arity} argument${arity === 1 ? '' : 's'}, not ${args.length}`, token);
  if (isScalar(to)) return node(lexer, to === text ? 'cast' : 'bitcast', to, args, token);
  const typed = text === 'select' ? args.slice(1) : args;
  const dtype = COMPARISONS.has(text) ? 'bool' : typed.find((a) => a.dtype !== undefined)?.dtype;
  return node(lexer, text as ExprOp, dtype, args, token);
}

/** `in3[b, k]`: an element of operand 3. */
function parseOperand(lexer: Lexer, scope: ExprScope, depth: number, token: Token): Node {
  const number = /^in(\d+)$/.exec(token.text)?.[1];
  if (number === undefined) lexer.error(`expected an operand such as in0[…], found "${token.text}["`, token);
  if (!scope.operands) lexer.error('an expression here cannot read operands', token);
  const type = scope.operands[Number(number)];
  if (!type) lexer.error(`there is no operand ${number}: the op has ${scope.operands.length}`, token);
  const at = parseList(lexer, scope, depth, ']');
  if (at.length !== type.shape.length)
    lexer.error(
      `${at.length} coordinate${at.length === 1 ? '' : 's'} for ${token.text}, which is ${printType(type)}`,
      token,
    );
  return node(lexer, 'operand', type.dtype, at, token, Number(number));
}

/** The expression of a node whose untyped literals are `expected`. */
function build(lexer: Lexer, n: Node, expected: Scalar): Expr {
  const dtype = n.dtype ?? expected;
  const args = (as: Scalar): Expr[] => n.args.map((a) => build(lexer, a, as));
  const compared = (): Scalar =>
    natural(n.args.find((a) => a.dtype !== undefined) ?? n.args.find((a) => a.real) ?? n.args[0]!);
  try {
    switch (n.op) {
      case 'const':
        return typeof n.leaf === 'number' ? exactLiteral(lexer, n.leaf, dtype, n.at) : n.leaf!;
      case 'sym':
      case 'var':
        return n.leaf as Expr;
      case 'operand':
        return operand(n.leaf as number, dtype, args('i32'));
      case 'cast':
        return cast(args(natural(n.args[0]!))[0]!, dtype);
      case 'bitcast':
        return bitcast(args(natural(n.args[0]!))[0]!, dtype);
      case 'select': {
        const [c, a, b] = n.args as [Node, Node, Node];
        return select(build(lexer, c, 'bool'), build(lexer, a, dtype), build(lexer, b, dtype));
      }
      case 'fma': {
        const [a, b, c] = args(dtype) as [Expr, Expr, Expr];
        return fma(a, b, c);
      }
    }
    if (n.args.length === 1) return unary(n.op as UnaryOp, args(dtype)[0]!);
    const [a, b] = args(COMPARISONS.has(n.op) ? compared() : dtype) as [Expr, Expr];
    return binary(n.op as BinaryOp, a, b);
  } catch (error) {
    if (error instanceof TypeError) return lexer.error(error.message, n.at);
    throw error;
  }
}

/** The dtype of an expression that nothing around it types. */
const natural = (n: Node): Scalar => n.dtype ?? (n.real ? 'f32' : isWide(n) ? 'i64' : 'i32');
const isWide = (n: Node): boolean => typeof n.leaf === 'number' && n.leaf !== (n.leaf | 0);

function exactLiteral(lexer: Lexer, value: number, dtype: Scalar, at: Token): Expr {
  const e = literal(value, dtype);
  if (!isFloat(dtype) && e.arg !== value && value !== 0) lexer.error(`${value} is not a value of ${dtype}`, at);
  return e;
}
