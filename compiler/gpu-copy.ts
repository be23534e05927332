/** The kernel that moves values where a target binds buffers only from their start: into items of stacks and out of them. */
import type { Scalar } from '../ir/dtype.ts';
import { Block, buffer, type Kernel } from '../ir/kernel.ts';
import { add, ceildiv, load, lt, mul, symbol } from '../ir/scalar.ts';

/** Elements of one workgroup. */
export const COPIED = 64;

const made = new Map<string, Kernel>();

/**
 * `to[to + i] = from[from + i]` for i < count. The same object for the same type, so that programs share it.
 *
 * @param fromWeight  whether the source stands in the weights; its first buffer is then a weight
 */
export function copyKernel(dtype: Scalar, fromWeight: boolean): Kernel {
  const key = `${dtype} ${fromWeight}`;
  const known = made.get(key);
  if (known) return known;
  const size = (name: string): ReturnType<typeof symbol> => symbol(name, { min: 0, max: 2 ** 29 });
  const [count, from, to] = [size('count'), size('from'), size('to')];
  const source = buffer('source', dtype, add(from, count));
  const target = buffer('target', dtype, add(to, count), { access: 'readwrite' });
  const block = new Block();
  block.for(
    'u',
    0,
    ceildiv(count, COPIED),
    (u, group) =>
      group.for(
        't',
        0,
        COPIED,
        (t, body) => {
          const i = body.let('i', add(mul(u, COPIED), t));
          body.if(lt(i, count), (some) => some.store(target, add(to, i), load(source, add(from, i))));
        },
        { bind: 'thread.x' },
      ),
    { bind: 'grid.x' },
  );
  const kernel: Kernel = {
    kind: 'kernel',
    name: 'copy',
    buffers: [source, target],
    params: [count, from, to],
    body: block.stmts,
  };
  made.set(key, kernel);
  return kernel;
}
