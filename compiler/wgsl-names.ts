/** Names of a WGSL module: unique, and none that WGSL keeps for itself. */

/** Keywords, reserved words, predeclared types and the builtin functions that the printer calls. */
const RESERVED = new Set(
  `alias break case const const_assert continue continuing default diagnostic discard else enable false fn for if let loop
  override requires return struct switch true var while NULL Self abstract active alignas alignof as asm asm_fragment async
  attribute auto await become cast catch class co_await co_return co_yield coherent column_major common compile
  compile_fragment concept const_cast consteval constexpr constinit crate debugger decltype delete demote
  demote_to_helper do dynamic_cast enum explicit export extends extern external fallthrough filter final finally friend
  from fxgroup get goto groupshared highp impl implements import inline instanceof interface layout lowp macro macro_rules
  match mediump meta mod module move mut mutable namespace new nil noexcept noinline nointerpolation noperspective null
  nullptr of operator package packoffset partition pass patch pixelfragment precise precision premerge priv protected pub
  public readonly ref regardless register reinterpret_cast require resource restrict self set shared sizeof smooth snorm
  static static_assert static_cast std subroutine super target template this thread_local throw trait try type typedef
  typeid typename typeof union unless unorm unsafe unsized use using varying virtual volatile wgsl where with writeonly
  yield bool f16 f32 i32 u32 array atomic ptr sampler vec2 vec3 vec4 vec2f vec3f vec4f vec2i vec4i vec2u vec3u vec4u mat2x2
  abs all any bitcast ceil clamp cos cross distance dot exp exp2 floor fma fract length log log2 max min mix modf normalize
  pow round select sign sin sqrt step tan tanh transpose trunc main params arena weights group local lane`
    .trim()
    .split(/\s+/),
);

export class Names {
  #taken = new Set<string>();

  /** Names taken by `body` are free again after it. */
  scope(body: () => void): void {
    const outer = this.#taken;
    this.#taken = new Set(outer);
    body();
    this.#taken = outer;
  }

  /** `wanted`, or that with a number. */
  fresh(wanted: string): string {
    const base = /^[A-Za-z]\w*$/.test(wanted) && !wanted.includes('__') ? wanted : 'v';
    let name = base;
    // Hoisted parts of expressions are t0, t1 …
    for (let n = 1; RESERVED.has(name) || this.#taken.has(name) || /^(t\d+|bits_.*)$/.test(name); n++)
      name = `${base}_${n}`;
    this.#taken.add(name);
    return name;
  }
}
