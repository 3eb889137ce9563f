//! What a Fisher estimate takes: predicted, kept to, and lowered by smaller batches and by computing values twice.

mod common;

use common::{arg, classifier, codes, fixture, tool};
use onnx_unlearn::autodiff::gradient::Mode;
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights, batch_feeds};
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::fisher::{Fisher, Forecast, estimate, forecast};
use onnx_unlearn::graph::{Graph, order};
use onnx_unlearn::inputs::{Labelled, npz};
use onnx_unlearn::tensor::{Array, DType};
use serde_json::Value;
use std::collections::BTreeMap;

/// Exported architectures of which activations take more than weights: with long skips, with branches that are joined.
const MODELS: [&str; 4] = ["resnet18", "densenet121", "googlenet", "efficientnet_b0"];
/// And such of which weights take more, with attention.
const HEAVY: [&str; 2] = ["vit_b_16", "swin_t"];

fn zoo(name: &str) -> Classifier {
    Classifier::open(&fixture(&format!("zoo/{name}.onnx")), ClassifierOptions::default()).unwrap()
}

/// Samples that a pattern fills.
fn samples(c: &Classifier, n: usize) -> Labelled {
    let shape = [&[n], c.sample_shape()].concat();
    let len: usize = shape.iter().product();
    let x: Vec<f32> = (0..len).map(|i| ((i * 7919 % 1000) as f32 / 500.0) - 1.0).collect();
    let y = (0..n).map(|i| i % c.classes()).collect();
    Labelled { x: Array::from_vec(&shape, x).unwrap(), y, extra: BTreeMap::new() }
}

fn fisher(c: &Classifier, engine: &dyn Engine, data: &Labelled) -> Fisher {
    let weights = Weights::upload(engine, &c.bind(1).unwrap()).unwrap();
    estimate(c, engine, &weights, data, &[vec![1.0; data.len()]], &mut |_| ()).unwrap()
}

/// Greatest difference of two tensors, relative to the greatest entry.
fn off(a: &Array, b: &Array) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f64(), b.to_f64());
    let greatest = b.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs() / greatest).fold(0.0, f64::max)
}

fn arrays(f: &Fisher) -> Vec<Array> {
    f.to_arrays().unwrap().into_iter().map(|(_, a)| a).collect()
}

/// Engines that run nodes in the order they are given.
fn in_order() -> Vec<Box<dyn Engine>> {
    let gpu = common::wgpu().map(|e| Box::new(e) as Box<dyn Engine>);
    std::iter::once(Box::new(Cpu) as Box<dyn Engine>).chain(gpu).collect()
}

#[test]
fn values_that_are_computed_twice_give_the_same_fisher_and_take_less() {
    for name in MODELS.into_iter().chain(HEAVY) {
        let c = zoo(name);
        let data = samples(&c, 1);
        let found = c.gradients(1, Mode::Fisher { sets: 1 }).unwrap();
        let mut whole = found.graph;
        order::end_early(&mut whole);
        let end = order::first_reached(&whole, &[found.labels]);
        let (model_inputs, part) = batch_feeds(&whole, &data, 0, 1, 1).unwrap();
        let mut feeds: Vec<Array> = model_inputs.into_iter().map(|(_, a)| a).collect();
        feeds.extend([part.labels(), Array::full(&[1, 1], 1.0_f32)]);
        for engine in in_order() {
            let bytes = |g: &Graph| engine.forecast(g).unwrap();
            let want = common::run(&*engine, &whole, &feeds).unwrap();
            let mut least = u64::MAX;
            for parts in [2, 3, 5] {
                let less = order::recompute(&whole, end, parts).unwrap().unwrap();
                assert!(less.nodes().len() > whole.nodes().len());
                assert_eq!(common::run(&*engine, &less, &feeds).unwrap(), want, "{name} on {}", engine.name());
                least = least.min(bytes(&less));
            }
            let most = bytes(&whole) - u64::from(MODELS.contains(&name));
            assert!(least <= most, "{name} on {}: {least} of {}", engine.name(), bytes(&whole));
        }
    }
}

#[test]
fn one_sample_that_does_not_fit_is_computed_twice_or_refused() {
    let Some(engine) = common::wgpu() else { return };
    for name in MODELS {
        let data = samples(&zoo(name), 3);
        let whole = forecast(&zoo(name), &engine, 1).unwrap();
        let c = zoo(name).within(Some(whole.bytes - 1));
        let less = forecast(&c, &engine, 3).unwrap();
        assert!(less.batch == 1 && less.parts > 1 && less.bytes < whole.bytes, "{name}: {less:?} of {whole:?}");
        let (found, want) = (arrays(&fisher(&c, &engine, &data)), arrays(&fisher(&zoo(name), &engine, &data)));
        for (a, b) in found.iter().zip(&want) {
            // sums are added in another order
            assert!(off(a, b) < 1e-5, "{name}: {}", off(a, b));
        }
        for engine in common::engines() {
            let e = forecast(&zoo(name).within(Some(1 << 10)), &*engine, 3).unwrap_err().to_string();
            assert!(e.contains("the Fisher of one sample takes about") && e.contains("the limit is"), "{e}");
        }
    }
}

#[test]
fn batches_get_smaller_until_they_fit() {
    let whole = forecast(&classifier("resnet"), &Cpu, 10).unwrap();
    let one = forecast(&classifier("resnet"), &Cpu, 1).unwrap();
    assert_eq!((whole.batch, whole.parts), (10, 1));
    let data = codes("resnet", &classifier("resnet"));
    let want = arrays(&fisher(&classifier("resnet"), &Cpu, &data));
    let mut last: Option<Forecast> = None;
    for share in [90, 50, 20] {
        let limit = one.bytes + (whole.bytes - one.bytes) * share / 100;
        let c = classifier("resnet").within(Some(limit));
        let f = forecast(&c, &Cpu, 10).unwrap();
        assert!(f.bytes <= limit && f.batch < 10 && f.parts == 1, "{f:?} within {limit}");
        assert!(last.is_none_or(|l| l.batch > f.batch), "{f:?} after {last:?}");
        let found = fisher(&c, &Cpu, &data);
        assert_eq!(found.batch, f.batch);
        for (a, b) in arrays(&found).iter().zip(&want) {
            assert!(off(a, b) < 1e-5);
        }
        last = Some(f);
    }
}

#[test]
fn a_device_never_takes_more_than_was_predicted() {
    for name in MODELS.into_iter().chain(HEAVY) {
        for n in [1, 5] {
            // an adapter of its own, whose buffers are counted from the start
            let Some(engine) = common::wgpu() else { return };
            let c = zoo(name);
            let predicted = forecast(&c, &engine, n).unwrap();
            let f = fisher(&c, &engine, &samples(&c, 2 * n + 1));
            drop(f);
            let taken = engine.peak_bytes().unwrap();
            let larger = forecast(&c, &engine, 2 * n + 1).unwrap();
            assert!(taken <= larger.bytes, "{name}: {taken} bytes were taken, {larger:?}");
            assert!(predicted.bytes <= larger.bytes);
            // and the prediction is no idle one
            assert!(taken * 10 >= larger.bytes * 9, "{name}: {taken} bytes were taken, {larger:?}");
        }
    }
}

fn report(args: &[&str]) -> Value {
    let out = tool(args.iter().chain(&["--json"])).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn a_process_takes_no_more_than_was_predicted() {
    let room = tempfile::tempdir().unwrap();
    let (inputs, out) = (room.path().join("x.npz"), room.path().join("f.safetensors"));
    for name in ["alexnet", "vgg11_bn", "resnet18", "densenet121", "swin_t"] {
        let c = zoo(name);
        npz::save(&inputs, &samples(&c, 24)).unwrap();
        let model = fixture(&format!("zoo/{name}.onnx"));
        let r = report(&["fisher", arg(&model), "--inputs", arg(&inputs), "-o", arg(&out), "--engine", "cpu"]);
        let predicted = r["forecast"]["bytes"].as_u64().unwrap();
        if let Some(taken) = r["taken"].as_u64() {
            assert!(taken <= predicted, "{name}: {taken} bytes were taken, {predicted} predicted");
        }
    }
}

#[test]
fn a_limit_on_the_command_line() {
    let room = tempfile::tempdir().unwrap();
    let out = room.path().join("f.safetensors");
    let (model, inputs) = (fixture("resnet.onnx"), fixture("resnet.codes.npz"));
    let args = ["fisher", arg(&model), "--inputs", arg(&inputs), "-o", arg(&out), "--engine", "cpu"];
    let with = |limit: &str| {
        [&args[..], &["--memory-limit", limit]].concat().iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()
    };
    let refused = tool(with("1M")).output().unwrap();
    let words = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(words.contains("the Fisher of one sample takes about") && words.contains("the limit is 1 MiB"), "{words}");
    assert!(!out.exists());
    assert!(tool(with("lots")).output().unwrap().status.code() == Some(2));
    let r = report(&with("4G").iter().map(String::as_str).collect::<Vec<_>>());
    assert!(r["forecast"]["bytes"].as_u64().unwrap() <= 4 << 30);
    let shown = report(&["inspect", arg(&model), "--memory-limit", "4G"]);
    for engine in shown["engines"].as_array().unwrap().iter().filter(|e| e["runs_it"] == true) {
        let [one, more] = [0, 1].map(|i| engine["fisher"][i]["bytes"].as_u64().unwrap());
        assert!(0 < one && one <= more && more <= 4 << 30, "{engine}");
    }
    for engine in ["cpu", "ort"] {
        if engine == "ort" && common::ort().is_none() {
            continue;
        }
        let codes = room.path().join("codes.npz");
        let mlp = fixture("mlp.onnx");
        let mut made = vec!["codes", "synthesize", arg(&mlp), "-o", arg(&codes), "--engine", engine, "--steps", "1"];
        made.extend(["--range", "0,1"]);
        report(&made);
        made.extend(["--memory-limit", "2M"]);
        let refused = tool(&made).output().unwrap();
        let words = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && words.contains("a step of the descent takes about"), "{words}");
    }
}

#[test]
fn float64_is_planned_as_well() {
    let c = Classifier::open(&fixture("kinds/double.onnx"), ClassifierOptions::default()).unwrap();
    assert_eq!(c.float(), DType::F64);
    let r = report(&["inspect", arg(&fixture("kinds/double.onnx"))]);
    let engines = r["engines"].as_array().unwrap();
    assert!(engines.iter().all(|e| e["runs_it"] == e["fisher"].is_array()), "{engines:?}");
}
