/**
 * The child process that goes from nothing to the first result of a tiny model: loads the compiler, traces and compiles a
 * perceptron of 101,770 parameters, opens it and runs it once. Prints the milliseconds since its first line.
 */
const start = performance.now();
const [{ compile, dim, f32, input, model, nn, relu }, { seededWeights }, { open }] = await Promise.all([
  import('heddle'),
  import('heddle/zoo'),
  import('heddle/runtime'),
]);
const perceptron = model('perceptron', { x: input(f32, [dim('batch', { max: 64 }), 784]) }, ({ x }) => {
  const hidden = relu(nn.linear('fc1', { in: 784, out: 128 })(x));
  return { logits: nn.linear('fc2', { in: 128, out: 10 })(hidden) };
});
const session = await open(compile(perceptron, { weights: seededWeights(perceptron) }));
const { logits } = await session.run({ x: new Float32Array(784) });
if (logits?.data.length !== 10) throw new Error('the perceptron has no logits');
console.log(performance.now() - start);

export {};
