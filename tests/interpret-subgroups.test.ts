/** What subgroups make of values on the host: how the interpreter puts invocations together, and what it refuses. */
import test from 'ava';
import type { Expr } from '../ir/expr.ts';
import { KernelFault, runKernel, type Subgroups } from '../ir/interpret.ts';
import { Block, buffer, type Kernel, type SubgroupOp } from '../ir/kernel.ts';
import { printKernel } from '../ir/kernel-text.ts';
import { add, literal, load, lt, splat } from '../ir/scalar.ts';

const x = buffer('x', 'f32', 8);
const y = buffer('y', 'f32', 8, { access: 'write' });

/** A workgroup of eight invocations. */
function group(body: (t: Expr, block: Block) => void, buffers = [x, y]): Kernel {
  const block = new Block();
  block.for('g', 0, 1, (_, inner) => inner.for('t', 0, 8, body, { bind: 'thread.x' }), { bind: 'grid.x' });
  return { kind: 'kernel', name: 'members', buffers, params: [], body: block.stmts };
}

const run = (kernel: Kernel, data: readonly number[], subgroups?: Subgroups): number[] => {
  const out = new Float32Array(8);
  runKernel(kernel, {
    buffers: new Map([
      [x, Float32Array.from(data)],
      [y, out],
    ]),
    subgroups,
  });
  return [...out];
};

const joining = (op: SubgroupOp): Kernel =>
  group((t, b) => {
    const v = b.subgroup('v', op, load(x, t));
    b.store(y, t, v);
  });
const COUNTED = [1, 2, 3, 4, 5, 6, 7, 8];

test('each member has what all of its subgroup hold together', (t) => {
  t.deepEqual(run(joining('add'), COUNTED, { size: 4 }), [10, 10, 10, 10, 26, 26, 26, 26]);
  t.deepEqual(run(joining('mul'), COUNTED, { size: 4 }), [24, 24, 24, 24, 1680, 1680, 1680, 1680]);
  t.deepEqual(run(joining('min'), COUNTED, { size: 4 }), [1, 1, 1, 1, 5, 5, 5, 5]);
  t.deepEqual(run(joining('max'), COUNTED, { size: 16 }), Array(8).fill(8));
  t.deepEqual(run(joining('before'), COUNTED, { size: 4 }), [0, 1, 3, 6, 0, 5, 11, 18]);
  t.deepEqual(run(joining('add'), COUNTED), Array(8).fill(36));
});

test('the last subgroup may lack members, and members may be far apart', (t) => {
  t.deepEqual(run(joining('add'), COUNTED, { size: 3 }), [6, 6, 6, 15, 15, 15, 15, 15]);
  t.deepEqual(run(joining('add'), COUNTED, { size: 4, scattered: true }), [16, 20, 16, 20, 16, 20, 16, 20]);
  t.deepEqual(run(joining('before'), COUNTED, { size: 3, scattered: true }), [0, 0, 0, 1, 2, 3, 5, 7]);
});

test('NaN spreads through minimum and maximum, and sums are rounded at each step', (t) => {
  const some = [1, Number.NaN, 3, 4, 5, 6, 7, 8];
  for (const op of ['min', 'max'] as const)
    t.deepEqual(run(joining(op), some, { size: 4 }), [
      ...Array(4).fill(Number.NaN),
      ...Array(4).fill(op === 'min' ? 5 : 8),
    ]);
  t.deepEqual(run(joining('add'), [2 ** 24, 1, 1, 1, 0, 0, 0, 0], { size: 4 }).slice(0, 1), [2 ** 24]);
});

test('vectors are joined lane by lane', (t) => {
  const kernel = group((i, b) => {
    const v = b.subgroup('v', 'add', splat(load(x, i), 4));
    b.if(lt(i, 1), (first) => first.store(y, 0, v));
  });
  t.deepEqual(run(kernel, COUNTED, { size: 4 }), [10, 10, 10, 10, 0, 0, 0, 0]);
});

test('subgroups go their own ways between barriers, each as one', (t) => {
  const halves = group((i, b) =>
    b.if(lt(i, 4), (low) => {
      const v = low.subgroup('v', 'add', load(x, i));
      low.store(y, i, v);
    }),
  );
  t.deepEqual(run(halves, COUNTED, { size: 4 }), [10, 10, 10, 10, 0, 0, 0, 0]);
  t.throws(() => run(halves, COUNTED, { size: 8 }), {
    instanceOf: KernelFault,
    message: /4 of 8 invocations of a subgroup join values while others do not \(workgroup 0\)/,
  });
  const crossed = group((i, b) =>
    b.if(
      lt(i, 2),
      (low) => low.store(y, i, low.subgroup('v', 'add', load(x, i))),
      (high) => high.store(y, i, high.subgroup('w', 'add', load(x, i))),
    ),
  );
  t.throws(() => run(crossed, COUNTED, { size: 8 }), { message: /2 of 8 invocations of a subgroup join values/ });
});

test('joining values orders no memory', (t) => {
  const shared = buffer('shared', 'f32', 8, { space: 'shared', access: 'readwrite' });
  const racing = (meet: (b: Block) => void): Kernel =>
    group(
      (i, b) => {
        b.store(shared, i, load(x, i));
        meet(b);
        b.store(y, i, load(shared, add(i, literal(0)) === i ? literal(7) : i));
      },
      [x, y, shared],
    );
  t.deepEqual(
    run(
      racing((b) => b.barrier()),
      COUNTED,
    ),
    Array(8).fill(8),
  );
  t.throws(
    () =>
      run(
        racing((b) => void b.subgroup('v', 'add', literal(1))),
        COUNTED,
      ),
    { message: /data race on shared\[7\]/ },
  );
});

test('a kernel says what its subgroups join', (t) => {
  t.regex(printKernel(joining('before')), /^ *let v: f32 = subgroup before x\[t\]$/m);
});
