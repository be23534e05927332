/** Graphs as readable TypeScript in the vocabulary of models: tracing the text gives the graph again. */
import { CodeBlockWriter, Project } from 'ts-morph';
import { fail } from '../../ir/diagnostic.ts';
import { type Expr, exprNodes, type Sym } from '../../ir/expr.ts';
import { type AttrValue, type Graph, graphValues, isGraph, typeOf, type Value } from '../../ir/graph.ts';
import type { Model } from '../../ir/model.ts';
import type { Nd } from '../../ir/nd.ts';
import type { Dim } from '../../ir/type.ts';
import { behind, type Line, type Loop, namesOf, type Plan, pattern, planOf } from './decompile-blocks.ts';
import {
  callText,
  camel,
  constantText,
  dimText,
  key,
  list,
  number,
  quoted,
  scalarText,
  shapeText,
  type Words,
} from './decompile-words.ts';

export interface DecompileOptions {
  /** What the words are imported from; default `heddle`. */
  readonly from?: string | undefined;
  /** Lines for the top of the file: where it comes from, how to use it. */
  readonly header?: readonly string[] | undefined;
}

/**
 * A model as TypeScript source that exports it. Repeated blocks are functions, called in a loop. Tracing the file gives
 * graphs of the same text, but for names of values and positions.
 *
 * @throws CompileError `unsupported` for what the vocabulary cannot say
 */
export function decompile(model: Model, options: DecompileOptions = {}): string {
  return new Decompiler(model, options).run();
}

/** Names that a variable cannot have. */
const RESERVED = new Set(
  'break case catch class const continue debugger default delete do else enum export extends false finally for function if import in instanceof let new null return super switch this throw true try typeof var void while with yield await static implements interface package private protected public arguments eval undefined NaN Infinity Number Array Tensor'.split(
    ' ',
  ),
);

/** Variables of one function, distinct from those around it. */
class Names {
  private readonly taken: Set<string>;
  constructor(around: Iterable<string> = []) {
    this.taken = new Set(around);
  }
  get all(): Iterable<string> {
    return this.taken;
  }
  /** An identifier like `wanted`, which may be any text. */
  unique(wanted: string): string {
    const words = wanted.split(/[^A-Za-z0-9]+/).filter(Boolean);
    const joined = words
      .map((w, i) => (i === 0 ? w[0]!.toLowerCase() + w.slice(1) : w[0]!.toUpperCase() + w.slice(1)))
      .join('');
    const plain = /^[A-Za-z]/.test(joined) ? joined : `v${joined}`;
    let name = plain;
    for (let n = 2; this.taken.has(name) || RESERVED.has(name); n++)
      name = `${plain}${/\d$/.test(plain) ? '_' : ''}${n}`;
    this.taken.add(name);
    return name;
  }
}

/** Words for values that have no name of their own, by what made them. */
const NOUNS: Readonly<Record<string, string>> = {
  add: 'sum',
  sub: 'difference',
  mul: 'product',
  div: 'quotient',
  matmul: 'product',
  reshape: 'shaped',
  transpose: 'turned',
  expand: 'wide',
  slice: 'part',
  split: 'parts',
  concat: 'joined',
  gather: 'rows',
  select: 'chosen',
  cast: 'converted',
  softmax: 'weights',
  attention: 'attended',
  layer_norm: 'normed',
  rms_norm: 'normed',
  batch_norm: 'normed',
  gelu: 'activated',
  relu: 'activated',
  silu: 'activated',
  constant: 'table',
  iota: 'positions',
};

/**
 * What a value is called: its name in the file without the path that exporters put before it, or the layer whose
 * parameters it reads, or what was done.
 */
function baseName(v: Value, operands: readonly Value[] = v.inputs): string {
  const isWord = (part: string): boolean => /[A-Za-z]/.test(part) && part.length <= 30;
  const name = (v.name ?? '').replace(/_output_\d+$/, '');
  const own = wordsOf(name).at(-1) ?? '';
  if (isWord(own) && !SAYS_NOTHING.test(own) && !DSL.includes(own.replace(/_\d+$/, ''))) return own;
  const param = operands.find((x) => x.op.name === 'param');
  const parent = param && wordsOf(String(param.attrs.name)).at(-2);
  if (v.op.name !== 'constant' && parent && isWord(parent) && !DSL.includes(parent)) return parent;
  return NOUNS[v.op.name] ?? camel(v.op.name);
}
/** Names that exporters make of an operator's: `MatMul_12`. */
const SAYS_NOTHING = /^[A-Z][A-Za-z]+(_\d+)*$/;
/** The parts of a dotted name or path that are no numbers. */
const wordsOf = (name: string): string[] => name.split(/[/:.]/).filter((part) => !/^\d*$/.test(part));
/** What a parameter is called in a table of names: its last two words. */
const columnName = (name: string): string => wordsOf(name).slice(-2).join('_');

/** A statement, its arguments on lines of their own where it is long. */
function wrapped(text: string): string {
  if (text.length <= 110 || text.includes('\n')) return text;
  const open = text.indexOf('(');
  if (open < 0 || !text.endsWith(');')) return text;
  const args: string[] = [];
  let depth = 0;
  let quote = '';
  let from = open + 1;
  for (let i = open + 1; i < text.length - 2; i++) {
    const c = text[i]!;
    if (quote) {
      if (c === '\\') i++;
      else if (c === quote) quote = '';
    } else if (c === "'" || c === '`') quote = c;
    else if ('([{'.includes(c)) depth++;
    else if (')]}'.includes(c)) depth--;
    else if (c === ',' && depth === 0) {
      args.push(text.slice(from, i).trim());
      from = i + 1;
    }
    if (depth < 0) return text;
  }
  args.push(text.slice(from, -2).trim());
  return `${text.slice(0, open + 1)}\n${args.map((a) => `  ${a},\n`).join('')});`;
}

type Texts = ReadonlyMap<Value, string>;

class Decompiler {
  private readonly model: Model;
  private readonly options: DecompileOptions;
  private readonly imports = new Set<string>();
  private readonly functions: string[] = [];
  private readonly top = new Names(DSL);
  private readonly symbols = new Map<Expr, string>();

  constructor(model: Model, options: DecompileOptions) {
    this.model = model;
    this.options = options;
  }

  run(): string {
    const { model, options } = this;
    for (const g of Object.values(model.entries)) this.declareSymbols(g);
    const names = Object.keys(model.entries);
    const exported = this.top.unique(model.name);
    const doc = model.doc ? `, { doc: ${quoted(model.doc)} }` : '';
    const entries = names.map((name) => {
      const g = model.entries[name]!;
      return { name, g, inputs: this.inputs(g), body: this.body(g) };
    });
    const [only] = entries;
    let text: string;
    if (entries.length === 1 && only!.name === 'main') {
      if (only!.g.name !== identifier(model.name))
        fail('unsupported', `graph "${only!.g.name}" is not named after its model, "${model.name}"`);
      text = `${this.word('model')}(${quoted(model.name)}, ${only!.inputs}, ${only!.body}${doc})`;
    } else {
      const parts = entries.map((e) => `${key(e.name)}: ${this.word('entry')}(${e.inputs}, ${e.body}),`);
      text = `${this.word('program')}(${quoted(model.name)}, {\n${parts.join('\n')}\n}${doc})`;
    }
    const out = writer();
    for (const line of options.header ?? []) out.writeLine(`// ${line}`);
    const used = [...this.imports].sort();
    const source = quoted(options.from ?? 'heddle');
    const line = `import { ${used.join(', ')} } from ${source};`;
    out.writeLine(
      line.length <= 110 ? line : `import {\n${used.map((name) => `  ${name},\n`).join('')}} from ${source};`,
    );
    out.blankLine();
    for (const [symbol, name] of this.symbols) out.writeLine(`const ${name} = ${dimDeclaration(symbol.arg as Sym)};`);
    if (this.symbols.size > 0) out.blankLine();
    for (const text of this.functions) {
      out.writeLine(text);
      out.blankLine();
    }
    if (model.doc) out.writeLine(`/** ${model.doc.replaceAll('*/', '* /').replaceAll(/\s+/g, ' ')} */`);
    out.writeLine(`export const ${exported} = ${text};`);
    return formatted(out.toString());
  }

  private word(name: string): string {
    this.imports.add(name);
    return name;
  }

  private declareSymbols(g: Graph): void {
    const visit = (attr: AttrValue): void => {
      if (Array.isArray(attr)) for (const a of attr as readonly AttrValue[]) visit(a);
      else if (typeof attr === 'object' && isGraph(attr)) this.declareSymbols(attr);
      else if (typeof attr === 'object' && 'lanes' in attr) see(attr as Expr);
    };
    const see = (e: Expr): void => {
      for (const node of exprNodes(e)) {
        if (node.op !== 'sym' || this.symbols.has(node)) continue;
        this.word('dim');
        this.symbols.set(node, this.top.unique((node.arg as Sym).name));
      }
    };
    for (const v of [...g.inputs, ...graphValues(g)]) {
      const types = v.type.kind === 'tuple' ? v.type.items : [v.type];
      for (const { shape } of types) for (const d of shape) if (typeof d !== 'number') see(d);
      for (const attr of Object.values(v.attrs)) visit(attr);
    }
  }

  private inputs(g: Graph, docs = true): string {
    const parts = g.inputs.map((v) => {
      const { dtype, shape } = typeOf(v);
      const { doc, binary, assumed, count, atLeast } = v.attrs as {
        doc?: string;
        binary?: boolean;
        assumed?: boolean;
        count?: Dim;
        atLeast?: number;
      };
      const said = [
        ...(binary ? [`binary: ${assumed ? "'assumed'" : 'true'}`] : []),
        ...(count === undefined ? [] : [`count: ${dimText(count, this.outer())}`]),
        ...(atLeast ? [`atLeast: ${atLeast}`] : []),
      ];
      const shown = (docs && doc) || said.length > 0 ? `, ${quoted(doc ?? '')}` : '';
      const promise = said.length > 0 ? `, { ${said.join(', ')} }` : '';
      return `${key(String(v.attrs.name))}: ${this.word('input')}(${quoted(dtype)}, ${shapeText(shape, this.outer())}${shown}${promise}),`;
    });
    return parts.length === 0 ? '{}' : `{\n${parts.join('\n')}\n}`;
  }

  /** Words for what stands outside of all functions: sizes. */
  private outer(): Words {
    return {
      use: () => fail('internal', 'a size reads no tensor'),
      word: (name) => this.word(name),
      graph: () => fail('internal', 'a size has no graph'),
      size: (e) => this.symbols.get(e)!,
    };
  }

  /** A function from the inputs of a graph to its outputs. */
  private body(g: Graph, names = new Names(this.top.all)): string {
    const plan = planOf(g);
    const texts = new Map<Value, string>();
    const read = new Set([...plan.lines.flatMap((l) => l.operands), ...g.outputs.values()]);
    const given = g.inputs
      .filter((v) => read.has(v))
      .map((v) => {
        const name = String(v.attrs.name);
        const own = names.unique(name);
        texts.set(v, own);
        return own === name ? own : `${key(name)}: ${own}`;
      });
    const out = writer();
    for (const step of plan.steps) {
      if (step.kind === 'line') this.line(out, plan, plan.lines[step.at]!, texts, names);
      else this.loop(out, plan, step, texts, names);
    }
    const words = this.words(plan, texts, names);
    const results = [...g.outputs].map(([name, v]) => `${key(name)}: ${words.use(v)}`);
    out.writeLine(`return { ${results.join(', ')} };`);
    const args = given.length > 0 ? `{ ${given.join(', ')} }` : '';
    return `(${args}) => {\n${out.toString()}}`;
  }

  private words(plan: Plan, texts: Texts, names: Names, param?: (v: Value) => string | undefined): Words {
    const words: Words = {
      word: (name) => this.word(name),
      graph: (g) => this.subgraph(g, names),
      size: (e) => this.symbols.get(e)!,
      use: (v, numbers = false) => {
        const known = texts.get(v);
        if (known !== undefined) return known;
        if (v.op.name === 'param') return param?.(v) ?? this.param(v, quoted(String(v.attrs.name)));
        if (plan.inline.has(v)) {
          const { data, dtype } = v.attrs.value as Nd;
          return numbers ? scalarText(data[0]!, dtype) : constantText(v.attrs.value as Nd, words);
        }
        const { value, part } = behind(v);
        const whole = texts.get(value);
        if (part !== undefined && whole !== undefined) return `${whole}[${part}]!`;
        return fail('internal', `nothing gives ${v.op.name} "${v.name ?? ''}"`);
      },
    };
    return words;
  }

  private param(v: Value, name: string): string {
    const { dtype, shape } = typeOf(v);
    const more = dtype === 'f32' ? '' : `, ${this.word('init')}.zeros, ${quoted(dtype)}`;
    return `${this.word('param')}(${name}, ${list(shape.map((d) => number(d as number)))}${more})`;
  }

  private subgraph(g: Graph, names: Names): string {
    return `${this.word('subgraph')}(${quoted(g.name)}, ${this.inputs(g, false)}, ${this.body(g, new Names(names.all))})`;
  }

  private lineText({ value, product }: Line, words: Words): string {
    if (!product) return callText(value, words);
    const [x, weight] = product.inputs;
    return `${words.word('linear')}(${words.use(x!)}, ${words.use(weight!)}, ${words.use(value.inputs[1]!)})`;
  }

  private line(out: CodeBlockWriter, plan: Plan, line: Line, texts: Map<Value, string>, names: Names): void {
    const text = this.lineText(line, this.words(plan, texts, names));
    const name = names.unique(baseName(line.value, line.operands));
    out.writeLine(wrapped(`const ${name} = ${text};`));
    texts.set(line.value, name);
  }

  /** A function for one round, and the loop that calls it. */
  private loop(out: CodeBlockWriter, plan: Plan, loop: Loop, texts: Map<Value, string>, names: Names): void {
    const outside = this.words(plan, texts, names);
    const first = plan.lines.slice(loop.start, loop.start + loop.length);
    const inner = new Names(this.top.all);
    const typed = (v: Value): string => `${this.word('Tensor')}<${quoted(typeOf(v).dtype)}>`;
    const args: { name: string; type: string }[] = [];
    const argument = (v: Value, wanted: string): string => {
      const name = inner.unique(wanted);
      args.push({ name, type: typed(v) });
      return name;
    };
    const carriedArgs = loop.carried.map((c) =>
      argument(c.initial, loop.carried.length === 1 ? 'x' : baseName(c.initial)),
    );
    const fixedArgs = loop.fixed.map((v) => argument(v, baseName(v)));
    const varyingArgs = loop.varying.map((vs) => argument(vs[0]!, baseName(vs[0]!)));
    const patterns = loop.params.map((vs) => pattern(namesOf(vs)));
    const index = loop.params.some((_, i) => patterns[i] !== undefined);
    const table = loop.params.some((_, i) => patterns[i] === undefined);
    const i = index ? inner.unique('i') : undefined;
    const own = table ? inner.unique('names') : undefined;
    if (i) args.push({ name: i, type: 'number' });
    const columns = new Map<number, string>();
    const columnNames = new Names();
    loop.params.forEach((vs, slot) => {
      if (patterns[slot] === undefined) columns.set(slot, columnNames.unique(columnName(String(vs[0]!.attrs.name))));
    });
    if (own)
      args.push({ name: own, type: `{ ${[...columns.values()].map((c) => `readonly ${c}: string`).join('; ')} }` });
    // The body, from the first round.
    const locals: string[] = [];
    const code = writer();
    first.forEach((line, j) => {
      const here = new Map<Value, string>();
      const params = new Map<Value, string>();
      line.operands.forEach((v, k) => {
        const source = loop.sources[j]![k]!;
        if (source.kind === 'inner')
          here.set(v, source.part === undefined ? locals[source.at]! : `${locals[source.at]!}[${source.part}]!`);
        else if (source.kind === 'carried') here.set(v, carriedArgs[source.slot]!);
        else if (source.kind === 'fixed') here.set(v, fixedArgs[source.slot]!);
        else if (source.kind === 'varying') here.set(v, varyingArgs[source.slot]!);
        else if (source.kind === 'param')
          params.set(v, patterns[source.slot]?.(i!) ?? `${own!}.${columns.get(source.slot)!}`);
      });
      const words = this.words(plan, here, inner, (v) => (params.has(v) ? this.param(v, params.get(v)!) : undefined));
      const text = this.lineText(line, words);
      const name = inner.unique(baseName(line.value, line.operands));
      locals.push(name);
      code.writeLine(wrapped(`const ${name} = ${text};`));
    });
    // What it gives: the values that the next round takes, and those that are read behind the loop.
    const given = [...loop.carried, ...loop.kept].filter(
      (a, n, all) => all.findIndex((b) => b.at === a.at && b.part === a.part) === n,
    );
    const textOf = ({ at, part }: { at: number; part: number | undefined }): string =>
      part === undefined ? locals[at]! : `${locals[at]!}[${part}]!`;
    const fieldNames = new Names();
    const fields = given.map((r) =>
      fieldNames.unique(r.part === undefined ? locals[r.at]! : `${locals[r.at]!}${r.part}`),
    );
    const single = given.length === 1;
    const functionName = this.top.unique('block');
    const dtypes = given.map(({ at, part }) => {
      const { type } = first[at]!.value;
      const one = type.kind === 'tuple' ? type.items[part ?? 0]! : type;
      return `${this.word('Tensor')}<${quoted(one.dtype)}>`;
    });
    code.writeLine(
      single
        ? `return ${textOf(given[0]!)};`
        : `return { ${fields.map((f, n) => (f === textOf(given[n]!) ? f : `${f}: ${textOf(given[n]!)}`)).join(', ')} };`,
    );
    const result = single ? dtypes[0]! : `{ ${fields.map((f, n) => `readonly ${f}: ${dtypes[n]!}`).join('; ')} }`;
    const typedArgs = args.map((a) => `${a.name}: ${a.type}`);
    const flat = `function ${functionName}(${typedArgs.join(', ')}): ${result}`;
    const head =
      flat.length <= 110
        ? flat
        : `function ${functionName}(\n${typedArgs.map((a) => `  ${a},\n`).join('')}): ${result}`;
    this.functions.push(
      `/** One of ${loop.rounds} blocks that differ in their parameters. */\n${head} {\n${code.toString()}}`,
    );
    let tableName: string | undefined;
    if (own) {
      tableName = this.top.unique(`${functionName}Names`);
      const rows = Array.from({ length: loop.rounds }, (_, r) => {
        const cells = [...columns].map(([slot, c]) => `${c}: ${quoted(String(loop.params[slot]![r]!.attrs.name))}`);
        return `{ ${cells.join(', ')} },`;
      });
      this.functions.push(`const ${tableName} = [\n${rows.join('\n')}\n] as const;`);
    }
    // The loop.
    const lists = loop.varying.map((vs) => {
      const name = names.unique(`${baseName(vs[0]!)}s`);
      out.writeLine(`const ${name} = ${list(vs.map((v) => outside.use(v)))};`);
      return name;
    });
    const states = loop.carried.map((c) => {
      const name = names.unique(loop.carried.length === 1 ? 'x' : baseName(c.initial));
      out.writeLine(`let ${name}: ${typed(c.initial)} = ${outside.use(c.initial)};`);
      return name;
    });
    const at = names.unique('i');
    const collected = loop.kept.map((k) => {
      const n = given.findIndex((r) => r.at === k.at && r.part === k.part);
      const behindLoop = this.keptRounds(plan, loop, k);
      if (behindLoop === 'last' && loop.carried.some((c) => c.at === k.at && c.part === k.part)) return undefined;
      const name = names.unique(`${fields[n]!}s`);
      out.writeLine(`const ${name}: ${dtypes[n]!}[] = [];`);
      return name;
    });
    const callArgs = [
      ...states,
      ...loop.fixed.map((v) => outside.use(v)),
      ...lists.map((name) => `${name}[${at}]!`),
      ...(i ? [at] : []),
      ...(tableName ? [`${tableName}[${at}]!`] : []),
    ];
    const called = `${functionName}(${callArgs.join(', ')})`;
    out.write(`for (let ${at} = 0; ${at} < ${loop.rounds}; ${at}++)`).block(() => {
      const step = names.unique('step');
      out.writeLine(`const ${step} = ${called};`);
      const field = (r: { at: number; part: number | undefined }): string => {
        const n = given.findIndex((g) => g.at === r.at && g.part === r.part);
        return single ? step : `${step}.${fields[n]!}`;
      };
      loop.kept.forEach((k, n) => {
        if (collected[n]) out.writeLine(`${collected[n]!}.push(${field(k)});`);
      });
      loop.carried.forEach((c, n) => {
        out.writeLine(`${states[n]!} = ${field(c)};`);
      });
    });
    // What the rest of the graph calls the values of each round.
    for (let r = 0; r < loop.rounds; r++)
      loop.kept.forEach((k, n) => {
        const { value } = plan.lines[loop.start + r * loop.length + k.at]!;
        const state = states[loop.carried.findIndex((c) => c.at === k.at && c.part === k.part)];
        const text = collected[n] ? `${collected[n]!}[${r}]!` : r === loop.rounds - 1 ? state : undefined;
        if (text === undefined) return;
        if (k.part === undefined) texts.set(value, text);
        else for (const part of partsOf(plan, value, k.part)) texts.set(part, text);
      });
  }

  /** Whether only the last round's value is read behind the loop. */
  private keptRounds(plan: Plan, loop: Loop, k: { at: number; part: number | undefined }): 'last' | 'all' {
    const last = plan.lines[loop.start + (loop.rounds - 1) * loop.length + k.at]!.value;
    const end = loop.start + loop.rounds * loop.length;
    const outsideLines = plan.lines.filter((_, n) => n < loop.start || n >= end);
    const outputs = Object.values(this.model.entries).flatMap((g) => [...g.outputs.values()]);
    for (let r = 0; r < loop.rounds; r++) {
      const { value } = plan.lines[loop.start + r * loop.length + k.at]!;
      if (value === last) continue;
      const reads = [...outsideLines.flatMap((l) => l.operands), ...outputs].some((v) => {
        const b = behind(v);
        return b.value === value && b.part === k.part;
      });
      if (reads) return 'all';
    }
    return 'last';
  }
}

/** Projections of a value that stand for one of its results. */
function partsOf(plan: Plan, value: Value, part: number): Value[] {
  const found = new Set<Value>();
  for (const line of plan.lines)
    for (const v of line.operands)
      if (v.op.name === 'get' && v.inputs[0] === value && v.attrs.index === part) found.add(v);
  return [...found];
}

const identifier = (name: string): string => name.replace(/\W/g, '_').replace(/^(?=\d)/, '_');

/** Lines indented as people write them. */
function formatted(text: string): string {
  const project = new Project({ useInMemoryFileSystem: true, skipLoadingLibFiles: true });
  const file = project.createSourceFile('model.ts', text);
  file.formatText({ indentSize: 2, convertTabsToSpaces: true });
  return file.getFullText();
}
const writer = (): CodeBlockWriter => new CodeBlockWriter({ indentNumberOfSpaces: 2, useSingleQuote: true });

function dimDeclaration({ name, min, max, multipleOf, default: usual, counted }: Sym): string {
  const bounds = [
    ...(min === 1 ? [] : [`min: ${min}`]),
    `max: ${max}`,
    ...(multipleOf === 1 ? [] : [`multipleOf: ${multipleOf}`]),
    ...(usual === min ? [] : [`default: ${usual}`]),
    ...(counted ? ['counted: true'] : []),
  ];
  return `dim(${quoted(name)}, { ${bounds.join(', ')} })`;
}

/** Words of the DSL that variables must not hide. */
const DSL =
  'abs acos acosh add all and any argMax argSort asin asinh atan atanh attention attentionWeights avgPool batchNorm bitAnd bitNot bitOr bitXor cast ceil clamp concat constant conv convTranspose cos cosh cumsum dim div einsum elu entry equal erf exp expand expr floor floorDiv floorMod gather gatherElements gelu greater greaterEqual groupNorm hardSigmoid hardSwish init input iota isInf isNan layerNorm leakyRelu less lessEqual linear log logSoftmax mask matmul max maxPool maximum mean min minimum mish model mul neg nn not notEqual operator operators or output pad param pow program quickGelu reciprocal relu rem reshape rmsNorm round rsqrt scan scope scoreOf scoreTerm select shiftLeft shiftRight sigmoid sign silu sin sinh slice softmax softplus softsign split sqrt stopGradient sub subgraph sum take tan tanh topK transpose trunc xor'.split(
    ' ',
  );
