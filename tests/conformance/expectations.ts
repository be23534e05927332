/** What each test of a folder is expected to do on each device, and where results drift from it. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Outcome, Tolerance } from './suite.ts';

/** By test, then device: `pass`, `unsupported: why` or `fail: why`. */
export type Expectations = Readonly<Record<string, Readonly<Record<string, string>>>>;

const line = ({ status, reason }: Outcome): string => (status === 'pass' ? 'pass' : `${status}: ${reason}`);
export const expectationOf = (outcomes: Readonly<Record<string, Outcome>>): Record<string, string> =>
  Object.fromEntries(Object.entries(outcomes).map(([device, outcome]) => [device, line(outcome)]));

/** One line for each result whose status differs from what is expected, in either direction; reasons may change. */
export function drift(
  results: Readonly<Record<string, Readonly<Record<string, Outcome>>>>,
  expected: Expectations,
): string[] {
  const lines: string[] = [];
  for (const [name, outcomes] of Object.entries(results))
    for (const [device, outcome] of Object.entries(outcomes)) {
      const want = expected[name]?.[device];
      const status = want?.split(':')[0] ?? 'nothing';
      if (status !== outcome.status)
        lines.push(`${name} on ${device}: expected ${want ?? status}, got ${line(outcome)}`);
    }
  return lines;
}

/** ONNX's own tolerance for operator tests. */
const USUAL: Tolerance = { rtol: 1e-3, atol: 1e-7 };

interface Stated {
  readonly tolerance?: Tolerance;
}
const manifests = new Map<string, ReadonlyMap<string, Tolerance>>();

/** The tolerance that a test's own manifest, or the one of the folder, states for it. */
export function toleranceOf(root: string, name: string): Tolerance {
  const own = join(root, name, 'manifest.json');
  if (existsSync(own)) return (JSON.parse(readFileSync(own, 'utf8')) as Stated).tolerance ?? USUAL;
  let all = manifests.get(root);
  if (!all) {
    const path = join(root, 'manifest.json');
    const text = existsSync(path) ? readFileSync(path, 'utf8') : '{}';
    const { tests = [] } = JSON.parse(text) as { readonly tests?: readonly (Stated & { readonly name: string })[] };
    all = new Map(tests.flatMap((t) => (t.tolerance ? [[t.name, t.tolerance] as const] : [])));
    manifests.set(root, all);
  }
  return all.get(name) ?? USUAL;
}
