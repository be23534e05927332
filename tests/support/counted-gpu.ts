/** A GPU whose adapters and devices tell what is made of them, and pretend to be smaller or weaker than they are. */
import { dawnGpu } from './swiftshader.ts';

/** What a device has been asked for. */
export interface Counted {
  readonly device: GPUDevice;
  readonly made: GPUBuffer[];
  readonly destroyed: GPUBuffer[];
  pipelines: number;
  submissions: number;
  /** Times that the host asked for memory of the device. */
  maps: number;
  /** Dispatches whose workgroups the host said, and those whose workgroups the device knew. */
  dispatches: number;
  indirect: number;
}

export interface CountedGpu {
  readonly gpu: GPU;
  readonly devices: Counted[];
}

export interface Pretence {
  /** No adapter at all. */
  readonly none?: boolean;
  readonly limits?: Readonly<Record<string, number>>;
  /** Features that are hidden, and those that are said to be there. */
  readonly without?: readonly string[];
  readonly also?: readonly string[];
  /** Called with each device before it is handed out. */
  readonly onDevice?: (counted: Counted) => void;
}

/** Counts what a device makes. */
export function countDevice(device: GPUDevice): Counted {
  const counted: Counted = {
    device,
    made: [],
    destroyed: [],
    pipelines: 0,
    submissions: 0,
    maps: 0,
    dispatches: 0,
    indirect: 0,
  };
  const createBuffer = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer(descriptor);
    counted.made.push(buffer);
    const destroy = buffer.destroy.bind(buffer);
    buffer.destroy = () => {
      counted.destroyed.push(buffer);
      return destroy();
    };
    const map = buffer.mapAsync.bind(buffer);
    buffer.mapAsync = (...range) => {
      counted.maps++;
      return map(...range);
    };
    return buffer;
  };
  const createEncoder = device.createCommandEncoder.bind(device);
  device.createCommandEncoder = (descriptor) => {
    const encoder = createEncoder(descriptor);
    const begin = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (...pass) => {
      const made = begin(...pass);
      const [direct, indirect] = [made.dispatchWorkgroups.bind(made), made.dispatchWorkgroupsIndirect.bind(made)];
      made.dispatchWorkgroups = (...groups) => {
        counted.dispatches++;
        return direct(...groups);
      };
      made.dispatchWorkgroupsIndirect = (...from) => {
        counted.indirect++;
        return indirect(...from);
      };
      return made;
    };
    return encoder;
  };
  const createPipeline = device.createComputePipelineAsync.bind(device);
  device.createComputePipelineAsync = (descriptor) => {
    counted.pipelines++;
    return createPipeline(descriptor);
  };
  const { queue } = device;
  const submit = queue.submit.bind(queue);
  queue.submit = (commands) => {
    counted.submissions++;
    return submit(commands);
  };
  Object.defineProperty(device, 'queue', { value: queue });
  return counted;
}

/** @throws Error when there is no adapter, unless that is the pretence */
export function countedGpu(pretence: Pretence = {}): CountedGpu {
  const real = dawnGpu();
  const devices: Counted[] = [];
  const adapterOf = (adapter: GPUAdapter): GPUAdapter => {
    const limits: Record<string, number> = {};
    for (const name in adapter.limits) limits[name] = (adapter.limits as unknown as Record<string, number>)[name]!;
    const { without = [], also = [] } = pretence;
    const features = new Set([...[...adapter.features].filter((name) => !without.includes(name)), ...also]);
    return {
      info: adapter.info,
      features,
      limits: { ...limits, ...pretence.limits } as unknown as GPUSupportedLimits,
      async requestDevice(descriptor?: GPUDeviceDescriptor) {
        const asked = [...(descriptor?.requiredFeatures ?? [])] as string[];
        const real = asked.filter((name) => !also.includes(name)) as GPUFeatureName[];
        const device = await adapter.requestDevice({ ...descriptor, requiredFeatures: real });
        if (also.length > 0) Object.defineProperty(device, 'features', { value: new Set(asked) });
        const counted = countDevice(device);
        devices.push(counted);
        pretence.onDevice?.(counted);
        return counted.device;
      },
    } as unknown as GPUAdapter;
  };
  const gpu = {
    async requestAdapter(options?: GPURequestAdapterOptions) {
      if (pretence.none) return null;
      const adapter = await real.requestAdapter(options);
      if (adapter === null) throw new Error('no WebGPU adapter; these tests need one');
      return adapterOf(adapter);
    },
  } as GPU;
  return { gpu, devices };
}
