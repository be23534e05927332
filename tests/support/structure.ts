import { posix } from 'node:path';
import { ts } from 'ts-morph';

/** Sources by path from the project root, with `/`: `ir/expr.ts` → its text. */
export type SourceTree = ReadonlyMap<string, string>;

/** What the checker needs to know about the package besides its sources. */
export interface PackageFacts {
  /** The package's own name; importing it by name goes round the import rules. */
  readonly name: string;
  /** Names under `dependencies` and `peerDependencies`: what a user's machine has. */
  readonly dependencies: readonly string[];
}

interface ImportSite {
  readonly specifier: string;
  readonly line: number;
  /** `type` is erased, `dynamic` happens when called, `static` when loaded. */
  readonly kind: 'static' | 'type' | 'dynamic';
}

/** What each folder may import from the others: a folder with `/`, or one file. `tests/` may import everything. */
const arrows: Readonly<Record<string, readonly string[]>> = {
  ir: [],
  runtime: [],
  passes: ['ir/'],
  frontends: ['ir/'],
  compiler: ['ir/', 'passes/', 'runtime/manifest.ts', 'runtime/arena.ts'],
};

/** Files that may import more than their folder: the package's entry and the command line join the parts. */
const wider: Readonly<Record<string, readonly string[]>> = {
  'compiler/index.ts': ['frontends/'],
  'compiler/cli/': ['frontends/', 'runtime/'],
};

/** Where packages may be imported from; any other import of a package is a violation. */
const packagePlaces: Readonly<Record<string, readonly string[]>> = {
  'ts-morph': ['frontends/dsl/source.ts', 'frontends/onnx/decompile.ts', 'compiler/loader.ts', 'compiler/cli/'],
  'onnx-proto': ['frontends/onnx/proto.ts'],
  protobufjs: ['frontends/onnx/proto.ts'],
  long: ['frontends/onnx/proto.ts'],
  commander: ['compiler/cli/'],
  'cli-progress': ['compiler/cli/'],
  'fast-png': ['compiler/cli/'],
  'jpeg-js': ['compiler/cli/'],
  webgpu: ['runtime/webgpu.ts'],
};

/** Scripts of the build: compiled with the rest, run in the checkout only, so they may use `devDependencies`. */
const buildScripts: Readonly<Record<string, readonly string[]>> = {
  'compiler/build-runtime.ts': ['esbuild'],
  'compiler/build-package.ts': ['esbuild'],
};

/** `node:` modules: never in `ir` and `passes`; in `runtime` when called only, since browsers load the same file. */
const nodeImports: Readonly<Record<string, readonly ImportSite['kind'][]>> = {
  ir: [],
  passes: [],
  runtime: ['type', 'dynamic'],
  frontends: ['static', 'type', 'dynamic'],
  compiler: ['static', 'type', 'dynamic'],
};

const maxLines = 600;
const kebabName = /^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)*\.ts$/;
const kebabFolder = /^[a-z0-9]+(-[a-z0-9]+)*$/;

/**
 * Every way in which the tree breaks the rules of its structure, one line each, `path:line: what`, in path order:
 * imports against the arrows, packages outside their files, import cycles (type imports count), files over 600 lines,
 * names that are not kebab-case.
 */
export function checkStructure(tree: SourceTree, facts: PackageFacts): string[] {
  const paths = [...tree.keys()].sort();
  const edges = new Map<string, string[]>();
  const found: string[] = [];
  for (const path of paths) {
    const source = tree.get(path) ?? '';
    found.push(...checkFile(path, source));
    const targets: string[] = [];
    for (const site of importsOf(path, source)) {
      const complain = (what: string) => found.push(`${path}:${site.line}: ${what}`);
      if (site.specifier.startsWith('.')) {
        const target = posix.join(posix.dirname(path), site.specifier);
        if (!target.endsWith('.ts')) complain(`relative import "${site.specifier}" does not end in .ts`);
        else if (!tree.has(target)) complain(`imports ${target}, which does not exist`);
        else targets.push(target);
        const problem = checkArrow(path, target);
        if (problem !== undefined) complain(problem);
      } else {
        const problem = checkPackage(path, site, facts);
        if (problem !== undefined) complain(problem);
      }
    }
    edges.set(path, targets);
  }
  for (const cycle of findCycles(edges)) found.push(`${cycle[0]}:1: import cycle: ${cycle.join(' → ')}`);
  return found;
}

/** Import and export-from declarations, `import()` calls and `import()` types of one file, in order. */
export function importsOf(path: string, source: string): ImportSite[] {
  const file = ts.createSourceFile(path, source, ts.ScriptTarget.Latest);
  const sites: ImportSite[] = [];
  const add = (node: ts.Node, specifier: ts.Node | undefined, kind: ImportSite['kind']) => {
    if (specifier === undefined || !ts.isStringLiteralLike(specifier)) return;
    const { line } = file.getLineAndCharacterOfPosition(node.getStart(file));
    sites.push({ specifier: specifier.text, line: line + 1, kind });
  };
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) add(node, node.moduleSpecifier, isTypeOnly(node) ? 'type' : 'static');
    else if (ts.isExportDeclaration(node)) add(node, node.moduleSpecifier, node.isTypeOnly ? 'type' : 'static');
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node, node.argument.literal, 'type');
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      add(node, node.arguments[0], 'dynamic');
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return sites;
}

// With verbatimModuleSyntax, `import { type A } from 'b'` still loads b: only a whole `import type` is erased.
function isTypeOnly(node: ts.ImportDeclaration): boolean {
  return node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword;
}

function checkFile(path: string, source: string): string[] {
  const found: string[] = [];
  const parts = path.split('/');
  const name = parts.at(-1) ?? '';
  if (!kebabName.test(name) || !parts.slice(0, -1).every((folder) => kebabFolder.test(folder))) {
    found.push(`${path}:1: name is not kebab-case`);
  }
  const lines = source.split('\n').length - (source.endsWith('\n') ? 1 : 0);
  if (folderOf(path) !== 'tests' && lines > maxLines) {
    found.push(`${path}:${maxLines + 1}: ${lines} lines; the ceiling is ${maxLines}`);
  }
  return found;
}

function checkArrow(path: string, target: string): string | undefined {
  const from = folderOf(path);
  if (from === 'tests' || folderOf(target) === from) return undefined;
  const extra = Object.entries(wider).flatMap(([place, more]) => (covers(place, path) ? more : []));
  const allowed = [...(arrows[from] ?? []), ...extra];
  if (allowed.some((place) => covers(place, target))) return undefined;
  return `imports ${target}; ${from}/ may import ${allowed.length === 0 ? 'nothing outside itself' : allowed.join(', ')}`;
}

function checkPackage(path: string, site: ImportSite, facts: PackageFacts): string | undefined {
  const from = folderOf(path);
  if (from === 'tests') return undefined;
  if (site.specifier.startsWith('node:')) {
    if (nodeImports[from]?.includes(site.kind)) return undefined;
    return `${site.kind} import of ${site.specifier}; ${from}/ may not`;
  }
  const name = packageName(site.specifier);
  if (name === facts.name) return `imports its own package by name ("${site.specifier}"); use a relative path`;
  if (buildScripts[path]?.includes(name)) return undefined;
  const places = packagePlaces[name] ?? [];
  if (!places.some((place) => covers(place, path))) {
    return `imports package ${name}; ${places.length === 0 ? 'no file may' : `only ${places.join(', ')} may`}`;
  }
  if (facts.dependencies.includes(name)) return undefined;
  return `imports package ${name}, which is not under dependencies or peerDependencies`;
}

function packageName(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

function folderOf(path: string): string {
  return path.split('/')[0] ?? '';
}

function covers(place: string, path: string): boolean {
  return place.endsWith('/') ? path.startsWith(place) : path === place;
}

/** One cycle, first node repeated at the end, for each back edge of a depth-first walk. */
function findCycles(edges: ReadonlyMap<string, readonly string[]>): string[][] {
  const cycles: string[][] = [];
  const done = new Set<string>();
  const stack: string[] = [];
  const visit = (node: string): void => {
    const at = stack.indexOf(node);
    if (at >= 0) cycles.push([...stack.slice(at), node]);
    if (at >= 0 || done.has(node)) return;
    stack.push(node);
    for (const target of edges.get(node) ?? []) visit(target);
    stack.pop();
    done.add(node);
  };
  for (const node of edges.keys()) visit(node);
  return cycles;
}
