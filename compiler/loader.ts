/** The typed loader of a bundle: `index.js`, bound to its own folder, and `index.d.ts`, which names every input and output. */
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type {
  InterfaceDeclaration,
  OptionalKind,
  PropertySignatureStructure,
  SourceFile,
  StatementedNode,
} from 'ts-morph';
import type { ElementType, EntryPlan, Manifest, Port, Size } from '../runtime/manifest.ts';

/** The compiled runtime, beside the compiled compiler. */
const runtime = join(dirname(fileURLToPath(import.meta.url)), '..', 'runtime');

/** The files of the runtime that a bundle carries. */
export async function runtimeFiles(manifest: Manifest): Promise<[name: string, bytes: Uint8Array][]> {
  const promises = Object.values(manifest.entries).some(
    ({ inputs, otherwise }) => otherwise || inputs.some((port) => port.ones),
  );
  const main = promises ? 'promises/heddle.js' : 'heddle.js';
  const plans = Object.values(manifest.webgpu?.entries ?? {});
  const control = plans.some(({ steps }) => steps.some((step) => !('kernel' in step)));
  const gpu = control ? 'control/webgpu.js' : 'webgpu.js';
  const both = [main, 'wasm.js', gpu, 'worker.js'].map((name) => `webgpu/${name}`);
  const paths = manifest.webgpu ? both : [main, 'worker.js'];
  return Promise.all(
    paths.map(
      async (path): Promise<[string, Uint8Array]> => [basename(path), await readFile(join(runtime, 'bundle', path))],
    ),
  );
}

/** `index.js`: opens the folder that it lies in. */
export function loaderSource(manifest: Manifest): string {
  const names = (ports: readonly Port[]): string[] => ports.map(({ name }) => name);
  const entries = Object.entries(manifest.entries).map(([name, plan]) => [
    name,
    { inputs: names(plan.inputs), outputs: names(plan.outputs) },
  ]);
  return [
    `import { HeddleError, open as openBundle } from './heddle.js';`,
    'export { HeddleError };',
    `export const open = (options) => openBundle(new URL('.', import.meta.url), options);`,
    `export const entries = ${JSON.stringify(Object.fromEntries(entries))};`,
    '',
  ].join('\n');
}

/** What is handed in for each element type, and what comes out. */
const ARRAYS: Readonly<Record<ElementType, readonly [input: string, output: string]>> = {
  f64: ['Float64Array | readonly number[]', 'Float64Array'],
  f32: ['Float32Array | readonly number[]', 'Float32Array'],
  f16: ['Uint16Array', 'Uint16Array'],
  bf16: ['Uint16Array', 'Uint16Array'],
  i64: ['BigInt64Array | Int32Array | readonly number[] | readonly bigint[]', 'BigInt64Array'],
  i32: ['Int32Array | readonly number[]', 'Int32Array'],
  i16: ['Int16Array | readonly number[]', 'Int16Array'],
  i8: ['Int8Array | readonly number[]', 'Int8Array'],
  u64: ['BigUint64Array | readonly number[] | readonly bigint[]', 'BigUint64Array'],
  u32: ['Uint32Array | readonly number[]', 'Uint32Array'],
  u16: ['Uint16Array | readonly number[]', 'Uint16Array'],
  u8: ['Uint8Array | Uint8ClampedArray | readonly number[]', 'Uint8Array'],
  bool: ['Uint8Array | readonly boolean[] | readonly number[]', 'Uint8Array'],
};

/** Types of the runtime that the declarations below refer to, in the order in which they are printed. */
const PUBLIC: Readonly<Record<string, readonly string[]>> = {
  'manifest.d.ts': ['ElementType', 'Size'],
  'error.d.ts': ['ErrorCode', 'HeddleError'],
  'api.d.ts': [
    'PortInfo',
    'SymbolRange',
    'EntryInfo',
    'Progress',
    'OpenOptions',
    'ProfileRow',
    'RunOptions',
    'SelfTestResult',
    'Session',
  ],
};

/** Further ones of bundles for WebGPU, and the members that only those need. */
const WEBGPU_TYPES = ['BufferLike', 'DeviceInput', 'DeviceTensor', 'DeviceLike', 'GpuLike'];
const WEBGPU_MEMBERS: Readonly<Record<string, readonly string[]>> = {
  OpenOptions: ['gpu'],
  Session: ['fallback', 'adapter', 'runOnDevice'],
};

/** Types whose members callers write or call. */
const DOCUMENTED = new Set(['OpenOptions', 'RunOptions', 'Session']);

/**
 * `index.d.ts`: an interface for the inputs and one for the outputs of each entry, with dtype, sizes and meaning of each
 * property, and the runtime's own types, so that the folder needs no other declaration.
 */
export async function loaderTypes(manifest: Manifest, doc: string): Promise<string> {
  // Half a second to load: only where a bundle is written.
  const { Project, IndentationText } = await import('ts-morph');
  const project = new Project({
    useInMemoryFileSystem: true,
    skipLoadingLibFiles: true,
    manipulationSettings: { indentationText: IndentationText.TwoSpaces },
  });
  const file = project.createSourceFile('index.d.ts');
  const model = pascal(manifest.name);
  const entries = Object.entries(manifest.entries);
  const main = entries.find(([name]) => name === 'main') ?? entries[0]!;
  const typeName = (entry: string): string => (entry === 'main' ? model : model + pascal(entry));
  const webgpu = manifest.webgpu !== undefined;
  for (const [name, plan] of entries) addEntry(file, typeName(name), name, plan);

  const session = file.addInterface({ name: `${model}Session`, isExported: true });
  if (doc) session.addJsDoc(doc);
  const mainTypes = `${typeName(main[0])}Inputs, ${typeName(main[0])}Outputs`;
  if (entries.length === 1) session.addExtends(`Session<${mainTypes}>`);
  else {
    session.addExtends(`Omit<Session<${mainTypes}>, 'run'${webgpu ? " | 'runOnDevice'" : ''}>`);
    const ways = webgpu ? (['run', 'runOnDevice'] as const) : (['run'] as const);
    for (const way of ways) {
      addRun(session, way, typeName(main[0]), `RunOptions & { readonly entry?: '${main[0]}' }`, true);
      for (const [name] of entries)
        if (name !== main[0]) addRun(session, way, typeName(name), `RunOptions & { readonly entry: '${name}' }`, false);
    }
  }
  file.addFunction({
    name: 'open',
    isExported: true,
    parameters: [{ name: 'options', type: 'OpenOptions', hasQuestionToken: true }],
    returnType: `Promise<${model}Session>`,
    docs: ['Opens this bundle: reads and checks its files, compiles its kernels, starts its threads.'],
  });
  const ports = (list: readonly Port[]): string => `readonly [${list.map((p) => JSON.stringify(p.name)).join(', ')}]`;
  const shapes = entries.map(
    ([name, plan]) =>
      `readonly ${key(name)}: { readonly inputs: ${ports(plan.inputs)}; readonly outputs: ${ports(plan.outputs)} }`,
  );
  file.addStatements(`/** Names of inputs and outputs. */\nexport const entries: { ${shapes.join('; ')} };`);
  file.addStatements(helpers(webgpu));
  for (const [name, types] of Object.entries(PUBLIC)) {
    const source = project.createSourceFile(name, await readFile(join(runtime, name), 'utf8'));
    const more = webgpu && name === 'api.d.ts' ? WEBGPU_TYPES : [];
    for (const type of [...types, ...more]) file.addStatements(declaration(source, type, webgpu));
  }
  return `${file.getFullText().replaceAll('export declare ', 'export ').trim()}\n`;
}

const helpers = (
  webgpu: boolean,
): string => `/** Elements in row-major order, with their shape where the lengths leave several. */
export type Given<A> = A | { readonly data: A; readonly shape?: readonly number[] }${webgpu ? ' | DeviceInput' : ''};
/** An output, owned by the caller. */
export interface Result<D extends ElementType, S extends readonly number[], A> {
  readonly dtype: D;
  readonly shape: S;
  readonly data: A;
}`;

function declaration(source: StatementedNode & SourceFile, name: string, webgpu: boolean): string {
  const found = source.getInterface(name) ?? source.getTypeAlias(name) ?? source.getClass(name);
  if (!found) throw new Error(`the runtime has no type ${name}`);
  // As the outputs above, so that the runtime's own need not be told of.
  if (name === 'DeviceTensor') {
    const read = source.getInterfaceOrThrow(name).getMethodOrThrow('read');
    read.setReturnType('Promise<Result<ElementType, readonly number[], ArrayBufferView>>');
  }
  if (!webgpu) {
    const type = source.getInterface(name);
    for (const member of WEBGPU_MEMBERS[name] ?? []) (type?.getProperty(member) ?? type?.getMethod(member))?.remove();
    if (name === 'OpenOptions') type?.getPropertyOrThrow('device').setType("'wasm' | 'auto'");
    if (name === 'Session') type?.getPropertyOrThrow('device').setType("'wasm'");
  }
  if (name === 'Session') {
    const session = source.getInterfaceOrThrow(name);
    for (const parameter of session.getTypeParameters()) parameter.removeDefault();
  }
  // The first sentence says what it is; the rest stands in the types of heddle/runtime.
  for (const node of [found, ...('getMembers' in found ? found.getMembers() : [])])
    if ('getJsDocs' in node)
      for (const [i, doc] of [...node.getJsDocs().entries()].reverse()) {
        // The first comment of a file is the file's; of what only comes out, the names say enough for so small a file.
        if (i < node.getJsDocs().length - 1 || !DOCUMENTED.has(name)) {
          doc.remove();
          continue;
        }
        const [sentence] = /^.*?[.;:](?=\s|$)/s.exec(doc.getCommentText() ?? '') ?? [doc.getCommentText() ?? ''];
        doc.replaceWithText(`/** ${sentence.replace(/\s+/g, ' ').replace(/[;:]$/, '.')} */`);
      }
  return found.getText(true).replaceAll('    ', '  ').trim();
}

function addEntry(file: SourceFile, type: string, name: string, plan: EntryPlan): void {
  const sizes = plan.symbols.map(({ name: symbol, min, max, multipleOf, default: usual }) => {
    const step = multipleOf > 1 ? ` in steps of ${multipleOf}` : '';
    return `${symbol}: ${min} … ${max}${step}, default ${usual}`;
  });
  const note = sizes.length > 0 ? `\nSizes: ${sizes.join('; ')}.` : '';
  file.addInterface({
    name: `${type}Inputs`,
    isExported: true,
    docs: [`Inputs of \`${name}\`.${note}`],
    properties: plan.inputs.map((port) => property(port, `Given<${ARRAYS[port.dtype][0]}>`)),
  });
  file.addInterface({
    name: `${type}Outputs`,
    isExported: true,
    docs: [`Outputs of \`${name}\`.`],
    properties: plan.outputs.map((port) => {
      const shape = port.shape.map((size) => (typeof size === 'number' ? size : 'number')).join(', ');
      return property(port, `Result<'${port.dtype}', readonly [${shape}], ${ARRAYS[port.dtype][1]}>`);
    }),
  });
}

function property(port: Port, type: string): OptionalKind<PropertySignatureStructure> {
  const meaning = port.doc === '' ? '' : `: ${port.doc.replaceAll('*/', '* /')}`;
  return {
    name: key(port.name),
    type,
    isReadonly: true,
    docs: [{ description: typeText(port) + meaning + promiseText(port) }],
  };
}

/** What the elements of an input must be. */
function promiseText({ binary, ones }: Port): string {
  const [least, most] = (ones ?? []).map(sizeText);
  const count = ones ? `${least === most ? least : `at least ${least}`} ones in each line` : '';
  const said = [...(binary ? ['0 and 1 only'] : []), ...(count ? [count] : [])].join(', ');
  return said && ` (${said})`;
}

function addRun(
  session: InterfaceDeclaration,
  way: 'run' | 'runOnDevice',
  type: string,
  options: string,
  optional: boolean,
): void {
  const outputs = way === 'run' ? `${type}Outputs` : `{ readonly [K in keyof ${type}Outputs]: DeviceTensor }`;
  session.addMethod({
    name: way,
    hasQuestionToken: way === 'runOnDevice',
    parameters: [
      { name: 'inputs', type: `${type}Inputs` },
      { name: 'options', type: options, hasQuestionToken: optional },
    ],
    returnType: `Promise<${outputs}>`,
  });
}

/** `f32[batch, 3, 224, 224]` */
export const typeText = ({ dtype, shape }: Pick<Port, 'dtype' | 'shape'>): string =>
  `${dtype}[${shape.map(sizeText).join(', ')}]`;

function sizeText(size: Size): string {
  if (typeof size !== 'object') return String(size);
  const [op, a, b] = [size[0], sizeText(size[1]), sizeText(size[2])];
  return op === 'min' || op === 'max' ? `${op}(${a}, ${b})` : `(${a} ${op} ${b})`;
}

const key = (name: string): string => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name));

/** `vit-b16` → `VitB16`; a name that begins with a digit gets an `M`. */
const pascal = (name: string): string => {
  const parts = name.split(/[^A-Za-z0-9]+/).filter((part) => part !== '');
  const joined = parts.map((part) => part[0]!.toUpperCase() + part.slice(1)).join('');
  return /^[A-Za-z]/.test(joined) ? joined : `M${joined}`;
};
