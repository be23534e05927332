/** Layers: functions that own parameters. A layer's parameters are named after it, within the scope where it was made. */
import type { Float } from '../../ir/dtype.ts';
import * as convOps from '../../ir/ops/conv.ts';
import type { Dim } from '../../ir/type.ts';
import { add } from './elementwise.ts';
import { type Init, init } from './init.ts';
import { matmul, linear as project } from './linear.ts';
import { gather } from './movement.ts';
import { layerNorm as normalise } from './reduce.ts';
import type { Agree, Check, HasRank, Last, ShowDim, WithLast } from './shapes.ts';
import { apply, type Shape, type Tensor } from './tensor.ts';
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
