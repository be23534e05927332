/** Values of scalar expressions: the reference meaning of masks, of pointwise lowerings, and of kernel bodies. */
import { type Float, isFloat, isInt, roundHalfEven, roundTo, type Scalar, sizeOf } from './dtype.ts';
import { type Expr, exprNodes } from './expr.ts';
import { INTRINSICS, type IntrinsicName } from './intrinsics.ts';
import { foldScalar } from './simplify.ts';
import { erf } from './special.ts';

/** `f64` keeps floats at double precision; `f32` rounds the result of every operator to its dtype. */
export type Precision = 'f64' | 'f32';

export interface ExprEnv {
  /**
   * The value of a `sym`, `var`, `operand` or `load`. `at` holds the evaluated coordinates of an `operand`, or the flat
   * index of a `load`, with `lane` already added.
   */
  value(leaf: Expr, at: readonly number[], lane: number): number;
  /** The meaning of an `intrinsic`; absent: that of `intrinsics.ts`. */
  intrinsic?(e: Expr, args: readonly number[]): number;
}

/** Functions that only this file knows how to compute; constant folding leaves them alone. */
const MATH: Partial<Record<Expr['op'], (x: number) => number>> = {
  exp: Math.exp,
  log: Math.log,
  tanh: Math.tanh,
  erf,
  sin: Math.sin,
  cos: Math.cos,
  floor: Math.floor,
  ceil: Math.ceil,
  trunc: Math.trunc,
  round: roundHalfEven,
  sqrt: Math.sqrt,
  neg: (x) => -x,
  abs: Math.abs,
};
const FLOAT: Partial<Record<Expr['op'], (a: number, b: number, c: number) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  rem: (a, b) => a % b,
  fma: (a, b, c) => a * b + c,
};

const view = new DataView(new ArrayBuffer(8));

/** The bits of `x` in `from`, read as `to`, which has the same width. */
export function reinterpret(x: number, from: Scalar, to: Scalar): number {
  switch (from) {
    case 'f64':
      view.setFloat64(0, x);
      break;
    case 'f32':
      view.setFloat32(0, x);
      break;
    case 'i64':
    case 'u64':
      view.setBigInt64(0, BigInt.asIntN(64, BigInt(x)));
      break;
    case 'i32':
    case 'u32':
      view.setInt32(0, x | 0);
      break;
    case 'f16':
      view.setUint16(0, halfBits(x));
      break;
    case 'bf16':
      view.setFloat32(0, x);
      break;
    case 'i16':
    case 'u16':
      view.setInt16(0, x);
      break;
    default:
      view.setInt8(0, x);
  }
  switch (to) {
    case 'f64':
      return view.getFloat64(0);
    case 'f32':
      return view.getFloat32(0);
    case 'i64':
      return Number(view.getBigInt64(0));
    case 'u64':
      return Number(view.getBigUint64(0));
    case 'i32':
      return view.getInt32(0);
    case 'u32':
      return view.getUint32(0);
    case 'f16':
      return fromHalfBits(view.getUint16(0));
    case 'bf16':
      view.setUint16(2, 0);
      return view.getFloat32(0);
    case 'i16':
      return view.getInt16(0);
    case 'u16':
      return view.getUint16(0);
    case 'i8':
      return view.getInt8(0);
    default:
      return view.getUint8(0);
  }
}

/** IEEE binary16 bits of a member of f16. */
export function halfBits(x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const a = Math.abs(x);
  if (Number.isNaN(x)) return 0x7e00;
  if (a === Infinity) return sign | 0x7c00;
  if (a < 2 ** -14) return sign | Math.round(a * 2 ** 24);
  view.setFloat32(0, a);
  const exponent = (view.getUint32(0) >>> 23) - 127;
  return sign | ((exponent + 15) << 10) | (a / 2 ** (exponent - 10) - 1024);
}
/** The member of f16 with these IEEE binary16 bits. */
export function fromHalfBits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** One operator on one lane. Integers wrap; a division of integers by zero is an error. */
function apply(e: Expr, args: readonly number[], precision: Precision): number {
  const [a = 0, b = 0, c = 0] = args;
  const { dtype, op } = e;
  const from = e.args[0]!.dtype;
  if (op === 'bitcast') return reinterpret(a, from, dtype);
  if (isFloat(dtype)) {
    const round = (x: number): number => (precision === 'f64' ? x : roundTo(dtype satisfies Float, x));
    const f = MATH[op] ?? FLOAT[op];
    if (f) return round(f(a, b, c));
    if (op === 'cast') return precision === 'f64' && isFloat(from) && sizeOf(dtype) >= 4 ? a : roundTo(dtype, a);
    if (op === 'pow' && precision === 'f64') return foldScalar(op, 'f64', args, 'f64')!;
  } else if (op === 'fma' && isInt(dtype)) {
    return foldScalar('add', dtype, [foldScalar('mul', dtype, [a, b], dtype)!, c], dtype)!;
  }
  const value = foldScalar(op, dtype, args, from);
  if (value === undefined) throw new RangeError(`${op} of ${dtype} has no value at (${args.join(', ')})`);
  return value;
}

/** An expression as a straight line: each node once, operands first, with the slots of its operands. */
interface Program {
  readonly nodes: readonly Expr[];
  readonly args: readonly (readonly number[])[];
}
const programs = new WeakMap<Expr, Program>();

function programOf(root: Expr): Program {
  let program = programs.get(root);
  if (!program) {
    const nodes = exprNodes(root);
    const slot = new Map(nodes.map((e, i) => [e, i]));
    program = { nodes, args: nodes.map((e) => e.args.map((a) => slot.get(a)!)) };
    programs.set(root, program);
  }
  return program;
}

/** The value of each lane of an expression. Both sides of every `select` are evaluated. */
export function evaluateLanes(root: Expr, env: ExprEnv, precision: Precision = 'f32'): readonly number[] {
  const { nodes, args } = programOf(root);
  const values: (readonly number[])[] = [];
  for (const [i, e] of nodes.entries()) {
    const operands = args[i]!.map((slot) => values[slot]!);
    values.push(lanesOf(e, operands, env, precision));
  }
  return values.at(-1)!;
}

function lanesOf(
  e: Expr,
  operands: readonly (readonly number[])[],
  env: ExprEnv,
  precision: Precision,
): readonly number[] {
  const each = (f: (lane: number) => number): number[] => {
    const lanes = new Array<number>(e.lanes);
    for (let lane = 0; lane < e.lanes; lane++) lanes[lane] = f(lane);
    return lanes;
  };
  switch (e.op) {
    case 'const':
      return each(() => e.arg as number);
    case 'sym':
    case 'var':
    case 'operand':
      return each((lane) =>
        env.value(
          e,
          operands.map((o) => o[0]!),
          lane,
        ),
      );
    case 'load':
      return each((lane) => env.value(e, [operands[0]![0]! + lane], lane));
    case 'splat':
      return each(() => operands[0]![0]!);
    case 'extract':
      return [operands[0]![e.arg as number]!];
    case 'vec':
      return operands.map((o) => o[0]!);
    case 'shuffle': {
      const both = [...operands[0]!, ...operands[1]!];
      return (e.arg as string).split(',').map((lane) => both[Number(lane)]!);
    }
    case 'intrinsic':
      return each((lane) =>
        intrinsic(
          e,
          operands.map((o) => o[lane] ?? o[0]!),
          env,
        ),
      );
    default:
      return each((lane) =>
        apply(
          e,
          operands.map((o) => o[lane] ?? o[0]!),
          precision,
        ),
      );
  }
}

function intrinsic(e: Expr, args: readonly number[], env: ExprEnv): number {
  if (env.intrinsic) return env.intrinsic(e, args);
  const name = String(e.arg);
  if (!Object.hasOwn(INTRINSICS, name)) throw new RangeError(`intrinsic ${name} has no meaning here`);
  const meaning: (...lane: number[]) => number = INTRINSICS[name as IntrinsicName];
  return meaning(...args);
}

/** The value of an expression of one lane; booleans are 0 and 1. */
export function evaluateExpr(e: Expr, env: ExprEnv, precision: Precision = 'f32'): number {
  if (e.lanes !== 1) throw new RangeError(`${e.op} has ${e.lanes} lanes; use evaluateLanes`);
  return evaluateLanes(e, env, precision)[0]!;
}
