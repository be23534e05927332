/** Operators of the standard domain against onnxruntime on generated cases: attributes that exporters vary. */
import type { Nd } from '../ir/nd.ts';
import { int } from './onnx-kit.ts';
import { type Case, check, constant, float, given, listed, real, reals, text, texts, whole } from './onnx-peer-kit.ts';

const sizes = (...data: readonly number[]): { readonly constant: Nd } => constant(given('i64', [data.length], ...data));
const scales = (...data: readonly number[]): { readonly constant: Nd } =>
  constant(given('f32', [data.length], ...data));
const standard = (opset: number, cases: readonly Omit<Case, 'domain' | 'opset'>[]): Case[] =>
  cases.map((c) => ({ ...c, domain: '', opset }));

check('GridSample: every mode, padding and corner, within and far outside', () =>
  standard(
    20,
    ['linear', 'nearest', 'cubic'].flatMap((mode) =>
      ['zeros', 'border', 'reflection'].flatMap((padding) =>
        [0, 1].map((corners) => ({
          op: 'GridSample',
          attrs: [text('mode', mode), text('padding_mode', padding), int('align_corners', corners)],
          inputs: [real([2, 3, 4, 5]), real([2, 3, 2, 2], 3)],
          tolerance: 1e-4,
        })),
      ),
    ),
  ),
);
check('GridSample of volumes', () =>
  standard(
    20,
    ['linear', 'nearest'].map((mode) => ({
      op: 'GridSample',
      attrs: [text('mode', mode), text('padding_mode', 'border')],
      inputs: [real([1, 2, 3, 4, 5]), real([1, 2, 3, 2, 3], 1.2)],
      tolerance: 1e-4,
    })),
  ),
);

check('RoiAlign: fixed and adaptive samples, means and maxima, both conventions', () =>
  standard(
    16,
    ['avg', 'max'].flatMap((mode) =>
      [0, 2].flatMap((ratio) =>
        ['half_pixel', 'output_half_pixel'].map((word) => ({
          op: 'RoiAlign',
          attrs: [
            text('mode', mode),
            text('coordinate_transformation_mode', word),
            int('sampling_ratio', ratio),
            int('output_height', 3),
            int('output_width', 2),
            float('spatial_scale', 0.5),
          ],
          inputs: [
            real([2, 3, 9, 8]),
            given('f32', [3, 4], 0, 0, 9, 9, 2, 4, 11, 15, -3, 1, 20, 6),
            given('i64', [3], 0, 1, 1),
          ],
          tolerance: 1e-4,
        })),
      ),
    ),
  ),
);
check('MaxRoiPool', () =>
  standard(16, [
    {
      op: 'MaxRoiPool',
      attrs: [listed('pooled_shape', 2, 3), float('spatial_scale', 0.5)],
      inputs: [real([2, 3, 8, 7]), given('f32', [3, 5], 0, 0, 0, 9, 9, 1, 2, 4, 11, 13, 1, 5, 5, 5, 5)],
    },
  ]),
);

check('MaxPool with places: pads, strides, dilations, the last window', () =>
  standard(12, [
    {
      op: 'MaxPool',
      attrs: [listed('kernel_shape', 3, 2), listed('pads', 1, 0, 1, 1), listed('strides', 2, 1)],
      inputs: [real([2, 3, 7, 5])],
      outputs: ['f32', 'i64'],
    },
    {
      op: 'MaxPool',
      attrs: [listed('kernel_shape', 2, 2), listed('dilations', 2, 2), int('storage_order', 1)],
      inputs: [real([1, 2, 6, 5])],
      outputs: ['f32', 'i64'],
    },
    {
      op: 'MaxPool',
      attrs: [listed('kernel_shape', 3), listed('strides', 2), int('ceil_mode', 1)],
      inputs: [real([1, 2, 8])],
      outputs: ['f32', 'i64'],
    },
    {
      op: 'MaxPool',
      attrs: [listed('kernel_shape', 3, 3), listed('strides', 2, 2), text('auto_pad', 'SAME_LOWER')],
      inputs: [real([1, 1, 6, 7])],
      outputs: ['f32', 'i64'],
    },
  ]),
);
check('MaxUnpool with and without a shape', () => {
  const [x, at] = [given('f32', [1, 1, 2, 2], 1, 2, 3, 4), given('i64', [1, 1, 2, 2], 5, 7, 13, 15)];
  const attrs = [listed('kernel_shape', 2, 2), listed('strides', 2, 2)];
  return standard(11, [{ op: 'MaxUnpool', attrs, inputs: [x, at] }]);
});
check('Lp pools', () =>
  standard(18, [
    {
      op: 'LpPool',
      attrs: [listed('kernel_shape', 3, 2), int('p', 3), listed('pads', 1, 0, 1, 1), listed('strides', 2, 1)],
      inputs: [real([2, 3, 7, 5])],
    },
    {
      op: 'LpPool',
      attrs: [listed('kernel_shape', 3), listed('strides', 2), int('ceil_mode', 1), int('p', 2)],
      inputs: [real([1, 2, 8])],
    },
    { op: 'GlobalLpPool', attrs: [int('p', 3)], inputs: [real([2, 3, 4, 5])] },
    { op: 'GlobalLpPool', attrs: [int('p', 1)], inputs: [real([2, 3, 4])] },
  ]),
);
check('Col2Im: overlaps, pads, strides, dilations, three axes', () =>
  standard(18, [
    { op: 'Col2Im', attrs: [], inputs: [real([2, 12, 12]), sizes(4, 5), sizes(2, 2)] },
    {
      op: 'Col2Im',
      attrs: [listed('pads', 1, 0, 1, 2), listed('strides', 2, 1), listed('dilations', 1, 2)],
      inputs: [real([1, 8, 18]), sizes(5, 6), sizes(2, 2)],
    },
    { op: 'Col2Im', attrs: [], inputs: [real([1, 8, 4]), sizes(2, 3, 3), sizes(2, 2, 2)] },
  ]),
);
check('DeformConv: groups, offset groups, a bias, a mask', () =>
  standard(19, [
    {
      op: 'DeformConv',
      attrs: [listed('kernel_shape', 2, 2), listed('pads', 0, 0, 0, 0)],
      inputs: [real([1, 2, 4, 4]), real([3, 2, 2, 2]), real([1, 8, 3, 3], 2)],
      tolerance: 1e-4,
    },
    {
      op: 'DeformConv',
      attrs: [
        listed('kernel_shape', 2, 3),
        listed('pads', 1, 0, 1, 1),
        listed('strides', 2, 1),
        int('group', 2),
        int('offset_group', 2),
      ],
      inputs: [real([2, 4, 5, 5]), real([2, 2, 2, 3]), real([2, 24, 3, 4], 2), real([2]), real([2, 12, 3, 4])],
      tolerance: 1e-4,
    },
  ]),
);

check('LSTM: peepholes, clipping, other activations, coupled gates, lengths, both directions', () => {
  const [steps, rows, width, units] = [4, 3, 2, 3];
  const operands = (directions: number): Nd[] => [
    real([steps, rows, width]),
    real([directions, 4 * units, width]),
    real([directions, 4 * units, units]),
    real([directions, 8 * units]),
  ];
  const lens = given('i32', [rows], 4, 2, 3);
  const hidden = int('hidden_size', units);
  const outputs = ['f32', 'f32', 'f32'] as const;
  return standard(14, [
    {
      op: 'LSTM',
      attrs: [hidden],
      inputs: [...operands(1), lens, real([1, rows, units]), real([1, rows, units]), real([1, 3 * units])],
      outputs,
    },
    { op: 'LSTM', attrs: [hidden, float('clip', 0.4)], inputs: operands(1), outputs },
    { op: 'LSTM', attrs: [hidden, int('input_forget', 1)], inputs: operands(1), outputs },
    {
      op: 'LSTM',
      attrs: [
        hidden,
        text('direction', 'bidirectional'),
        texts('activations', 'HardSigmoid', 'Softsign', 'Tanh', 'Sigmoid', 'LeakyRelu', 'Elu'),
        reals('activation_alpha', 0.3, 0.2, 0.7),
        reals('activation_beta', 0.4),
      ],
      inputs: [...operands(2), lens],
      outputs,
    },
  ]);
});
check('GRU and RNN: activations, clipping, resets before and behind the product', () => {
  const [steps, rows, width, units] = [4, 3, 2, 3];
  const operands = (gates: number): Nd[] => [
    real([steps, rows, width]),
    real([1, gates * units, width]),
    real([1, gates * units, units]),
    real([1, 2 * gates * units]),
  ];
  const hidden = int('hidden_size', units);
  const outputs = ['f32', 'f32'] as const;
  return standard(14, [
    ...[0, 1].map((reset) => ({
      op: 'GRU',
      attrs: [hidden, int('linear_before_reset', reset), texts('activations', 'HardSigmoid', 'Relu'), float('clip', 2)],
      inputs: operands(3),
      outputs,
    })),
    {
      op: 'RNN',
      attrs: [
        hidden,
        text('direction', 'reverse'),
        texts('activations', 'ScaledTanh'),
        reals('activation_alpha', 1.5),
        reals('activation_beta', 0.5),
      ],
      inputs: operands(1),
      outputs,
    },
    {
      op: 'RNN',
      attrs: [hidden, texts('activations', 'Affine'), reals('activation_alpha', 0.5), reals('activation_beta', 0.1)],
      inputs: [...operands(1), given('i32', [rows], 4, 1, 2)],
      outputs,
    },
  ]);
});

check('Resize: every way to place a pixel, by scales and by sizes', () =>
  standard(18, [
    ...['half_pixel', 'asymmetric', 'align_corners', 'pytorch_half_pixel'].flatMap((word) =>
      ['linear', 'cubic', 'nearest'].map((mode) => ({
        op: 'Resize',
        attrs: [text('coordinate_transformation_mode', word), text('mode', mode)],
        inputs: [real([1, 2, 5, 4]), undefined, undefined, sizes(1, 2, 8, 3)],
        tolerance: 1e-4,
      })),
    ),
    ...['linear', 'cubic'].map((mode) => ({
      op: 'Resize',
      attrs: [text('mode', mode), int('antialias', 1)],
      inputs: [real([1, 2, 9, 8]), undefined, scales(1, 1, 0.4, 0.6)],
      tolerance: 1e-4,
    })),
    {
      op: 'Resize',
      attrs: [text('mode', 'cubic'), int('exclude_outside', 1), float('cubic_coeff_a', -0.5)],
      inputs: [real([1, 1, 4, 4]), undefined, scales(1, 1, 1.7, 0.8)],
      tolerance: 1e-4,
    },
  ]),
);
check('transforms of Fourier: every side, real and complex, other lengths', () =>
  standard(17, [
    { op: 'DFT', attrs: [], inputs: [real([2, 7, 1])], tolerance: 1e-4 },
    { op: 'DFT', attrs: [int('onesided', 1)], inputs: [real([2, 8, 1])], tolerance: 1e-4 },
    { op: 'DFT', attrs: [], inputs: [real([2, 5, 2])], tolerance: 1e-4 },
    { op: 'DFT', attrs: [int('inverse', 1)], inputs: [real([2, 5, 2])], tolerance: 1e-4 },
    { op: 'DFT', attrs: [], inputs: [real([2, 8, 1]), constant(given('i64', [], 5))], tolerance: 1e-4 },
    {
      op: 'STFT',
      attrs: [],
      inputs: [real([2, 20, 1]), constant(given('i64', [], 4)), real([8]), constant(given('i64', [], 8))],
      tolerance: 1e-4,
    },
    {
      op: 'STFT',
      attrs: [int('onesided', 0)],
      inputs: [real([1, 18, 1]), constant(given('i64', [], 3)), undefined, constant(given('i64', [], 6))],
      tolerance: 1e-4,
    },
    ...['HannWindow', 'HammingWindow', 'BlackmanWindow'].flatMap((op) =>
      [0, 1].map((periodic) => ({
        op,
        attrs: [int('periodic', periodic)],
        inputs: [constant(given('i64', [], 9))],
        tolerance: 1e-5,
      })),
    ),
    {
      op: 'MelWeightMatrix',
      attrs: [],
      inputs: [8, 32, 8192]
        .map((n) => constant(given('i64', [], n)))
        .concat([0, 4000].map((f) => constant(given('f32', [], f)))),
      tolerance: 1e-5,
    },
  ]),
);

check('determinants of one and of many matrices', () =>
  standard(11, [
    { op: 'Det', inputs: [real([4, 4])], tolerance: 1e-4 },
    { op: 'Det', inputs: [real([2, 3, 3, 3])], tolerance: 1e-4 },
    { op: 'Det', inputs: [given('f32', [2, 2, 2], 0, 1, 1, 0, 1, 2, 2, 4)], tolerance: 1e-4 },
  ]),
);
check('Einsum over diagonals', () =>
  standard(12, [
    { op: 'Einsum', attrs: [text('equation', 'ii->')], inputs: [real([4, 4])], tolerance: 1e-4 },
    { op: 'Einsum', attrs: [text('equation', 'bii->bi')], inputs: [real([2, 3, 3])] },
    { op: 'Einsum', attrs: [text('equation', '...ii,...i->...i')], inputs: [real([2, 3, 3]), real([2, 3])] },
  ]),
);
check('Pad: modes, some axes, amounts that cut', () =>
  standard(18, [
    { op: 'Pad', inputs: [real([2, 3]), sizes(1, 0, 2, 1), constant(given('f32', [], 7))] },
    { op: 'Pad', attrs: [text('mode', 'reflect')], inputs: [real([3, 4]), sizes(1, 2, 1, 0)] },
    {
      op: 'Pad',
      attrs: [text('mode', 'edge')],
      inputs: [real([3, 4]), sizes(-1, 1), undefined, sizes(1)],
    },
    { op: 'Pad', inputs: [real([2, 3]), sizes(1, 0, 2, 1), given('f32', [], 7)] },
  ]),
);
check('reductions, losses and orders over odd axes', () =>
  standard(
    18,
    [
      { op: 'Hardmax', attrs: [int('axis', 0)], inputs: [real([3, 4])] },
      {
        op: 'CumSum',
        attrs: [int('exclusive', 1), int('reverse', 1)],
        inputs: [real([3, 4]), constant(given('i64', [], -2))],
      },
      {
        op: 'TopK',
        attrs: [int('axis', 0), int('largest', 0)],
        inputs: [whole('i64', [5, 3], -9, 9), sizes(3)],
        outputs: ['i64', 'i64'],
      },
      {
        op: 'ReverseSequence',
        attrs: [int('batch_axis', 0), int('time_axis', 1)],
        inputs: [real([3, 4, 2]), given('i64', [3], 1, 4, 2)],
      },
      { op: 'CenterCropPad', attrs: [listed('axes', 1, -1)], inputs: [real([2, 5, 3]), sizes(4, 6)] },
      { op: 'Trilu', attrs: [int('upper', 0)], inputs: [real([2, 3, 4]), constant(given('i64', [], -1))] },
      { op: 'ReduceLogSumExp', attrs: [int('keepdims', 0)], inputs: [real([3, 4, 5], 4), sizes(-1, 0)] },
    ].map((c) => ({ ...c, tolerance: 1e-4 })) as readonly Case[],
  ),
);
check('Attention: windows of scores, caps, pasts, masks that are too short', () => {
  const qkv = (heads: number, keys: number): Nd[] => [
    real([2, 4, 3, 5]),
    real([2, heads, keys, 5]),
    real([2, heads, keys, 4]),
  ];
  return standard(23, [
    { op: 'Attention', inputs: qkv(4, 6), tolerance: 1e-4 },
    { op: 'Attention', attrs: [int('is_causal', 1), float('softcap', 0.5)], inputs: qkv(2, 3), tolerance: 1e-4 },
    ...[0, 1, 2, 3].map((mode) => ({
      op: 'Attention',
      attrs: [int('qk_matmul_output_mode', mode), float('softcap', 0.7), float('scale', 0.9)],
      inputs: [...qkv(2, 6), real([3, 6])],
      outputs: ['f32', '', '', 'f32'] as const,
      tolerance: 1e-4,
    })),
    {
      op: 'Attention',
      attrs: [int('q_num_heads', 4), int('kv_num_heads', 2)],
      inputs: [
        real([2, 3, 12]),
        real([2, 5, 6]),
        real([2, 5, 8]),
        real([2, 1, 3, 7]),
        real([2, 2, 2, 3]),
        real([2, 2, 2, 4]),
      ],
      outputs: ['f32', 'f32', 'f32'] as const,
      tolerance: 1e-4,
    },
  ]);
});

check('NonMaxSuppression: the number of boxes comes with the data', () =>
  standard(
    11,
    [0, 1, 2, 9].map((most) => ({
      op: 'NonMaxSuppression',
      inputs: [
        given('f32', [1, 4, 4], 0, 0, 1, 1, 0, 0.1, 1, 1.1, 0, 5, 1, 6, 0, 5.1, 1, 6.1),
        given('f32', [1, 2, 4], 0.9, 0.75, 0.6, 0.95, 0.1, 0.2, 0.3, 0.4),
        given('i64', [1], most),
        given('f32', [1], 0.5),
      ],
      outputs: ['i64'] as const,
    })),
  ),
);

check('scattered bits are added and multiplied as or and and', () =>
  standard(
    18,
    ['none', 'add', 'mul'].flatMap((reduction) => [
      {
        op: 'ScatterElements',
        attrs: [text('reduction', reduction)],
        inputs: [given('bool', [4], 0, 1, 1, 0), given('i64', [3], 0, 2, -1), given('bool', [3], 1, 0, 0)],
        outputs: ['bool'] as const,
      },
      {
        op: 'ScatterND',
        attrs: [text('reduction', reduction)],
        inputs: [given('bool', [2, 2], 0, 1, 1, 0), given('i64', [1, 1], -1), given('bool', [1, 2], 0, 1)],
        outputs: ['bool'] as const,
      },
    ]),
  ),
);

check('LayerNormalization stashes mean and deviation as f32, whatever the type of x', () =>
  standard(17, [
    {
      op: 'LayerNormalization',
      attrs: [int('axis', 1)],
      inputs: [
        { ...real([2, 3, 4]), dtype: 'f64' as const },
        { ...real([3, 4]), dtype: 'f64' as const },
      ],
      outputs: ['f64', 'f32', 'f32'] as const,
    },
  ]),
);
