/** Reads the short spelling of plans that the compiler writes into `manifest.json` (`compiler/pack-manifest.ts`). */
import { HeddleError } from './error.ts';

type Fields = Readonly<Record<string, unknown>>;
type PackedBuffer = readonly [bytes: unknown, after: number, life: number];

/**
 * The manifest that was packed; one that is not packed stays as it is. What comes out is as untrusted as what went in.
 *
 * @throws HeddleError `manifest` when it is too malformed to be unpacked
 */
export function unpackManifest(json: unknown): unknown {
  const manifest = json as (Packed & { readonly packed?: unknown; readonly webgpu?: Packed }) | null;
  if (manifest?.packed !== true) return json;
  try {
    const { webgpu } = manifest;
    return { ...unpackEntries(manifest), ...(webgpu && { webgpu: unpackEntries(webgpu) }) };
  } catch (cause) {
    throw new HeddleError('manifest', 'manifest: its plans are malformed. Compile the bundle again.', { cause });
  }
}

interface Packed {
  readonly entries: Readonly<Record<string, Fields>>;
}

function unpackEntries(part: Packed): object {
  const entries = Object.entries(part.entries).map(([name, plan]) => {
    let first = 0;
    const buffers = (plan.buffers as readonly PackedBuffer[]).map(([bytes, after, life]) => {
      first += after;
      return { bytes, first, last: first + life };
    });
    return [name, { ...plan, buffers, steps: unpackSteps(plan.steps) }];
  });
  return { ...part, entries: Object.fromEntries(entries) as unknown };
}

/** Buffers are numbered from the highest before, weights by the bytes between them. */
function unpackSteps(all: unknown): unknown {
  let top = 0;
  let weight = 0;
  const address = (a: unknown): unknown => {
    if (typeof a === 'number') {
      const b = a + top;
      top = Math.max(top, b);
      return { b };
    }
    if (!Array.isArray(a)) return a;
    weight += a[0] as number;
    return { w: weight };
  };
  const steps = (list: unknown): unknown =>
    (list as readonly (Fields | readonly unknown[])[]).map((step) => {
      if (Array.isArray(step)) {
        const [kernel, packed, params, grid, chunk, label] = step as readonly unknown[];
        const args = (packed as readonly unknown[]).map(address);
        return { kernel, args, params, grid, chunk, label };
      }
      const fields = Object.entries(step).map(([key, value]) => {
        return [key, key === 'steps' || key === 'then' || key === 'else' ? steps(value) : value];
      });
      return Object.fromEntries(fields) as unknown;
    });
  return steps(all);
}
