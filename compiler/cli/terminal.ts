/** What the command line prints, and how it ends. */
import { SingleBar } from 'cli-progress';
import { CompileError, fail } from '../../ir/diagnostic.ts';
import { HeddleError } from '../../runtime/error.ts';

/** Exit codes: done; the model, its weights or an input is at fault; the command itself is. */
export const EXIT = { done: 0, fault: 1, usage: 2 } as const;

/** A command that cannot be carried out as written. */
export const usage = (message: string, help?: string): never => fail('usage', message, { help });

export const print = (text: string): void => void process.stdout.write(`${text}\n`);
export const printJson = (value: unknown): void => print(JSON.stringify(value, null, 2));

const colourful = (): boolean => process.stderr.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb';

/** Says what went wrong on stderr. @returns the exit code; undefined for a bug of heddle itself */
export function reportError(error: unknown): number {
  const red = (text: string): string => (colourful() ? text.replace(/^error\S*/, '\x1b[31m$&\x1b[0m') : text);
  if (error instanceof CompileError) {
    process.stderr.write(`${red(error.message)}\n`);
    return error.code === 'usage' ? EXIT.usage : EXIT.fault;
  }
  if (error instanceof HeddleError) {
    process.stderr.write(`${red(`error[${error.code}]: ${error.message.replace(/^heddle: /, '')}`)}\n`);
    return error.code === 'option' ? EXIT.usage : EXIT.fault;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`${red(`error: ${text}`)}\n`);
  return EXIT.fault;
}

/** A bar on stderr for work that takes longer than this, in milliseconds, and only where somebody looks. */
const PATIENCE = 1000;

/** Shows how far a command is: a fixed number of steps, each with a word for what is being done. */
export class Progress {
  private readonly began = performance.now();
  private readonly total: number;
  private bar: SingleBar | undefined;
  private done = 0;

  constructor(total: number) {
    this.total = total;
  }

  /** The step that begins now. */
  step(what: string): void {
    const late = performance.now() - this.began > PATIENCE;
    if (this.bar === undefined && late && process.stderr.isTTY === true) {
      this.bar = new SingleBar({
        format: '{bar} {what}',
        stream: process.stderr,
        hideCursor: true,
        clearOnComplete: true,
        synchronousUpdate: true,
        barsize: 30,
        fps: 60,
      });
      this.bar.start(this.total, this.done, { what });
    }
    this.bar?.update(this.done, { what });
    this.bar?.render();
    this.done++;
  }

  end(): void {
    this.bar?.stop();
    this.bar = undefined;
  }
}

/** `12.3 kB`, `1.0 MB` */
export function byteText(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  for (const [unit, size] of [
    ['kB', 1e3],
    ['MB', 1e6],
  ] as const)
    if (bytes < size * 1000) return `${(bytes / size).toFixed(1)} ${unit}`;
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

/** `17,563,828,224` */
export const countText = (n: number): string => n.toLocaleString('en-US');

/** Rows in columns: the first flush left, numbers flush right. */
export function table(rows: readonly (readonly string[])[]): string {
  const columns = Math.max(...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, i) =>
          i > 0 && /^[\d,.∞×%<-][^a-z]*( \w+)?$/.test(cell) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `batch=1 sequence=128`, or nothing. */
export const sizesText = (at: Readonly<Record<string, number>>): string =>
  Object.entries(at)
    .map(([name, n]) => `${name}=${n}`)
    .join(' ');
