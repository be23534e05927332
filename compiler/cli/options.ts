/** Options that several commands take, and how their text is read. */
import type { Command } from 'commander';
import type { Declaration, Observation } from '../../ir/interface.ts';
import type { FiniteMasks } from '../../passes/mask-options.ts';
import type { TargetName } from '../compile.ts';
import type { SizeBound, SizeBounds } from '../narrow.ts';
import { usage } from './terminal.ts';

export interface ModelOptions {
  readonly weights?: string;
  readonly seed: number;
  readonly dim: SizeBounds;
  readonly export?: string;
  readonly observe: Readonly<Record<string, Observation>>;
  readonly declare: Readonly<Record<string, Declaration>>;
  readonly json: boolean;
}

export const collect = (text: string, before: readonly string[]): readonly string[] => [...before, text];

/** The options by which every command that takes a model is told which one. */
export function modelOptions(command: Command): Command {
  return command
    .option('--weights <path>', 'safetensors file, index or folder; default: seeded, or the folder’s own')
    .option('--seed <n>', 'seed of the weights where none are given', readCount('--seed'), 0)
    .option('--dim <name=size>', 'fix a size (batch=4) or narrow it (batch=1..8); may be repeated', readDim, {})
    .option(
      '--observe <output=rows>',
      'rows of an output that are read: logits=last, state=cls, state=3, or state@attention_mask; may be repeated',
      readObserve,
      {},
    )
    .option(
      '--declare <input=promise>',
      'what callers promise of an input: mask=binary, mask=count:49, mask=at-least:1, joined by commas; may be repeated',
      readDeclare,
      {},
    )
    .option('--export <name>', 'which model of a module that exports several')
    .option('--json', 'print one JSON document', false);
}

/** How what hides scores and rows is taken. */
export interface MaskFlags {
  readonly finiteMasks: FiniteMasks;
  readonly strictNan: boolean;
}

/** The options of commands that run passes. */
export function maskOptions(command: Command): Command {
  return command
    .option(
      '--finite-masks <how>',
      'what -10000 added to scores means: exact, a mask; keep, a number unless weights show that scores are small',
      readFiniteMasks,
      'exact',
    )
    .option('--strict-nan', 'drop no row from which a NaN could spread to others in the model as written', false);
}
/** The same as options of `compile`. */
export const masksOf = ({
  finiteMasks,
  strictNan,
}: MaskFlags): { readonly finiteMasks: FiniteMasks; readonly strictNaN: boolean } => ({
  finiteMasks,
  strictNaN: strictNan,
});

const readFiniteMasks = (text: string): FiniteMasks =>
  text === 'exact' || text === 'keep' ? text : usage(`--finite-masks is "${text}"`, 'it is exact or keep');

/** A whole number ≥ `least`. */
export const readCount =
  (flag: string, least = 0) =>
  (text: string): number => {
    const n = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(n) || n < least)
      usage(`${flag} is "${text}", not a whole number from ${least}`);
    return n;
  };

export function readDim(text: string, before: SizeBounds): SizeBounds {
  const found = /^([A-Za-z_]\w*)=(\d+)(?:\.\.(\d+))?$/.exec(text);
  if (!found) return usage(`--dim is "${text}"`, 'write --dim batch=4 or --dim batch=1..8');
  const [, name, first, last] = found;
  if (Object.hasOwn(before, name!)) usage(`--dim ${name} is given twice`);
  const bound: SizeBound = last === undefined ? Number(first) : { min: Number(first), max: Number(last) };
  return { ...before, [name!]: bound };
}

export function readObserve(
  text: string,
  before: Readonly<Record<string, Observation>>,
): Readonly<Record<string, Observation>> {
  const found = /^([^=@]+)(?:@(.+)|=(cls|last|-?\d+))$/.exec(text);
  if (!found)
    return usage(
      `--observe is "${text}"`,
      'write --observe logits=last, --observe state=0 or --observe state@attention_mask',
    );
  const [, name, where, rows] = found;
  if (Object.hasOwn(before, name!)) usage(`--observe ${name} is given twice`);
  const said: Observation =
    where !== undefined ? { where } : { rows: rows === 'cls' || rows === 'last' ? rows : Number(rows) };
  return { ...before, [name!]: said };
}

export function readDeclare(
  text: string,
  before: Readonly<Record<string, Declaration>>,
): Readonly<Record<string, Declaration>> {
  const help = 'write --declare mask=binary, --declare mask=count:49 or --declare mask=binary,at-least:1';
  const [, name, list] = /^([^=]+)=(.+)$/.exec(text) ?? usage(`--declare is "${text}"`, help);
  const said: { binary?: boolean; count?: number; atLeast?: number } = { ...(before[name!] as object) };
  for (const word of list!.split(',')) {
    const [, key, n] = /^(count|at-least):(\d+)$/.exec(word) ?? [];
    if (word === 'binary' || word === 'numbers') said.binary = word === 'binary';
    else if (key === 'count') said.count = Number(n);
    else if (key === 'at-least') said.atLeast = Number(n);
    else usage(`--declare ${name} says "${word}"`, help);
  }
  return { ...before, [name!]: said };
}

/** Numbers separated by commas. */
export const readNumbers =
  (flag: string) =>
  (text: string): readonly number[] => {
    const numbers = text.split(',').map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
    if (!numbers.every(Number.isFinite)) usage(`${flag} is "${text}"`, `write ${flag} 0.5 or ${flag} 0.5,0.5,0.5`);
    return numbers;
  };

export const readStorage = (text: string): 'f32' | 'f16' =>
  text === 'f32' || text === 'f16' ? text : usage(`--storage is "${text}"`, 'known: f32, f16');

/** Names separated by commas. */
export function readTarget(text: string): readonly TargetName[] {
  const names = text.split(',');
  const known = names.filter((name): name is TargetName => name === 'wasm' || name === 'webgpu');
  if (known.length < names.length || !known.includes('wasm'))
    usage(`--target is "${text}"`, 'write --target wasm or --target wasm,webgpu');
  return known;
}

/** Where bundles run. */
export const readDevice = (text: string): 'auto' | 'wasm' | 'webgpu' =>
  text === 'auto' || text === 'wasm' || text === 'webgpu'
    ? text
    : usage(`--device is "${text}"`, 'known: auto, wasm, webgpu');
