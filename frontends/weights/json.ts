import { type DiagnosticCode, fail } from '../../ir/diagnostic.ts';
import { quote } from './message.ts';

/** A JSON value whose objects are Maps, so that no key (`__proto__` included) can touch a prototype. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export type JsonObject = ReadonlyMap<string, Json>;

/** What `readJson` accepts, and how it reports what it refuses. */
export interface JsonLimits {
  readonly source: string;
  readonly code: DiagnosticCode;
  /** Deepest nesting of arrays and objects; a scalar is at depth 0. */
  readonly maxDepth: number;
  /** Most elements of one array; default no limit. */
  readonly maxArray?: number;
}

/** True for an object of `readJson`. */
export function isObject(value: Json | undefined): value is JsonObject {
  return value instanceof Map;
}

/**
 * Parses strict JSON. Unlike `JSON.parse` it refuses duplicate keys, lone surrogates, and nesting or arrays beyond the
 * limits, and says where.
 *
 * @throws CompileError with `limits.code`
 */
export function readJson(text: string, limits: JsonLimits): Json {
  return new Reader(text, limits).document();
}

const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const words = [
  ['true', true],
  ['false', false],
  ['null', null],
] as const;
const loneSurrogate = /\p{Surrogate}/u;

class Reader {
  private at = 0;
  private readonly text: string;
  private readonly limits: JsonLimits;

  constructor(text: string, limits: JsonLimits) {
    this.text = text;
    this.limits = limits;
  }

  document(): Json {
    const value = this.value(this.limits.maxDepth);
    this.space();
    if (this.at < this.text.length) this.fail('unexpected text after the value');
    return value;
  }

  private value(depth: number): Json {
    this.space();
    const char = this.text[this.at];
    if (char === '{' || char === '[') {
      if (depth === 0) this.fail(`nesting deeper than ${this.limits.maxDepth}`);
      return char === '{' ? this.object(depth - 1) : this.array(depth - 1);
    }
    if (char === '"') return this.string();
    for (const [word, value] of words) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    number.lastIndex = this.at;
    const match = number.exec(this.text)?.[0];
    if (match === undefined) this.fail('expected a value');
    this.at += match.length;
    return Number(match);
  }

  private object(depth: number): JsonObject {
    const result = new Map<string, Json>();
    this.at++;
    if (this.take('}')) return result;
    do {
      this.space();
      if (this.text[this.at] !== '"') this.fail('expected a key in double quotes');
      const start = this.at;
      const key = this.string();
      if (result.has(key)) {
        this.at = start;
        this.fail(`duplicate key ${quote(key)}`);
      }
      if (!this.take(':')) this.fail(`expected ':' after the key ${quote(key)}`);
      result.set(key, this.value(depth));
    } while (this.take(','));
    if (!this.take('}')) this.fail("expected ',' or '}'");
    return result;
  }

  private array(depth: number): readonly Json[] {
    const result: Json[] = [];
    const max = this.limits.maxArray ?? Number.POSITIVE_INFINITY;
    this.at++;
    if (this.take(']')) return result;
    do {
      if (result.length === max) this.fail(`an array of more than ${max} elements`);
      result.push(this.value(depth));
    } while (this.take(','));
    if (!this.take(']')) this.fail("expected ',' or ']'");
    return result;
  }

  private string(): string {
    const start = this.at++;
    let plain = true;
    for (; ; this.at++) {
      const code = this.text.charCodeAt(this.at);
      if (code === 0x22) break;
      if (Number.isNaN(code)) this.fail('the text ends inside a string');
      if (code < 0x20) this.fail('a control character inside a string');
      if (code === 0x5c) {
        plain = false;
        this.at++;
      }
    }
    this.at++;
    const value = plain ? this.text.slice(start + 1, this.at - 1) : this.unescape(start);
    if (loneSurrogate.test(value)) this.fail('half of a surrogate pair inside a string');
    return value;
  }

  private unescape(start: number): string {
    try {
      return JSON.parse(this.text.slice(start, this.at)) as string;
    } catch {
      this.at = start;
      return this.fail('an escape that JSON does not have');
    }
  }

  private space(): void {
    for (; ; this.at++) {
      const code = this.text.charCodeAt(this.at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
    }
  }

  private take(char: string): boolean {
    this.space();
    if (this.text[this.at] !== char) return false;
    this.at++;
    return true;
  }

  private fail(what: string): never {
    // Counted, not split: a hostile header can be a hundred million line feeds.
    let line = 1;
    let start = 0;
    for (let next = this.text.indexOf('\n'); next >= 0 && next < this.at; next = this.text.indexOf('\n', start)) {
      line++;
      start = next + 1;
    }
    const where = `line ${line}, column ${this.at - start + 1}`;
    return fail(this.limits.code, `${this.limits.source}: not valid JSON: ${what} (${where})`);
  }
}
