//! The open device: its limits, its errors as values, the compiled pipelines.

use super::{Kernels, Options, Storage, adapter, subgroups};
use crate::engine::halves;
use crate::error::{Error, Result};
use crate::ops::{Bind, Form, Shader, Step};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wgpu::{
    AdapterInfo, BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType,
    ComputePipeline, ComputePipelineDescriptor, Device, DeviceDescriptor, DeviceType, ErrorFilter, Features, Limits,
    MemoryHints, PipelineCompilationOptions, PipelineLayoutDescriptor, PollType, Queue, ShaderModule,
    ShaderModuleDescriptor, ShaderSource, ShaderStages, SubmissionIndex,
};

/// A shader compiled with its overrides, and the layout of its bindings.
pub(super) struct Pipeline {
    pub compiled: ComputePipeline,
    pub layout: BindGroupLayout,
}

/// Shader, its overrides bit by bit, and which bindings are written.
type Key = (&'static str, Vec<(&'static str, u64)>, Vec<bool>);

/// An open device, shared by the engine, its sessions and its tensors.
pub(super) struct Gpu {
    pub device: Device,
    pub queue: Queue,
    pub info: AdapterInfo,
    pub limits: Limits,
    /// How shaders that multiply are written.
    pub form: Form,
    /// Whether weights that are float16 to the bit lie so.
    pub keeps_halves: bool,
    /// Those of fewer elements do not.
    pub fewest_halves: usize,
    /// What went wrong outside of any call that could have said so; the device is given up then.
    trouble: Arc<Mutex<Option<String>>>,
    /// Modules and their sources by name.
    modules: Mutex<HashMap<&'static str, (ShaderModule, &'static str)>>,
    pipelines: Mutex<HashMap<Key, Arc<Pipeline>>>,
    /// Buffers nobody uses, by size.
    pub(super) free: Mutex<super::pool::Free>,
}

/// A mutex whose holder panicked is still good: nothing here is left half changed.
pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Elements that lie in one buffer at most, so that a shader can bind them.
    pub(super) fn most_elements(&self) -> usize {
        // buffers have a multiple of 16 bytes
        let words = self.limits.max_storage_buffer_binding_size / 16 * 4;
        usize::try_from(words).unwrap_or(usize::MAX)
    }

    /// Opens the best adapter that `options` allow and that has what WebGPU asks of one.
    ///
    /// # Errors
    /// When there is none, with the reason.
    pub(super) fn open(options: &Options) -> Result<Self> {
        let mut refused = Vec::new();
        for adapter in adapter::candidates(options)? {
            match Self::open_one(&adapter, options, options.kernels()?, options.storage()?) {
                Ok(gpu) => return Ok(gpu),
                Err(why) => refused.push(format!("{}: {why}", adapter::describe(&adapter.get_info()))),
            }
        }
        Err(Error::engine(format!("no GPU adapter can be used: {}", refused.join("; "))))
    }

    fn open_one(
        adapter: &wgpu::Adapter,
        options: &Options,
        kernels: Kernels,
        storage: Storage,
    ) -> Result<Self, String> {
        let has = adapter.limits();
        let ask = Limits::default();
        let short = [
            (
                "storage buffers a stage",
                has.max_storage_buffers_per_shader_stage,
                ask.max_storage_buffers_per_shader_stage,
            ),
            (
                "invocations a workgroup",
                has.max_compute_invocations_per_workgroup,
                ask.max_compute_invocations_per_workgroup,
            ),
            (
                "bytes of workgroup memory",
                has.max_compute_workgroup_storage_size,
                ask.max_compute_workgroup_storage_size,
            ),
            (
                "workgroups a dimension",
                has.max_compute_workgroups_per_dimension,
                ask.max_compute_workgroups_per_dimension,
            ),
        ];
        if let Some((what, has, needs)) = short.into_iter().find(|(_, has, needs)| has < needs) {
            return Err(format!("{has} {what}, {needs} are needed"));
        }
        // shaders stay inside WebGPU's defaults; only tensors may be as large as the adapter allows
        let mut limits = ask.or_worse_values_from(&has);
        limits.max_buffer_size = has.max_buffer_size;
        let binding = has.max_storage_buffer_binding_size.min(has.max_buffer_size);
        limits.max_storage_buffer_binding_size = options.max_binding.map_or(binding, |most| most.clamp(16, binding));
        let info = adapter.get_info();
        let wanted = match kernels {
            Kernels::Auto if info.device_type == DeviceType::Cpu => Form::Subgroups,
            Kernels::Auto | Kernels::Tiled => Form::Tiled,
            Kernels::Direct => Form::Direct,
            Kernels::Subgroups => Form::Subgroups,
        };
        let required_features = match wanted {
            Form::Subgroups => adapter.features() & Features::SUBGROUP,
            _ => Features::empty(),
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&DeviceDescriptor {
            label: Some("onnx-unlearn"),
            required_features,
            required_limits: limits.clone(),
            memory_hints: MemoryHints::MemoryUsage,
            ..Default::default()
        }))
        .map_err(|e| one_line(&e.to_string()))?;
        let trouble = Arc::new(Mutex::new(None));
        let first = |slot: &Mutex<Option<String>>, message: String| {
            lock(slot).get_or_insert(message);
        };
        let slot = trouble.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| first(&slot, one_line(&e.to_string()))));
        let slot = trouble.clone();
        device.set_device_lost_callback(move |_, message| {
            first(&slot, format!("device lost {}", one_line(&message)).trim().to_owned())
        });
        let form = match wanted {
            Form::Subgroups if required_features.is_empty() || !subgroups::fit(&device, &queue) => {
                if kernels == Kernels::Subgroups {
                    return Err("kernels with subgroups were asked for, and it has none of 8 neighbours".to_owned());
                }
                Form::Direct
            }
            other => other,
        };
        Ok(Self {
            device,
            queue,
            info,
            limits,
            form,
            keeps_halves: storage == Storage::F16 || storage == Storage::Auto && form == Form::Tiled,
            fewest_halves: options.fewest_halves.unwrap_or(halves::FEWEST),
            trouble,
            modules: Mutex::default(),
            pipelines: Mutex::default(),
            free: Mutex::default(),
        })
    }

    fn failed(&self, why: &str) -> Error {
        Error::engine(format!("{}: {why}", self.info.name.trim()))
    }

    /// Runs `f`; what wgpu reports meanwhile becomes the error.
    ///
    /// # Errors
    /// That of `f`, or what wgpu reports, or that the device was lost.
    pub(super) fn guarded<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        self.alive()?;
        let scopes = [ErrorFilter::Internal, ErrorFilter::OutOfMemory, ErrorFilter::Validation]
            .map(|filter| self.device.push_error_scope(filter));
        let result = f();
        // scopes nest: the one pushed last is popped first; all are popped, whatever they say
        let reported: Vec<_> = scopes.into_iter().rev().filter_map(|s| pollster::block_on(s.pop())).collect();
        // calls on a lost device do nothing and report nothing; only polling tells
        self.poll(PollType::Poll)?;
        let value = result?;
        match reported.first() {
            Some(e) => Err(self.failed(&one_line(&e.to_string()))),
            None => Ok(value),
        }
    }

    /// # Errors
    /// When the device is lost or broken.
    fn alive(&self) -> Result<()> {
        match &*lock(&self.trouble) {
            Some(why) => Err(self.failed(why)),
            None => Ok(()),
        }
    }

    /// Waits until a submission is done.
    ///
    /// # Errors
    /// When the device is lost.
    pub(super) fn wait(&self, until: SubmissionIndex) -> Result<()> {
        self.poll(PollType::Wait { submission_index: Some(until), timeout: None })
    }

    fn poll(&self, what: PollType) -> Result<()> {
        // wgpu panics when it finds the device lost while it polls
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.device.poll(what))) {
            Ok(Ok(_)) => self.alive(),
            Ok(Err(e)) => Err(self.failed(&one_line(&e.to_string()))),
            Err(_) => {
                lock(&self.trouble).get_or_insert_with(|| "device lost".to_owned());
                self.alive()
            }
        }
    }

    /// The pipeline of a step, compiled once for all sessions.
    ///
    /// # Errors
    /// When the shader does not compile or does not match the step.
    pub(super) fn pipeline(&self, step: &Step) -> Result<Arc<Pipeline>> {
        let written: Vec<bool> = step.binds.iter().map(Bind::is_written).collect();
        let overrides = step.overrides.iter().map(|&(name, v)| (name, v.to_bits())).collect();
        let key: Key = (step.shader.name, overrides, written);
        if let Some(p) = lock(&self.pipelines).get(&key) {
            return Ok(p.clone());
        }
        let place = |e: Error| e.at(format!("shader '{}'", step.shader.name));
        let module = self.module(step.shader).map_err(place)?;
        let made = self.guarded(|| Ok(Arc::new(self.compile(step, &module, &key.2)))).map_err(place)?;
        Ok(lock(&self.pipelines).entry(key).or_insert(made).clone())
    }

    fn module(&self, shader: Shader) -> Result<ShaderModule> {
        if let Some((m, _)) = lock(&self.modules).get(shader.name) {
            return Ok(m.clone());
        }
        let descriptor = ShaderModuleDescriptor {
            label: Some(shader.name),
            source: ShaderSource::Wgsl(shader.text(self.form).into()),
        };
        let made = self.guarded(|| Ok(self.device.create_shader_module(descriptor)))?;
        Ok(lock(&self.modules).entry(shader.name).or_insert((made, shader.text(self.form))).0.clone())
    }

    /// Name and source of every shader that was compiled, sorted by name.
    pub(super) fn shaders(&self) -> Vec<(&'static str, &'static str)> {
        let mut all: Vec<_> = lock(&self.modules).iter().map(|(name, (_, source))| (*name, *source)).collect();
        all.sort_unstable();
        all
    }

    fn compile(&self, step: &Step, module: &ShaderModule, written: &[bool]) -> Pipeline {
        let name = Some(step.shader.name);
        // the parameters come last and are only read
        let entries: Vec<BindGroupLayoutEntry> = (0u32..)
            .zip(written.iter().chain([&false]))
            .map(|(binding, written)| BindGroupLayoutEntry {
                binding,
                visibility: ShaderStages::COMPUTE,
                ty: BindingType::Buffer {
                    ty: BufferBindingType::Storage { read_only: !written },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout =
            self.device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: name, entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&PipelineLayoutDescriptor {
            label: name,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let compiled = self.device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: name,
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some("main"),
            compilation_options: PipelineCompilationOptions { constants: &step.overrides, ..Default::default() },
            cache: None,
        });
        Pipeline { compiled, layout }
    }
}

/// wgpu explains itself on several indented lines; messages here have one.
pub(super) fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::super::{Options, WgpuEngine};
    use crate::Kind;
    use crate::engine::Engine;
    use crate::graph::{Attrs, Batch, Graph};
    use crate::ops::{Bind, Params, Shader, Step};
    use crate::tensor::{Array, DType, TensorType};

    fn engine() -> Option<WgpuEngine> {
        match WgpuEngine::new(&Options { allow_software: true, ..Options::default() }) {
            Ok(e) => Some(e),
            Err(e) if std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_some() => panic!("{e}"),
            Err(e) => {
                println!("skipped: {e}");
                None
            }
        }
    }

    #[test]
    fn a_lost_device_is_an_error() {
        let Some(engine) = engine() else { return };
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [2]), Batch::None);
        g.outputs = vec![g.push("Neg", &[x], Attrs::new()).unwrap()];
        let mut session = engine.prepare(&g).unwrap();
        let feed = Array::full(&[2], 1.0f32);
        let out = session.run(&[feed.clone().into()]).unwrap();
        // work that is still under way would delay the news
        out[0].to_array().unwrap();
        engine.gpu.device.destroy();
        let tries = [
            ("download", out[0].to_array().err()),
            ("run", session.run(&[feed.clone().into()]).err()),
            ("upload", engine.upload(&feed).err()),
            ("prepare", engine.prepare(&g).err()),
        ];
        for (what, e) in tries {
            assert_eq!(e.map(|e| e.kind()), Some(Kind::Engine), "{what}");
        }
    }

    #[test]
    fn a_broken_shader_is_an_error_and_harms_nothing() {
        let Some(engine) = engine() else { return };
        let step = |source| Step {
            shader: Shader { name: "broken", source },
            overrides: vec![],
            binds: vec![Bind::Output(0)],
            params: Params::new(),
            grid: [1, 1, 1],
        };
        let e = engine.gpu.pipeline(&step("fn main() { nonsense }")).err().unwrap();
        assert!(e.kind() == Kind::Engine && e.to_string().contains("broken") && !e.to_string().contains('\n'), "{e}");
        assert_eq!(engine.upload(&Array::ints(&[4])).unwrap().to_array().unwrap(), Array::ints(&[4]));
    }
}
