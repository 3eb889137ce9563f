//! The arithmetic of both rules on the embedded engine against a plain implementation, on random weights and
//! Fishers with many zeros.

mod common;

use onnx_unlearn::classifier::Weights;
use onnx_unlearn::engine::{Tensor, cpu::Cpu};
use onnx_unlearn::forget::rewrite::{Basis, Rewriter};
use onnx_unlearn::forget::{Rule, Strength};
use onnx_unlearn::tensor::{Array, DType};
use proptest::prelude::*;
use std::slice::from_ref;

/// One initializer: its elements, the Fisher of the classes to forget, the Fisher of all others.
#[derive(Clone, Debug)]
struct Layer {
    w: Vec<f64>,
    f_f: Vec<f64>,
    f_r: Vec<f64>,
}

/// The new elements of several initializers.
fn apply(layers: &[Layer], strength: Strength, dtype: DType) -> Vec<Vec<f64>> {
    let tensors = |part: fn(&Layer) -> &[f64]| -> Vec<Tensor> {
        let array = |v: &[f64]| Array::from_vec(&[v.len()], v.to_vec()).unwrap().to_float(dtype);
        layers.iter().map(|l| array(part(l)).into()).collect()
    };
    let names: Vec<String> = (0..layers.len()).map(|i| format!("layer {i}")).collect();
    let old = Weights { names: names.clone(), tensors: tensors(|l| &l.w) };
    let basis = Basis { names, f_f: tensors(|l| &l.f_f), f_r: tensors(|l| &l.f_r) };
    let mut rewriter = Rewriter::new(&Cpu, strength.rule(), &old, &basis).unwrap();
    rewriter.apply(&strength).unwrap().tensors.iter().map(|t| t.to_array().unwrap().to_f64()).collect()
}

fn ratio(lambda1: f64, lambda2: f64, sign: f64) -> Strength {
    Strength::Ratio { lambda1, lambda2, sign }
}

/// Equations 7 to 9 of the paper, one element after the other.
fn plain_ratio(l: &Layer, lambda1: f64, lambda2: f64, sign: f64) -> Vec<f64> {
    let finite = |i: usize| if l.f_r[i] == 0.0 { 0.0 } else { l.f_f[i] / l.f_r[i] };
    let top = (0..l.w.len()).map(finite).fold(0.0, f64::max);
    let alpha = if top > 0.0 { lambda1.min(lambda2 / top) } else { lambda1 };
    let eta = |i: usize| if l.f_r[i] == 0.0 && l.f_f[i] > 0.0 { top } else { finite(i) };
    (0..l.w.len()).map(|i| l.w[i] + sign * alpha * eta(i)).collect()
}

/// Equations 3 and 4 of Selective Synaptic Dampening, against the Fisher of the retained classes.
fn plain_dampen(l: &Layer, alpha: f64, lambda: f64) -> Vec<f64> {
    let new = |i: usize| {
        let (w, f_f, f_r) = (l.w[i], l.f_f[i], l.f_r[i]);
        if f_f > alpha * f_r { w * (lambda * f_r / f_f).min(1.0) } else { w }
    };
    (0..l.w.len()).map(new).collect()
}

/// Element by element; the rounding of a few operations apart.
fn same(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-12 * w.abs().max(1e-6), "element {i} is {g}, not {w}");
    }
}

/// A Fisher entry: often zero, else anywhere over many decades.
fn entry() -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(0.0), 4 => (-12.0..3.0).prop_map(|e| 10f64.powf(e))]
}

fn layer() -> impl Strategy<Value = Layer> {
    prop::collection::vec((-2.0..2.0, entry(), entry()), 1..40).prop_map(|v| Layer {
        w: v.iter().map(|t| t.0).collect(),
        f_f: v.iter().map(|t| t.1).collect(),
        f_r: v.iter().map(|t| t.2).collect(),
    })
}

fn strength() -> impl Strategy<Value = f64> {
    (-6.0..3.0).prop_map(|e| 10f64.powf(e))
}

/// Everything within the range of f32, as the engines compute it.
fn narrow(l: &Layer) -> Layer {
    let f = |v: &[f64]| v.iter().map(|&v| f64::from(v as f32)).collect();
    Layer { w: f(&l.w), f_f: f(&l.f_f), f_r: f(&l.f_r) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ratio_is_the_papers(
        layers in prop::collection::vec(layer(), 1..4), l1 in strength(), l2 in strength(), up: bool,
    ) {
        let sign = if up { 1.0 } else { -1.0 };
        let got = apply(&layers, ratio(l1, l2, sign), DType::F64);
        for (l, new) in layers.iter().zip(&got) {
            same(new, &plain_ratio(l, l1, l2, sign));
        }
    }

    #[test]
    fn a_ratio_step_is_capped_and_signed(l in layer(), l1 in strength(), l2 in strength()) {
        let l = narrow(&l);
        let up = apply(from_ref(&l), ratio(l1, l2, 1.0), DType::F32).remove(0);
        let down = apply(from_ref(&l), ratio(l1, l2, -1.0), DType::F32).remove(0);
        for i in 0..l.w.len() {
            let (rise, fall) = (up[i] - l.w[i], down[i] - l.w[i]);
            // a step vanishes in the rounding of a weight that is far greater
            let rounding = 1e-6 * (l.w[i].abs() + rise.abs());
            prop_assert!(up[i].is_finite() && down[i].is_finite());
            prop_assert!(rise >= 0.0 && rise <= l2 * (1.0 + 1e-5) + rounding, "a step of {rise} over λ2 = {l2}");
            prop_assert!((rise + fall).abs() <= rounding, "{rise} up and {fall} down");
            if l.f_f[i] == 0.0 {
                prop_assert_eq!(up[i], l.w[i]);
            }
        }
    }

    #[test]
    fn dampening_is_ssd(
        layers in prop::collection::vec(layer(), 1..4), alpha in strength(), lambda in strength(),
    ) {
        let got = apply(&layers, Strength::Dampen { alpha, lambda }, DType::F64);
        for (l, new) in layers.iter().zip(&got) {
            same(new, &plain_dampen(l, alpha, lambda));
        }
    }

    #[test]
    fn dampening_never_strengthens(l in layer(), alpha in strength(), lambda in strength()) {
        let l = narrow(&l);
        for dtype in [DType::F32, DType::F64] {
            let new = apply(from_ref(&l), Strength::Dampen { alpha, lambda }, dtype).remove(0);
            for i in 0..l.w.len() {
                let (old, new) = (l.w[i], new[i]);
                prop_assert!(new.abs() <= old.abs() && new * old >= 0.0, "{old} became {new}");
                // a little less than α f_R, so that no rounding decides
                if l.f_f[i] <= alpha * l.f_r[i] * (1.0 - 1e-5) || l.f_f[i] == 0.0 {
                    prop_assert_eq!(new, old);
                }
            }
        }
    }
}

#[test]
fn zeros_in_the_ratio() {
    let l = Layer { w: vec![1.0; 4], f_f: vec![0.0, 6.0, 2.0, 5.0], f_r: vec![0.0, 2.0, 2.0, 0.0] };
    // η is 0 (0/0), 3, 1 and 3 (x/0: the largest finite one)
    for (dtype, tolerance) in [(DType::F64, 1e-15), (DType::F32, 1e-7)] {
        let check = |strength, want: [f64; 4]| {
            let got = apply(from_ref(&l), strength, dtype).remove(0);
            let off = got.iter().zip(want).fold(0.0f64, |m, (g, w)| m.max((g - w).abs()));
            assert!(off <= tolerance, "{got:?} instead of {want:?}");
        };
        check(ratio(0.1, 100.0, 1.0), [1.0, 1.3, 1.1, 1.3]);
        check(ratio(0.1, 0.03, 1.0), [1.0, 1.03, 1.01, 1.03]);
        check(ratio(0.1, 0.03, -1.0), [1.0, 0.97, 0.99, 0.97]);
    }
    // without a finite η there is no largest one: nothing moves
    let none = Layer { w: vec![1.0, 2.0], f_f: vec![3.0, 0.0], f_r: vec![0.0, 0.0] };
    assert_eq!(apply(&[none], ratio(0.1, 1.0, 1.0), DType::F64), [[1.0, 2.0]]);
}

/// Each initializer has its own cap; what another one holds does not matter.
#[test]
fn initializers_do_not_mix() {
    let small = Layer { w: vec![0.0; 2], f_f: vec![1.0, 2.0], f_r: vec![1.0, 1.0] };
    let great = Layer { w: vec![0.0; 2], f_f: vec![1e9, 2e9], f_r: vec![1.0, 1.0] };
    for strength in [ratio(1e-2, 1.0, 1.0), Strength::Dampen { alpha: 1.1, lambda: 0.5 }] {
        let alone = apply(from_ref(&small), strength, DType::F32);
        let together = apply(&[great.clone(), small.clone()], strength, DType::F32);
        assert_eq!(alone[0], together[1]);
    }
}

#[test]
fn strengths_of_the_other_rule_are_refused() {
    let l = Layer { w: vec![1.0], f_f: vec![1.0], f_r: vec![1.0] };
    let old = Weights { names: vec!["w".into()], tensors: vec![Array::full(&[1], 1f32).into()] };
    let f = || vec![Tensor::from(Array::full(&[1], l.f_f[0] as f32))];
    let basis = Basis { names: vec!["w".into()], f_f: f(), f_r: f() };
    let mut r = Rewriter::new(&Cpu, Rule::Ratio, &old, &basis).unwrap();
    assert!(r.apply(&Strength::Dampen { alpha: 1.0, lambda: 1.0 }).is_err());
}

/// Steps of the noise rule on one initializer.
fn noise_steps(l: &Layer, sigma: f64, seed: u64) -> Vec<f64> {
    let new = apply(from_ref(l), Strength::Noise { sigma, seed }, DType::F64).remove(0);
    new.iter().zip(&l.w).map(|(n, w)| n - w).collect()
}

/// Against the formula, with the noise read off a layer whose Fisher is the same everywhere.
#[test]
fn noise_is_least_where_the_retained_classes_are_sensitive() {
    let n = 20_000;
    let w: Vec<f64> = (0..n).map(|i| if i % 2 == 0 { 3.0 } else { -4.0 }).collect();
    let rms = 12.5f64.sqrt();
    let flat = Layer { w: w.clone(), f_f: vec![1.0; n], f_r: vec![0.25; n] };
    let epsilon: Vec<f64> = noise_steps(&flat, 1.0, 5).iter().map(|s| s / rms).collect();
    let mean = epsilon.iter().sum::<f64>() / n as f64;
    let deviation = (epsilon.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
    // of 20,000 samples the mean has a deviation of 0.007, the deviation one of 0.005
    assert!(mean.abs() < 0.03 && (deviation - 1.0).abs() < 0.02, "{mean} {deviation}");
    let f_r: Vec<f64> = (0..n).map(|i| [0.0, 1e-9, 0.5, 16.0][i % 4]).collect();
    let f_mean = f_r.iter().sum::<f64>() / n as f64;
    let steps = noise_steps(&Layer { f_r: f_r.clone(), ..flat.clone() }, 0.2, 5);
    for i in 0..n {
        let want = 0.2 * rms * epsilon[i] / (f_r[i] / f_mean).powf(0.25).max(0.1);
        assert!((steps[i] - want).abs() < 1e-9, "{} instead of {want}", steps[i]);
    }
    assert_ne!(noise_steps(&flat, 1.0, 6), noise_steps(&flat, 1.0, 5));
    // no retained class depends on it: the greatest deviation there is
    let free = noise_steps(&Layer { f_r: vec![0.0; n], ..flat }, 0.2, 5);
    assert!((free[3] - 2.0 * rms * epsilon[3]).abs() < 1e-9);
}
