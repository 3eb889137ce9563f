//! Every kernel of every case against its WGSL, without a GPU: it validates, stays inside WebGPU's
//! default limits, and has the parameters, overrides and bindings that the kernel hands it.

mod common;

use common::{build, with_gradients};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, ArraySize, Module, Scalar, StorageAccess, TypeInner};
use onnx_unlearn::engine::bundle;
use onnx_unlearn::graph::Graph;
use onnx_unlearn::ops::{self, Bind, Form, Gradient, Kernel, Step};
use onnx_unlearn::tensor::DType;
use std::collections::{BTreeMap, BTreeSet};

/// WebGPU's default limits: <https://www.w3.org/TR/webgpu/#limits>.
mod limit {
    pub const STORAGE_BUFFERS: usize = 8;
    pub const INVOCATIONS: u32 = 256;
    pub const WORKGROUP_BYTES: u32 = 16 << 10;
    pub const WORKGROUPS: u32 = 65_535;
}

type Check = Result<(), String>;

/// Shader and overrides.
type Variant = (&'static str, Vec<(&'static str, u64)>);

/// Shaders in one form, parsed and validated once, alone and with each set of overrides.
struct Shaders {
    form: Form,
    modules: BTreeMap<&'static str, Result<Module, String>>,
    variants: BTreeMap<Variant, Check>,
}

impl Shaders {
    fn new(form: Form) -> Self {
        Self { form, modules: BTreeMap::new(), variants: BTreeMap::new() }
    }

    /// Checks a step against its shader.
    fn check(&mut self, step: &Step) -> Check {
        let text = step.shader.text(self.form);
        let parsed = self.modules.entry(step.shader.name).or_insert_with(|| {
            let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
            let info = validated(&module)?;
            check_module(&module, &info)?;
            Ok(module)
        });
        let module = parsed.as_ref().map_err(Clone::clone)?;
        let overrides = step.overrides.iter().map(|&(name, v)| (name, v.to_bits())).collect();
        let variant = self.variants.entry((step.shader.name, overrides));
        variant.or_insert_with(|| check_variant(module, step)).clone()?;
        check_step(module, step)
    }
}

fn validated(module: &Module) -> Result<ModuleInfo, String> {
    // what tells neighbours apart is asked of adapters that have it
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    validator.validate(module).map_err(|e| format!("{:?}", e.into_inner()))
}

fn ensure(good: bool, why: impl FnOnce() -> String) -> Check {
    if good { Ok(()) } else { Err(why()) }
}

/// What holds for a shader whatever the step: one entry point `main`, nothing read beyond its bindings'
/// ends by asking for their length (buffers are larger than their tensors), no float atomics.
fn check_module(module: &Module, _: &ModuleInfo) -> Check {
    ensure(module.entry_points.len() == 1 && module.entry_points[0].name == "main", || {
        "the only entry point has to be main".to_owned()
    })?;
    let functions = module.functions.iter().map(|(_, f)| f).chain(module.entry_points.iter().map(|e| &e.function));
    for f in functions {
        ensure(!f.expressions.iter().any(|(_, e)| matches!(e, naga::Expression::ArrayLength(_))), || {
            "arrayLength is not the tensor's length; take it from params".to_owned()
        })?;
    }
    Ok(())
}

fn check_step(module: &Module, step: &Step) -> Check {
    ensure(step.binds.len() < limit::STORAGE_BUFFERS, || format!("{} buffers and params", step.binds.len()))?;
    // a buffer is bound read-only or read-write in one dispatch, and once where it is written
    let written = |b: &&Bind| matches!(b, Bind::Scratch(_) | Bind::Output(_));
    let read: BTreeSet<String> =
        step.binds.iter().filter(|b| matches!(b, Bind::Filled(_))).map(|b| format!("{b:?}")).collect();
    let mut own: Vec<String> = step.binds.iter().filter(written).map(|b| format!("{b:?}")).collect();
    own.extend(read.iter().map(|b| b.replace("Filled", "Scratch")));
    own.sort();
    let distinct = own.windows(2).all(|w| w[0] != w[1]);
    ensure(distinct, || format!("{:?} binds a buffer twice", step.binds))?;
    ensure(step.grid.iter().all(|&g| g <= limit::WORKGROUPS), || format!("grid {:?}", step.grid))?;
    check_bindings(module, step)
}

/// Checks a shader with the overrides of a step put into it.
fn check_variant(module: &Module, step: &Step) -> Check {
    let mut constants = naga::back::PipelineConstants::default();
    for (name, value) in &step.overrides {
        ensure(module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name)), || {
            format!("the shader has no override {name}")
        })?;
        constants.insert((*name).to_owned(), *value);
    }
    let info = validated(module)?;
    let stage = Some((naga::ShaderStage::Compute, "main"));
    let (chosen, _) = naga::back::pipeline_constants::process_overrides(module, &info, stage, &constants)
        .map_err(|e| format!("overrides {:?}: {e:?}", step.overrides))?;
    check_workgroup(&chosen)
}

fn check_workgroup(module: &Module) -> Check {
    let size = module.entry_points[0].workgroup_size;
    ensure(size.iter().product::<u32>() <= limit::INVOCATIONS && size[2] <= 64, || format!("workgroup size {size:?}"))?;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| format!("{e:?}"))?;
    let shared: u32 = module
        .global_variables
        .iter()
        .filter(|(_, v)| v.space == AddressSpace::WorkGroup)
        .map(|(_, v)| layouter[v.ty].size.next_multiple_of(16))
        .sum();
    ensure(shared <= limit::WORKGROUP_BYTES, || format!("{shared} bytes of workgroup memory"))
}

fn check_bindings(module: &Module, step: &Step) -> Check {
    let mut bound: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| v.binding.as_ref().map(|b| (b.group, b.binding, v)))
        .collect();
    bound.sort_by_key(|&(group, binding, _)| (group, binding));
    let numbers: Vec<_> = bound.iter().map(|&(g, b, _)| (g, b)).collect();
    let want: Vec<_> = (0..=step.binds.len() as u32).map(|b| (0, b)).collect();
    ensure(numbers == want, || format!("bindings {numbers:?}, the step has {want:?}"))?;
    for ((_, binding, v), bind) in bound.iter().zip(step.binds.iter().map(Some).chain([None])) {
        let access = match bind {
            Some(Bind::Output(_) | Bind::Scratch(_)) => StorageAccess::LOAD | StorageAccess::STORE,
            Some(Bind::Input(_) | Bind::Filled(_)) | None => StorageAccess::LOAD,
        };
        ensure(v.space == AddressSpace::Storage { access }, || {
            format!("binding {binding} ({:?}) is {:?}, the step binds {bind:?}", v.name, v.space)
        })?;
    }
    let (_, _, params) = bound[step.binds.len()];
    ensure(params.name.as_deref() == Some("params"), || format!("the last binding is {:?}", params.name))?;
    check_params(module, params.ty, step)
}

/// Every member of `Params` by name, order, offset and size.
fn check_params(module: &Module, ty: naga::Handle<naga::Type>, step: &Step) -> Check {
    let TypeInner::Struct { members, .. } = &module.types[ty].inner else {
        return Err("params is no struct".to_owned());
    };
    let mut shader = Vec::new();
    for m in members {
        let words = match module.types[m.ty].inner {
            TypeInner::Scalar(Scalar { width: 4, .. }) => 1,
            TypeInner::Array { base, size: ArraySize::Constant(n), stride: 4 } => {
                let word = matches!(module.types[base].inner, TypeInner::Scalar(Scalar { width: 4, .. }));
                ensure(word, || format!("member {:?} is no array of words", m.name))?;
                n.get()
            }
            ref other => return Err(format!("member {:?} is {other:?}", m.name)),
        };
        shader.push((m.name.clone().unwrap_or_default(), m.offset, words));
    }
    let mut offset = 0;
    let mut given = Vec::new();
    for (name, words) in step.params.members() {
        given.push((name.to_owned(), offset, words as u32));
        offset += 4 * words as u32;
    }
    ensure(shader == given, || format!("Params is {shader:?}, the step has {given:?}"))
}

fn check_graph(shaders: &mut Shaders, graph: &Graph) -> Check {
    for node in graph.nodes() {
        let name = node.op.spec().name;
        let kernel = node.op.kernel(&graph.view_of(node)).map_err(|e| format!("{name}: {e}"))?;
        let Kernel::Steps { steps, scratch } = kernel else { continue };
        for step in &steps {
            let place = |e: String| format!("{name}, shader {}: {e}", step.shader.name);
            let exists = step.binds.iter().all(|b| match *b {
                Bind::Input(i) => node.inputs.get(i).is_some_and(Option::is_some),
                Bind::Output(i) => node.outputs.get(i).is_some_and(Option::is_some),
                Bind::Scratch(i) | Bind::Filled(i) => i < scratch.len(),
            });
            ensure(exists, || place(format!("{:?} names what the node does not have", step.binds)))?;
            shaders.check(step).map_err(place)?;
        }
    }
    // what engines run has some nodes joined
    let joined = bundle::steps(graph).map_err(|e| e.to_string())?;
    joined.iter().try_for_each(|step| shaders.check(step).map_err(|e| format!("joined, {}: {e}", step.shader.name)))?;
    let halves = bundle::steps_of_halves(graph, shaders.form).map_err(|e| e.to_string())?;
    halves.iter().try_for_each(|step| shaders.check(step).map_err(|e| format!("of halves, {}: {e}", step.shader.name)))
}

#[test]
fn kernels_match_their_shaders() {
    let mut forms = Form::ALL.map(Shaders::new);
    let mut failures = BTreeSet::new();
    for op in ops::table() {
        for case in op.cases() {
            let mut check = || -> Check {
                let text = |e: onnx_unlearn::Error| e.to_string();
                let built = build(op, &case, DType::F32).map_err(text)?;
                let mut check = |graph: &Graph| forms.iter_mut().try_for_each(|shaders| check_graph(shaders, graph));
                check(&built.graph)?;
                if case.gradient == Gradient::Checked {
                    check(&with_gradients(built, &case, DType::F32).map_err(text)?.graph)?;
                }
                Ok(())
            };
            if let Err(e) = check() {
                failures.insert(format!("{}: {e}", case.name));
            }
        }
    }
    let [shaders, ..] = forms;
    println!("{} shaders", shaders.modules.len());
    let failures: Vec<_> = failures.into_iter().collect();
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|f| f.unwrap().file_name().to_str()?.strip_suffix(".wgsl").map(str::to_owned))
        .collect();
    let used: BTreeSet<String> = shaders.modules.keys().map(|&k| k.to_owned()).collect();
    let idle: Vec<_> = files.difference(&used).collect();
    assert!(idle.is_empty(), "no case uses {idle:?}");
}

#[test]
fn a_wrong_shader_is_found() {
    let step = |source: &'static str| Step {
        shader: ops::Shader { name: "test", source },
        overrides: vec![("OP", 1.0)],
        binds: vec![Bind::Input(0), Bind::Output(0)],
        params: ops::Params::new().u("n", 1).list::<2>("shape", &[1, 1], 1),
        grid: [1, 1, 1],
    };
    const GOOD: &str = "struct Params { n: u32, shape: array<u32, 2> }
        @group(0) @binding(0) var<storage, read> x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @group(0) @binding(2) var<storage, read> params: Params;
        override OP: u32 = 0u;
        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) { if id.x < params.n { y[id.x] = x[id.x] * f32(OP); } }";
    let check = |source: &'static str| {
        let step = step(source);
        Shaders::new(Form::Direct).check(&step)
    };
    assert_eq!(check(GOOD), Ok(()));
    for (from, to) in [
        ("n: u32, shape: array<u32, 2>", "shape: array<u32, 2>, n: u32"),
        ("array<u32, 2>", "array<u32, 3>"),
        ("n: u32", "count: u32"),
        ("read_write", "read"),
        ("read> x", "read_write> x"),
        ("binding(2)", "binding(3)"),
        ("override OP", "override OTHER"),
        ("size(64)", "size(64, 8)"),
        ("< params.n", "< arrayLength(&x)"),
        ("f32(OP)", "OP"),
        ("f32(OP)", "f32(OP) + w[0]; } var<workgroup> w: array<f32, 4097>; fn g() { _ = w[0]"),
    ] {
        let source = GOOD.replace("params.n", if from == "n: u32" { "params.count" } else { "params.n" });
        let wrong: &'static str = source.replace(from, to).leak();
        assert!(check(wrong).is_err(), "'{from}' replaced by '{to}' goes unnoticed");
    }
}
