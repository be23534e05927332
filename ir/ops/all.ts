/** Every operator: importing this file fills the registry. */
export * as attention from './attention.ts';
export * as control from './control.ts';
export * as conv from './conv.ts';
export * as counted from './counted.ts';
export * as einsum from './einsum.ts';
export * as elementwise from './elementwise.ts';
export * as index from './index.ts';
export * as linear from './linear.ts';
export * as norm from './norm.ts';
export * as order from './order.ts';
export * as pool from './pool.ts';
export * as quantize from './quantize.ts';
export * as random from './random.ts';
export * as recurrent from './recurrent.ts';
export * as reduce from './reduce.ts';
export * as shape from './shape.ts';
export * as structural from './structural.ts';
