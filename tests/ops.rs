//! Every case of every op: shapes, the two precisions, gradients against central differences, and all
//! engines against the f64 reference.

mod common;

use common::{build, close, run, text, with_gradients};
use onnx_unlearn::engine::wgpu::Kernels;
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::ops::{self, Case, Form, Gradient, Op};
use onnx_unlearn::tensor::DType;

/// Runs `check` on every case (those whose name contains `$ONNX_UNLEARN_CASE`, if set), and reports all
/// failures together.
fn each_case(check: impl Fn(&'static dyn Op, &Case) -> Result<(), String>) {
    let only = std::env::var("ONNX_UNLEARN_CASE").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for op in ops::table() {
        let cases = op.cases();
        assert!(!cases.is_empty(), "{} brings no cases", op.spec().name);
        for case in cases.iter().filter(|c| c.name.contains(&only)) {
            count += 1;
            if let Err(e) = check(op, case) {
                failures.push(format!("{} / {}: {e}", op.spec().name, case.name));
            }
        }
    }
    println!("{count} cases");
    assert!(failures.is_empty(), "{} of {count} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn op_names_are_unique() {
    let mut names: Vec<&str> = ops::table().map(|op| op.spec().name).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|w| w[0] == w[1]).collect();
    assert!(twice.is_empty(), "two ops share a name: {twice:?}");
}

#[test]
fn case_names_are_unique() {
    let mut names: Vec<String> = ops::table().flat_map(|o| o.cases()).map(|c| c.name).collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(all, names.len(), "two cases share a name and so their random elements");
}

#[test]
fn forward_agrees_in_both_precisions() {
    each_case(|op, case| {
        let wide = build(op, case, DType::F64).map_err(text)?;
        let narrow = build(op, case, DType::F32).map_err(text)?;
        let want = run(&Cpu, &wide.graph, &wide.feeds).map_err(text)?;
        let got = run(&Cpu, &narrow.graph, &narrow.feeds).map_err(text)?;
        close(&got, &want, case.tolerance)
    });
}

#[test]
fn gradients_agree_with_central_differences() {
    each_case(common::central_differences);
}

/// Every case and its gradient on `engine` against the f64 reference, but for the named `defects` of the
/// engine.
fn agree_on(engine: &dyn Engine, defects: &[(&str, &str)]) {
    each_case(|op, case| {
        if let Some((name, why)) = defects.iter().find(|(name, _)| *name == case.name) {
            println!("left out: {name}: {why}");
            return Ok(());
        }
        agree(engine, op, case)
    });
}

/// A case and its gradient on `engine` against the f64 reference.
fn agree(engine: &dyn Engine, op: &'static dyn Op, case: &Case) -> Result<(), String> {
    let wide = build(op, case, DType::F64).map_err(text)?;
    let want = run(&Cpu, &wide.graph, &wide.feeds).map_err(text)?;
    let narrow = build(op, case, DType::F32).map_err(text)?;
    let got = run(engine, &narrow.graph, &narrow.feeds).map_err(|e| format!("forward: {e:?}"))?;
    close(&got, &want, case.tolerance).map_err(|e| format!("forward: {e}"))?;
    if let Gradient::None(_) = case.gradient {
        return Ok(());
    }
    let wide = with_gradients(wide, case, DType::F64).map_err(text)?;
    let want = run(&Cpu, &wide.graph, &wide.feeds).map_err(text)?;
    let narrow = with_gradients(build(op, case, DType::F32).map_err(text)?, case, DType::F32).map_err(text)?;
    let got = run(engine, &narrow.graph, &narrow.feeds).map_err(|e| format!("gradient: {e:?}"))?;
    // a gradient chains several ops
    close(&got, &want, 10.0 * case.tolerance).map_err(|e| format!("gradient: {e}"))
}

#[test]
fn cpu_gradients_in_f32() {
    agree_on(&Cpu, &[]);
}

#[test]
fn wgpu_agrees() {
    if let Some(engine) = common::wgpu() {
        println!("{}", engine.describe());
        agree_on(&engine, &[]);
    }
}

/// What the adapter would not be given by itself.
#[test]
fn wgpu_agrees_in_every_form() {
    let taken = common::wgpu().map(|engine| engine.form());
    let forms = [(Form::Direct, Kernels::Direct), (Form::Tiled, Kernels::Tiled)];
    for (form, kernels) in forms.into_iter().filter(|(form, _)| taken.is_some_and(|taken| taken != *form)) {
        let Some(engine) = common::wgpu_in(kernels) else { return };
        assert_eq!(engine.form(), form);
        // only ops that multiply have several forms
        each_case(|op, case| if has_forms(op, case)? { agree(&engine, op, case) } else { Ok(()) });
    }
}

/// Whether a case or its gradient runs a shader of several forms.
fn has_forms(op: &'static dyn Op, case: &Case) -> Result<bool, String> {
    let mut graphs = vec![build(op, case, DType::F32).map_err(text)?];
    if case.gradient == Gradient::Checked {
        let again = build(op, case, DType::F32).map_err(text)?;
        graphs.push(with_gradients(again, case, DType::F32).map_err(text)?);
    }
    let differs = |step: &ops::Step| step.shader.text(Form::Direct) != step.shader.text(Form::Tiled);
    Ok(graphs.iter().flat_map(|g| g.graph.nodes().iter().map(move |n| (g, n))).any(|(g, node)| {
        let kernel = node.op.kernel(&g.graph.view_of(node));
        matches!(kernel, Ok(ops::Kernel::Steps { steps, .. }) if steps.iter().any(differs))
    }))
}

#[test]
fn wgpu_agrees_on_opengl() {
    if let Some(engine) = common::opengl() {
        println!("{}", engine.describe());
        agree_on(&engine, &[]);
    }
}

/// Cases that ONNX Runtime gets wrong, and how.
const ORT_DEFECTS: &[(&str, &str)] = &[
    ("Pad crop to nothing and back", "1.23.2 leaves the output unwritten when negative pads remove a whole axis"),
    ("ConvTranspose much output padding", "1.23.2 reads beyond its buffer when the output padding reaches a stride"),
    ("ConvTranspose output shape beyond reach", "as above"),
    ("AveragePool ceil with pads counting pads", "1.23.2 divides by positions beyond the padding"),
    ("Cast beyond int8", "ONNX leaves a float beyond the range of an integer undefined; it wraps, we saturate"),
    ("Cast beyond uint8", "as above"),
    ("LayerNormalization last of two axes", "1.23.2 refuses a scale that broadcasts over the normalised axes"),
    ("LayerNormalization bias, two axes", "as above"),
    ("Where bool", "1.23.2 has no Where of conditions"),
    ("ReduceL1 no axes", "1.23.2 leaves out the absolute value under noop_with_empty_axes"),
    ("ReduceSumSquare no axes", "as above, the square"),
    ("ReduceLogSum no axes", "as above, the logarithm"),
];

#[test]
fn ort_agrees() {
    if let Some(engine) = common::ort() {
        println!("{}", engine.describe());
        agree_on(&engine, ORT_DEFECTS);
    }
}
