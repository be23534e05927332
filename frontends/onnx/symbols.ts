/** Sizes that the file leaves open, as symbols with a name and a range. */
import { fail } from '../../ir/diagnostic.ts';
import type { Expr, Sym } from '../../ir/expr.ts';
import { substitute, symbol } from '../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../ir/type.ts';
import type { Agreement } from './agreement.ts';
import type { OnnxDim } from './proto.ts';
import { parseSize } from './provenance.ts';

/** A size or a range: `4`, `'1..8'`, `'16..512 step 16'`, or the same as an object. */
export type DimRange =
  | number
  | string
  | { readonly min?: number; readonly max?: number; readonly multipleOf?: number; readonly default?: number };

/** Range of a symbol that nobody has narrowed. */
const USUAL = { min: 1, max: 4096 } as const;

export class Symbols {
  private readonly ranges: Readonly<Record<string, DimRange>>;
  /** Ranges that the file states itself, as `text.ts` prints them. */
  private readonly stated: string | undefined;
  private readonly known = new Map<string, Dim>();
  private readonly taken = new Set<string>();
  private readonly used = new Set<string>();

  /** Sizes by the name of their symbol. */
  private readonly byId = new Map<string, Dim>();
  private readonly agreement: Agreement;

  constructor(ranges: Readonly<Record<string, DimRange>>, agreement: Agreement, stated?: string) {
    this.ranges = ranges;
    this.agreement = agreement;
    this.stated = stated;
  }

  /** @param where names a size that the file does not name: the input and the axis */
  size(given: OnnxDim, where: string): Dim {
    // Some exporters write −1 for a size they do not know.
    if (typeof given === 'number' && given >= 0) return given;
    const name = typeof given === 'string' ? given : where;
    const known = this.known.get(name);
    if (known !== undefined) return known;
    const id = this.identifier(name);
    const key = [name, id].find((k) => Object.hasOwn(this.ranges, k));
    const parsed = key === undefined && this.stated !== undefined ? parseSize(name, this.stated) : undefined;
    if (parsed !== undefined) {
      const size = typeof parsed === 'number' || parsed.op === 'sym' ? parsed : this.narrowed(parsed);
      this.known.set(name, size);
      return size;
    }
    const range = key === undefined ? USUAL : parseRange(key, this.ranges[key]!);
    if (key !== undefined) this.used.add(key);
    const size = this.agreed(id, range);
    this.known.set(name, size);
    this.byId.set(id, size);
    return size;
  }

  /** A size of that range, or what it has turned out to be. */
  private agreed(id: string, range: Exclude<DimRange, string>): Dim {
    if (typeof range === 'number') return range;
    const same = this.agreement.sameAs(id);
    const other = same === undefined ? undefined : this.byId.get(same);
    if (other !== undefined) return other;
    if (!this.agreement.order.includes(id)) this.agreement.order.push(id);
    const { min, max } = { ...USUAL, ...range };
    const fixed = this.agreement.sizeOf(id);
    if (fixed !== undefined && fixed >= min && fixed <= max) return fixed;
    const most = Math.min(max, this.agreement.mostOf(id));
    return symbol(id, { ...range, max: most < min ? max : most });
  }

  /** The range that was given for a name, for sizes that the file computes; undefined when there is none. */
  given(name: string): { readonly min: number; readonly max: number } | undefined {
    if (!Object.hasOwn(this.ranges, name)) return undefined;
    this.used.add(name);
    const range = parseRange(name, this.ranges[name]!);
    return typeof range === 'number' ? { min: range, max: range } : { ...USUAL, ...range };
  }

  /** Arithmetic over symbols, each as it has been narrowed. */
  private narrowed(size: Expr): Dim {
    return dim(substitute(size, (e) => (e.op === 'sym' ? asExpr(this.size((e.arg as Sym).name, '')) : undefined)));
  }

  /** Refuses ranges for names that the model does not have. */
  finish(what: string): void {
    const extra = Object.keys(this.ranges).filter((name) => !this.used.has(name));
    if (extra.length > 0)
      fail('name', `${what}: there is no symbolic size ${extra.map((n) => `"${n}"`).join(', ')}`, {
        help: `its sizes are ${[...this.known.keys()].join(', ') || 'all fixed'}`,
      });
  }

  /** A name for a size that no file mentions, like no other. */
  fresh(name: string): string {
    return this.identifier(name);
  }

  private identifier(name: string): string {
    const plain = name.replaceAll(/[^A-Za-z0-9_]+/g, '_').replace(/^(?=[0-9]|$)/, '_');
    let id = plain;
    for (let n = 2; this.taken.has(id); n++) id = `${plain}_${n}`;
    this.taken.add(id);
    return id;
  }
}

type Range = { readonly min: number; readonly max: number; readonly multipleOf?: number; readonly default?: number };

function parseRange(name: string, range: DimRange): number | Range {
  const wrong = (): never =>
    fail('usage', `size "${name}" cannot be ${JSON.stringify(range)}`, {
      help: "write a number, '1..8', or '16..512 step 16'",
    });
  if (typeof range === 'number') return Number.isSafeInteger(range) && range >= 0 ? range : wrong();
  if (typeof range !== 'string') {
    const whole = { ...USUAL, ...range };
    return whole.min <= whole.max ? whole : wrong();
  }
  const found = /^\s*(\d+)(?:\s*\.\.\s*(\d+)(?:\s+step\s+(\d+))?)?\s*$/.exec(range);
  if (!found) return wrong();
  const [min, max, step] = found.slice(1).map((x) => (x === undefined ? undefined : Number(x)));
  if (max === undefined) return min!;
  if (min! > max) return wrong();
  return { min: min!, max, ...(step === undefined ? {} : { multipleOf: step }) };
}
