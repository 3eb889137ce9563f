//! Every case of every op: shapes, the two precisions, gradients against central differences, and all
//! engines against the f64 reference.

mod common;

use common::{build, difference, run, with_gradients};
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::ops::{self, Case, Gradient, Op};
use onnx_unlearn::tensor::{Array, DType};
use rand::RngExt;

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

fn text(e: onnx_unlearn::Error) -> String {
    format!("{e:?}")
}

fn close(got: &[Array], want: &[Array], tolerance: f64) -> Result<(), String> {
    for (k, (g, w)) in got.iter().zip(want).enumerate() {
        let d = difference(g, w);
        if d > tolerance {
            return Err(format!("output {k} differs by {d:.2e} > {tolerance:.0e}: {g:?} instead of {w:?}"));
        }
    }
    (got.len() == want.len()).then_some(()).ok_or_else(|| format!("{} outputs instead of {}", got.len(), want.len()))
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
    each_case(|op, case| {
        if let Gradient::None(_) = case.gradient {
            return Ok(());
        }
        let b = with_gradients(build(op, case, DType::F64).map_err(text)?, case, DType::F64).map_err(text)?;
        let out = run(&Cpu, &b.graph, &b.feeds).map_err(text)?;
        let loss_at =
            |feeds: &[Array]| -> Result<f64, String> { Ok(run(&Cpu, &b.graph, feeds).map_err(text)?[0].to_f64()[0]) };
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
            // a random direction always; every entry where there are few
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
                if !((numeric - analytic).abs() <= 1e-6 * scale) {
                    return Err(format!("gradient of input slot {slot}: {analytic} analytic, {numeric} numeric"));
                }
            }
        }
        Ok(())
    });
}

/// Every case and its gradient on `engine` against the f64 reference, but for the named `defects` of the
/// engine.
fn agree_on(engine: &dyn Engine, defects: &[(&str, &str)]) {
    each_case(|op, case| {
        if let Some((name, why)) = defects.iter().find(|(name, _)| *name == case.name) {
            println!("left out: {name}: {why}");
            return Ok(());
        }
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
    });
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
