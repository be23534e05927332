/** Operators of `com.microsoft` against onnxruntime itself, on generated cases: the interpreter and WebAssembly. */
import test from 'ava';
import type onnxProto from 'onnx-proto';
import type { Nd } from '../ir/nd.ts';
import { encodeModel, int, node, reported, value } from './onnx-kit.ts';
import { check, constant, float, given, type Kind, listed, real, text, whole } from './onnx-peer-kit.ts';

check('activations with and without a bias', () => [
  { op: 'Gelu', inputs: [real([2, 3, 5], 3)] },
  { op: 'BiasGelu', inputs: [real([2, 3, 5], 3), real([5])] },
  { op: 'FastGelu', inputs: [real([2, 3, 5], 3)] },
  { op: 'FastGelu', inputs: [real([2, 3, 5], 3), real([5])] },
  { op: 'QuickGelu', attrs: [float('alpha', 1.3)], inputs: [real([2, 7], 3)] },
]);

check('layer norms of sums', () => [
  {
    op: 'SkipLayerNormalization',
    attrs: [float('epsilon', 1e-5)],
    inputs: [real([2, 3, 8]), real([2, 3, 8]), real([8])],
  },
  {
    op: 'SkipLayerNormalization',
    inputs: [real([2, 3, 8]), real([2, 3, 8]), real([8]), real([8]), real([8])],
    outputs: ['f32', '', '', 'f32'],
  },
  {
    op: 'SkipSimplifiedLayerNormalization',
    attrs: [float('epsilon', 1e-5)],
    inputs: [real([2, 3, 8]), real([2, 3, 8]), real([8]), real([8])],
    outputs: ['f32', '', '', 'f32'],
  },
  {
    op: 'EmbedLayerNormalization',
    inputs: [
      whole('i32', [2, 4], 0, 10),
      whole('i32', [2, 4], 0, 1),
      constant(real([11, 8])),
      constant(real([6, 8])),
      constant(real([2, 8])),
      constant(real([8])),
      constant(real([8])),
      given('i32', [2, 4], 1, 1, 1, 0, 1, 1, 0, 0),
    ],
    outputs: ['f32', 'i32', 'f32'],
  },
  {
    op: 'EmbedLayerNormalization',
    inputs: [
      whole('i32', [2, 4], 0, 10),
      undefined,
      constant(real([11, 8])),
      constant(real([6, 8])),
      undefined,
      constant(real([8])),
      constant(real([8])),
    ],
    outputs: ['f32', 'i32'],
  },
]);

check('products with fused steps', () => [
  { op: 'FusedMatMul', attrs: [float('alpha', 0.5), int('transB', 1)], inputs: [real([2, 3, 5]), real([2, 7, 5])] },
  { op: 'FusedMatMul', attrs: [int('transA', 1)], inputs: [real([5, 3]), real([5, 4])] },
  { op: 'FusedMatMul', attrs: [int('transBatchA', 1)], inputs: [real([3, 2, 5]), real([2, 5, 4])] },
  {
    op: 'FusedGemm',
    attrs: [text('activation', 'Relu'), float('alpha', 2)],
    inputs: [real([3, 5]), real([5, 4]), real([4])],
  },
  {
    op: 'FusedConv',
    attrs: [text('activation', 'Relu'), listed('kernel_shape', 3, 3), listed('pads', 1, 1, 1, 1)],
    inputs: [real([1, 2, 5, 4]), constant(real([3, 2, 3, 3])), constant(real([3])), real([1, 3, 5, 4])],
  },
]);

const [B, S, H, D] = [2, 5, 2, 4];
const W = H * D;
const heads = int('num_heads', H);
check('Attention: every form of mask, a bias, a past, values of another width', () => {
  const base = (): Nd[] => [real([B, S, W]), real([W, 3 * W]), real([3 * W])];
  return [
    { op: 'Attention', attrs: [heads], inputs: base() },
    { op: 'Attention', attrs: [heads, int('unidirectional', 1)], inputs: base() },
    { op: 'Attention', attrs: [heads], inputs: [...base(), given('i32', [B], 3, 5)] },
    { op: 'Attention', attrs: [heads], inputs: [...base(), given('i32', [2 * B], 4, 5, 1, 2)] },
    { op: 'Attention', attrs: [heads], inputs: [...base(), given('i32', [B, S], 1, 1, 1, 0, 0, 1, 1, 1, 1, 0)] },
    // A row that hides everything is a softmax of its scores, as far as f32 keeps them beside 10000.
    {
      op: 'Attention',
      attrs: [heads],
      inputs: [...base(), given('i32', [B, S], 0, 0, 0, 0, 0, 1, 1, 1, 1, 0)],
      tolerance: 1e-3,
    },
    {
      op: 'Attention',
      attrs: [heads, float('scale', 0.3)],
      inputs: [...base(), whole('i32', [B, S, S], 0, 1)],
      tolerance: 1e-3,
    },
    { op: 'Attention', attrs: [heads, float('mask_filter_value', -3)], inputs: [...base(), given('i32', [B], 3, 5)] },
    {
      op: 'Attention',
      attrs: [heads, int('unidirectional', 1)],
      inputs: [
        ...base(),
        given('i32', [B, S + 3], 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1),
        real([2, B, H, 3, D]),
      ],
      outputs: ['f32', 'f32'],
    },
    { op: 'Attention', attrs: [heads], inputs: [...base(), undefined, undefined, real([1, H, S, S])] },
    {
      op: 'Attention',
      attrs: [heads, listed('qkv_hidden_sizes', 8, 8, 6)],
      inputs: [real([B, S, W]), real([W, 22]), real([22])],
    },
  ];
});

check('MultiHeadAttention: separate and packed operands, biases, masks, a past', () => {
  const [T, V] = [7, 6];
  const three = (): Nd[] => [real([B, S, W]), real([B, T, W]), real([B, T, V])];
  return [
    { op: 'MultiHeadAttention', attrs: [heads], inputs: three() },
    { op: 'MultiHeadAttention', attrs: [heads, float('scale', 0.2)], inputs: [...three(), real([2 * W + V])] },
    { op: 'MultiHeadAttention', attrs: [heads], inputs: [...three(), undefined, given('i32', [B], 4, 7)] },
    {
      op: 'MultiHeadAttention',
      attrs: [heads],
      inputs: [...three(), undefined, whole('i32', [B, T], 0, 1), real([1, H, S, T])],
    },
    { op: 'MultiHeadAttention', attrs: [heads], inputs: [...three(), undefined, undefined, real([B, 1, S, T])] },
    {
      op: 'MultiHeadAttention',
      attrs: [heads, int('unidirectional', 1)],
      inputs: [real([B, S, W]), real([B, S, W]), real([B, S, W])],
    },
    {
      op: 'MultiHeadAttention',
      attrs: [heads],
      inputs: [
        real([B, 1, W]),
        real([B, 1, W]),
        real([B, 1, W]),
        undefined,
        undefined,
        undefined,
        real([B, H, 3, D]),
        real([B, H, 3, D]),
      ],
      outputs: ['f32', 'f32', 'f32'],
    },
    // Keys and values of another sequence, projected before.
    { op: 'MultiHeadAttention', attrs: [heads], inputs: [real([B, S, W]), real([B, H, T, D]), real([B, H, T, D])] },
  ];
});

check('GroupQueryAttention: prompts, decoding, ragged batches, windows, rotation', () => {
  const [K, P, M, D, W] = [1, 6, 16, 16, 32];
  const base = [heads, int('kv_num_heads', K)];
  const total = (n: number): { readonly constant: Nd } => constant(given('i32', [1], n));
  const prompt = (): (Nd | undefined)[] => [
    real([B, S, W]),
    real([B, S, K * D]),
    real([B, S, K * D]),
    undefined,
    undefined,
  ];
  const step = (rows: number): Nd[] => [
    real([B, rows, W]),
    real([B, rows, K * D]),
    real([B, rows, K * D]),
    real([B, K, P, D]),
    real([B, K, P, D]),
  ];
  const all: readonly Kind[] = ['f32', 'f32', 'f32'];
  const tables = (): Nd[] => [real([M, D / 2]), real([M, D / 2])];
  /** Rows of the presents behind the last token mean nothing. */
  const valid =
    (lengths: readonly number[]) =>
    (output: number, i: number, shape: readonly number[]): boolean => {
      if (output === 0) return true;
      const [, h, rows, width] = shape as [number, number, number, number];
      return Math.floor(i / width) % rows <= lengths[Math.floor(i / (h * rows * width))]!;
    };
  return [
    {
      op: 'GroupQueryAttention',
      attrs: base,
      inputs: [...prompt(), given('i32', [B], S - 1, S - 1), total(S)],
      outputs: all,
    },
    {
      op: 'GroupQueryAttention',
      attrs: [...base, int('local_window_size', 2)],
      inputs: [...prompt(), given('i32', [B], S - 1, S - 1), total(S)],
      outputs: all,
    },
    {
      op: 'GroupQueryAttention',
      attrs: [...base, float('softcap', 1.5), float('scale', 0.7)],
      inputs: [...prompt(), given('i32', [B], S - 1, S - 1), total(S)],
      outputs: all,
    },
    {
      op: 'GroupQueryAttention',
      attrs: base,
      inputs: [...step(1), given('i32', [B], P, P), total(P + 1)],
      outputs: all,
    },
    {
      op: 'GroupQueryAttention',
      attrs: base,
      inputs: [...step(1), given('i32', [B], P - 2, P), total(P + 1)],
      outputs: all,
      relevant: valid([P - 2, P]),
    },
    {
      op: 'GroupQueryAttention',
      attrs: [...base, int('do_rotary', 1)],
      inputs: [...prompt(), given('i32', [B], S - 1, S - 1), total(S), ...tables()],
      outputs: all,
    },
    {
      op: 'GroupQueryAttention',
      attrs: [...base, int('do_rotary', 1), int('rotary_interleaved', 1), int('local_window_size', 3)],
      inputs: [...step(1), given('i32', [B], P - 1, P), total(P + 1), ...tables()],
      outputs: all,
      relevant: valid([P - 1, P]),
    },
    // Queries, keys and values side by side.
    {
      op: 'GroupQueryAttention',
      attrs: base,
      inputs: [
        real([B, S, (H + 2 * K) * D]),
        undefined,
        undefined,
        undefined,
        undefined,
        given('i32', [B], S - 1, S - 1),
        total(S),
      ],
      outputs: all,
    },
  ];
});

check('RotaryEmbedding: offsets and positions, halves and pairs, part of a head', () => [
  { op: 'RotaryEmbedding', inputs: [real([B, S, W]), given('i64', [1], 2), real([16, 2]), real([16, 2])] },
  {
    op: 'RotaryEmbedding',
    attrs: [int('interleaved', 1)],
    inputs: [real([B, H, S, D]), whole('i64', [B, S], 0, 15), real([16, 2]), real([16, 2])],
  },
  {
    op: 'RotaryEmbedding',
    attrs: [int('rotary_embedding_dim', 4), int('num_heads', 2)],
    inputs: [real([B, S, 16]), whole('i64', [B, S], 0, 15), real([16, 2]), real([16, 2])],
  },
]);

check('products of bytes', () => [
  {
    op: 'DynamicQuantizeMatMul',
    inputs: [
      real([3, 16]),
      constant(whole('i8', [16, 5], -127, 127)),
      constant(given('f32', [1], 0.01)),
      constant(given('i8', [1], 3)),
    ],
    tolerance: 1e-4,
  },
  {
    op: 'DynamicQuantizeMatMul',
    inputs: [
      real([2, 3, 16]),
      constant(whole('u8', [16, 5], 0, 255)),
      constant(real([5], 0.1)),
      constant(whole('u8', [5], 100, 150)),
      constant(real([5])),
    ],
    tolerance: 1e-4,
  },
  {
    op: 'MatMulIntegerToFloat',
    inputs: [
      whole('u8', [3, 16], 0, 255),
      constant(whole('i8', [16, 5], -127, 127)),
      given('f32', [1], 0.1),
      constant(real([5], 0.1)),
      given('u8', [1], 117),
      undefined,
      constant(real([5])),
    ],
  },
  {
    op: 'QAttention',
    attrs: [heads],
    inputs: [
      whole('u8', [B, S, W], 0, 255),
      constant(whole('i8', [W, 3 * W], -127, 127)),
      constant(real([3 * W])),
      given('f32', [], 0.01),
      constant(given('f32', [], 0.01)),
      given('i32', [B], 3, 5),
      given('u8', [], 130),
      constant(given('i8', [], 0)),
    ],
  },
  {
    op: 'QGemm',
    attrs: [int('transB', 1)],
    inputs: [
      whole('u8', [3, 8], 0, 255),
      constant(given('f32', [], 0.02)),
      constant(given('u8', [], 128)),
      constant(whole('i8', [5, 8], -127, 127)),
      constant(given('f32', [], 0.03)),
      constant(given('i8', [], 0)),
      constant(whole('i32', [5], -500, 500)),
    ],
  },
]);

check('quantised tensors through floats, within one step', () => {
  const x = (): Nd[] => [whole('u8', [2, 3, 4, 4], 0, 255), given('f32', [], 0.02), given('u8', [], 120)];
  const y = [given('f32', [], 0.03), given('u8', [], 110)];
  // Sums of rounded products may fall on the other side of a tie.
  const one = { outputs: ['u8'] as const, tolerance: 1.01 };
  return [
    { op: 'QLinearAdd', inputs: [...x(), ...x(), ...y], ...one },
    { op: 'QLinearMul', inputs: [...x(), ...x(), ...y], ...one },
    {
      op: 'QLinearSigmoid',
      inputs: [
        x()[0],
        constant(given('f32', [], 0.02)),
        constant(given('u8', [], 120)),
        constant(given('f32', [], 0.004)),
        constant(given('u8', [], 1)),
      ],
      ...one,
    },
    { op: 'QLinearLeakyRelu', attrs: [float('alpha', 0.2)], inputs: [...x(), ...y], ...one },
    { op: 'QLinearGlobalAveragePool', inputs: [...x(), ...y], ...one },
    {
      op: 'QLinearConcat',
      attrs: [int('axis', 1)],
      inputs: [constant(y[0]!), constant(y[1]!), ...x(), ...x()],
      ...one,
    },
  ];
});

check('MatMulNBits: 4 and 8 bits, with and without zero points, a last block that is not full', () => {
  const N = 6;
  const weight = (K: number, block: number, bits: number): Nd =>
    whole('u8', [N, Math.ceil(K / block), (block * bits) / 8], 0, 255);
  const attrs = (K: number, block: number, bits: number) => [
    int('K', K),
    int('N', N),
    int('bits', bits),
    int('block_size', block),
  ];
  const scales = (K: number, block: number): Nd => real([N * Math.ceil(K / block)], 0.1);
  return [
    {
      op: 'MatMulNBits',
      attrs: attrs(64, 32, 4),
      inputs: [real([2, 3, 64]), constant(weight(64, 32, 4)), constant(scales(64, 32))],
      tolerance: 1e-4,
    },
    {
      op: 'MatMulNBits',
      attrs: attrs(48, 16, 4),
      inputs: [
        real([3, 48]),
        constant(weight(48, 16, 4)),
        constant(scales(48, 16)),
        constant(whole('u8', [N * 2], 0, 255)),
      ],
      tolerance: 1e-4,
    },
    {
      op: 'MatMulNBits',
      attrs: attrs(40, 16, 4),
      inputs: [
        real([3, 40]),
        constant(weight(40, 16, 4)),
        constant(scales(40, 16)),
        undefined,
        undefined,
        constant(real([N])),
      ],
      tolerance: 1e-4,
    },
    {
      op: 'MatMulNBits',
      attrs: attrs(32, 16, 8),
      inputs: [
        real([3, 32]),
        constant(weight(32, 16, 8)),
        constant(scales(32, 16)),
        constant(whole('u8', [N * 2], 0, 255)),
      ],
      tolerance: 1e-4,
    },
  ];
});

test('what is not supported is refused by name, with the node and what to do', (t) => {
  const refused = (
    op: string,
    attrs: readonly onnxProto.onnx.IAttributeProto[],
    shapes: readonly (readonly number[])[],
  ) =>
    reported(
      encodeModel({
        nodes: [
          node(
            op,
            shapes.map((_, i) => `x${i}`),
            ['y'],
            attrs,
            { domain: 'com.microsoft', name: 'n1' },
          ),
        ],
        inputs: shapes.map((s, i) => value(`x${i}`, s)),
        outputs: ['y'],
        domains: { 'com.microsoft': 1 },
      }),
    );
  const unknown = refused('DecoderMaskedSelfAttention', [], [[1, 1, 8]]);
  t.is(unknown.code, 'unsupported');
  t.regex(unknown.notes!.join(), /DecoderMaskedSelfAttention "n1" \(com.microsoft, opset 1\)/);
  const rotary = refused(
    'Attention',
    [int('num_heads', 2), int('do_rotary', 1)],
    [
      [1, 3, 8],
      [8, 24],
    ],
  );
  t.is(rotary.code, 'unsupported');
  t.regex(rotary.message, /Attention "n1" \(com.microsoft, opset 1\): do_rotary is not supported/);
  t.is(rotary.help, 'export rotary embedding as a node of its own');
});
