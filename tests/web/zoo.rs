//! The Fisher of narrow versions of the classifiers that people export: whole graphs, with hundreds of dispatches.

use crate::cases::{add, decode, types};
use crate::common::reference::bind;
use crate::common::{fixture, run};
use crate::play;
use onnx_unlearn::autodiff::gradient::{GradientGraph, Mode, gradient_graph};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::engine::bundle::Bundle;
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::tensor::{Array, DType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// One of each kind: residual, dense, depthwise with gates, shifted windows, patches, tokens.
const MODELS: [&str; 7] =
    ["resnet18", "densenet121", "mobilenet_v3_small", "swin_t", "convnext_tiny", "vit_b_16", "bert"];
const BATCH: usize = 2;

/// Each side errs by rounding through tens of layers, and a square has twice the relative error.
const TOLERANCE: f64 = 1e-3;

fn fisher(c: &Classifier, float: DType) -> GradientGraph {
    let bound = bind(c, BATCH, float);
    gradient_graph(&bound.graph, &bound.weights, None, Mode::Fisher { sets: 1 }).unwrap()
}

/// Elements for every input: noise, tokens, and ones where a name says mask.
fn feeds(g: &GradientGraph) -> Vec<Array> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let graph = &g.graph;
    let one = |&id| {
        let ty = &graph.value(id).ty;
        let mask = graph.label(id).contains("mask");
        if Some(id) == g.sample_weights {
            Array::full_float(ty.dtype, &ty.shape, 1.0)
        } else if ty.dtype.is_float() {
            let v: Vec<f32> = (0..ty.len()).map(|_| rng.random_range(-2.0..2.0)).collect();
            Array::from_vec(&ty.shape, v).unwrap().to_float(ty.dtype)
        } else {
            let most = if id == g.labels { 3 } else { 2 };
            let v: Vec<i64> = (0..ty.len()).map(|_| if mask { 1 } else { rng.random_range(0..most) }).collect();
            Array::from_vec(&ty.shape, v).unwrap()
        }
    };
    graph.inputs.iter().map(one).collect()
}

fn norm(v: impl Iterator<Item = f64>) -> f64 {
    v.map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn exported_models_agree_in_a_browser() {
    let mut bundle = Bundle::default();
    let graphs = MODELS.map(|name| {
        let c = Classifier::open(&fixture(&format!("zoo/{name}.onnx")), ClassifierOptions::default()).unwrap();
        let narrow = fisher(&c, DType::F32);
        add(&mut bundle, name, &narrow.graph, &feeds(&narrow)).unwrap();
        (c, narrow)
    });
    let files = HashMap::from([
        ("/cases.json".to_owned(), bundle.json().unwrap().into_bytes()),
        ("/cases.bin".to_owned(), bundle.data().to_vec()),
    ]);
    let Some(results) = play("cases", files) else { return };
    assert_eq!(results.len(), MODELS.len());
    for (name, (c, narrow)) in MODELS.iter().zip(&graphs) {
        let result = results.iter().find(|r| r.path.ends_with(&format!("/{name}"))).unwrap();
        assert_eq!(result.path, format!("/result/{name}"), "{}", String::from_utf8_lossy(&result.body));
        let got = decode(&result.body, &types(&narrow.graph)).unwrap();
        let wide = fisher(c, DType::F64);
        let want = run(&Cpu, &wide.graph, &feeds(&wide)).unwrap();
        let greatest = want[1..].iter().map(|a| norm(a.to_f64().into_iter())).fold(0.0, f64::max);
        for ((weight, _), (got, want)) in narrow.gradients.iter().zip(got[1..].iter().zip(&want[1..])) {
            let (got, want) = (got.to_f64(), want.to_f64());
            let off = norm(got.iter().zip(&want).map(|(g, w)| g - w));
            // a weight that a normalisation takes out again has no gradient but rounding
            let scale = norm(want.iter().copied()).max(1e-9 * greatest);
            assert!(off <= TOLERANCE * scale, "{name} {weight}: off by {off:e} of {scale:e}");
        }
    }
}
