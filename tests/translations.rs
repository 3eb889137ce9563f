//! Every shader, with every set of overrides that a case asks for, in the languages of other interfaces: SPIR-V for
//! Vulkan, MSL for Metal, HLSL for Direct3D and GLSL ES for OpenGL, as naga translates them. Khronos' own tools look at
//! the two that they know.

mod common;

use common::{build, with_gradients};
use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::BoundsCheckPolicies;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ResourceBinding, ShaderStage};
use onnx_unlearn::engine::bundle;
use onnx_unlearn::ops::{self, Form, Gradient, Kernel, Step};
use onnx_unlearn::tensor::DType;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ENTRY: &str = "main";

/// Shader, its text, and its overrides bit by bit.
type Key = (&'static str, &'static str, Vec<(&'static str, u64)>);

/// One step for each shader in each form, with each set of overrides that the cases and their gradients run.
fn variants() -> BTreeMap<Key, Step> {
    let mut all = BTreeMap::new();
    for op in ops::table() {
        for case in op.cases() {
            let forward = build(op, &case, DType::F32).unwrap();
            let mut graphs = vec![forward.graph.clone()];
            if !matches!(case.gradient, Gradient::None(_)) {
                graphs.push(with_gradients(forward, &case, DType::F32).unwrap().graph);
            }
            for graph in graphs {
                let of_node = |n: usize| match graph.nodes()[n].op.kernel(&graph.view_of(&graph.nodes()[n])) {
                    Ok(Kernel::Steps { steps, .. }) => steps,
                    _ => Vec::new(),
                };
                // node by node, and as engines join them
                let alone = (0..graph.nodes().len()).flat_map(of_node);
                for step in alone.chain(bundle::steps(&graph).unwrap_or_default()) {
                    let overrides: Vec<_> = step.overrides.iter().map(|&(name, v)| (name, v.to_bits())).collect();
                    for form in Form::ALL {
                        let key = (step.shader.name, step.shader.text(form), overrides.clone());
                        all.entry(key).or_insert_with(|| step.clone());
                        // engines join a Relu to what makes its operand
                        if step.shader.source.contains("override RELU") && step.overrides.iter().all(|o| o.0 != "RELU")
                        {
                            let mut step = step.clone();
                            step.overrides.push(("RELU", 1.0));
                            let bits = step.overrides.iter().map(|&(name, v)| (name, v.to_bits())).collect();
                            all.entry((step.shader.name, step.shader.text(form), bits)).or_insert(step);
                        }
                    }
                }
            }
        }
    }
    all
}

/// The text of a shader with the overrides of a step put in.
fn module_of(text: &str, step: &Step) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text).unwrap();
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator.validate(&module).unwrap();
    let constants = step.overrides.iter().map(|&(name, v)| (name.to_owned(), v)).collect();
    let stage = Some((ShaderStage::Compute, ENTRY));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, stage, &constants).unwrap();
    (module.into_owned(), info.into_owned())
}

/// Binding `k` is buffer `k` in every language.
fn bindings(step: &Step) -> impl Iterator<Item = (ResourceBinding, u8)> {
    (0..=step.binds.len() as u8).map(|k| (ResourceBinding { group: 0, binding: k.into() }, k))
}

fn to_spirv(module: &Module, info: &ModuleInfo) -> Result<Vec<u32>, String> {
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: ENTRY.to_owned() };
    spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|e| e.to_string())
}

fn to_msl(step: &Step, module: &Module, info: &ModuleInfo) -> Result<String, String> {
    let written = |k: u8| matches!(step.binds.get(usize::from(k)), Some(ops::Bind::Output(_) | ops::Bind::Scratch(_)));
    let target = |k| msl::BindTarget { buffer: Some(k), mutable: written(k), ..msl::BindTarget::default() };
    let resources = msl::EntryPointResources {
        resources: bindings(step).map(|(binding, k)| (binding, target(k))).collect(),
        sizes_buffer: Some(30),
        ..msl::EntryPointResources::default()
    };
    let options = msl::Options {
        lang_version: (2, 0),
        per_entry_point_map: [(ENTRY.to_owned(), resources)].into(),
        fake_missing_bindings: false,
        ..msl::Options::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, ENTRY.to_owned())),
        ..msl::PipelineOptions::default()
    };
    let (text, translated) = msl::write_string(module, info, &options, &pipeline).map_err(|e| e.to_string())?;
    match translated.entry_point_names.first() {
        Some(Ok(name)) if text.contains(&format!("kernel void {name}(")) => Ok(text),
        other => Err(format!("no kernel: {other:?}")),
    }
}

fn to_hlsl(step: &Step, module: &Module, info: &ModuleInfo) -> Result<String, String> {
    let target = |k: u8| hlsl::BindTarget { register: k.into(), ..hlsl::BindTarget::default() };
    let options = hlsl::Options {
        binding_map: bindings(step).map(|(binding, k)| (binding, target(k))).collect(),
        fake_missing_bindings: false,
        ..hlsl::Options::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, ENTRY.to_owned())) };
    let mut text = String::new();
    let translated =
        hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| e.to_string())?;
    match translated.entry_point_names.first() {
        Some(Ok(name)) if text.contains(&format!("void {name}(")) && text.contains("[numthreads(") => Ok(text),
        other => Err(format!("no kernel: {other:?}")),
    }
}

fn to_glsl(step: &Step, module: &Module, info: &ModuleInfo) -> Result<String, String> {
    let options = glsl::Options {
        version: glsl::Version::new_gles(310),
        binding_map: bindings(step).collect(),
        ..glsl::Options::default()
    };
    let pipeline =
        glsl::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: ENTRY.to_owned(), multiview: None };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, BoundsCheckPolicies::default())
        .and_then(|mut writer| writer.write())
        .map_err(|e| e.to_string())?;
    Ok(text)
}

/// Runs a checking tool; `None` where it is not installed.
fn tool(name: &str, args: &[&str], files: &[PathBuf]) -> Option<Output> {
    match Command::new(name).args(args).args(files).output() {
        Ok(out) => Some(out),
        Err(e) if std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_some() && cfg!(target_os = "linux") => {
            panic!("{name} is missing: {e}")
        }
        Err(e) => {
            eprintln!("skipped: {name}: {e}");
            None
        }
    }
}

/// What the tool says against these files.
fn faults(name: &str, args: &[&str], files: &[PathBuf]) -> Vec<String> {
    let Some(out) = tool(name, args, files) else { return Vec::new() };
    let said = || String::from_utf8_lossy(&[out.stdout.as_slice(), &out.stderr].concat()).into_owned();
    if out.status.success() { Vec::new() } else { vec![format!("{name}: {}", said())] }
}

fn spirv_faults(files: &[PathBuf]) -> Vec<String> {
    // it takes one file at a time
    files.iter().flat_map(|f| faults("spirv-val", &["--target-env", "vulkan1.1"], std::slice::from_ref(f))).collect()
}

fn glsl_faults(files: &[PathBuf]) -> Vec<String> {
    faults("glslangValidator", &["-S", "comp"], files)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn shaders_translate() {
    let folder = tempfile::tempdir().unwrap();
    let (mut failures, mut binaries, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    let all = variants();
    for (i, ((name, text, overrides), step)) in all.iter().enumerate() {
        let (module, info) = module_of(text, step);
        let values: Vec<_> = overrides.iter().map(|&(name, v)| (name, f64::from_bits(v))).collect();
        let mut failed = |language: &str, e: String| failures.push(format!("{name} {values:?} in {language}: {e}"));
        match to_spirv(&module, &info) {
            Ok(words) => binaries.push(write(folder.path(), &format!("{i}-{name}.spv"), bytemuck::cast_slice(&words))),
            Err(e) => failed("SPIR-V", e),
        }
        match to_glsl(step, &module, &info) {
            Ok(text) => texts.push(write(folder.path(), &format!("{i}-{name}.comp"), text.as_bytes())),
            Err(e) => failed("GLSL ES", e),
        }
        to_msl(step, &module, &info).map(drop).unwrap_or_else(|e| failed("MSL", e));
        to_hlsl(step, &module, &info).map(drop).unwrap_or_else(|e| failed("HLSL", e));
    }
    println!("{} shaders with their overrides", all.len());
    failures.extend(spirv_faults(&binaries));
    failures.extend(glsl_faults(&texts));
    assert!(failures.is_empty(), "{} translations fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_tools_find_faults() {
    let folder = tempfile::tempdir().unwrap();
    if tool("spirv-val", &["--version"], &[]).is_some() {
        let broken = write(folder.path(), "broken.spv", bytemuck::cast_slice(&[0x0723_0203u32, 0x1_0300, 0, 4, 0, 7]));
        assert_eq!(spirv_faults(&[broken]).len(), 1);
    }
    if tool("glslangValidator", &["--version"], &[]).is_some() {
        let good =
            write(folder.path(), "good.comp", b"#version 310 es\nlayout(local_size_x = 1) in;\nvoid main() {}\n");
        let broken = write(folder.path(), "broken.comp", b"#version 310 es\nvoid main() { int x = 1.5; }\n");
        assert_eq!(glsl_faults(std::slice::from_ref(&good)), Vec::<String>::new());
        assert_eq!(glsl_faults(&[good, broken]).len(), 1);
    }
}
