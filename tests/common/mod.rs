//! What the tests share: graphs made of one op's case, and how arrays are compared.
#![allow(dead_code)]

pub mod reference;

use onnx_unlearn::Result;
use onnx_unlearn::autodiff::{Samples, backward};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::engine::ort::OrtEngine;
use onnx_unlearn::engine::wgpu::{Kernels, Options, WgpuEngine};
use onnx_unlearn::engine::{Engine, Tensor, cpu::Cpu};
use onnx_unlearn::graph::passes::prune;
use onnx_unlearn::graph::{Attrs, Batch, Graph, ValueId};
use onnx_unlearn::inputs::{self, Expected, Labelled};
use onnx_unlearn::ops::{Arg, Case, Gradient, Op};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use rand::RngExt;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A case as a graph, with the elements of its inputs and the ids of those that are differentiated.
pub struct Built {
    pub graph: Graph,
    pub feeds: Vec<Array>,
    pub floats: Vec<ValueId>,
}

/// The graph of one case in the given float type; the random elements are the same in both types.
pub fn build(op: &'static dyn Op, case: &Case, dtype: DType) -> Result<Built> {
    let mut rng = case.rng();
    let mut graph = Graph::new(0);
    let (mut feeds, mut floats, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    for (i, arg) in case.inputs.iter().enumerate() {
        inputs.push(match arg {
            Arg::Absent => None,
            Arg::Const(a, t) => {
                let t = if t.is_float() { dtype } else { *t };
                Some(graph.constant_as(a.to_float(dtype), t))
            }
            Arg::Fed(a, t) => {
                let t = if t.is_float() { dtype } else { *t };
                feeds.push(a.to_float(dtype));
                Some(graph.input(format!("x{i}"), TensorType::new(t, a.shape()), Batch::None))
            }
            Arg::Float(shape, sampler) => {
                // drawn as f32 values, so that both precisions start from the same numbers
                let v: Vec<f32> =
                    sampler.draw(shape.iter().product(), &mut rng).into_iter().map(|v| v as f32).collect();
                feeds.push(Array::from_vec(shape, v)?.to_float(dtype));
                let id = graph.input(format!("x{i}"), TensorType::new(dtype, shape.clone()), Batch::None);
                floats.push(id);
                Some(id)
            }
        });
    }
    let outputs = graph.push_multi(op, &inputs, case.attrs.clone(), &case.wanted)?;
    graph.outputs = outputs.into_iter().flatten().collect();
    Ok(Built { graph, feeds, floats })
}

/// Adds `loss = Σ_k ⟨r_k, y_k⟩` with fixed random `r` over the float outputs, and its gradients; the
/// graph's outputs become the loss and one gradient per differentiated input.
pub fn with_gradients(mut b: Built, case: &Case, dtype: DType) -> Result<Built> {
    let mut rng = case.rng();
    let g = &mut b.graph;
    let ys: Vec<_> = g.outputs.iter().copied().filter(|&y| g.dtype(y).is_float()).collect();
    let mut seeds = Vec::new();
    let mut terms = Vec::new();
    for (k, y) in ys.into_iter().enumerate() {
        let shape = g.shape(y).to_vec();
        let r: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
        let r = Array::from_vec(&shape, r)?.to_float(dtype);
        b.feeds.push(r);
        let r = g.input(format!("r{k}"), TensorType::new(dtype, shape.clone()), Batch::None);
        let mut term = g.push("Mul", &[y, r], Attrs::new())?;
        if !shape.is_empty() {
            term = g.push_some("ReduceSum", &[Some(term)], Attrs::new().with("keepdims", 0))?;
        }
        terms.push(term);
        seeds.push((y, r));
    }
    let mut loss = terms[0];
    for &t in &terms[1..] {
        loss = g.push("Add", &[loss, t], Attrs::new())?;
    }
    let dx = backward(g, &seeds, &b.floats, Samples::Summed)?;
    g.outputs = vec![loss];
    for (d, &x) in dx.into_iter().zip(&b.floats) {
        let d = d.expect("every float input reaches the outputs");
        assert_eq!(g.shape(d), g.shape(x), "a gradient has its value's shape");
        g.outputs.push(d);
    }
    Ok(b)
}

/// Runs a graph once.
pub fn run(engine: &dyn Engine, graph: &Graph, feeds: &[Array]) -> Result<Vec<Array>> {
    let feeds: Vec<Tensor> = feeds.iter().cloned().map(Tensor::from).collect();
    engine.prepare(graph)?.run(&feeds)?.iter().map(Tensor::to_array).collect()
}

/// The greatest difference, relative to the greatest element of `want` (at least 1); infinite when
/// shapes or kinds differ or a NaN appears on one side.
pub fn difference(got: &Array, want: &Array) -> f64 {
    if got.shape() != want.shape() {
        return f64::INFINITY;
    }
    let (got, want) = (got.to_f64(), want.to_f64());
    let scale = want.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    got.iter()
        .zip(&want)
        .map(|(g, w)| if g == w || (g.is_nan() && w.is_nan()) { 0.0 } else { (g - w).abs() / scale })
        .fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
}

/// An error as these checks report it.
pub fn text(e: onnx_unlearn::Error) -> String {
    format!("{e:?}")
}

/// Checks that all outputs agree within the tolerance of [`difference`].
pub fn close(got: &[Array], want: &[Array], tolerance: f64) -> Result<(), String> {
    for (k, (g, w)) in got.iter().zip(want).enumerate() {
        let d = difference(g, w);
        if d > tolerance {
            return Err(format!("output {k} differs by {d:.2e} > {tolerance:.0e}: {g:?} instead of {w:?}"));
        }
    }
    (got.len() == want.len()).then_some(()).ok_or_else(|| format!("{} outputs instead of {}", got.len(), want.len()))
}

/// Checks the gradients of a case against central differences of the f64 reference: in a random direction
/// always, entry by entry where there are few.
pub fn central_differences(op: &'static dyn Op, case: &Case) -> Result<(), String> {
    if let Gradient::None(_) = case.gradient {
        return Ok(());
    }
    let b = with_gradients(build(op, case, DType::F64).map_err(text)?, case, DType::F64).map_err(text)?;
    let out = run(&Cpu, &b.graph, &b.feeds).map_err(text)?;
    let mut forward = b.graph.clone();
    forward.outputs.truncate(1);
    prune(&mut forward);
    let loss_at =
        |feeds: &[Array]| -> Result<f64, String> { Ok(run(&Cpu, &forward, feeds).map_err(text)?[0].to_f64()[0]) };
    let mut rng = case.rng();
    let mut k = 0;
    for (slot, &id) in b.graph.inputs.iter().enumerate() {
        if !b.floats.contains(&id) {
            continue;
        }
        k += 1;
        let grad = out[k].to_f64();
        let x = b.feeds[slot].to_f64();
        let shape = b.feeds[slot].shape().to_vec();
        let step = 1e-5;
        let along = |d: &[f64]| -> Result<f64, String> {
            let moved = |sign: f64| -> Result<f64, String> {
                let v: Vec<f64> = x.iter().zip(d).map(|(x, d)| x + sign * step * d).collect();
                let mut feeds = b.feeds.clone();
                feeds[slot] = Array::from_vec(&shape, v).map_err(text)?;
                loss_at(&feeds)
            };
            Ok((moved(1.0)? - moved(-1.0)?) / (2.0 * step))
        };
        let mut directions: Vec<Vec<f64>> = vec![(0..x.len()).map(|_| rng.random_range(-1.0..1.0)).collect()];
        if x.len() <= 64 {
            directions.extend((0..x.len()).map(|i| {
                let mut e = vec![0.0; x.len()];
                e[i] = 1.0;
                e
            }));
        }
        for d in directions {
            let numeric = along(&d)?;
            let analytic: f64 = grad.iter().zip(&d).map(|(g, d)| g * d).sum();
            // central differences err by step² and by rounding / step: 1e-6 leaves room for both
            let scale = analytic.abs().max(numeric.abs()).max(1.0);
            let off = (numeric - analytic).abs();
            if off.is_nan() || off > 1e-6 * scale {
                return Err(format!("gradient of input slot {slot}: {analytic} analytic, {numeric} numeric"));
            }
        }
    }
    Ok(())
}

/// The engine if there is one. If not, the test that asked for it prints why it is skipped, or fails when
/// `$ONNX_UNLEARN_REQUIRE_ENGINES` is set, as it is where all engines are installed.
pub fn available<E>(engine: Result<E>) -> Option<E> {
    match engine {
        Ok(e) => Some(e),
        Err(e) if std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_some() => panic!("an engine is missing: {e}"),
        Err(e) => {
            // straight to stderr: the test runner shows what `println` says of failed tests alone
            let _ = writeln!(std::io::stderr(), "skipped: {e}");
            None
        }
    }
}

/// The wgpu engine, software adapters included.
pub fn wgpu() -> Option<WgpuEngine> {
    available(WgpuEngine::new(&Options { allow_software: true, ..Options::default() }))
}

/// The wgpu engine with its shaders in this form.
pub fn wgpu_in(kernels: Kernels) -> Option<WgpuEngine> {
    available(WgpuEngine::new(&Options { allow_software: true, kernels, ..Options::default() }))
}

/// The wgpu engine on OpenGL, which Linux alone has without a screen.
pub fn opengl() -> Option<WgpuEngine> {
    let on_opengl = || Options { allow_software: true, backend: Some("gl".to_owned()), ..Options::default() };
    cfg!(target_os = "linux").then(|| available(WgpuEngine::new(&on_opengl())))?
}

/// The ort engine.
pub fn ort() -> Option<OrtEngine> {
    available(OrtEngine::new(None))
}

/// The fixtures that were trained, with the file of their codes: `cnn_nocodes` takes those of `cnn`.
pub const FIXTURES: [(&str, &str); 5] =
    [("mlp", "mlp"), ("cnn", "cnn"), ("resnet", "resnet"), ("resnet_bn", "resnet"), ("cnn_nocodes", "cnn")];

/// The path of a file in `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The fixture model of that name.
pub fn classifier(name: &str) -> Classifier {
    Classifier::open(&fixture(&format!("{name}.onnx")), ClassifierOptions::default()).unwrap()
}

/// The ten codes in `fixtures/<name>.codes.npz`, in the order of their classes.
pub fn codes(name: &str, classifier: &Classifier) -> Labelled {
    let expected = Expected::of_input(classifier.input(), classifier.classes()).unwrap();
    inputs::load(&fixture(&format!("{name}.codes.npz")), &expected, &inputs::Options::default()).unwrap()
}

/// All engines there are on this machine; the embedded one comes first.
pub fn engines() -> Vec<Box<dyn Engine>> {
    let mut all: Vec<Box<dyn Engine>> = vec![Box::new(Cpu)];
    all.extend(wgpu().map(|e| Box::new(e) as Box<dyn Engine>));
    all.extend(ort().map(|e| Box::new(e) as Box<dyn Engine>));
    all
}

/// The binary, with nothing in its environment that would change what it prints.
pub fn tool<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> assert_cmd::Command {
    let mut c = assert_cmd::Command::new(env!("CARGO_BIN_EXE_onnx-unlearn"));
    c.env("NO_COLOR", "1").env("COLUMNS", "120").args(args);
    c
}

/// Runs the binary with `--json`, which has to succeed with nothing on stderr; its answer.
pub fn json(args: &[&str]) -> serde_json::Value {
    let out = tool(args.iter().copied().chain(["--json"])).output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{args:?}: {stderr}");
    assert_eq!(stderr, "", "{args:?}");
    serde_json::from_slice(&out.stdout).unwrap()
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}
