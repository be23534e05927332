/** All elementwise ops. */
export * from './elementwise-activation.ts';
export * from './elementwise-binary.ts';
export * from './elementwise-trigonometry.ts';
export * from './elementwise-unary.ts';
