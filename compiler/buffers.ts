/** Buffers of one region: made on first use, remembered with what they are bound to. */
import { type Scalar, sizeOf } from '../ir/dtype.ts';
import type { Buffer, Expr } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { buffer } from '../ir/kernel.ts';
import { add, floordiv, floormod, literal, max, mul } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, elements, type Shape } from '../ir/type.ts';
import { flatten } from './access.ts';
import type { Partition } from './partition.ts';
import { type Binding, type Region, type RegionBuffers, storedAs, type WeightLayout } from './region.ts';

export class BufferTable implements RegionBuffers {
  private readonly region: Region;
  private readonly program: Partition;
  private readonly table = new Map<string, Buffer>();
  private readonly bindings = new Map<Buffer, Binding>();

  constructor(region: Region, program: Partition) {
    this.region = region;
    this.program = program;
  }

  input(value: Value): Buffer {
    if (this.isStatic(value)) return this.weight(value, this.layoutOf(value));
    return this.make(`in${this.indexOf(value)}`, typeOf(value).dtype, readable(typeOf(value).shape), 'read', {
      kind: 'value',
      value,
    });
  }

  addressOf(value: Value, at: readonly Expr[]): Expr {
    const layout = this.isStatic(value) ? this.layoutOf(value) : undefined;
    if (layout?.kind !== 'panels') return flatten(typeOf(value).shape, at);
    const [row, column] = at.slice(-2) as [Expr, Expr];
    const [k, n] = layout.transposed ? [column, row] : [row, column];
    return add(add(mul(floordiv(n, 8), layout.k * 8), mul(k, 8)), floormod(n, 8));
  }

  private layoutOf(value: Value): WeightLayout {
    return this.program.panels.get(value) ?? { kind: 'plain' };
  }

  output(value: Value): Buffer {
    const index = this.region.outputs.indexOf(value);
    if (index < 0) throw new Error(`region ${this.region.name} does not write ${value.op.name}`);
    return this.make(`out${index}`, typeOf(value).dtype, readable(typeOf(value).shape), 'readwrite', {
      kind: 'value',
      value,
    });
  }

  weight(value: Value, layout: WeightLayout): Buffer {
    const stored = storedAs(value, layout);
    const name = `w${this.indexOf(value)}${layout.kind === 'plain' ? '' : `_${layout.kind}`}`;
    return this.make(name, stored.dtype, literal(stored.elements), 'read', { kind: 'weight', value, layout });
  }

  temp(name: string, dtype: Scalar, size: Expr): Buffer {
    return this.make(`temp_${name}`, dtype, size, 'readwrite', { kind: 'temp', name, dtype, size });
  }

  scratch(name: string, dtype: Scalar, size: number): Buffer {
    const known = this.table.get(`scratch ${name}`);
    if (known) return known;
    const made = buffer(name, dtype, size, { space: 'local', access: 'readwrite' });
    this.table.set(`scratch ${name}`, made);
    return made;
  }

  isStatic(value: Value): boolean {
    return this.program.isStatic(value);
  }

  isMaterialised(value: Value): boolean {
    return this.region.inputs.includes(value);
  }

  bindingOf(b: Buffer): Binding {
    const binding = this.bindings.get(b);
    if (!binding) throw new Error(`region ${this.region.name}: buffer ${b.name} is not bound`);
    return binding;
  }

  private indexOf(value: Value): number {
    const index = this.region.inputs.indexOf(value);
    if (index < 0)
      throw new Error(
        `region ${this.region.name} reads ${value.op.name} (${value.name ?? '?'}), not one of its inputs`,
      );
    return index;
  }

  private make(name: string, dtype: Scalar, size: Expr, access: Buffer['access'], binding: Binding): Buffer {
    const known = this.table.get(name);
    if (known) return known;
    const made = buffer(name, dtype, size, { access });
    this.table.set(name, made);
    this.bindings.set(made, binding);
    return made;
  }
}

/**
 * Elements that can be read. Both sides of a choice may be evaluated: what may have no elements when it runs can be read at
 * position 0 of its axes all the same.
 */
const readable = (shape: Shape): Expr => elements(shape.map((d) => notEmpty(asExpr(d))));
export const notEmpty = (count: Expr): Expr =>
  count.op !== 'const' && boundsOf(count)[0] <= 0 ? max(count, 1) : count;

/** Bytes of a buffer with that many elements. */
export const bytesOf = (dtype: Scalar, count: Expr): Expr => mul(count, sizeOf(dtype));
