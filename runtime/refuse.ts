/** How inputs are refused. */
import { HeddleError } from './error.ts';
import type { Port, Size } from './manifest.ts';

/** @throws HeddleError `input` */
export function refuse(port: Port, why: string, help: string): never {
  const dims = port.shape.map(sizeText).join(', ');
  throw new HeddleError('input', `input "${port.name}" (${port.dtype}[${dims}]) ${why}. ${help}`);
}

/** A size for people: `n`, `2·n + 1`. */
export function sizeText(size: Size): string {
  if (typeof size !== 'object') return String(size);
  const [op, a, b] = [size[0], sizeText(size[1]), sizeText(size[2])];
  return op === 'min' || op === 'max' ? `${op}(${a}, ${b})` : `(${a} ${op} ${b})`;
}
