/** Shapes at the type level: what the editor knows before anything runs. Unknown sizes agree with every size. */
import type { Float, Scalar } from '../../ir/dtype.ts';
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
type Wider<A extends Dim, B extends Dim> = A extends 1 ? B : B extends 1 ? A : IsUnknown<A> extends true ? B : A;

/** The shape that two shapes broadcast to: last axes align, size 1 stretches. */
export type Broadcast<A extends Shape, B extends Shape> =
  HasRank<A> extends false
    ? Shape
    : HasRank<B> extends false
      ? Shape
      : A extends readonly [...infer AI extends Shape, infer AL extends Dim]
        ? B extends readonly [...infer BI extends Shape, infer BL extends Dim]
          ? readonly [...Broadcast<AI, BI>, Wider<AL, BL>]
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
/** What is wrong with the operands of an elementwise op of two: one complaint at a time. */
export type PairError<Op extends string, A, B> = FirstError<
  DtypeError<Op, A, B>,
  BroadcastError<Op, ShapeOf<A>, ShapeOf<B>>
>;
/** The first error where there are two: an editor cannot show both in one line. */
export type FirstError<E, F> = [E] extends [never] ? F : E;
/** An op of floats given something else. */
export type FloatError<Op extends string, D extends Scalar> = Scalar extends D
  ? never
  : [D] extends [Float]
    ? never
    : `${Op}: takes floats, not ${D}; cast it`;

export type Last<S extends Shape> = S extends readonly [...Shape, infer L extends Dim] ? L : Dim;
/** All axes but the last. */
export type Front<S extends Shape> = S extends readonly [...infer I extends Shape, Dim] ? I : Shape;
/** The shape with another last axis. */
export type WithLast<S extends Shape, L extends Dim> = HasRank<S> extends true ? readonly [...Front<S>, L] : Shape;

/** `S` without its last `N` axes; never when there are fewer. */
type DropLast<S extends Shape, N extends number, Count extends readonly 0[] = []> = Count['length'] extends N
  ? S
  : S extends readonly [...infer I extends Shape, Dim]
    ? DropLast<I, N, [...Count, 0]>
    : never;
/** Position of an axis, negative ones counted from the end; never when it does not exist. */
type IndexOf<S extends Shape, A extends number> = `${A}` extends `-${infer N extends number}`
  ? [DropLast<S, N>] extends [never]
    ? never
    : DropLast<S, N>['length']
  : `${A}` extends keyof S
    ? A
    : never;
/** Whether both the rank and the axis are known, so that types can say more. */
type CanIndex<S extends Shape, A extends number> = HasRank<S> extends true ? (number extends A ? false : true) : false;
export type AxisError<Op extends string, S extends Shape, A extends number> =
  CanIndex<S, A> extends false
    ? never
    : [IndexOf<S, A>] extends [never]
      ? `${Op}: axis ${A} does not exist in shape ${Show<S>}`
      : never;

type SetAt<S extends Shape, I extends number, D extends Dim> = {
  readonly [K in keyof S]: K extends `${I}` ? D : S[K];
};
/** The shape with another size on one axis. */
export type WithAxis<S extends Shape, A extends number, D extends Dim> =
  CanIndex<S, A> extends true
    ? SetAt<S, IndexOf<S, A>, D>
    : HasRank<S> extends true
      ? { readonly [K in keyof S]: Dim }
      : Shape;

type RemoveAt<S extends Shape, I extends number, Count extends readonly 0[] = []> = S extends readonly [
  infer H extends Dim,
  ...infer R extends Shape,
]
  ? Count['length'] extends I
    ? R
    : readonly [H, ...RemoveAt<R, I, [...Count, 0]>]
  : S;
/** The shape without one axis. */
export type WithoutAxis<S extends Shape, A extends number> =
  CanIndex<S, A> extends true ? RemoveAt<S, IndexOf<S, A>> : Shape;

type InsertAt<
  S extends Shape,
  I extends number,
  D extends Dim,
  Count extends readonly 0[] = [],
> = Count['length'] extends I
  ? readonly [D, ...S]
  : S extends readonly [infer H extends Dim, ...infer R extends Shape]
    ? readonly [H, ...InsertAt<R, I, D, [...Count, 0]>]
    : Shape;
/** The shape with a size-1 axis in front of axis `A` ≥ 0. */
export type WithNewAxis<S extends Shape, A extends number> =
  CanIndex<S, A> extends true ? (`${A}` extends `-${string}` ? Shape : InsertAt<S, A, 1>) : Shape;

/** Sizes off the joined axis must agree with the first tensor's. */
export type ConcatError<Xs extends readonly Tensor[], A extends number> = Xs extends readonly [
  infer First extends Tensor,
  ...infer Rest extends readonly Tensor[],
]
  ? FirstError<AxisError<'concat', ShapeOf<First>, A>, JoinError<First, Rest, A>>
  : never;
type JoinError<First extends Tensor, Rest extends readonly Tensor[], A extends number> = Rest extends readonly [
  infer X extends Tensor,
  ...infer More extends readonly Tensor[],
]
  ? FirstError<
      DtypeError<'concat', First, X>,
      FirstError<OffAxis<ShapeOf<First>, ShapeOf<X>, A>, JoinError<First, More, A>>
    >
  : never;
type OffAxis<S extends Shape, X extends Shape, A extends number> =
  CanIndex<S, A> extends false
    ? never
    : HasRank<X> extends false
      ? never
      : S['length'] extends X['length']
        ? AgreeAll<WithoutAxis<S, A>, WithoutAxis<X, A>> extends true
          ? never
          : `concat: sizes off axis ${A} differ, shapes ${Show<S>} and ${Show<X>}`
        : `concat: ranks differ, shapes ${Show<S>} and ${Show<X>}`;
type AgreeAll<S extends Shape, X extends Shape> = S extends readonly [infer H, ...infer R extends Shape]
  ? X extends readonly [infer G, ...infer Q extends Shape]
    ? Agree<H, G> extends true
      ? AgreeAll<R, Q>
      : false
    : true
  : true;

/** What folding leaves: nothing when no axis is named, an unknown shape when several are. */
export type Folded<S extends Shape, F> = F extends { readonly axes: infer A }
  ? A extends number
    ? F extends { readonly keepdims: true }
      ? WithAxis<S, A, 1>
      : F extends { readonly keepdims: infer K }
        ? K extends false
          ? WithoutAxis<S, A>
          : Shape
        : WithoutAxis<S, A>
    : Shape
  : F extends { readonly keepdims: infer K }
    ? K extends false
      ? readonly []
      : Shape
    : readonly [];
export type FoldError<Op extends string, S extends Shape, F> = F extends { readonly axes: infer A extends number }
  ? AxisError<Op, S, A>
  : never;

/** A size by position, where the compiler has lost sight of its being one. */
export type SizeAt<S extends Shape, I> = I extends keyof S ? (S[I] extends Dim ? S[I] : Dim) : Dim;

/** [B, C, …] with other spatial sizes. */
export type WithPool<S extends Shape> = S extends readonly [
  infer B extends Dim,
  infer C extends Dim,
  ...infer R extends Shape,
]
  ? readonly [B, C, ...{ readonly [K in keyof R]: Dim }]
  : Shape;
