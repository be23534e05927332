/**
 * What went wrong: `source` a file could not be read, `manifest` it is malformed, `integrity` bytes differ from their
 * hash or length, `support` the host lacks something, `memory` it has too little, `option` a bad argument of `open` or
 * `run`, `input` a bad input, `kernel` a kernel trapped or a thread died, `device` the GPU device was lost,
 * `disposed` the session is closed.
 */
export type ErrorCode =
  | 'source'
  | 'manifest'
  | 'integrity'
  | 'support'
  | 'memory'
  | 'option'
  | 'input'
  | 'kernel'
  | 'device'
  | 'disposed';

/** Every error that the runtime throws on its own, besides the reason of an aborted signal. */
export class HeddleError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(`heddle: ${message}`, options);
    this.name = 'HeddleError';
    this.code = code;
  }
}
