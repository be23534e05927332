/** How a parameter starts out, as data: the weight store of `zoo/seeded.ts` makes the values. */
export type Init =
  | { readonly kind: 'constant'; readonly value: number }
  /** Gaussian of mean 0. */
  | { readonly kind: 'normal'; readonly std: number }
  /** Gaussian of mean 0 whose draws beyond two standard deviations are drawn again. */
  | { readonly kind: 'truncatedNormal'; readonly std: number }
  | { readonly kind: 'uniform'; readonly bound: number }
  /** Frozen 2-D positions `[1, grid² + 1, width]` of MAE: `[sin x | cos x | sin y | cos y]`, zeros for the class token. */
  | { readonly kind: 'sinCos2d'; readonly grid: number };

export const init = {
  zeros: { kind: 'constant', value: 0 },
  ones: { kind: 'constant', value: 1 },
  constant: (value: number): Init => ({ kind: 'constant', value }),
  normal: (std: number): Init => ({ kind: 'normal', std }),
  truncatedNormal: (std: number): Init => ({ kind: 'truncatedNormal', std }),
  /** Uniform in ±√(6 / (fanIn + fanOut)) (Glorot & Bengio 2010). */
  xavierUniform: (fanIn: number, fanOut: number): Init => ({ kind: 'uniform', bound: Math.sqrt(6 / (fanIn + fanOut)) }),
  /** Uniform in ±1/√fanIn: what PyTorch gives to convolutions and their biases unless told otherwise. */
  fanIn: (fanIn: number): Init => ({ kind: 'uniform', bound: 1 / Math.sqrt(fanIn) }),
  sinCos2d: (grid: number): Init => ({ kind: 'sinCos2d', grid }),
} as const satisfies Record<string, Init | ((...args: never[]) => Init)>;
