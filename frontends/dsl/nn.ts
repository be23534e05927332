/** Layers: functions that own parameters. A layer's parameters are named after it, within the scope where it was made. */
import type { Float } from '../../ir/dtype.ts';
import * as convOps from '../../ir/ops/conv.ts';
import { batchNorm as batchNormOp } from '../../ir/ops/norm.ts';
import { lstm as lstmOp } from '../../ir/ops/recurrent.ts';
import type { Dim } from '../../ir/type.ts';
import { add } from './elementwise.ts';
import { type Init, init } from './init.ts';
import { matmul, linear as project } from './linear.ts';
import { concat, expand, gather } from './movement.ts';
import { layerNorm as normalise } from './reduce.ts';
import type { Agree, Check, HasRank, Last, ShowDim, WithLast } from './shapes.ts';
import { apply, call, constant, results, type Shape, type Tensor } from './tensor.ts';
import { atRoot, param, qualified } from './trace.ts';

/** A parameter of the layer `name` of the present scope; usable in any scope later. */
function owner(
  name: string,
): <const S extends readonly number[]>(part: string, shape: S, start: Init) => Tensor<'f32', S> {
  const full = qualified(name);
  return (part, shape, start) => atRoot(() => param(`${full}.${part}`, shape, start));
}

type SizeError<Op extends string, S extends Shape, N> =
  Agree<Last<S>, N> extends true
    ? never
    : `${Op}: the layer takes size ${ShowDim<N>}, the last axis has size ${ShowDim<Last<S>>}`;

export interface LinearOptions<I extends number, O extends number> {
  readonly in: I;
  readonly out: O;
  /** Default true. */
  readonly bias?: boolean;
  readonly init?: Init;
  readonly biasInit?: Init;
  /** How the checkpoint stores the weight: `out-in` as PyTorch's Linear (default), `in-out` as GPT-2's Conv1D. */
  readonly layout?: 'out-in' | 'in-out';
}
/** x · weightᵀ + bias over the last axis. Parameters `name.weight` and `name.bias`. */
export function linear<const I extends number, const O extends number>(name: string, options: LinearOptions<I, O>) {
  const {
    in: inner,
    out,
    bias = true,
    init: start = init.xavierUniform(inner, out),
    biasInit = init.zeros,
    layout = 'out-in',
  } = options;
  const own = owner(name);
  return <D extends Float, S extends Shape>(
    x: Check<Tensor<D, S>, SizeError<'linear', S, I>>,
  ): Tensor<D, WithLast<S, O>> => {
    const input = x as Tensor<'f32'>;
    const weight = own('weight', (layout === 'out-in' ? [out, inner] : [inner, out]) as readonly number[], start);
    const offset = bias ? own('bias', [out], biasInit) : undefined;
    if (layout === 'out-in') return project(input, weight, offset) as Tensor as never;
    const product = matmul(input, weight);
    return (offset ? add(product, offset) : product) as Tensor as never;
  };
}

/** Normalisation of the last axis with learned scale and shift. Parameters `name.weight` and `name.bias`. */
export function layerNorm<const N extends number>(name: string, options: { readonly size: N; readonly eps?: number }) {
  const { size, eps = 1e-5 } = options;
  const own = owner(name);
  return <D extends Float, S extends Shape>(x: Check<Tensor<D, S>, SizeError<'layerNorm', S, N>>): Tensor<D, S> =>
    normalise(
      x as Tensor<'f32'>,
      own('weight', [size as number], init.ones),
      own('bias', [size as number], init.zeros),
      eps,
    ) as Tensor as never;
}

/** Rows of a table by number. Parameter `name.weight` [rows, width]. */
export function embedding<const W extends number>(
  name: string,
  options: { readonly rows: number; readonly width: W; readonly init?: Init },
) {
  const { rows, width, init: start = init.normal(1) } = options;
  const own = owner(name);
  const table = (): Tensor<'f32', readonly [number, W]> => own('weight', [rows, width], start);
  const look = <I extends Shape>(
    ids: Tensor<'i64' | 'i32', I>,
  ): Tensor<'f32', HasRank<I> extends true ? readonly [...I, W] : Shape> => gather(table(), ids) as Tensor as never;
  /** The table itself, for output projections tied to it. */
  return Object.assign(look, { table });
}

export interface ConvOptions {
  readonly in: number;
  readonly out: number;
  /** Size of the window on each spatial axis. */
  readonly kernel: readonly number[];
  readonly strides?: readonly number[];
  /** Before each axis, then after each axis. */
  readonly pads?: readonly number[];
  readonly groups?: number;
  readonly bias?: boolean;
  readonly init?: Init;
  readonly biasInit?: Init;
}
/** Cross-correlation of [B, in, …]. Parameters `name.weight` [out, in ÷ groups, kernel…] and `name.bias`. */
export function conv(name: string, options: ConvOptions) {
  const {
    kernel,
    strides = kernel.map(() => 1),
    pads = [...kernel, ...kernel].map(() => 0),
    groups = 1,
    bias = true,
  } = options;
  const fanIn = (options.in / groups) * kernel.reduce((n, k) => n * k, 1);
  const { init: start = init.fanIn(fanIn), biasInit = init.fanIn(fanIn) } = options;
  const own = owner(name);
  return <D extends Float>(x: Tensor<D>): Tensor<D, readonly Dim[]> => {
    const weight: Tensor = own('weight', [options.out, options.in / groups, ...kernel], start);
    return apply(convOps.conv, bias ? [x, weight, own('bias', [options.out], biasInit)] : [x, weight], {
      strides,
      pads,
      groups,
    });
  };
}

/**
 * Inference normalisation of the channels of [B, C, …] by recorded statistics. Parameters `name.weight`, `name.bias`,
 * `name.running_mean` and `name.running_var`.
 */
export function batchNorm(name: string, options: { readonly channels: number; readonly eps?: number }) {
  const { channels, eps = 1e-5 } = options;
  const own = owner(name);
  const vector = (part: string, start: Init): Tensor => own(part, [channels], start);
  return <D extends Float, S extends Shape>(x: Tensor<D, S>): Tensor<D, S> =>
    apply(
      batchNormOp,
      [
        x,
        vector('weight', init.ones),
        vector('bias', init.zeros),
        vector('running_mean', init.zeros),
        vector('running_var', init.ones),
      ],
      { eps },
    );
}

/**
 * LSTM over a sequence, gates i, f, g, o. T steps, B batch, I in, H out.
 *
 * Parameters as PyTorch's one-layer LSTM: `name.weight_ih_l0` [4H, I], `name.weight_hh_l0` [4H, H], `name.bias_ih_l0` and
 * `name.bias_hh_l0` [4H]; all start uniform in ±1/√H.
 */
export function lstm<const I extends number, const O extends number>(
  name: string,
  options: { readonly in: I; readonly out: O },
) {
  const { in: inner, out } = options;
  const own = owner(name);
  const start = init.fanIn(out);
  /**
   * @param x f32[T, B, I]
   * @param initial hidden and cell state f32[B, H]; zeros when absent
   * @param lengths i32[B], for rows shorter than T: outputs past a row's length are zero and its state is kept
   * @returns y f32[T, B, H] and the last states f32[B, H]
   */
  return <S extends Shape>(
    x: Check<Tensor<'f32', S>, SizeError<'lstm', S, I>>,
    initial?: { readonly h: Tensor<'f32'>; readonly c: Tensor<'f32'> },
    lengths?: Tensor<'i32'>,
  ): { readonly y: Tensor<'f32', WithLast<S, O>>; readonly h: Tensor<'f32'>; readonly c: Tensor<'f32'> } => {
    const sequence = x as Tensor<'f32'>;
    const zeros = (): Tensor<'f32'> =>
      expand(constant('f32', [1, 1], [0]), [sequence.shape[1]!, out] as readonly Dim[]);
    const bias = concat([own('bias_ih_l0', [4 * out], start), own('bias_hh_l0', [4 * out], start)], 0);
    const operands = [
      sequence,
      own('weight_ih_l0', [4 * out, inner], start),
      own('weight_hh_l0', [4 * out, out], start),
      bias,
      initial?.h ?? zeros(),
      initial?.c ?? zeros(),
      ...(lengths ? [lengths] : []),
    ];
    const [y, h, c] = results(call(lstmOp, operands, {}));
    return { y, h, c } as unknown as { y: Tensor<'f32', WithLast<S, O>>; h: Tensor<'f32'>; c: Tensor<'f32'> };
  };
}
