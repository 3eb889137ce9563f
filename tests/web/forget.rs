//! Fisher, rewriting and answers of a fixture, by the plan that the command writes.

use crate::common::{self, classifier, codes, fixture, tool};
use crate::play;
use crate::site::{Files, Posted};
use onnx_unlearn::classifier::{Classifier, Weights};
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::engine::{Engine, Tensor};
use onnx_unlearn::fisher::{class_weights, estimate};
use onnx_unlearn::forget::Strength;
use onnx_unlearn::forget::answers::{Answerer, Answers};
use onnx_unlearn::forget::rewrite::{Basis, Rewriter};
use onnx_unlearn::tensor::Array;
use std::collections::HashMap;
use std::path::Path;

/// What `harness.js` runs.
const CLASS: usize = 7;
const STRENGTHS: [(&str, Strength); 2] = [
    ("dampen", Strength::Dampen { alpha: 10.0, lambda: 1.0 }),
    ("ratio", Strength::Ratio { lambda1: 1e-3, lambda2: 10.0, sign: 1.0 }),
];

/// A model and the plan to forget it by, as the command writes it.
pub fn plan(model: &Path, inputs: &Path) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let args = ["plan", common::arg(model), "--webgpu", "--for", "forget", "--inputs", common::arg(inputs), "-o"];
    tool(args).arg(folder.path()).assert().success();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    HashMap::from([
        ("/plan.json".to_owned(), read("plan.json")),
        ("/plan.bin".to_owned(), read("plan.bin")),
        ("/model.onnx".to_owned(), std::fs::read(model).unwrap()),
    ])
}

/// The elements that were sent to this path.
fn sent(results: &[Posted], path: &str) -> Vec<f32> {
    let found = results.iter().find(|r| r.path == path).unwrap_or_else(|| panic!("nothing was sent to {path}"));
    found.body.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The text that was sent to this path.
pub fn text_sent(results: &[Posted], path: &str) -> String {
    let found = results.iter().find(|r| r.path == path).unwrap_or_else(|| panic!("nothing was sent to {path}"));
    String::from_utf8(found.body.clone()).unwrap()
}

/// Relative differences of at most this, on every entry above 1e-6 of the greatest: two engines, each within 1e-3 of
/// the truth.
const FISHER_TOLERANCE: f64 = 2e-3;

fn check_fisher(name: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let top = want.iter().copied().fold(0.0, f64::max);
    assert!(top > 0.0, "{name} has no Fisher");
    for (g, w) in got.iter().zip(want).filter(|(_, w)| **w > 1e-6 * top) {
        assert!((f64::from(*g) - w).abs() <= FISHER_TOLERANCE * w, "{name}: {g:e} instead of {w:e}");
    }
}

fn answers(c: &Classifier, weights: &Weights, old: &Weights, data: &onnx_unlearn::inputs::Labelled) -> String {
    let all = Answerer::new(c, &Cpu, data.len(), false).unwrap().answer(weights, old, data, &mut |_| ()).unwrap();
    let classes: Vec<String> = Answers::classes_of(&all.logits, c.classes()).iter().map(usize::to_string).collect();
    classes.join(",")
}

#[test]
fn a_fixture_is_forgotten_in_a_browser() {
    for name in ["cnn", "resnet"] {
        let inputs = fixture(&format!("{name}.codes.npz"));
        let Some(results) = play("forget", plan(&fixture(&format!("{name}.onnx")), &inputs)) else { return };
        let c = classifier(name);
        let data = codes(name, &c);
        let old = Weights::upload(&Cpu, &c.bind(1).unwrap()).unwrap();
        let retained: Vec<usize> = (0..c.classes()).filter(|&k| k != CLASS).collect();
        let sets = [vec![CLASS], retained].map(|classes| class_weights(&data, &classes).unwrap());
        let fisher = estimate(&c, &Cpu, &old, &data, &sets, &mut |_| ()).unwrap();
        let arrays = fisher.to_arrays().unwrap();
        assert!(!arrays.is_empty());
        let mut basis = Basis { names: Vec::new(), f_f: Vec::new(), f_r: Vec::new() };
        for (weight, sums) in &arrays {
            let want = sums.to_f64();
            let (f_f, f_r) = want.split_at(want.len() / 2);
            let [got_f, got_r] = ["f_F", "f_R"].map(|set| sent(&results, &format!("/{set}/{weight}")));
            check_fisher(&format!("{name} {weight}, forget"), &got_f, f_f);
            check_fisher(&format!("{name} {weight}, retain"), &got_r, f_r);
            let on_cpu = |v: Vec<f32>| Cpu.upload(&Array::from_vec(&sums.shape()[1..], v).unwrap()).unwrap();
            basis.names.push(weight.clone());
            basis.f_f.push(on_cpu(got_f));
            basis.f_r.push(on_cpu(got_r));
        }
        // from the browser's own Fisher, so that no element is on the other side of the threshold
        for (rule, strength) in STRENGTHS {
            let new = Rewriter::new(&Cpu, strength.rule(), &old, &basis).unwrap().apply(&strength).unwrap();
            let mut changed = 0;
            for weight in &basis.names {
                let before = old.get(weight).map(Tensor::to_array).unwrap().unwrap().to_f64();
                let want = new.get(weight).map(Tensor::to_array).unwrap().unwrap().to_f64();
                let got = sent(&results, &format!("/{rule}/{weight}"));
                changed += want.iter().zip(&before).filter(|(w, b)| w != b).count();
                for (g, w) in got.iter().zip(&want) {
                    let off = (f64::from(*g) - w).abs();
                    assert!(off <= 1e-5 * w.abs().max(1e-3), "{name} {weight}, {rule}: {g} instead of {w}");
                }
                assert_eq!(got.len(), want.len());
            }
            assert!(changed > 100, "{name}: {rule} changes {changed} elements");
            if rule == "dampen" {
                assert_eq!(text_sent(&results, "/answers/after"), answers(&c, &new, &old, &data), "{name}");
            }
        }
        assert_eq!(text_sent(&results, "/answers/before"), answers(&c, &old, &old, &data), "{name}");
    }
}
