/** Hash-consing: values that compute the same thing become one object. */

import { type AttrValue, isGraph, type Value } from '../ir/graph.ts';
import { countOf, type Nd } from '../ir/nd.ts';

/** Larger constants are compared by identity. */
const COMPARED = 4096;

/** The values of one graph by what they compute. */
export class InternTable {
  readonly #table = new Map<string, Value>();
  readonly #ids = new Map<object, number>();

  /** The first value seen with this op, these attributes and these operands; `value` itself when it is the first. */
  intern(value: Value): Value {
    const key = this.#key(value);
    const known = this.#table.get(key);
    if (known) return known;
    this.#table.set(key, value);
    return value;
  }

  #key(value: Value): string {
    let key = value.op.name;
    for (const name in value.attrs) key += `;${this.#attr(value.attrs[name])}`;
    for (const input of value.inputs) key += `,${this.#id(input)}`;
    return key;
  }

  #attr(attr: AttrValue): string {
    switch (typeof attr) {
      case 'undefined':
        return '';
      case 'string':
        return JSON.stringify(attr);
      case 'boolean':
        return String(attr);
      case 'number':
        return Object.is(attr, -0) ? '-0' : String(attr);
    }
    if (Array.isArray(attr)) return `[${(attr as readonly AttrValue[]).map((a) => this.#attr(a)).join()}]`;
    if (isGraph(attr)) return `g${this.#id(attr)}`;
    if ('lanes' in (attr as object)) return `e${(attr as { readonly id: number }).id}`;
    return this.#nd(attr as Nd);
  }

  #nd(x: Nd): string {
    if (countOf(x.shape) > COMPARED) return `t${this.#id(x)}`;
    const elements = Array.from(x.data, (v) => (Object.is(v, -0) ? '-0' : String(v)));
    return `${x.dtype}[${x.shape.join()}](${elements.join()})`;
  }

  #id(of: object): number {
    const known = this.#ids.get(of);
    if (known !== undefined) return known;
    this.#ids.set(of, this.#ids.size);
    return this.#ids.size - 1;
  }
}
