import { OnnxGraph } from './onnx-graph.ts';

/** A vision transformer as timm builds it (class token, learned positions, pre-norm, biased linears). */
export interface VitConfig {
  readonly image: number;
  readonly patch: number;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly mlp: number;
  readonly classes: number;
}

/** A BERT encoder as Hugging Face's `BertModel` builds it (post-norm, three embeddings, pooler). */
export interface BertConfig {
  readonly tokens: number;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly mlp: number;
  readonly vocabulary: number;
  readonly positions: number;
  /** Linear maps as integer products: weights of 8 bits, activations quantised as they come. */
  readonly int8?: boolean;
}

/** [B, M, K] times [B, K, N]; without a batch the second operand is a weight, with one both are inputs. */
export interface MatmulConfig {
  readonly batch?: number;
  readonly m: number;
  readonly k: number;
  readonly n: number;
}

/**
 * ViT classifier at batch 1: `image` f32[1, 3, S, S] → `logits` f32[1, classes], with timm's parameter names and the
 * operators that torch.onnx.export writes for timm's unfused attention.
 */
export function vitOnnx(name: string, config: VitConfig): OnnxGraph {
  const { image, patch, width, layers, heads, mlp, classes } = config;
  const g = new OnnxGraph(name);
  const patches = (image / patch) ** 2;
  const tokens = patches + 1;
  const headWidth = width / heads;

  const pixels = g.input('image', 'f32', [1, 3, image, image]);
  const kernel = g.parameter('patch_embed.proj.weight', [width, 3, patch, patch]);
  const stride = [patch, patch];
  const projected = g.node('Conv', [pixels, kernel, g.parameter('patch_embed.proj.bias', [width])], {
    dilations: [1, 1],
    group: 1,
    kernel_shape: stride,
    pads: [0, 0, 0, 0],
    strides: stride,
  });
  const flat = g.node('Reshape', [projected, g.integers([1, width, patches])]);
  const embedded = g.node('Transpose', [flat], { perm: [0, 2, 1] });
  const withClass = g.node('Concat', [g.parameter('cls_token', [1, 1, width]), embedded], { axis: 1 });
  let x = g.node('Add', [withClass, g.parameter('pos_embed', [1, tokens, width])]);

  for (let layer = 0; layer < layers; layer++) {
    const block = `blocks.${layer}`;
    const qkv = floatLinear(g, layerNorm(g, x, `${block}.norm1`, width, 1e-6), `${block}.attn.qkv`, width, 3 * width);
    const split = g.node('Reshape', [qkv, g.integers([1, tokens, 3, heads, headWidth])]);
    const byHead = g.node('Transpose', [split], { perm: [2, 0, 3, 1, 4] });
    const parts = g.nodes('Split', [byHead, g.integers([1, 1, 1])], { axis: 0 }, 3);
    const [q, k, v] = parts.map((part) => g.node('Squeeze', [part, g.integers([0])])) as [string, string, string];
    const scaled = g.node('Mul', [q, g.scalar(headWidth ** -0.5)]);
    const scores = g.node('MatMul', [scaled, g.node('Transpose', [k], { perm: [0, 1, 3, 2] })]);
    const attended = mergeHeads(g, g.node('MatMul', [g.node('Softmax', [scores], { axis: -1 }), v]), tokens, width);
    x = g.node('Add', [x, floatLinear(g, attended, `${block}.attn.proj`, width, width)]);
    const hidden = floatLinear(g, layerNorm(g, x, `${block}.norm2`, width, 1e-6), `${block}.mlp.fc1`, width, mlp);
    x = g.node('Add', [x, floatLinear(g, gelu(g, hidden), `${block}.mlp.fc2`, mlp, width)]);
  }

  const classToken = g.node('Gather', [layerNorm(g, x, 'norm', width, 1e-6), g.integers([0], [])], { axis: 1 });
  g.output('logits', gemm(g, classToken, 'head', width, classes), [1, classes]);
  return g;
}

/**
 * BERT encoder at batch 1: `input_ids`, `attention_mask`, `token_type_ids` i64[1, T] → `last_hidden_state`
 * f32[1, T, D] and `pooler_output` f32[1, D], with Hugging Face's parameter names and the operators that
 * torch.onnx.export writes for eager attention.
 */
export function bertOnnx(name: string, config: BertConfig): OnnxGraph {
  const { tokens, width, layers, heads, mlp, vocabulary, positions } = config;
  const g = new OnnxGraph(name);
  const linear = config.int8 ? integerLinear : floatLinear;
  const headWidth = width / heads;

  const ids = g.input('input_ids', 'i64', [1, tokens]);
  const mask = g.input('attention_mask', 'i64', [1, tokens]);
  const types = g.input('token_type_ids', 'i64', [1, tokens]);

  const kept = g.node('Cast', [g.node('Unsqueeze', [g.node('Unsqueeze', [mask, g.integers([1])]), g.integers([2])])], {
    to: 1,
  });
  const bias = g.node('Mul', [g.node('Sub', [g.scalar(1), kept]), g.scalar(-3.4028234663852886e38)]);

  const table = (part: string, rows: number, index: string): string =>
    g.node('Gather', [g.parameter(`embeddings.${part}.weight`, [rows, width]), index]);
  const range = Array.from({ length: tokens }, (_, i) => i);
  const words = table('word_embeddings', vocabulary, ids);
  const typed = g.node('Add', [words, table('token_type_embeddings', 2, types)]);
  const placed = table('position_embeddings', positions, g.integers(range, [1, tokens]));
  let x = layerNorm(g, g.node('Add', [typed, placed]), 'embeddings.LayerNorm', width, 1e-12);

  for (let layer = 0; layer < layers; layer++) {
    const block = `encoder.layer.${layer}`;
    const project = (part: string, perm: readonly number[]): string => {
      const y = linear(g, x, `${block}.attention.self.${part}`, width, width);
      return g.node('Transpose', [g.node('Reshape', [y, g.integers([1, tokens, heads, headWidth])])], { perm });
    };
    const q = project('query', [0, 2, 1, 3]);
    const k = project('key', [0, 2, 3, 1]);
    const v = project('value', [0, 2, 1, 3]);
    const scores = g.node('Div', [g.node('MatMul', [q, k]), g.scalar(Math.sqrt(headWidth))]);
    const weights = g.node('Softmax', [g.node('Add', [scores, bias])], { axis: -1 });
    const attended = mergeHeads(g, g.node('MatMul', [weights, v]), tokens, width);
    const mixed = g.node('Add', [linear(g, attended, `${block}.attention.output.dense`, width, width), x]);
    x = layerNorm(g, mixed, `${block}.attention.output.LayerNorm`, width, 1e-12);
    const hidden = gelu(g, linear(g, x, `${block}.intermediate.dense`, width, mlp));
    const out = g.node('Add', [linear(g, hidden, `${block}.output.dense`, mlp, width), x]);
    x = layerNorm(g, out, `${block}.output.LayerNorm`, width, 1e-12);
  }

  g.output('last_hidden_state', x, [1, tokens, width]);
  const first = g.node('Gather', [x, g.integers([0], [])], { axis: 1 });
  g.output('pooler_output', g.node('Tanh', [gemm(g, first, 'pooler.dense', width, width)]), [1, width]);
  return g;
}

/** One product: `a` times the parameter `weight` → `c`, or with a batch `a` times the input `b` → `c`. */
export function matmulOnnx(name: string, config: MatmulConfig): OnnxGraph {
  const { batch, m, k, n } = config;
  const g = new OnnxGraph(name);
  const lead = batch === undefined ? [] : [batch];
  const a = g.input('a', 'f32', [...lead, m, k]);
  const b = batch === undefined ? g.parameter('weight', [k, n]) : g.input('b', 'f32', [batch, k, n]);
  g.output('c', g.node('MatMul', [a, b]), [...lead, m, n]);
  return g;
}

/** What onnxruntime's `quantize_dynamic` makes of a linear map. */
function integerLinear(g: OnnxGraph, x: string, name: string, from: number, to: number): string {
  const [whole, scale, zero] = g.nodes('DynamicQuantizeLinear', [x], {}, 3) as [string, string, string];
  const w = g.quantized(`${name}.weight`, to, from);
  const sums = g.node('MatMulInteger', [whole, w.weight, zero, w.zero]);
  const real = g.node('Mul', [g.node('Cast', [sums], { to: 1 }), g.node('Mul', [scale, w.scale])]);
  return g.node('Add', [g.parameter(`${name}.bias`, [to]), real]);
}

function floatLinear(g: OnnxGraph, x: string, name: string, from: number, to: number): string {
  const product = g.node('MatMul', [x, g.transposed(`${name}.weight`, to, from)]);
  return g.node('Add', [g.parameter(`${name}.bias`, [to]), product]);
}

function gemm(g: OnnxGraph, x: string, name: string, from: number, to: number): string {
  const operands = [x, g.parameter(`${name}.weight`, [to, from]), g.parameter(`${name}.bias`, [to])];
  return g.node('Gemm', operands, { alpha: { float: 1 }, beta: { float: 1 }, transB: 1 });
}

function layerNorm(g: OnnxGraph, x: string, name: string, width: number, epsilon: number): string {
  const operands = [x, g.parameter(`${name}.weight`, [width]), g.parameter(`${name}.bias`, [width])];
  return g.node('LayerNormalization', operands, { axis: -1, epsilon: { float: epsilon } });
}

function gelu(g: OnnxGraph, x: string): string {
  const erf = g.node('Erf', [g.node('Div', [x, g.scalar(Math.SQRT2)])]);
  return g.node('Mul', [g.node('Mul', [x, g.node('Add', [erf, g.scalar(1)])]), g.scalar(0.5)]);
}

function mergeHeads(g: OnnxGraph, x: string, tokens: number, width: number): string {
  return g.node('Reshape', [g.node('Transpose', [x], { perm: [0, 2, 1, 3] }), g.integers([1, tokens, width])]);
}
