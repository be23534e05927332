/** A device that accepts everything and does nothing: what remains of the time of a run is the runtime's own. */

class FakeBuffer {
  readonly size: number;
  readonly usage: number;

  constructor({ size, usage }: GPUBufferDescriptor) {
    this.size = size;
    this.usage = usage;
  }

  async mapAsync(): Promise<void> {}
  getMappedRange(at = 0, bytes = this.size - at): ArrayBuffer {
    return new ArrayBuffer(bytes);
  }
  unmap(): void {}
  destroy(): void {}
}

/** What the device was asked to do. */
export interface FakeDevice {
  readonly device: GPUDevice;
  readonly calls: { dispatches: number; passes: number; bindGroups: number; submissions: number };
}

export function fakeDevice(): FakeDevice {
  const calls = { dispatches: 0, passes: 0, bindGroups: 0, submissions: 0 };
  const nothing = (): void => {};
  const pass = {
    setPipeline: nothing,
    setBindGroup: nothing,
    dispatchWorkgroups: () => void calls.dispatches++,
    dispatchWorkgroupsIndirect: () => void calls.dispatches++,
    end: nothing,
  };
  const encoder = {
    beginComputePass() {
      calls.passes++;
      return pass;
    },
    copyBufferToBuffer: nothing,
    finish: () => ({}),
  };
  const device = {
    features: new Set<string>(),
    limits: {
      maxBufferSize: 2 ** 31,
      maxStorageBufferBindingSize: 2 ** 31,
      maxStorageBuffersPerShaderStage: 8,
      minStorageBufferOffsetAlignment: 256,
      minUniformBufferOffsetAlignment: 256,
    },
    adapterInfo: { vendor: 'fake', architecture: '', description: '' },
    lost: new Promise(nothing),
    addEventListener: nothing,
    pushErrorScope: nothing,
    popErrorScope: async () => null,
    createBuffer: (descriptor: GPUBufferDescriptor) => new FakeBuffer(descriptor),
    createShaderModule: () => ({}),
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createComputePipelineAsync: async () => ({}),
    createBindGroup() {
      calls.bindGroups++;
      return {};
    },
    createCommandEncoder: () => encoder,
    queue: {
      writeBuffer: nothing,
      submit: () => void calls.submissions++,
      onSubmittedWorkDone: async () => {},
    },
    destroy: nothing,
  };
  return { device: device as unknown as GPUDevice, calls };
}
