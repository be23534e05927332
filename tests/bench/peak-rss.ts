import { readFileSync } from 'node:fs';

/**
 * Peak resident bytes of this process. Linux keeps the figure of `getrusage` across exec, so that a large parent would
 * count for its child; `VmHWM` starts anew.
 */
export function peakRss(): number {
  try {
    const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    if (line) return Number(line[1]) * 1024;
  } catch {
    // Not Linux.
  }
  return process.resourceUsage().maxRSS * 1024;
}
