/** Every operator: importing this file fills the registry. */
export * as elementwise from './elementwise.ts';
export * as shape from './shape.ts';
export * as index from './index.ts';
export * as random from './random.ts';
export * as reduce from './reduce.ts';
export * as order from './order.ts';
export * as structural from './structural.ts';
