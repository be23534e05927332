/**
 * Calls by name. The gradient of a sum is a broadcast and the gradient of a broadcast is a sum; modules that need each
 * other this way would import in a circle, so one side finds the other in the registry when it is called.
 */
import type { Attrs, Value } from '../graph.ts';
import { makeValue, opNamed } from '../op.ts';

/** A value of the op of that name. @throws Error when no imported module defines it */
export function late(name: string, inputs: readonly Value[], attrs: Attrs = {}): Value {
  const op = opNamed(name);
  if (!op) throw new Error(`op ${name} is not defined; import the module that defines it`);
  return makeValue(op, inputs, attrs);
}
