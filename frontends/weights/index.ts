/** Weights from files: safetensors, single and sharded, and Hugging Face folders. */
export type { WeightStore, WeightTensor } from '../../ir/weights.ts';
export { type FolderOptions, type LoadedModel, modelFromHf } from '../zoo/hf.ts';
export { type HfModel, openHfFolder } from './hf.ts';
export {
  encodeSafetensors,
  parseSafetensors,
  type Safetensors,
} from './safetensors.ts';
export { readSafetensors, readSharded, readWeights, type ShardedStore, writeSafetensors } from './sharded.ts';
export {
  type CheckOptions,
  checkWeights,
  type ExpectedTensor,
  type FileStore,
  firstNaN,
  toFloat32,
} from './store.ts';
