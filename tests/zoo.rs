//! Narrow versions of the classifiers that people export: gradients and Fisher of every trainable weight against
//! PyTorch's autograd, on every engine, and the engines against each other. See `fixtures/README.md`.

mod common;

use common::reference::{Stated, bind, check};
use common::{engines, fixture};
use onnx_unlearn::autodiff::gradient::{GradientGraph, Mode, gradient_graph};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::inputs::Labelled;
use onnx_unlearn::onnx::{ExportOptions, to_bytes};
use onnx_unlearn::tensor::{Array, DType};
use std::collections::BTreeMap;

/// What PyTorch says of a model.
#[derive(serde::Deserialize)]
struct Reference {
    /// Of the noise in the input, where the input is an image.
    input_seed: u32,
    /// Of the first input, samples first.
    shape: Vec<usize>,
    /// Every input by name, where the input is text.
    text: Option<BTreeMap<String, Vec<Vec<i64>>>>,
    labels: Vec<usize>,
    loss: f64,
    logits: Vec<Vec<f64>>,
    /// Weights whose gradient is zero but for rounding.
    vanishing: Vec<String>,
    tensors: BTreeMap<String, Stated>,
}

/// Uniform in [-2, 2): `noise` of `fixtures/zoo_reference.py`.
fn noise(seed: u32, shape: &[usize]) -> Array {
    let n = u32::try_from(shape.iter().product::<usize>()).unwrap();
    let at = |i: u32| {
        let mut h = i.wrapping_add(seed).wrapping_mul(2_654_435_761);
        h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
        h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
        (f64::from(h ^ (h >> 16)) / f64::from(1 << 30) - 2.0) as f32
    };
    Array::from_vec(shape, (0..n).map(at).collect::<Vec<f32>>()).unwrap()
}

struct Model {
    name: &'static str,
    classifier: Classifier,
    data: Labelled,
    want: Reference,
}

impl Model {
    fn open(name: &'static str) -> Self {
        let text = std::fs::read_to_string(fixture(&format!("zoo/{name}.json"))).unwrap();
        let want: Reference = serde_json::from_str(&text).unwrap();
        let path = fixture(&format!("zoo/{name}.onnx"));
        let classifier = Classifier::open(&path, ClassifierOptions::default()).unwrap();
        let mut extra = BTreeMap::new();
        let x = if let Some(text) = &want.text {
            for (name, rows) in text {
                extra.insert(name.clone(), Array::from_vec(&want.shape, rows.concat()).unwrap());
            }
            extra.remove("input_ids").unwrap()
        } else {
            noise(want.input_seed, &want.shape)
        };
        let mut data = Labelled::new(x, want.labels.clone()).unwrap();
        data.extra = extra;
        Self { name, classifier, data, want }
    }

    fn gradients(&self, batch: usize, float: DType, mode: Mode) -> GradientGraph {
        let bound = bind(&self.classifier, batch, float);
        gradient_graph(&bound.graph, &bound.weights, None, mode).unwrap_or_else(|e| panic!("{}: {e:?}", self.name))
    }

    /// What the gradient graph gives for these samples, every one weighing 1: the loss, and a tensor per weight.
    fn run(&self, g: &GradientGraph, engine: &dyn Engine, data: &Labelled) -> (f64, Vec<Array>) {
        let graph = &g.graph;
        let feeds: Vec<Array> = graph
            .inputs
            .iter()
            .enumerate()
            .map(|(k, &id)| {
                let ty = &graph.value(id).ty;
                let float = |a: &Array| if ty.dtype.is_float() { a.to_float(ty.dtype) } else { a.clone() };
                if id == g.labels {
                    data.labels()
                } else if Some(id) == g.sample_weights {
                    Array::full_float(ty.dtype, &ty.shape, 1.0)
                } else if k == 0 {
                    float(&data.x)
                } else {
                    data.extra[&graph.label(id)].clone()
                }
            })
            .collect();
        let mut out =
            common::run(engine, graph, &feeds).unwrap_or_else(|e| panic!("{} {}: {e:?}", self.name, engine.name()));
        (out.remove(0).to_f64().iter().sum(), out)
    }

    /// Compares sums or Fishers with the reference, and gives every difference.
    fn compare(&self, g: &GradientGraph, mode: Mode, found: &(f64, Vec<Array>), tolerance: f64) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Err(e) = check(&[found.0], &[], &[], self.want.loss, tolerance) {
            wrong.push(format!("loss: {e}"));
        }
        let norm = |s: &Stated| if mode == Mode::Sum { s.norm } else { s.fisher_norm };
        let greatest = self.want.tensors.values().map(norm).fold(0.0, f64::max);
        for ((name, _), a) in g.gradients.iter().zip(&found.1) {
            let v = a.to_f64();
            let verdict = match self.want.tensors.get(name) {
                Some(s) if mode == Mode::Sum => check(&v, &s.index, &s.grad, s.norm, tolerance),
                // a square has twice the relative error
                Some(s) => check(&v, &s.index, &s.fisher, s.fisher_norm, 2.0 * tolerance),
                // what is zero but for rounding has to stay far below everything else
                None => {
                    let mine = v.iter().map(|v| v * v).sum::<f64>().sqrt();
                    (mine <= 1e-6 * greatest).then_some(()).ok_or_else(|| format!("norm {mine:e}, it should vanish"))
                }
            };
            if let Err(e) = verdict {
                wrong.push(format!("{name}: {e}"));
            }
        }
        wrong
    }
}

/// Fifty layers in a row turn the 6e-8 of a constant in f32 into this much.
const IN_F64: f64 = 2e-6;
const MODES: [Mode; 2] = [Mode::Sum, Mode::Fisher { sets: 1 }];

fn names(g: &GradientGraph) -> Vec<String> {
    let mut names: Vec<String> = g.gradients.iter().map(|(n, _)| n.clone()).collect();
    names.sort_unstable();
    names
}

/// Greatest difference of two tensors, each entry relative to itself or to the root mean square, as [`check`] has it.
fn apart(a: &Array, b: &Array) -> f64 {
    let (a, b) = (a.to_f64(), b.to_f64());
    let typical = (b.iter().map(|v| v * v).sum::<f64>() / b.len() as f64).sqrt();
    let off = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(typical);
    a.iter().zip(&b).map(off).fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
}

/// In f64 what remains is that a file holds constants in f32 where PyTorch computes with f64: epsilons, attention's
/// scale, a hard sigmoid's sixth. In f32 every engine keeps 1e-3, against PyTorch and against every other engine.
fn judge(name: &'static str) {
    let m = Model::open(name);
    let samples = m.data.len();
    let engines = engines();
    let mut wrong = Vec::new();
    for mode in MODES {
        let exact = m.gradients(samples, DType::F64, mode);
        let mut stated: Vec<String> = m.want.tensors.keys().chain(&m.want.vanishing).cloned().collect();
        stated.sort_unstable();
        assert_eq!(names(&exact), stated, "{name}: the trainable tensors");
        assert!(exact.unused.is_empty(), "{name}: {:?}", exact.unused);
        let in_f64 = m.run(&exact, &Cpu, &m.data);
        wrong.extend(m.compare(&exact, mode, &in_f64, IN_F64).into_iter().map(|e| format!("f64 {mode:?} {e}")));
        let g = m.gradients(samples, DType::F32, mode);
        let found: Vec<_> = engines.iter().map(|e| m.run(&g, &**e, &m.data)).collect();
        for (engine, of_engine) in engines.iter().zip(&found) {
            let differences = m.compare(&g, mode, of_engine, 1e-3);
            wrong.extend(differences.into_iter().map(|e| format!("{} {mode:?} {e}", engine.name())));
            for (other, theirs) in engines.iter().zip(&found) {
                for (((tensor, _), a), b) in g.gradients.iter().zip(&of_engine.1).zip(&theirs.1) {
                    let off = apart(a, b);
                    if off > 1e-3 && !m.want.vanishing.contains(tensor) {
                        wrong.push(format!("{} {mode:?} {tensor}: {off:.1e} from {}", engine.name(), other.name()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{name}, {} differences:\n{}", wrong.len(), wrong.join("\n"));
}

macro_rules! zoo {
    ($($name:ident)*) => {
        const ZOO: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { judge(stringify!($name)); })*
    };
}

zoo! {
    alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 mobilenet_v2 mobilenet_v3_small mnasnet1_0
    efficientnet_b0 efficientnet_v2_s regnet_y_400mf shufflenet_v2 squeezenet1_0 densenet121 googlenet inception_v3
    convnext_tiny vit_b_16 swin_t maxvit_t bert distilbert tied_embedding two_branches
}

#[test]
fn no_model_is_left_out() {
    let mut files: Vec<String> = std::fs::read_dir(fixture("zoo"))
        .unwrap()
        .filter_map(|f| f.unwrap().file_name().into_string().unwrap().strip_suffix(".onnx").map(str::to_owned))
        .collect();
    files.sort_unstable();
    let mut all = ZOO.to_vec();
    all.sort_unstable();
    assert_eq!(files, all);
}

#[test]
fn logits_agree_with_pytorch() {
    for name in ZOO {
        let m = Model::open(name);
        let bound = bind(&m.classifier, m.data.len(), DType::F64);
        let feeds: Vec<Array> = bound
            .graph
            .inputs
            .iter()
            .enumerate()
            .map(|(k, &id)| match k {
                0 if bound.graph.dtype(id).is_float() => m.data.x.to_float(DType::F64),
                0 => m.data.x.clone(),
                _ => m.data.extra[&bound.graph.label(id)].clone(),
            })
            .collect();
        let z = common::run(&Cpu, &bound.graph, &feeds).unwrap().remove(0);
        let want = Array::from_vec(z.shape(), m.want.logits.concat()).unwrap();
        let d = common::difference(&z, &want);
        assert!(d <= 1e-7, "{name}: off by {d:.1e}");
    }
}

/// The samples of every model can be followed through its graph, so that they run together.
#[test]
fn samples_run_together() {
    for name in ZOO {
        let m = Model::open(name);
        for mode in [Mode::PerSample, Mode::Fisher { sets: 2 }] {
            let (g, why) = m.classifier.gradients_or_singles(3, mode).unwrap();
            assert_eq!(why, None, "{name} {mode:?}");
            assert_eq!(g.graph.batch, 3);
        }
    }
}

/// A batch of N equals N singles.
#[test]
fn a_batch_equals_single_samples() {
    for name in ["mobilenet_v3_small", "shufflenet_v2", "swin_t", "maxvit_t", "bert", "tied_embedding"] {
        let m = Model::open(name);
        for mode in MODES {
            let together = m.gradients(m.data.len(), DType::F64, mode);
            let single = m.gradients(1, DType::F64, mode);
            let (_, batch) = m.run(&together, &Cpu, &m.data);
            let mut added: Vec<Vec<f64>> = batch.iter().map(|a| vec![0.0; a.len()]).collect();
            for i in 0..m.data.len() {
                let (_, one) = m.run(&single, &Cpu, &m.data.batch(i..i + 1).unwrap());
                for (sum, a) in added.iter_mut().zip(one) {
                    sum.iter_mut().zip(a.to_f64()).for_each(|(s, v)| *s += v);
                }
            }
            for (((tensor, _), sum), a) in together.gradients.iter().zip(added).zip(&batch) {
                if m.want.vanishing.contains(tensor) {
                    continue;
                }
                let off = apart(&Array::from_vec(a.shape(), sum).unwrap(), a);
                assert!(off <= 1e-9, "{name} {mode:?} {tensor}: off by {off:.1e}");
            }
        }
    }
}

/// What the `ort` engine runs is this file; here the package `onnx` checks it as strictly as it can.
#[test]
fn gradient_graphs_pass_the_checker() {
    let Some(python) = std::env::var_os("ONNX_UNLEARN_PYTHON") else {
        assert!(std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_none(), "ONNX_UNLEARN_PYTHON is not set");
        eprintln!("skipped: ONNX_UNLEARN_PYTHON names no Python with the package onnx");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ZOO {
        let m = Model::open(name);
        for (mode, suffix) in MODES.into_iter().zip(["sum", "fisher"]) {
            let g = m.gradients(2, DType::F32, mode);
            let bytes = to_bytes(&g.graph, &ExportOptions::default()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.{suffix}.onnx")), bytes).unwrap();
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_models.py");
    let out = std::process::Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
}
