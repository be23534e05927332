import test from 'ava';
import fc from 'fast-check';
import wabtModule from 'wabt';
import {
  type Callable,
  isRelaxed,
  ModuleBuilder,
  type Opcode,
  opcodes,
  pushS32,
  pushS64,
  pushU32,
  sharedMemoryFlag,
  unsharedMemoryFlag,
  type ValType,
} from '../compiler/wasm-encode.ts';

const wabt = await wabtModule();
const features = { simd: true, relaxed_simd: true, threads: true, bulk_memory: true };

/** The bytes that wabt makes of the text. */
function assemble(wat: string): Uint8Array {
  const parsed = wabt.parseWat('module.wat', wat, features);
  validate(parsed);
  return parsed.toBinary({}).buffer;
}

// wabt's type declarations omit the features that its validator takes.
function validate(module: { validate(options: typeof features): void }): void {
  module.validate(features);
}

/** wabt accepts our bytes as they are, and makes the very same bytes of our text. */
function agreesWithWabt(module: ModuleBuilder): boolean {
  const ours = module.toBytes();
  validate(wabt.readWasm(ours, features));
  return Buffer.from(ours).equals(Buffer.from(assemble(module.toWat())));
}

function pushZero(f: ReturnType<ModuleBuilder['function']>, type: ValType): void {
  if (type === 'i32') f.i32(0);
  else if (type === 'i64') f.i64(0n);
  else if (type === 'f32') f.f32(0);
  else if (type === 'f64') f.f64(0);
  else f.f32x4(0);
}

/** A module whose one function feeds the instruction from its parameters and returns its result. */
function moduleOf(row: Opcode<(typeof opcodes)[number]['name']>): ModuleBuilder {
  const module = new ModuleBuilder().importMemory('env', 'memory', { min: 1, max: 2, shared: row.prefix === 0xfe });
  const f = module.function(row.name, row.params, row.result === undefined ? [] : [row.result]);
  for (const param of f.params) f.get(param);
  if (row.imm === 'mem') f.mem(row.name, 300);
  else if (row.imm === 'mem-lane') f.memLane(row.name, row.lanes - 1, 5, 1);
  else if (row.imm === 'lane') f.lane(row.name, row.lanes - 1);
  else if (row.imm === 'v128') f.v128(Array.from({ length: 16 }, (_, i) => 255 - i));
  else if (row.imm === 'shuffle') f.shuffle(Array.from({ length: 16 }, (_, i) => 31 - 2 * i));
  else if (row.name === 'memory.init' || row.name === 'data.drop') {
    f.data(row.name, module.data(Uint8Array.of(1, 2, 3)));
  } else f.op(row.name);
  return module.export('f', f);
}

for (const prefix of [0, 0xfc, 0xfd, 0xfe]) {
  test(`every opcode with prefix 0x${prefix.toString(16)} means to wabt what its mnemonic says`, (t) => {
    for (const row of opcodes.filter((each) => each.prefix === prefix)) {
      const module = moduleOf(row);
      t.notThrows(() => validate(wabt.readWasm(module.toBytes(), features)), row.name);
      t.deepEqual(Buffer.from(module.toBytes()), Buffer.from(assemble(module.toWat())), row.name);
      if (!isRelaxed(row)) t.true(WebAssembly.validate(module.toBytes()), row.name);
    }
  });
}

test('no mnemonic and no opcode stands twice in the table', (t) => {
  t.is(new Set(opcodes.map((row) => row.name)).size, opcodes.length);
  t.is(new Set(opcodes.map((row) => row.prefix * 0x1000 + row.code)).size, opcodes.length);
});

/** The number that LEB128 bytes stand for, by the definition. */
function decode(bytes: readonly number[], signed: boolean): bigint {
  let value = 0n;
  for (const [i, byte] of bytes.entries()) value |= BigInt(byte & 0x7f) << BigInt(7 * i);
  return signed && (bytes.at(-1)! & 0x40) !== 0 ? value - (1n << BigInt(7 * bytes.length)) : value;
}

test('LEB128 is the shortest form at the edges', (t) => {
  const bytes = (push: (out: number[]) => void): string => {
    const out: number[] = [];
    push(out);
    return Buffer.from(out).toString('hex');
  };
  t.is(
    bytes((out) => pushU32(out, 0)),
    '00',
  );
  t.is(
    bytes((out) => pushU32(out, 127)),
    '7f',
  );
  t.is(
    bytes((out) => pushU32(out, 128)),
    '8001',
  );
  t.is(
    bytes((out) => pushU32(out, 0xffff_ffff)),
    'ffffffff0f',
  );
  t.is(
    bytes((out) => pushS32(out, 63)),
    '3f',
  );
  t.is(
    bytes((out) => pushS32(out, 64)),
    'c000',
  );
  t.is(
    bytes((out) => pushS32(out, -64)),
    '40',
  );
  t.is(
    bytes((out) => pushS32(out, -65)),
    'bf7f',
  );
  t.is(
    bytes((out) => pushS32(out, 0x7fff_ffff)),
    'ffffffff07',
  );
  t.is(
    bytes((out) => pushS32(out, -0x8000_0000)),
    '8080808078',
  );
  t.is(
    bytes((out) => pushS32(out, 0xffff_ffff)),
    '7f',
  );
  t.is(
    bytes((out) => pushS64(out, -(1n << 63n))),
    '8080808080808080807f',
  );
});

test('LEB128 keeps every number', (t) => {
  fc.assert(
    fc.property(fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }), fc.nat({ max: 0xffff_ffff }), (s, u) => {
      const [signed, unsigned]: [number[], number[]] = [[], []];
      pushS64(signed, s);
      pushU32(unsigned, u);
      return decode(signed, true) === s && decode(unsigned, false) === BigInt(u);
    }),
  );
  t.throws(() => pushU32([], -1), { instanceOf: RangeError });
  t.throws(() => pushU32([], 2 ** 32), { instanceOf: RangeError });
  t.throws(() => pushS32([], 2 ** 32), { instanceOf: RangeError });
  t.throws(() => pushS64([], 1n << 63n), { instanceOf: RangeError });
});

test('constants of every type are bit-exact in bytes and in text', (t) => {
  fc.assert(
    fc.property(
      fc.integer(),
      fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
      fc.float(),
      fc.double(),
      fc.uint8Array({ minLength: 16, maxLength: 16 }),
      (i, l, s, d, bytes) => {
        const module = new ModuleBuilder();
        const f = module.function('f', []);
        f.i32(i).drop().i64(l).drop().f32(s).drop().f64(d).drop().v128(bytes).drop();
        return agreesWithWabt(module);
      },
    ),
  );
  const module = new ModuleBuilder();
  const f = module.function('f', [], ['f32']);
  module.export('f', f.f32(-0).f32(Number.NaN).drop().f32(-Infinity).drop().f64(1e-320).drop());
  t.true(agreesWithWabt(module));
});

test('one patched byte turns a module for shared memory into one for plain memory', async (t) => {
  const build = (shared: boolean): ReturnType<ModuleBuilder['encode']> => {
    const module = new ModuleBuilder().importMemory('env', 'memory', { min: 1, max: 300, shared });
    const host = module.importFunction('env', 'tick', ['i32'], ['i32']);
    const f = module.function('f', ['i32'], ['i32']);
    module.export('f', f.get(f.param(0)).call(host).i32(1).mem('i32.atomic.rmw.add', 16));
    return module.encode();
  };
  const { bytes, memoryFlagOffset } = build(false);
  t.not(memoryFlagOffset, undefined);
  t.is(bytes[memoryFlagOffset!], unsharedMemoryFlag);
  const patched = bytes.slice();
  patched[memoryFlagOffset!] = sharedMemoryFlag;
  t.deepEqual(patched, build(true).bytes);

  for (const [code, shared] of [
    [bytes, false],
    [patched, true],
  ] as const) {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 300, shared });
    const { instance } = await WebAssembly.instantiate(code, { env: { memory, tick: (x: number) => x * 4 } });
    new Int32Array(memory.buffer)[6] = 41;
    t.is((instance.exports.f as (x: number) => number)(2), 41);
    t.is(new Int32Array(memory.buffer)[6], 42);
  }
});

test('loops, branches, globals, data and calls run as written', async (t) => {
  const module = new ModuleBuilder().importMemory('env', 'memory', { min: 1 });
  module.data(Uint8Array.of(3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 34, 92, 10), 8);
  const passive = module.data(Uint8Array.of(9, 8, 7));
  const calls = module.global('i32', 0, true);
  const scale = module.global('f64', 0.5);
  const sum = module.function('sum', ['i32', 'i32'], ['i32']);
  const [at, count] = [sum.param(0), sum.param(1)];
  const total = sum.local('i32');
  sum.get(calls).i32(1).op('i32.add').set(calls);
  sum.block((end) => {
    sum.loop((next) => {
      sum.get(count).op('i32.eqz').brIf(end);
      sum.get(total).get(at).mem('i32.load').op('i32.add').set(total);
      sum.get(at).i32(4).op('i32.add').set(at);
      sum.get(count).i32(1).op('i32.sub').tee(count).brIf(next);
    });
  });
  sum.get(total);
  const main = module.function('main', ['i32'], ['f64']);
  main.i32(64).i32(1).i32(2).data('memory.init', passive).data('data.drop', passive);
  main.get(main.param(0)).if(
    (end) => main.i32(8).i32(3).call(sum).op('f64.convert_i32_s').get(scale).op('f64.mul').br(end),
    () => main.f64(-1),
    'f64',
  );
  module.export('main', main).export('calls', calls).export('scale', scale);
  t.true(agreesWithWabt(module));

  const memory = new WebAssembly.Memory({ initial: 1 });
  const { instance } = await WebAssembly.instantiate(module.toBytes(), { env: { memory } });
  t.is((instance.exports.main as (x: number) => number)(1), 6);
  t.is((instance.exports.calls as WebAssembly.Global).value, 1);
  t.deepEqual([...new Uint8Array(memory.buffer, 64, 3)], [8, 7, 0]);
});

test('a mistake is refused where it is made', (t) => {
  const module = new ModuleBuilder();
  const f = module.function('f', ['i32']);
  t.throws(() => f.op('i32.load'), { message: /i32\.load in f carries the immediate 'mem'/ });
  t.throws(() => f.mem('v128.load', 0, 32), { message: /alignment 32 must be a power of two up to 16/ });
  t.throws(() => f.mem('i32.atomic.load', 0, 1), { message: /must be exactly 4/ });
  t.throws(() => f.lane('f32x4.extract_lane', 4), { message: /lane 4 is not in 0 … 3/ });
  t.throws(() => f.shuffle([1, 2, 3]), { message: /16 numbers in 0 … 31/ });
  t.throws(() => f.param(1), { message: /has 1 parameters, not 2/ });
  t.throws(
    () => {
      let outer: { readonly id: number } | undefined;
      f.block((end) => {
        outer = end;
      });
      f.br(outer!);
    },
    { message: /target is not around this place/ },
  );
  t.throws(() => module.importMemory('env', 'memory', { min: 1, shared: true }), { message: /needs a maximum/ });
  t.throws(() => module.importMemory('env', 'memory', { min: 3, max: 2 }), { message: /maximum 2 is below/ });
  t.throws(() => module.importFunction('env', 'late', [], []), { message: /comes after a defined function/ });
  module.export('f', f);
  t.throws(() => module.export('f', f), { message: /defined twice/ });
  t.throws(() => module.global('i64', 1), { message: /not a start value/ });
});

type Step = { readonly row: number; readonly pick: number; readonly nest: 0 | 1 | 2 | 3 };

test('random well-typed functions agree with wabt, byte for byte', (t) => {
  const steps = fc.array(
    fc.record({ row: fc.nat(), pick: fc.nat(), nest: fc.constantFrom<0 | 1 | 2 | 3>(0, 1, 2, 3) }),
    { maxLength: 30 },
  );
  const usable = opcodes.filter((row) => row.imm === 'none' || row.imm === 'mem' || row.imm === 'lane');
  fc.assert(
    fc.property(
      steps,
      fc.array(fc.constantFrom<ValType>('i32', 'i64', 'f32', 'f64', 'v128'), { maxLength: 8 }),
      (list, types) => {
        const module = new ModuleBuilder().importMemory('a "quoted" name', 'µ', { min: 0, max: 65536, shared: true });
        const f = module.function('random function', ['i32']);
        const locals = types.map((type) => f.local(type));
        const emit = ({ row: number, pick, nest }: Step, rest: readonly Step[], callee: Callable): void => {
          const row = usable[number % usable.length]!;
          for (const param of row.params) {
            const fitting = locals.filter((local) => local.type === param);
            if (fitting.length > 0 && pick % 3 > 0) f.get(fitting[pick % fitting.length]!);
            else pushZero(f, param);
          }
          if (row.imm === 'none') f.op(row.name);
          else if (row.imm === 'lane') f.lane(row.name, pick % row.lanes);
          else f.mem(row.name, pick, row.prefix === 0xfe ? row.bytes : 1);
          const target = locals.find((local) => local.type === row.result);
          if (row.result !== undefined && target !== undefined) f.set(target);
          else if (row.result !== undefined) f.drop();
          const [next, ...after] = rest;
          if (next === undefined) return;
          if (nest === 0) emit(next, after, callee);
          else if (nest === 1)
            f.block((end) => {
              f.get(f.param(0)).brIf(end);
              emit(next, after, callee);
            });
          else if (nest === 2) f.loop(() => emit(next, after, callee));
          else
            f.get(f.param(0)).if(
              () => emit(next, after, callee),
              () => f.get(f.param(0)).call(callee),
            );
        };
        const [first, ...rest] = list;
        if (first !== undefined) emit(first, rest, f);
        return agreesWithWabt(module.export('f', f));
      },
    ),
  );
  t.pass();
});
