/** Opening and running bundles: what `heddle/runtime` exports and every bundle carries. */
export type * from './api.ts';
export { type ErrorCode, HeddleError } from './error.ts';
export type { ElementType, Manifest, Size } from './manifest.ts';
export { open } from './open.ts';
export { fillInput } from './selftest.ts';
