import test from 'ava';
import fc from 'fast-check';
import type { Buffer } from '../ir/expr.ts';
import { KernelFault, type Numbers, type RunKernelOptions, runKernel } from '../ir/interpret.ts';
import { scalarFunction } from '../ir/interpret-scalar.ts';
import { Block, buffer, type Kernel } from '../ir/kernel.ts';
import { printKernel } from '../ir/kernel-text.ts';
import {
  add,
  bitcast,
  cast,
  exp,
  extract,
  floordiv,
  fma,
  literal,
  load,
  lt,
  mul,
  select,
  shuffle,
  splat,
  sumLanes,
  symbol,
  variable,
  vec,
} from '../ir/scalar.ts';
import { foldScalar } from '../ir/simplify.ts';

function kernel(
  name: string,
  buffers: readonly Buffer[],
  write: (block: Block) => void,
  params: Kernel['params'] = [],
): Kernel {
  const block = new Block();
  write(block);
  return { kind: 'kernel', name, buffers, params, body: block.stmts };
}

/** Runs a kernel on one input and one output of f32. */
function run(k: Kernel, x: readonly number[], size: number, options: Partial<RunKernelOptions> = {}): number[] {
  const [from, to] = k.buffers as [Buffer, Buffer];
  const out = new Float32Array(size);
  const buffers = new Map<Buffer, Numbers>([
    [from, Float32Array.from(x)],
    [to, out],
  ]);
  runKernel(k, { buffers, ...options });
  return [...out];
}

const x = buffer('x', 'f32', 8);
const y = buffer('y', 'f32', 8, { access: 'write' });
const grid = { bind: 'grid.x' } as const;

/** Sums 8 numbers of each of two workgroups in shared memory; `synchronise` writes what stands between the rounds. */
function treeSum(synchronise: (block: Block) => void): Kernel {
  const wide = buffer('x', 'f32', 16);
  const sums = buffer('y', 'f32', 2, { access: 'write' });
  const scratch = buffer('scratch', 'f32', 8, { space: 'shared' });
  return kernel('tree-sum', [wide, sums, scratch], (b) =>
    b.for(
      'g',
      0,
      2,
      (g, group) =>
        group.for(
          't',
          0,
          8,
          (t, thread) => {
            thread.store(scratch, t, load(wide, add(mul(g, 8), t)));
            for (const half of [4, 2, 1]) {
              synchronise(thread);
              thread.if(lt(t, half), (then) =>
                then.store(scratch, t, add(load(scratch, t), load(scratch, add(t, half)))),
              );
            }
            synchronise(thread);
            thread.if(lt(t, 1), (then) => then.store(sums, g, load(scratch, 0)));
          },
          { bind: 'thread.x' },
        ),
      grid,
    ),
  );
}

test('a kernel rounds every operator to f32', (t) => {
  const k = kernel('thirds', [x, y], (b) =>
    b.for('i', 0, 8, (i, body) => body.store(y, i, mul(add(load(x, i), 1), 1 / 3)), grid),
  );
  const third = Math.fround(1 / 3);
  t.deepEqual(
    run(k, [0, 1, 2, 3, 4, 5, 6, 0.1], 8),
    [0, 1, 2, 3, 4, 5, 6, Math.fround(0.1)].map((v) => Math.fround(Math.fround(v + 1) * third)),
  );
});

test('vectors load, combine, shuffle and store lane by lane', (t) => {
  const k = kernel('vectors', [x, y], (b) =>
    b.for(
      'i',
      0,
      1,
      (_, body) => {
        const low = body.let('low', load(x, 0, 4));
        const high = body.let('high', load(x, 4, 4));
        body.store(y, 0, select(lt(low, high), shuffle(low, high, [0, 4, 1, 5]), splat(literal(-1, 'f32'), 4)));
        body.store(y, 4, vec([extract(low, 3), sumLanes(low), extract(mul(low, 2), 1), extract(high, 0)]));
      },
      grid,
    ),
  );
  t.deepEqual(run(k, [1, 2, 3, 4, 5, 6, 7, 0], 8), [1, 5, 2, -1, 4, 10, 4, 5]);
});

test('variables keep their value between statements and loops', (t) => {
  const k = kernel('prefix', [x, y], (b) =>
    b.for(
      'g',
      0,
      1,
      (_, body) => {
        const sum = body.var('sum', literal(0, 'f32'));
        body.for('i', 0, 8, (i, inner) => {
          inner.update('add', sum, load(x, i));
          inner.store(y, i, sum);
        });
      },
      grid,
    ),
  );
  t.deepEqual(run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8), [1, 3, 6, 10, 15, 21, 28, 36]);
});

test('a size bound at run time sets loops and buffers', (t) => {
  const n = symbol('N', { max: 16 });
  const [from, to] = [buffer('x', 'f32', n), buffer('y', 'f32', n, { access: 'write' })];
  const k = kernel('copy', [from, to], (b) => b.for('i', 0, n, (i, body) => body.store(to, i, load(from, i)), grid), [
    n,
  ]);
  t.deepEqual(run(k, [1, 2, 3, 4, 5], 5, { params: new Map([[n, 3]]) }), [1, 2, 3, 0, 0]);
  t.throws(() => run(k, [1], 1), { instanceOf: KernelFault, message: /size of x needs N, which is not bound/ });
  t.throws(() => run(k, [1], 1, { params: new Map([[n, 3]]) }), {
    message: /kernel copy: buffer x has 1 elements, not 3/,
  });
});

test('a chunk of the grid runs only its iterations', (t) => {
  const k = kernel('copy', [x, y], (b) =>
    b.for('i', 0, 8, (i, body) => body.store(y, i, load(x, i)), { ...grid, step: 2 }),
  );
  t.deepEqual(run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8, { grid: [2, 5] }), [0, 0, 3, 0, 5, 0, 0, 0]);
});

test('invocations meet at barriers', (t) => {
  const k = treeSum((b) => b.barrier());
  const data = Array.from({ length: 16 }, (_, i) => i);
  t.deepEqual(run(k, data, 2), [28, 92]);
  t.deepEqual(run(k, data, 2, { order: 'reverse' }), [28, 92]);
});

test('a missing barrier is a data race', (t) => {
  const data = Array.from({ length: 16 }, (_, i) => i + 1);
  const error = t.throws(
    () =>
      run(
        treeSum(() => undefined),
        data,
        2,
      ),
    { instanceOf: KernelFault },
  );
  t.regex(error?.message ?? '', /kernel tree-sum: data race on scratch\[\d\] \(shared\): invocation \d of workgroup 0/);
});

test('a barrier that some invocations miss is an error', (t) => {
  const k = kernel('diverges', [x, y], (b) =>
    b.for(
      'g',
      0,
      1,
      (_, group) =>
        group.for(
          't',
          0,
          8,
          (i, thread) => {
            thread.if(lt(i, 3), (then) => then.barrier());
            thread.store(y, i, load(x, i));
          },
          { bind: 'thread.x' },
        ),
      grid,
    ),
  );
  t.throws(() => run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8), {
    message: /3 of 8 invocations wait at barrier #0 while others do not/,
  });
});

test('invocations at different barriers are an error', (t) => {
  const k = kernel('crossed', [x, y], (b) =>
    b.for(
      'g',
      0,
      1,
      (_, group) =>
        group.for(
          't',
          0,
          8,
          (i, thread) =>
            thread.if(
              lt(i, 3),
              (then) => then.barrier(),
              (other) => other.barrier(),
            ),
          { bind: 'thread.x' },
        ),
      grid,
    ),
  );
  t.throws(() => run(k, [0, 0, 0, 0, 0, 0, 0, 0], 8), { message: /8 of 8 invocations wait at barrier #0 and #1/ });
});

test('two axes of invocations form a workgroup', (t) => {
  const scratch = buffer('scratch', 'f32', 8, { space: 'shared' });
  const k = kernel('transpose', [x, y, scratch], (b) =>
    b.for(
      'g',
      0,
      1,
      (_, group) =>
        group.for(
          'r',
          0,
          2,
          (r, rows) =>
            rows.for(
              'c',
              0,
              4,
              (c, thread) => {
                thread.store(scratch, add(mul(c, 2), r), load(x, add(mul(r, 4), c)));
                thread.barrier();
                const at = thread.let('at', add(mul(r, 4), c));
                thread.store(y, at, load(scratch, at));
              },
              { bind: 'thread.x' },
            ),
          { bind: 'thread.y' },
        ),
      grid,
    ),
  );
  t.deepEqual(run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8), [1, 5, 2, 6, 3, 7, 4, 8]);
});

test('workgroups that write one element differently race; equal values do not', (t) => {
  const tail = (value: (i: ReturnType<typeof variable>) => ReturnType<typeof load>): Kernel =>
    kernel('tail', [x, y], (b) => b.for('g', 0, 2, (g, body) => body.store(y, 0, value(g)), grid));
  t.throws(
    () =>
      run(
        tail((g) => load(x, g)),
        [1, 2, 3, 4, 5, 6, 7, 8],
        8,
      ),
    { message: /data race on y\[0\] \(global\): .* overwrites 1 of workgroup 0 with 2/ },
  );
  t.is(
    run(
      tail(() => load(x, 3)),
      [1, 2, 3, 4, 5, 6, 7, 8],
      8,
    )[0],
    4,
  );
  t.is(
    run(
      tail((g) => load(x, g)),
      [1, 2, 3, 4, 5, 6, 7, 8],
      8,
      { races: false },
    )[0],
    2,
  );
});

test('a workgroup that reads what another writes races', (t) => {
  const both = buffer('y', 'f32', 8, { access: 'readwrite' });
  const k = kernel('chain', [x, both], (b) =>
    b.for('g', 1, 8, (g, body) => body.store(both, g, add(load(both, add(g, -1)), load(x, g))), grid),
  );
  t.throws(() => run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8), { message: /reads what workgroup 0 writes/ });
  t.throws(() => run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8, { order: 'reverse' }), {
    message: /writes what workgroup 0 reads/,
  });
});

test('an access outside a buffer names kernel, buffer, index and size', (t) => {
  const k = kernel('overrun', [x, y], (b) => b.for('i', 0, 8, (i, body) => body.store(y, i, load(x, add(i, 1))), grid));
  t.throws(() => run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8), {
    message: 'kernel overrun: reads x[8], outside its 8 elements (global)',
  });
  const wide = kernel('wide', [x, y], (b) => b.for('i', 0, 1, (_, body) => body.store(y, 6, load(x, 0, 4)), grid));
  t.throws(() => run(wide, [1, 2, 3, 4, 5, 6, 7, 8], 8), { message: /writes y\[8\], outside its 8 elements/ });
});

test('both sides of a select are evaluated, so neither may read outside', (t) => {
  const k = kernel('guard', [x, y], (b) =>
    b.for('i', 0, 8, (i, body) => body.store(y, i, select(lt(i, 7), load(x, add(i, 1)), 0)), grid),
  );
  t.throws(() => run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8), { message: /reads x\[8\]/ });
});

test('scratch memory starts as NaN in every workgroup', (t) => {
  const scratch = buffer('scratch', 'f32', 1, { space: 'local' });
  const k = kernel('stale', [x, y, scratch], (b) =>
    b.for(
      'i',
      0,
      2,
      (i, body) => {
        body.store(y, i, load(scratch, 0));
        body.store(scratch, 0, load(x, i));
      },
      grid,
    ),
  );
  const wide = new Float32Array(8).fill(7);
  runKernel(k, {
    buffers: new Map<Buffer, Numbers>([
      [x, Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8])],
      [y, wide],
    ]),
  });
  t.deepEqual([...wide], [NaN, NaN, 7, 7, 7, 7, 7, 7]);
});

test('fma rounds twice or once as asked', (t) => {
  const k = kernel('fma', [x, y], (b) =>
    b.for('i', 0, 1, (_, body) => body.store(y, 0, fma(load(x, 0), load(x, 1), load(x, 2))), grid),
  );
  const tiny = 2 ** -23;
  // (1 + e)² − (1 + 2e) = e² only when the product is not rounded first.
  const data = [1 + tiny, 1 + tiny, -(1 + 2 * tiny), 0, 0, 0, 0, 0];
  t.is(run(k, data, 8)[0], 0);
  t.is(run(k, data, 8, { fma: 'fused' })[0], tiny * tiny);
});

test('a fused fma rounds once where rounding the f64 sum first would round twice', (t) => {
  const fused = scalarFunction('fma', 'f32', 'f32', 'fused');
  // The product is 1 + 2^-11 + 2^-24, halfway between two f32; the addend decides, and an f64 cannot hold the sum.
  const a = 1 + 2 ** -12;
  t.is(fused(a, a, 2 ** -60), 1 + 2 ** -11 + 2 ** -23);
  t.is(fused(a, a, -(2 ** -60)), 1 + 2 ** -11);
  t.is(fused(-a, a, 2 ** -60), -(1 + 2 ** -11));
  t.is(fused(a, a, 0), 1 + 2 ** -11, 'ties to even');
});

test('scope, access and types of a kernel are checked before it runs', (t) => {
  const loose = variable('loose', 'f32');
  const cases: readonly [write: (b: Block) => void, message: RegExp][] = [
    [(b) => b.store(y, 0, loose), /variable loose is used where it is not defined/],
    [(b) => b.store(x, 0, literal(1, 'f32')), /writes x, which is declared read-only/],
    [(b) => b.store(y, 0, load(y, 1)), /reads y, which is declared write-only/],
    [(b) => b.store(y, 0, literal(1, 'i32')), /stores i32 into y, which holds f32/],
    [(b) => b.set(b.let('fixed', load(x, 0)), 1), /fixed is set, but is no var/],
    [
      (b) => b.store(buffer('z', 'f32', 1, { access: 'write' }), 0, load(x, 0)),
      /buffer z is not among the kernel's buffers/,
    ],
    [
      (b) => b.for('t', 0, cast(b.let('n', load(x, 0)), 'i32'), () => undefined, { bind: 'thread.x' }),
      /bounds of thread.x must be known/,
    ],
  ];
  for (const [write, message] of cases) {
    const k = kernel('wrong', [x, y], (b) => b.for('g', 0, 1, (_, body) => write(body), grid));
    t.throws(() => run(k, [1, 2, 3, 4, 5, 6, 7, 8], 8), { instanceOf: KernelFault, message });
  }
});

test('an integer division by zero names the expression', (t) => {
  const k = kernel('div', [x, y], (b) =>
    b.for('i', 0, 1, (_, body) => body.store(y, 0, cast(floordiv(literal(1), cast(load(x, 0), 'i32')), 'f32')), grid),
  );
  t.throws(() => run(k, [0, 0, 0, 0, 0, 0, 0, 0], 8), { message: 'kernel div: division by zero in 1 div i32(x[0])' });
});

test('functions and bit patterns agree with their definitions', (t) => {
  const k = kernel('functions', [x, y], (b) =>
    b.for(
      'i',
      0,
      8,
      (i, body) => {
        const bits = body.let('bits', bitcast(exp(load(x, i)), 'i32'));
        body.store(y, i, bitcast(bits, 'f32'));
      },
      grid,
    ),
  );
  const data = [0, 1, -1, 0.5, 10, -20, 88, -104];
  t.deepEqual(
    run(k, data, 8),
    data.map((v) => Math.fround(Math.exp(v))),
  );
});

test('a value that an expression mentions many times is computed once', (t) => {
  const k = kernel('powers', [x, y], (b) =>
    b.for(
      'i',
      0,
      1,
      (_, body) => {
        let e = load(x, 0);
        for (let n = 0; n < 60; n++) e = mul(e, e);
        body.store(y, 0, e);
      },
      grid,
    ),
  );
  t.is(run(k, [1, 0, 0, 0, 0, 0, 0, 0], 8)[0], 1);
});

test('operators written out for speed agree with constant folding', (t) => {
  const ops = ['add', 'sub', 'mul', 'div', 'min', 'max', 'lt', 'le', 'eq', 'ne'] as const;
  const float = fc.oneof(fc.float(), fc.constantFrom(0, -0, NaN, Infinity, -Infinity, Math.fround(1e-45)));
  fc.assert(
    fc.property(fc.constantFrom(...ops), float, float, (op, a, b) => {
      t.is(scalarFunction(op, 'f32', 'f32', 'separate')(a, b, 0), foldScalar(op, 'f32', [a, b], 'f32')!);
    }),
  );
  const whole = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
  fc.assert(
    fc.property(fc.constantFrom(...ops), whole, whole, (op, a, b) => {
      if (op === 'div' && b === 0) return;
      t.is(scalarFunction(op, 'i32', 'i32', 'separate')(a, b, 0), foldScalar(op, 'i32', [a, b], 'i32')!);
    }),
  );
});

test('a kernel prints with unique names, sizes and bindings', (t) => {
  t.is(
    printKernel(treeSum((b) => b.barrier())),
    `kernel tree-sum(read x: f32[16], write y: f32[2]) {
  shared scratch: f32[8]
  for g in 0..2 as grid.x {
    for t in 0..8 as thread.x {
      scratch[t] = x[g * 8 + t]
      barrier
      if t < 4 {
        scratch[t] = scratch[t] + scratch[t + 4]
      }
      barrier
      if t < 2 {
        scratch[t] = scratch[t] + scratch[t + 2]
      }
      barrier
      if t < 1 {
        scratch[t] = scratch[t] + scratch[t + 1]
      }
      barrier
      if t < 1 {
        y[g] = scratch[0]
      }
    }
  }
}
`,
  );
  const n = symbol('N', { max: 64 });
  const [from, to] = [buffer('x', 'f32', n), buffer('y', 'f32', n, { access: 'write' })];
  const k = kernel(
    'sums',
    [from, to],
    (b) =>
      b.for(
        'i',
        0,
        floordiv(n, 4),
        (i, body) => {
          const acc = [0, 1].map(() => body.var('acc', splat(literal(0, 'f32'), 4)));
          for (const a of acc) body.update('add', a, load(from, mul(i, 4), 4));
          body.if(
            lt(i, 1),
            (then) => then.store(to, 0, acc[0]!),
            (other) => other.store(to, 4, acc[1]!),
          );
        },
        { bind: 'grid.x', step: 2 },
      ),
    [n],
  );
  t.is(
    printKernel(k),
    `kernel sums(N, read x: f32[N], write y: f32[N]) {
  for i in 0..(N div 4) step 2 as grid.x {
    var acc: f32x4 = 0
    var acc_2: f32x4 = 0
    acc = acc + x[i * 4]:4
    acc_2 = acc_2 + x[i * 4]:4
    if i < 1 {
      y[0] = acc
    } else {
      y[4] = acc_2
    }
  }
}
`,
  );
});
