// Plays plans that `onnx-unlearn plan --webgpu` writes: shaders, buffers and dispatches, on WebGPU.
//
//   const player = await Player.open();
//   const bundle = player.load(await text.json(), await data.arrayBuffer());
//   const session = await bundle.session("forward");
//   const [logits] = await session.run(session.inputs.map((input) => …));
//
// An element is one 32-bit word: float32, int32 for every integer type, 0 or 1 for bool.

const FORMAT = "onnx-unlearn plan 1";

/** The kind of array that holds elements of this type. */
export function arrayOf(dtype) {
  if (dtype === "float32") return Float32Array;
  return dtype === "bool" || dtype === "uint32" ? Uint32Array : Int32Array;
}

/** Number of elements of a shape. */
export const count = (shape) => shape.reduce((n, extent) => n * extent, 1);

/** A device, and the pipelines that were compiled for it. */
export class Player {
  /** Opens an adapter; `options` are those of `requestAdapter`. */
  static async open(options = {}) {
    if (!navigator.gpu) throw new Error("this browser has no WebGPU");
    const adapter = await navigator.gpu.requestAdapter(options);
    if (!adapter) throw new Error("this browser found no WebGPU adapter");
    const device = await adapter.requestDevice();
    return new Player(device, adapter.info);
  }

  constructor(device, info) {
    this.device = device;
    this.info = info;
    this.modules = new Map();
    this.pipelines = new Map();
  }

  /** Checks a plan's text and its data. */
  load(text, data) {
    if (text.format !== FORMAT) throw new Error(`the plan's format is '${text.format}', this player knows '${FORMAT}'`);
    if (data.byteLength !== text.data_bytes) {
      throw new Error(`the plan's data has ${data.byteLength} bytes, its text names ${text.data_bytes}`);
    }
    return new Bundle(this, text, data);
  }

  /** Calls `make`; what WebGPU reports of its calls, up to where it first waits, becomes the error. */
  async guarded(make) {
    const scopes = ["validation", "out-of-memory", "internal"];
    for (const scope of scopes) this.device.pushErrorScope(scope);
    let result;
    try {
      result = Promise.resolve(make());
    } catch (error) {
      result = Promise.reject(error);
    }
    result.catch(() => {});
    const reported = await Promise.all(scopes.map(() => this.device.popErrorScope()));
    const failure = reported.find((error) => error);
    if (failure) throw new Error(failure.message);
    return result;
  }

  module(shader) {
    if (!this.modules.has(shader.wgsl)) {
      this.modules.set(shader.wgsl, this.device.createShaderModule({ label: shader.name, code: shader.wgsl }));
    }
    return this.modules.get(shader.wgsl);
  }

  /** A shader with its overrides, compiled once. */
  pipeline(shader, { overrides, writes }) {
    const key = JSON.stringify([shader.wgsl, overrides, writes]);
    if (!this.pipelines.has(key)) this.pipelines.set(key, this.compile(shader, overrides, writes));
    return this.pipelines.get(key);
  }

  async compile(shader, overrides, writes) {
    // the parameters come last and are only read
    const entries = [...writes, false].map((written, binding) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: written ? "storage" : "read-only-storage" },
    }));
    const layout = this.device.createBindGroupLayout({ entries });
    const module = this.module(shader);
    try {
      const compiled = await this.device.createComputePipelineAsync({
        label: shader.name,
        layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: "main", constants: overrides },
      });
      return { compiled, layout };
    } catch (error) {
      const { messages } = await module.getCompilationInfo();
      const said = messages.map(({ type, lineNum, message }) => `${type} in line ${lineNum}: ${message}`);
      throw new Error([`shader '${shader.name}': ${error.message}`, ...said].join("; "));
    }
  }

  buffer(bytes) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    return this.device.createBuffer({ size: bytes, usage });
  }
}

/** Several plans with their data. */
class Bundle {
  constructor(player, text, data) {
    this.player = player;
    this.text = text;
    this.data = data;
  }

  get plans() {
    return this.text.plans.map((plan) => plan.name);
  }

  /** The elements at a span of the data. */
  elements([offset, bytes], dtype) {
    return new (arrayOf(dtype))(this.data, offset, bytes / 4);
  }

  /** Makes the plan of that name ready to run. */
  async session(name) {
    const plan = this.text.plans.find((plan) => plan.name === name);
    if (!plan) throw new Error(`there is no plan '${name}' among ${this.plans.join(", ")}`);
    const pipelines = new Map();
    const compile = async (index) => {
      const pipeline = this.text.pipelines[index];
      pipelines.set(index, await this.player.pipeline(this.text.shaders[pipeline.shader], pipeline));
    };
    await Promise.all([...new Set(plan.dispatches.map((dispatch) => dispatch.pipeline))].map(compile));
    return this.player.guarded(() => new Session(this, plan, pipelines));
  }
}

/** A plan ready to run. */
class Session {
  constructor(bundle, plan, pipelines) {
    const { player } = bundle;
    this.player = player;
    this.bundle = bundle;
    this.plan = plan;
    this.inputs = plan.inputs;
    this.outputs = plan.outputs;
    const filled = ([offset, bytes]) => {
      // shaders read whole vectors of four words
      const buffer = player.buffer(Math.max(16, Math.ceil(bytes / 16) * 16));
      player.device.queue.writeBuffer(buffer, 0, bundle.data, offset, bytes);
      return buffer;
    };
    this.constants = plan.constants.map(filled);
    this.params = filled(plan.params);
    this.slots = plan.slots.map((bytes) => player.buffer(bytes));
    this.fed = plan.inputs.map((input) => (input.used ? player.buffer(input.bytes) : null));
    this.work = plan.dispatches.map((dispatch) => {
      const { compiled, layout } = pipelines.get(dispatch.pipeline);
      const entries = dispatch.buffers.map(([kind, index, size], binding) => ({
        binding,
        resource: { buffer: this.at(kind, index), size },
      }));
      const [offset, size] = dispatch.params;
      entries.push({ binding: entries.length, resource: { buffer: this.params, offset, size } });
      return { compiled, group: player.device.createBindGroup({ layout, entries }), grid: dispatch.grid };
    });
  }

  at(kind, index) {
    return { constant: this.constants, input: this.fed, slot: this.slots }[kind][index];
  }

  /** The input of that role, and of that name where several have it. */
  input(role, of) {
    return this.inputs.find((input) => input.role === role && (of === undefined || input.of === of));
  }

  /**
   * Runs the plan once. `feed` gives the elements of an input, as a typed array of its words; inputs that bring their
   * elements in the plan are not asked for. Resolves to one typed array for each output.
   */
  run(feed) {
    return this.player.guarded(() => {
      const { device } = this.player;
      this.inputs.forEach((input, index) => {
        if (input.used) device.queue.writeBuffer(this.fed[index], 0, this.wordsOf(input, feed));
      });
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (const { compiled, group, grid } of this.work) {
        pass.setPipeline(compiled);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...grid);
      }
      pass.end();
      const staged = this.outputs.map((output) => this.stage(encoder, output));
      device.queue.submit([encoder.finish()]);
      return Promise.all(staged.map((buffer, index) => read(buffer, this.outputs[index])));
    });
  }

  wordsOf(input, feed) {
    const elements = input.data ? this.bundle.elements(input.data, input.dtype) : feed(input);
    const want = count(input.shape);
    if (elements?.length !== want || elements.BYTES_PER_ELEMENT !== 4) {
      throw new Error(`input '${input.name}' needs ${want} words, it was fed ${elements?.length}`);
    }
    return elements;
  }

  stage(encoder, output) {
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const buffer = this.player.device.createBuffer({ size: output.bytes, usage });
    encoder.copyBufferToBuffer(this.at(...output.at), 0, buffer, 0, output.bytes);
    return buffer;
  }

  /** Gives the memory back. */
  destroy() {
    for (const buffer of [...this.constants, ...this.slots, ...this.fed, this.params]) buffer?.destroy();
  }
}

async function read(buffer, { dtype, shape }) {
  await buffer.mapAsync(GPUMapMode.READ);
  const elements = new (arrayOf(dtype))(buffer.getMappedRange().slice(0), 0, count(shape));
  buffer.destroy();
  return elements;
}
