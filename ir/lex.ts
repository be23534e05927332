/** Tokens of the textual IR, read on demand, each with its position. */
import { type Diagnostic, fail, type Loc } from './diagnostic.ts';

export type Token =
  | { readonly kind: 'id' | 'string' | 'punct'; readonly text: string; readonly at: number; readonly end: number }
  | {
      readonly kind: 'value';
      readonly text: string;
      readonly quoted: boolean;
      readonly at: number;
      readonly end: number;
    }
  | {
      readonly kind: 'number';
      readonly text: string;
      readonly number: number;
      readonly at: number;
      readonly end: number;
    }
  | { readonly kind: 'loc'; readonly text: string; readonly loc: Loc; readonly at: number; readonly end: number }
  | { readonly kind: 'end'; readonly text: string; readonly at: number; readonly end: number };

/** Names that print bare after `%`; every other name prints quoted. */
export const VALUE_NAME = /^[A-Za-z_][\w.]*$/;
/** Names of graphs, outputs and attributes that print bare. */
export const IDENTIFIER = /^[A-Za-z_]\w*$/;
/** File names that print bare after `@`. */
export const BARE_FILE = /^[^\s:"(){},]+$/;

const SPACE = /\s/;
const ID = /[A-Za-z_]\w*/y;
const VALUE = /%(?:[A-Za-z_][\w.]*|\d+)/y;
const NUMBER = /\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const PUNCT = /\.\.|\|\||&&|==|!=|<=|[()[\]{},:=<!+\-*/%]/y;
const FILE = /[^\s:"(){},]+/y;
const LINE_COLUMN = /:(\d+):(\d+)/y;

export class Lexer {
  readonly source: string;
  readonly file: string;
  #token: Token;
  /** Where the token before the current one ended. */
  #previousEnd = 0;

  constructor(source: string, file: string) {
    this.source = source;
    this.file = file;
    this.#token = this.#read(0);
  }

  /** The current token. */
  get peek(): Token {
    return this.#token;
  }

  get previousEnd(): number {
    return this.#previousEnd;
  }

  next(): Token {
    const token = this.#token;
    this.#previousEnd = token.end;
    this.#token = this.#read(token.end);
    return token;
  }

  /** Whether the current token is this punctuation or bare word. */
  at(text: string): boolean {
    const { kind } = this.#token;
    return (kind === 'punct' || kind === 'id') && this.#token.text === text;
  }

  accept(text: string): boolean {
    if (!this.at(text)) return false;
    this.next();
    return true;
  }

  expect(text: string, context: string): Token {
    return this.at(text) ? this.next() : this.unexpected(`"${text}" ${context}`);
  }

  identifier(what: string): string {
    return this.#token.kind === 'id' ? this.next().text : this.unexpected(what);
  }

  /** A bare word, or a quoted string where the name is not a word. */
  name(what: string): string {
    return this.#token.kind === 'string' ? this.next().text : this.identifier(what);
  }

  unexpected(expected: string): never {
    const { kind, text } = this.#token;
    const found = kind === 'end' ? 'the end of the text' : kind === 'string' ? JSON.stringify(text) : `"${text}"`;
    return this.error(`expected ${expected}, found ${found}`);
  }

  /** Reports a fault at `at` (the current token unless said otherwise). */
  error(message: string, at: Pick<Token, 'at' | 'end'> = this.#token, more: Partial<Diagnostic> = {}): never {
    return fail('syntax', message, { ...this.where(at), ...more });
  }

  /** Position and quoted line of a span. */
  where(span: Pick<Token, 'at' | 'end'>): { readonly loc: Loc; readonly frame: string } {
    const start = this.source.lastIndexOf('\n', span.at - 1) + 1;
    const stop = this.source.indexOf('\n', span.at);
    let line = 1;
    for (let i = this.source.indexOf('\n'); i >= 0 && i < span.at; i = this.source.indexOf('\n', i + 1)) line++;
    const column = span.at - start + 1;
    const text = this.source.slice(start, stop < 0 ? undefined : stop);
    return { loc: { file: this.file, line, column }, frame: frame(text, line, column, span.end - span.at) };
  }

  #read(from: number): Token {
    const { source } = this;
    const at = skipSpace(source, from);
    if (at >= source.length) return { kind: 'end', text: '', at, end: at };
    const char = source[at]!;
    if (char === '@') return this.#readLoc(at);
    if (char === '"') return this.#readString(at);
    if (char === '%') {
      if (source[at + 1] === '"') {
        const name = this.#readString(at + 1);
        return { kind: 'value', text: name.text, quoted: true, at, end: name.end };
      }
      const text = match(VALUE, source, at);
      if (text !== undefined) return { kind: 'value', text: text.slice(1), quoted: false, at, end: at + text.length };
    }
    const id = match(ID, source, at);
    if (id !== undefined) return { kind: 'id', text: id, at, end: at + id.length };
    const digits = match(NUMBER, source, at);
    if (digits !== undefined)
      return { kind: 'number', text: digits, number: Number(digits), at, end: at + digits.length };
    const punct = match(PUNCT, source, at);
    if (punct !== undefined) return { kind: 'punct', text: punct, at, end: at + punct.length };
    return this.error(`unexpected character ${JSON.stringify(char)}`, { at, end: at + 1 });
  }

  #readString(at: number): Token & { readonly kind: 'string' | 'id' | 'punct' } {
    let stop = at + 1;
    while (this.source[stop] !== '"' && this.source[stop] !== '\n' && stop < this.source.length)
      stop += this.source[stop] === '\\' ? 2 : 1;
    if (this.source[stop] !== '"') return this.error('a string does not end on its line', { at, end: at + 1 });
    const quoted = this.source.slice(at, stop + 1);
    try {
      return { kind: 'string', text: JSON.parse(quoted) as string, at, end: at + quoted.length };
    } catch {
      return this.error('a string has an escape that JSON does not know', { at, end: at + quoted.length });
    }
  }

  /** `@ models/vit.ts:27:14`; a file name with spaces or colons stands in quotes. */
  #readLoc(at: number): Token {
    const start = skipSpace(this.source, at + 1);
    const quoted = this.source[start] === '"' ? this.#readString(start) : undefined;
    const file = quoted?.text ?? match(FILE, this.source, start);
    const after = quoted?.end ?? start + (file?.length ?? 0);
    LINE_COLUMN.lastIndex = after;
    const found = file === undefined ? null : LINE_COLUMN.exec(this.source);
    if (file === undefined || !found) return this.error('expected file:line:column after "@"', { at, end: at + 1 });
    const loc = { file, line: Number(found[1]), column: Number(found[2]) };
    return { kind: 'loc', text: this.source.slice(at, LINE_COLUMN.lastIndex), loc, at, end: LINE_COLUMN.lastIndex };
  }
}

/** The first position from `at` that is neither space nor comment. */
function skipSpace(source: string, at: number): number {
  for (;;) {
    while (at < source.length && SPACE.test(source[at]!)) at++;
    if (source[at] !== '/' || source[at + 1] !== '/') return at;
    const stop = source.indexOf('\n', at);
    at = stop < 0 ? source.length : stop;
  }
}

function match(pattern: RegExp, source: string, at: number): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(source)?.[0];
}

/** A source line with carets under `length` characters from `column`; long lines are cut around them. */
function frame(text: string, line: number, column: number, length: number): string {
  const from = Math.max(0, Math.min(column - 60, text.length - 100));
  const shown = text.slice(from, from + 100).replace(/\t/g, ' ');
  const gutter = ' '.repeat(String(line).length);
  const carets = '^'.repeat(Math.max(1, Math.min(length, shown.length - (column - 1 - from))));
  return `${gutter} |\n${line} | ${shown}\n${gutter} | ${' '.repeat(column - 1 - from)}${carets}`;
}
