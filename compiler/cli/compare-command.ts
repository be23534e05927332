/** `heddle compare` */
import type { Command } from 'commander';
import { CompileError, fail } from '../../ir/diagnostic.ts';
import { isFloat } from '../../ir/dtype.ts';
import { evaluate } from '../../ir/evaluate.ts';
import type { Sym } from '../../ir/expr.ts';
import { type Graph, typeOf } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { sizeAt } from '../../ir/type.ts';
import { toFloat32, type WeightStore } from '../../ir/weights.ts';
import type { Session } from '../../runtime/api.ts';
import { sizeOf as sizeUnder } from '../../runtime/manifest.ts';
import { open } from '../../runtime/open.ts';
import { fillInput } from '../../runtime/selftest.ts';
import { compile } from '../compile.ts';
import { narrowModel } from '../narrow.ts';
import { sizeOf } from '../size.ts';
import type { ImageOptions } from './images.ts';
import { collect, type ModelOptions, modelOptions, readNumbers } from './options.ts';
import type { Port, Values } from './ports.ts';
import { imageOf, imageOptions } from './run-command.ts';
import { loadSource } from './source.ts';
import { isBundleFolder } from './stored.ts';
import { print, printJson, table, usage } from './terminal.ts';
import { asInputs, numbersOf, readInputs, toNd } from './values.ts';

interface Options extends ModelOptions, ImageOptions {
  readonly input: readonly string[];
  readonly entry?: string;
  readonly tolerance?: number;
}

export function addCompare(program: Command): void {
  imageOptions(modelOptions(program.command('compare <a> <b>')))
    .description('run two things on the same inputs and say how far their outputs are apart')
    .option('-i, --input <name=file>', '.npy, .json or .png; inputs not given are filled by rule', collect, [])
    .option('--entry <name>', 'which function; default main, or the first')
    .option(
      '--tolerance <x>',
      'exit with 1 when an error relative to the largest element exceeds this',
      (text) => readNumbers('--tolerance')(text)[0]!,
    )
    .addHelpText(
      'after',
      `
Each side is a bundle, a model (compiled in memory), or ref:MODEL, the reference interpreter in f64 (slow).

Examples:
  heddle compare dist/vit ref:zoo:vit-s16
  heddle compare dist/f32 dist/f16 --input pixel_values=cat.png --tolerance 1e-2`,
    )
    .action(run);
}

/** Something that can be run. */
interface Side {
  readonly ports: readonly Port[];
  /** Sizes of symbols where no input fixes them. */
  readonly sizes: Readonly<Record<string, number>>;
  run(inputs: Readonly<Record<string, Values>>): Promise<Readonly<Record<string, Nd>>>;
  close(): void;
}

async function run(a: string, b: string, options: Options): Promise<void> {
  const sides: Side[] = [];
  try {
    for (const name of [a, b]) sides.push(await openSide(name, options));
    const [left, right] = sides as [Side, Side];
    const given = readInputs(options.input, left.ports, imageOf(options));
    const inputs = { ...filled(left, given), ...given };
    const rows = compareOutputs(await left.run(inputs), await right.run(inputs));
    const worst = Math.max(...rows.map((row) => row.relative));
    if (options.json) printJson({ a, b, outputs: rows });
    else
      print(
        table([
          ['output', 'max abs', 'max rel', 'at'],
          ...rows.map(({ name, absolute, relative, at }) => [
            name,
            absolute.toExponential(2),
            relative.toExponential(2),
            `[${at}]`,
          ]),
        ]),
      );
    if (options.tolerance !== undefined && !(worst <= options.tolerance))
      fail('range', `${a} and ${b} differ by ${worst.toExponential(2)}, more than ${options.tolerance}`);
  } finally {
    for (const side of sides) side.close();
  }
}

async function openSide(name: string, options: Options): Promise<Side> {
  if (name.startsWith('ref:')) return reference(name.slice('ref:'.length), options);
  if (isBundleFolder(name)) return ofSession(await open(name), options.entry);
  const { model, weights, dim } = await loadSource(name, options);
  const bundle = compile(model, { weights, symbols: dim });
  return ofSession(await open(bundle), options.entry);
}

function ofSession(session: Session, wanted: string | undefined): Side {
  const names = Object.keys(session.entries);
  const entry = wanted ?? (names.includes('main') ? 'main' : names[0]!);
  const info = session.entries[entry];
  if (!info) return usage(`${session.name} has no entry "${entry}"`, `its entries are ${names.join(', ')}`);
  return {
    ports: info.inputs,
    sizes: Object.fromEntries(info.symbols.map((symbol) => [symbol.name, symbol.default])),
    close: () => session.dispose(),
    async run(inputs) {
      const outputs = await session.run(asInputs(inputs), { entry });
      return Object.fromEntries(
        Object.entries(outputs).map(([name, { dtype, shape, data }]) => [
          name,
          { dtype, shape, data: numbersOf(dtype, shape, data) },
        ]),
      );
    },
  };
}

async function reference(source: string, options: Options): Promise<Side> {
  const loaded = await loadSource(source, options);
  const model = narrowModel(loaded.model, loaded.dim);
  const names = Object.keys(model.entries);
  const entry = options.entry ?? (names.includes('main') ? 'main' : names[0]!);
  const graph: Graph | undefined = model.entries[entry];
  if (!graph) return usage(`${model.name} has no entry "${entry}"`, `its entries are ${names.join(', ')}`);
  const sizes: Record<string, number> = {};
  for (const v of graph.inputs)
    for (const d of typeOf(v).shape)
      sizeAt(d, (symbol) => {
        const { name, default: usual } = symbol.arg as Sym;
        sizes[name] = usual;
        return usual;
      });
  const ports = graph.inputs.map((v) => ({
    name: String(v.attrs.name),
    dtype: typeOf(v).dtype,
    shape: typeOf(v).shape.map(sizeOf),
  }));
  return {
    ports,
    sizes,
    close: () => {},
    async run(inputs) {
      const given = ports.map(({ name, dtype }) => {
        const values = inputs[name] ?? fail('name', `input "${name}" is missing`);
        return [name, toNd(values, dtype)] as const;
      });
      return evaluate(graph, {
        inputs: Object.fromEntries(given),
        params: (name, { dtype }) => parameter(loaded.weights, name, dtype),
      });
    },
  };
}

function parameter(store: WeightStore, name: string, dtype: Nd['dtype']): Nd {
  const tensor = store.get(name) ?? fail('weights', `${store.source} has no tensor "${name}"`);
  if (isFloat(dtype)) return nd(dtype, tensor.shape, toFloat32(tensor));
  throw new CompileError({
    code: 'unsupported',
    message: `parameter "${name}" is ${dtype}; the reference takes floats`,
  });
}

/** The inputs that no file gives, by the rule of self-tests, at sizes that the given ones or the defaults set. */
function filled(side: Side, given: Readonly<Record<string, Values>>): Record<string, Values> {
  const sizes: Record<string, number> = { ...side.sizes };
  for (const { name, shape } of side.ports)
    shape.forEach((d, axis) => {
      if (typeof d === 'string') sizes[d] = given[name]?.shape[axis] ?? sizes[d]!;
    });
  const inputs: Record<string, Values> = {};
  for (const port of side.ports) {
    if (Object.hasOwn(given, port.name)) continue;
    const shape = port.shape.map((d) => sizeUnder(d, sizes));
    inputs[port.name] = {
      shape,
      data: fillInput(
        port.name,
        port.dtype,
        shape.reduce((n, d) => n * d, 1),
      ),
    };
  }
  return inputs;
}

interface OutputError {
  readonly name: string;
  /** Largest |a − b|. */
  readonly absolute: number;
  /** The same divided by the largest finite |b|. */
  readonly relative: number;
  /** Flat index of the element that is furthest apart. */
  readonly at: number;
}

function compareOutputs(a: Readonly<Record<string, Nd>>, b: Readonly<Record<string, Nd>>): readonly OutputError[] {
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  return names.map((name) => {
    const [x, y] = [a[name], b[name]];
    if (!x || !y) return fail('name', `output "${name}" is on the ${x ? 'first' : 'second'} side only`);
    if (x.shape.join() !== y.shape.join())
      return fail('shape', `output "${name}" is [${x.shape.join(', ')}] and [${y.shape.join(', ')}]`);
    let [absolute, at, largest] = [0, 0, 0];
    for (const [i, v] of x.data.entries()) {
      const w = y.data[i]!;
      if (Number.isFinite(w)) largest = Math.max(largest, Math.abs(w));
      const apart = Object.is(v, w) || v === w ? 0 : Math.abs(v - w);
      if (!(apart <= absolute)) [absolute, at] = [Number.isNaN(apart) ? Number.POSITIVE_INFINITY : apart, i];
    }
    return { name, absolute, relative: absolute === 0 ? 0 : absolute / largest, at };
  });
}
