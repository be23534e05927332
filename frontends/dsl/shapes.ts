/** Shapes at the type level: what the editor knows before anything runs. Unknown sizes agree with every size. */
import type { Scalar } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import type { Dim } from '../../ir/type.ts';
import type { Named, Shape, Tensor } from './tensor.ts';

/** `T` while there is no error; otherwise the error's text, which no argument fits: the editor shows that text. */
export type Check<T, E> = [E] extends [never] ? T : E;

export type ShapeOf<T> = T extends Tensor<Scalar, infer S> ? S : readonly [];
export type DtypeOf<A, B = never> = A extends Tensor<infer D> ? D : B extends Tensor<infer D> ? D : Scalar;

type IsUnknown<D> = number extends D ? true : Expr extends D ? true : false;
/** Whether the number of axes is known. */
export type HasRank<S extends Shape> = number extends S['length'] ? false : true;
/** Whether two sizes may be equal. */
export type Agree<A, B> =
  IsUnknown<A> extends true ? true : IsUnknown<B> extends true ? true : [A] extends [B] ? true : false;

export type ShowDim<D> =
  IsUnknown<D> extends true ? '?' : D extends number ? `${D}` : D extends Named<infer N> ? N : '?';
type Joined<S extends Shape> = S extends readonly [infer D]
  ? ShowDim<D>
  : S extends readonly [infer D, ...infer Rest extends Shape]
    ? `${ShowDim<D>}, ${Joined<Rest>}`
    : '';
export type Show<S extends Shape> = HasRank<S> extends true ? `[${Joined<S>}]` : '[...]';

/** The size that two sizes broadcast to. */
type Wider<A, B> = A extends 1 ? B : B extends 1 ? A : IsUnknown<A> extends true ? B : A;

/** The shape that two shapes broadcast to: last axes align, size 1 stretches. */
export type Broadcast<A extends Shape, B extends Shape> =
  HasRank<A> extends false
    ? Shape
    : HasRank<B> extends false
      ? Shape
      : A extends readonly [...infer AI extends Shape, infer AL extends Dim]
        ? B extends readonly [...infer BI extends Shape, infer BL extends Dim]
          ? readonly [...Broadcast<AI, BI>, Wider<AL, BL> & Dim]
          : A
        : B;

/** Sizes that clash, from the last axis on, as a message; never when the shapes broadcast. */
export type BroadcastError<Op extends string, A extends Shape, B extends Shape> =
  Clash<A, B> extends infer E extends string ? `${Op}: ${E}, shapes ${Show<A>} and ${Show<B>}` : never;
type Clash<A extends Shape, B extends Shape> =
  HasRank<A> extends false
    ? never
    : HasRank<B> extends false
      ? never
      : A extends readonly [...infer AI extends Shape, infer AL]
        ? B extends readonly [...infer BI extends Shape, infer BL]
          ? AL extends 1
            ? Clash<AI, BI>
            : BL extends 1
              ? Clash<AI, BI>
              : Agree<AL, BL> extends true
                ? Clash<AI, BI>
                : `sizes ${ShowDim<AL>} and ${ShowDim<BL>} do not broadcast`
          : never
        : never;

export type DtypeError<Op extends string, A, B> =
  A extends Tensor<infer DA>
    ? B extends Tensor<infer DB>
      ? Scalar extends DA
        ? never
        : Scalar extends DB
          ? never
          : [DA] extends [DB]
            ? never
            : `${Op}: dtypes differ, ${DA} and ${DB}; cast one of them`
      : never
    : never;
/** What is wrong with the operands of an elementwise op of two. */
export type PairError<Op extends string, A, B> = BroadcastError<Op, ShapeOf<A>, ShapeOf<B>> | DtypeError<Op, A, B>;

export type Last<S extends Shape> = S extends readonly [...Shape, infer L extends Dim] ? L : Dim;
/** All axes but the last. */
export type Front<S extends Shape> = S extends readonly [...infer I extends Shape, Dim] ? I : Shape;
/** The shape with another last axis. */
export type WithLast<S extends Shape, L extends Dim> = HasRank<S> extends true ? readonly [...Front<S>, L] : Shape;
