//! Forgetting with a kept Fisher, and two of them compared.

use super::common::{self, arg, engines, fixture};
use super::{Bench, Room, of_images, three_ways};
use onnx_unlearn::classifier::Classifier;
use onnx_unlearn::engine::Engine;
use onnx_unlearn::fisher::store::{Kept, load};
use onnx_unlearn::forget::{self, Method, Request, Rule, Stage, Strength};
use onnx_unlearn::inputs::{self, Labelled, npz};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::tensor::Array;
use std::path::Path;
use std::sync::Arc;

/// New elements of every weight that a run changes, and what it told of its progress.
fn forgotten(
    c: &Classifier,
    engine: &dyn Engine,
    data: &Labelled,
    request: &Request,
) -> (Vec<(String, Array)>, Vec<usize>, usize) {
    let mut samples = 0;
    let outcome = forget::forget(c, engine, data, request, &mut |stage| {
        if let Stage::Fisher(n, _) = stage {
            samples = samples.max(n);
        }
    });
    let outcome = outcome.unwrap();
    (outcome.new, outcome.estimated, samples)
}

/// How many elements differ by more than rounding; at a threshold rounding decides whether a weight is dampened.
fn far(got: &Array, want: &Array) -> usize {
    assert_eq!(got.shape(), want.shape());
    let differ = |(g, w): (&f64, &f64)| (*g - *w).abs() > 1e-4 * w.abs().max(1e-3);
    got.to_f64().iter().zip(&want.to_f64()).filter(|p| differ(*p)).count()
}

/// All weights of a model.
fn weights(bytes: Vec<u8>) -> Vec<(String, Array)> {
    let model = Model::from_bytes("m", bytes).unwrap();
    model.weights().iter().map(|w| (w.name().to_owned(), model.read(w).unwrap())).collect()
}

/// With a kept Fisher the same is forgotten, and no class is estimated.
#[test]
fn forgetting_with_a_kept_fisher_is_forgetting() {
    let room = Room::new();
    for (name, engine) in ["cnn", "mlp"].into_iter().zip([common::engines().remove(0), engines().pop().unwrap()]) {
        let path = fixture(&format!("{name}.onnx"));
        let bench = Bench::new(&path, &*engine);
        let data = common::codes(name, &bench.classifier);
        bench.part(&room.path("f"), &data, (0, 1));
        let kept = Arc::new(load(&room.path("f"), bench.classifier.model()).unwrap());
        for method in [Method::Search(vec![Rule::Dampen]), Method::Fixed(Strength::Dampen { alpha: 8.0, lambda: 1.0 })]
        {
            let request = Request::new(vec![3, 7], method);
            let (want, all, samples) = forgotten(&bench.classifier, &*engine, &data, &request);
            assert_eq!((all.len(), samples), (10, 10));
            let request = Request { fisher: Some(kept.clone()), ..request };
            let (got, estimated, samples) = forgotten(&bench.classifier, &*engine, &data, &request);
            assert_eq!((estimated, samples), (vec![], 0), "something was estimated");
            assert_eq!(got.len(), want.len());
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                let n = far(got, want);
                assert!(n <= 1 + got.len() / 10_000, "{name}: {n} of {} elements differ", got.len());
            }
        }
    }
}

/// A class that the file lacks is estimated if the inputs are those that it was made from, and only that class.
#[test]
fn only_a_missing_class_is_estimated() {
    let room = Room::new();
    let (model, codes) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"));
    let fisher = |out: &str, more: &[&str]| {
        let args = ["fisher", arg(&model), "--inputs", arg(&codes), "--engine", "cpu", "-o", out];
        room.json(&[&args[..], more].concat());
    };
    fisher("whole", &[]);
    fisher("most", &["--class", "0,1,2,3,4,5,6,8,9"]);
    let args =
        ["forget", arg(&model), "--class", "7", "--engine", "cpu", "--rule", "dampen", "--alpha", "8", "--lambda", "1"];
    let run = |file: &str, inputs: &Path, out: &str| {
        let report = room.json(&[&args[..], &["--inputs", arg(inputs), "--fisher", file, "-o", out]].concat());
        (report["estimated"].clone(), std::fs::read(room.path(out)).unwrap())
    };
    let (none, want) = run("whole", &codes, "a.onnx");
    let (seven, got) = run("most", &codes, "b.onnx");
    assert_eq!((none, seven), (serde_json::json!([]), serde_json::json!([7])));
    // the engine sums a class that comes alone in another order than one among others
    let (want, got) = (weights(want), weights(got));
    for ((name, w), (_, g)) in want.iter().zip(&got) {
        assert!(far(g, w) <= 1 + w.len() / 10_000, "{name} is another one");
    }
    // other inputs serve the search, but no estimate
    let images = fixture("fmnist_test_1000.npz");
    let (none, _) = run("whole", &images, "c.onnx");
    assert_eq!(none, serde_json::json!([]));
    let other = |more: &[&str], words: &[&str]| room.refused(&[&args[..], more, &["-o", "d.onnx"]].concat(), words);
    other(
        &["--fisher", "most", "--inputs", arg(&images)],
        &["most", "no Fisher of class 7", "other samples of class 0"],
    );
    other(&["--fisher", "most", "--steps", "1", "--per-class", "1", "--range", "0,1"], &["no Fisher of class 7"]);
    fisher("seven", &["--class", "7"]);
    let nine = common::codes("cnn", &common::classifier("cnn")).select(&[7]).unwrap();
    npz::save(&room.path("seven.npz"), &nine).unwrap();
    other(&["--fisher", "most", "--inputs", "seven.npz"], &["every class"]);
}

#[test]
fn a_kept_fisher_has_to_fit() {
    let room = Room::new();
    let (model, codes) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"));
    let other = fixture("cnn_nocodes.onnx");
    let fisher = |model: &Path, out: &str, more: &[&str]| {
        let args = ["fisher", arg(model), "--inputs", arg(&codes), "--engine", "cpu", "-o", out];
        room.json(&[&args[..], more].concat());
    };
    fisher(&other, "other", &[]);
    fisher(&model, "part", &["--shard", "1/2"]);
    fisher(&model, "head", &["--layers", "fc2.*"]);
    let args = ["forget", arg(&model), "--class", "7", "--inputs", arg(&codes), "--engine", "cpu", "-o", "out.onnx"];
    for (file, words) in [
        ("other", &["other", "another model"][..]),
        ("part", &["part", "fisher merge"]),
        ("head", &["head", "no Fisher of", "--layers"]),
        ("nothing", &["nothing"]),
    ] {
        room.refused(&[&args[..], &["--fisher", file]].concat(), words);
    }
    room.refused(&[&args[..9], &["out", "--fisher", "out"]].concat(), &["out"]);
    let report = room.json(&[&args[..], &["--fisher", "head", "--layers", "fc2.*"]].concat());
    assert_eq!(report["head_share"], 1.0);
}

/// Inputs that were made, kept, and given again are searched as they were when they were made.
#[test]
fn inputs_that_were_made_stay_made() {
    let room = Room::new();
    room.write("m.onnx", &of_images());
    let how = ["--steps", "30", "--per-class", "4", "--range", "0,1", "--engine", "cpu"];
    room.json(&[&["codes", "synthesize", "m.onnx", "-o", "made.npz"][..], &how].concat());
    let first = ["forget", "m.onnx", "--class", "1", "-o", "a.onnx"];
    let a = room.json(&[&first[..], &how].concat());
    let second = ["forget", "m.onnx", "--class", "1", "-o", "b.onnx", "--inputs", "made.npz"];
    let b = room.json(&[&second[..], &["--engine", "cpu"]].concat());
    assert_eq!(a["tried"], b["tried"]);
    assert!(std::fs::read(room.path("a.onnx")).unwrap() == std::fs::read(room.path("b.onnx")).unwrap());
    // the same inputs without the mark count as given
    let made = npz::read(&room.path("made.npz"), "x").unwrap();
    npz::write(&room.path("plain.npz"), &[("x", &made), ("y", &npz::read(&room.path("made.npz"), "y").unwrap())])
        .unwrap();
    assert!(inputs::are_made(&room.path("made.npz")).unwrap());
    assert!(!inputs::are_made(&room.path("plain.npz")).unwrap());
}

/// The numbers of `compare` are those of the elements in the files.
#[test]
fn two_fishers_are_compared() {
    let room = Room::new();
    let model = room.write("m.onnx", &of_images());
    three_ways(&room);
    let fisher = |out: &str, more: &[&str]| {
        room.json(&[&["fisher", "m.onnx", "--inputs", "images", "-o", out, "--engine", "cpu"], more].concat());
    };
    fisher("all", &[]);
    fisher("few", &["--limit", "40", "--seed", "3"]);
    let report = room.json(&["fisher", "compare", "few", "all", "--class", "1"]);
    let model = Model::open(&model).unwrap();
    let (few, all) = (load(&room.path("few"), &model).unwrap(), load(&room.path("all"), &model).unwrap());
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let mut sum = 0.0;
    for (weight, (name, _)) in all.weights().enumerate() {
        let mean = |kept: &Kept| {
            let row = kept.origin.rows.iter().position(|r| r.class == 1).unwrap();
            let n = kept.origin.samples[row].1 as f64;
            kept.row(weight, row).unwrap().into_iter().map(|v| v / n).collect::<Vec<f64>>()
        };
        let off: f64 = mean(&few).iter().zip(mean(&all)).map(|(x, y)| (x - y) * (x - y)).sum();
        sum += off;
        let layer = &report["layers"].as_array().unwrap()[weight];
        assert_eq!(layer["name"], name);
        let want = off.sqrt() / mean(&all).len() as f64;
        assert!((number(&layer["error"]) - want).abs() <= 1e-9 * want);
        assert!(number(&layer["rank_correlation"]) > 0.5, "{layer}");
    }
    let elements = number(&report["all"]["elements"]);
    assert!((number(&report["all"]["error"]) * elements - sum.sqrt()).abs() <= 1e-9 * sum.sqrt());
    assert!(number(&report["all"]["relative"]) > 0.0);
    let same = room.json(&["fisher", "compare", "all", "all"]);
    assert_eq!((&same["all"]["error"], &same["same_model"]), (&serde_json::json!(0.0), &serde_json::json!(true)));
    assert!((number(&same["all"]["rank_correlation"]) - 1.0).abs() < 1e-12);
    fisher("part", &["--shard", "0/2"]);
    fisher("head", &["--layers", "w"]);
    fisher("one", &["--class", "0"]);
    room.refused(&["fisher", "compare", "all", "part"], &["part", "fisher merge"]);
    room.refused(&["fisher", "compare", "all", "head"], &["different weights"]);
    room.refused(&["fisher", "compare", "all", "one"], &["different classes", "--class"]);
    room.refused(&["fisher", "compare", "all", "one", "--class", "1"], &["one", "class 1"]);
    room.refused(&["fisher", "compare", "all", "m.onnx"], &["m.onnx"]);
}
