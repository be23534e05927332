/** Runs TypeScript modules: types are taken out as they load, positions kept by source maps. */
import { register } from 'node:module';

let registered = false;

/**
 * Imports a module whose files, and those that it imports, may be TypeScript. `heddle` itself, imported from anywhere, is
 * this copy, so that values of the module and of the compiler are of the same classes.
 */
export async function importTypeScript(url: string): Promise<Readonly<Record<string, unknown>>> {
  if (!registered) {
    registered = true;
    process.setSourceMapsEnabled(true);
    register('./typescript-hooks.js', import.meta.url, { data: { self: import.meta.url } });
  }
  return (await import(url)) as Readonly<Record<string, unknown>>;
}
