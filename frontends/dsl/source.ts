/**
 * What a model's source file knows and its trace does not: the names of variables, and the text of the line at fault.
 * Positions in compiled files are followed through their source maps. ts-morph takes half a second to load, so it is
 * imported when one of these functions is called and not before.
 */
import { existsSync, readFileSync } from 'node:fs';
import { SourceMap, type SourceMapPayload } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { ArrayBindingPattern, CallExpression, Node, SourceFile } from 'ts-morph';
import { CompileError, type Diagnostic, type Loc, printLoc } from '../../ir/diagnostic.ts';
import { graph, graphValues, type Value } from '../../ir/graph.ts';
import type { ModelGraph } from './trace.ts';

/**
 * The same model with values named after the variables they were assigned to: `const attended = attention(…)` names its
 * value `attended`; later values of the same line are `attended.1`, `attended.2`, …. Names that the model gave itself
 * stay, and positions in compiled files become positions in their sources. Files that cannot be read change nothing.
 */
export async function nameValues(model: ModelGraph): Promise<ModelGraph> {
  const sources = await openSources();
  const taken = new Set<string>();
  const free = (name: string): string => {
    let unique = name;
    for (let n = 1; taken.has(unique); n++) unique = `${name}.${n}`;
    taken.add(unique);
    return unique;
  };
  // Entries share parameters: one value in, one value out.
  const renamed = new Map<Value, Value>();
  const bindings = new Map<Value, readonly (string | undefined)[]>();
  const entries = Object.entries(model.entries).map(([key, g]) => {
    const values = graphValues(g);
    for (const { name } of values) if (name !== undefined) taken.add(name);
    // An op made of several has them all on one line: the variable holds the last.
    const inside = new Set(
      values.flatMap((value) => value.inputs.filter((operand) => sameLoc(operand.loc, value.loc))),
    );
    for (const value of values) {
      if (renamed.has(value)) continue;
      const origin = value.loc && sources.origin(value.loc);
      const bound = origin && !inside.has(value) ? sources.bindingAt(origin) : undefined;
      if (Array.isArray(bound)) bindings.set(value, bound);
      const own = value.op.name === 'get' ? bindings.get(value.inputs[0]!)?.[value.attrs.index as number] : bound;
      const plain = value.op.name !== 'param' && value.op.name !== 'input' && value.name === undefined;
      const name = plain && typeof own === 'string' ? free(own) : value.name;
      renamed.set(value, {
        ...value,
        inputs: value.inputs.map((x) => renamed.get(x)!),
        name,
        loc: origin ?? value.loc,
      });
    }
    const at = (value: Value): Value => renamed.get(value) ?? value;
    return [
      key,
      graph(
        g.name,
        g.inputs.map(at),
        [...g.outputs].map(([name, value]) => [name, at(value)]),
      ),
    ] as const;
  });
  return { ...model, entries: Object.fromEntries(entries) };
}

/**
 * The error with the author's line quoted and the operands called by the author's names:
 *
 * ```
 * error[shape]: matmul: inner sizes differ, 768 and 384
 *   --> models/vit.ts:27:15
 *    |
 * 27 |   const out = matmul(attended, projection);
 *    |               ^^^^^^
 *    = attended   : f32[B, 197, 768]   from attention, models/vit.ts:24:20
 *    = projection : f32[384, 768]   parameter "blk.0.proj.w"
 * ```
 *
 * The error itself where its source cannot be read.
 */
export async function frameOf(error: CompileError | Diagnostic): Promise<CompileError> {
  const compileError = error instanceof CompileError ? error : new CompileError(error);
  const { diagnostic } = compileError;
  if (!diagnostic.loc) return compileError;
  const sources = await openSources();
  const loc = sources.origin(diagnostic.loc);
  const notes = (diagnostic.notes ?? []).map((note) => sources.mapNote(note));
  const named = sources.nameNotes(loc, diagnostic.message, notes);
  return new CompileError(
    { ...diagnostic, loc, notes: named, frame: sources.frame(loc) ?? diagnostic.frame },
    { cause: error },
  );
}

const sameLoc = (a: Loc | undefined, b: Loc | undefined): boolean =>
  a !== undefined && b !== undefined && a.file === b.file && a.line === b.line && a.column === b.column;

type Morph = typeof import('ts-morph');

/** Source files by path, each read, mapped and parsed once. */
class Sources {
  readonly #morph: Morph;
  readonly #texts = new Map<string, string | undefined>();
  readonly #maps = new Map<string, SourceMap | undefined>();
  readonly #files = new Map<string, SourceFile | undefined>();
  readonly #project: InstanceType<Morph['Project']>;

  constructor(morph: Morph) {
    this.#morph = morph;
    this.#project = new morph.Project({
      useInMemoryFileSystem: true,
      skipLoadingLibFiles: true,
      compilerOptions: { allowJs: true },
    });
  }

  text(file: string): string | undefined {
    const path = pathOf(file);
    if (!this.#texts.has(path)) this.#texts.set(path, existsSync(path) ? readFileSync(path, 'utf8') : undefined);
    return this.#texts.get(path);
  }

  /** Where a position of a compiled file comes from; the position itself where that is not known. */
  origin(loc: Loc): Loc {
    const map = this.#map(loc.file);
    const found = map?.findOrigin(loc.line, loc.column);
    if (!found || !('fileName' in found) || !found.fileName) return loc;
    const generated = pathToFileURL(pathOf(loc.file));
    const path = fileURLToPath(new URL(found.fileName, generated));
    if (!existsSync(path)) return loc;
    return { file: shown(path), line: found.lineNumber, column: found.columnNumber };
  }

  #map(file: string): SourceMap | undefined {
    if (this.#maps.has(file)) return this.#maps.get(file);
    let map: SourceMap | undefined;
    const url = /\n\/\/# sourceMappingURL=(\S+)\s*$/.exec(this.text(file) ?? '')?.[1];
    try {
      const inline = /^data:application\/json[^,]*;base64,(.*)$/.exec(url ?? '')?.[1];
      const path =
        url === undefined || inline !== undefined ? undefined : join(dirname(pathOf(file)), decodeURIComponent(url));
      const json =
        inline !== undefined
          ? atob(inline)
          : path !== undefined && existsSync(path)
            ? readFileSync(path, 'utf8')
            : undefined;
      if (json !== undefined) map = new SourceMap(JSON.parse(json) as SourceMapPayload);
    } catch {
      // A broken map is no reason to fail: the compiled position stands.
    }
    this.#maps.set(file, map);
    return map;
  }

  #file(file: string): SourceFile | undefined {
    if (!this.#files.has(file)) {
      const text = this.text(file);
      this.#files.set(
        file,
        text === undefined
          ? undefined
          : this.#project.createSourceFile(`/${this.#files.size}/${file.replace(/.*[\\/]/, '')}`, text),
      );
    }
    return this.#files.get(file);
  }

  /** The call whose name stands at a position. */
  call(loc: Loc): CallExpression | undefined {
    const file = this.#file(loc.file);
    if (!file) return undefined;
    const start = startOfLine(file.getFullText(), loc.line) + loc.column - 1;
    let node: Node | undefined = file.getDescendantAtPos(start);
    while (node && !this.#morph.Node.isCallExpression(node)) node = node.getParent();
    return node;
  }

  /** The variable that receives the result of the call at a position, or the names it is taken apart into. */
  bindingAt(loc: Loc): string | (string | undefined)[] | undefined {
    const { Node } = this.#morph;
    let node: Node | undefined = this.call(loc);
    while (node) {
      const parent: Node | undefined = node.getParent();
      if (Node.isVariableDeclaration(parent) && parent.getInitializer() === node) {
        const name = parent.getNameNode();
        if (Node.isIdentifier(name)) return name.getText();
        return Node.isArrayBindingPattern(name) ? namesOf(this.#morph, name) : undefined;
      }
      // Only what passes the value on: parentheses, assertions, a layer applied where it is made.
      const transparent =
        Node.isParenthesizedExpression(parent) ||
        Node.isAsExpression(parent) ||
        Node.isSatisfiesExpression(parent) ||
        Node.isNonNullExpression(parent) ||
        (Node.isCallExpression(parent) && parent.getExpression() === node);
      if (!transparent) return undefined;
      node = parent;
    }
    return undefined;
  }

  /** The quoted line, underlined at the name of the call. */
  frame({ file, line, column }: Loc): string | undefined {
    const text = this.text(file)?.split('\n')[line - 1]?.replace(/\r$/, '');
    if (text === undefined || column < 1 || column > text.length + 1) return undefined;
    const word = /^[\w$]+/.exec(text.slice(column - 1))?.[0] ?? ' ';
    const margin = ' '.repeat(String(line).length);
    // Tabs stay tabs, so that the caret stands under its column at any tab width.
    const indent = text.slice(0, column - 1).replace(/[^\t]/g, ' ');
    return [`${margin} |`, `${line} | ${text}`, `${margin} | ${indent}${'^'.repeat(word.length)}`].join('\n');
  }

  /** A note that ends in a position, with that position followed to its source. */
  mapNote(note: string): string {
    const found = /^(.*, )(\S+):(\d+):(\d+)$/.exec(note);
    if (!found) return note;
    return found[1] + printLoc(this.origin({ file: found[2]!, line: Number(found[3]), column: Number(found[4]) }));
  }

  /** Facts about operands under the names of the arguments, when the call at fault is the op that complains. */
  nameNotes(loc: Loc, message: string, notes: readonly string[]): string[] {
    const call = this.call(loc);
    const callee = call
      ?.getExpression()
      .getText()
      .replace(/^.*\./s, '')
      .replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
    const rows = notes.map((note, i) => {
      const [role, ...rest] = note.split(' : ');
      const argument = call?.getArguments()[i];
      const own = rest.length > 0 && callee !== undefined && message.startsWith(`${callee}: `);
      const name = own && argument && this.#morph.Node.isIdentifier(argument) ? argument.getText() : role!;
      return { name, rest: rest.join(' : ') };
    });
    const width = Math.max(0, ...rows.map(({ name, rest }) => (rest === '' ? 0 : name.length)));
    return rows.map(({ name, rest }) => (rest === '' ? name : `${name.padEnd(width)} : ${rest}`));
  }
}

const namesOf = ({ Node }: Morph, pattern: ArrayBindingPattern): (string | undefined)[] =>
  pattern.getElements().map((element) => {
    const name = Node.isBindingElement(element) ? element.getNameNode() : undefined;
    return Node.isIdentifier(name) ? name.getText() : undefined;
  });

let opened: Promise<Morph> | undefined;
async function openSources(): Promise<Sources> {
  opened ??= import('ts-morph');
  return new Sources(await opened);
}

/** This package's root: the folder of its `package.json`. */
const root = ((): string => {
  const here = dirname(fileURLToPath(import.meta.url));
  for (let folder = here; folder !== dirname(folder); folder = dirname(folder))
    if (existsSync(join(folder, 'package.json'))) return folder;
  return here;
})();

/** The file that a `Loc` names: from the working folder, or from this package. */
function pathOf(file: string): string {
  const own = /^heddle\/(.*)$/s.exec(file)?.[1];
  const path = resolve(file);
  return own !== undefined && !existsSync(path) ? join(root, own) : path;
}

function shown(path: string): string {
  const fromHere = relative(process.cwd(), path);
  if (!fromHere.startsWith('..')) return fromHere;
  const fromRoot = relative(root, path);
  return fromRoot.startsWith('..') ? path : `heddle/${fromRoot}`;
}

function startOfLine(text: string, line: number): number {
  let start = 0;
  for (let n = 1; n < line; n++) start = text.indexOf('\n', start) + 1;
  return start;
}
