//! What is to be forgotten when it is no class that was named: lists, samples; and codes made from data.

mod common;

use common::{arg, classifier, codes, fixture, tool};
use onnx_unlearn::inputs::{self, Labelled, npz};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::tensor::Array;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn save(&self, name: &str, data: &Labelled) {
        npz::save(&self.path(name), data).unwrap();
    }
    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
    fn json(&self, args: &[&str]) -> serde_json::Value {
        let out = tool(args.iter().chain(&["--json", "-q"])).current_dir(self.0.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }
    fn refused(&self, args: &[&str], words: &[&str]) {
        let before = std::fs::read_dir(self.0.path()).unwrap().count();
        let out = tool(args.iter().chain(&["-q"])).current_dir(self.0.path()).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        assert!(words.iter().all(|w| said.contains(w)), "{args:?}: {words:?} are not in {said}");
        assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), before, "{args:?} wrote something");
    }
}

/// A `forget` of the CNN with a given strength.
fn forget<'a>(model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["forget", arg(model), "--engine", "cpu", "--rule", "dampen", "--alpha", "8", "--lambda", "1"];
    [&args[..], more].concat()
}

fn real() -> Labelled {
    let expected = classifier("cnn").expected();
    inputs::load(&fixture("fmnist_test_1000.npz"), &expected, &inputs::Options::default()).unwrap()
}

#[test]
fn classes_from_a_file() {
    let room = Room::new();
    let (model, codes) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"));
    let given = |name: &str, text: &[u8]| std::fs::write(room.path(name), text).unwrap();
    given("list", b"# requests of March\n7\n\n 3 # shirts\r\n3\n");
    let run = |more: &[&str]| room.json(&forget(&model, &[&["--inputs", arg(&codes)], more].concat()));
    let a = run(&["--class", "3,7", "-o", "a.onnx"]);
    let b = run(&["--classes-file", "list", "-o", "b.onnx"]);
    assert_eq!((&a["classes"], &b["classes"]), (&serde_json::json!([3, 7]), &serde_json::json!([3, 7])));
    assert!(room.bytes("a.onnx") == room.bytes("b.onnx"));
    let both = run(&["--classes-file", "list", "--class", "1", "-o", "c.onnx"]);
    assert_eq!(both["classes"], serde_json::json!([1, 3, 7]));
    given("word", b"3\nshirt\n");
    given("minus", b"-3\n");
    given("empty", b"# nothing\n");
    given("far", b"10\n");
    given("bytes", &[0xff; 9]);
    let long: Vec<u8> = b"7\n".repeat(600_000);
    given("long", &long);
    for (file, words) in [
        ("word", &["word", "line 2", "shirt"][..]),
        ("minus", &["minus", "line 1", "-3"]),
        ("empty", &["empty", "lists no class"]),
        ("far", &["class 10", "10 classes"]),
        ("bytes", &["bytes", "as text"]),
        ("long", &["long", "1 MiB"]),
        ("nothing", &["nothing"]),
        (".", &["."]),
        #[cfg(unix)]
        ("/dev/zero", &["/dev/zero"]),
    ] {
        room.refused(&forget(&model, &["--inputs", arg(&codes), "-o", "d.onnx", "--classes-file", file]), words);
    }
    room.refused(&forget(&model, &["--inputs", arg(&codes), "-o", "list", "--classes-file", "list"]), &["list"]);
    room.refused(&forget(&model, &["--inputs", arg(&codes), "-o", "d.onnx"]), &["--class"]);
}

/// How many elements of all weights differ by more than rounding.
fn far(a: &Path, b: &Path) -> usize {
    let read = |path: &Path| {
        let model = Model::open(path).unwrap();
        model.weights().iter().flat_map(|w| model.read(w).unwrap().to_f64()).collect::<Vec<f64>>()
    };
    read(a).iter().zip(read(b)).filter(|(x, y)| (**x - y).abs() > 1e-4 * y.abs().max(1e-3)).count()
}

/// All samples of a class, given as samples, are that class.
#[test]
fn samples_of_a_class_are_forgotten_as_the_class_is() {
    let room = Room::new();
    let model = fixture("cnn.onnx");
    let all = codes("cnn", &classifier("cnn"));
    let (seven, others) = all.split_by(&[7]).unwrap();
    room.save("seven.npz", &seven);
    room.save("others.npz", &others);
    room.save("all.npz", &others.concat(&seven).unwrap());
    for rule in [&["--rule", "dampen"][..], &["--rule", "dampen", "--alpha", "8", "--lambda", "1"]] {
        let run = |more: &[&str]| room.json(&[&["forget", arg(&model), "--engine", "cpu"], rule, more].concat());
        let class = run(&["--inputs", "all.npz", "--class", "7", "-o", "a.onnx"]);
        let samples = run(&["--inputs", "others.npz", "--forget-inputs", "seven.npz", "-o", "b.onnx"]);
        assert!(room.bytes("a.onnx") == room.bytes("b.onnx"));
        for key in ["tried", "strength", "inputs", "changes", "doubts"] {
            assert_eq!(class[key], samples[key], "{key}");
        }
        assert_eq!(samples["samples"], serde_json::json!({"file": "seven.npz", "samples": 1, "left_out": 0}));
        assert_eq!((&samples["classes"], &class["samples"]), (&serde_json::json!([]), &serde_json::Value::Null));
        // what is to be forgotten is not retained
        let again = run(&["--inputs", "all.npz", "--forget-inputs", "seven.npz", "-o", "c.onnx"]);
        assert_eq!(again["samples"]["left_out"], 1);
        assert!(room.bytes("a.onnx") == room.bytes("c.onnx"));
        // and against a Fisher of the others that was kept
        room.json(&["fisher", arg(&model), "--inputs", "others.npz", "--engine", "cpu", "-o", "others"]);
        let kept =
            run(&["--inputs", "others.npz", "--forget-inputs", "seven.npz", "--fisher", "others", "-o", "d.onnx"]);
        assert_eq!((&kept["estimated"], &kept["passes"]["fisher"]), (&serde_json::json!([7]), &serde_json::json!(1)));
        assert!(far(&room.path("a.onnx"), &room.path("d.onnx")) <= 10);
    }
}

/// Part of a class: its samples are lost, the rest of the class is retained.
#[test]
fn part_of_a_class() {
    let room = Room::new();
    let model = fixture("cnn.onnx");
    let data = real();
    let shirts = &data.by_class()[&6];
    let forget_inputs = data.select(&shirts[..3]).unwrap();
    let some: Vec<usize> = data.by_class().values().flat_map(|at| at[..4].to_vec()).collect();
    room.save("some.npz", &data.select(&some).unwrap());
    room.save("shirts.npz", &forget_inputs);
    room.json(&["fisher", arg(&model), "--inputs", "some.npz", "--engine", "cpu", "-o", "some"]);
    for fisher in [&[][..], &["--fisher", "some"]] {
        let args = [
            "forget",
            arg(&model),
            "--engine",
            "cpu",
            "--inputs",
            "some.npz",
            "--forget-inputs",
            "shirts.npz",
            "-o",
            "out.onnx",
        ];
        let report = room.json(&[&args[..], fisher].concat());
        let counts = &report["inputs"];
        assert_eq!(
            (&counts["forgotten_samples"], &counts["retained_samples"]),
            (&serde_json::json!(3), &serde_json::json!(37))
        );
        assert_eq!(report["samples"]["left_out"], 3);
        let number = |key: &str| counts[key].as_f64().unwrap();
        let left = number("forgotten_answered_after");
        assert!(left < number("forgotten_answered_before"), "{counts}");
        // three shirts among shirts that stay may be too much to ask; then it is said
        let doubts = report["doubts"].to_string();
        assert_eq!(left > 0.0, doubts.contains("still answered"), "{counts}: {doubts}");
        assert!(number("retained_right_after") >= 0.9 * number("retained_right_before"), "{counts}");
    }
}

#[test]
fn samples_that_cannot_be_forgotten() {
    let room = Room::new();
    let model = fixture("cnn.onnx");
    let all = codes("cnn", &classifier("cnn"));
    room.save("all.npz", &all);
    room.save("two.npz", &all.select(&[2]).unwrap());
    let other = Labelled::new(Array::full(&[1, 1, 9, 9], 0.5f32), vec![0]).unwrap();
    room.save("other.npz", &other);
    let refuse =
        |more: &[&str], words: &[&str]| room.refused(&forget(&model, &[more, &["-o", "out.onnx"]].concat()), words);
    refuse(&["--inputs", "all.npz", "--forget-inputs", "two.npz", "--class", "1"], &["--class"]);
    refuse(&["--inputs", "all.npz", "--forget-inputs", "all.npz"], &["every input"]);
    refuse(&["--inputs", "all.npz", "--forget-inputs", "other.npz"], &["other.npz", "28"]);
    refuse(&["--inputs", "all.npz", "--forget-inputs", "none.npz"], &["none.npz"]);
    room.refused(
        &forget(&model, &["--inputs", "all.npz", "--forget-inputs", "two.npz", "-o", "two.npz"]),
        &["two.npz"],
    );
}

#[test]
fn codes_from_real_samples() {
    let room = Room::new();
    let (model, images) = (fixture("cnn.onnx"), fixture("fmnist_test_1000.npz"));
    let run = |out: &str, more: &[&str]| {
        let args = ["codes", "from-data", arg(&model), "--data", arg(&images), "-o", out];
        room.json(&[&args[..], more].concat())
    };
    let expected = classifier("cnn").expected();
    let load = |name: &str| inputs::load(&room.path(name), &expected, &inputs::Options::default()).unwrap();
    let report = run("a.npz", &["--per-class", "3", "--seed", "4"]);
    assert_eq!((&report["by"], &report["from_samples"]), (&serde_json::json!("kmeans"), &serde_json::json!(1000)));
    let codes = load("a.npz");
    assert_eq!(codes.y, (0..30).map(|i| i / 3).collect::<Vec<_>>());
    run("b.npz", &["--per-class", "3", "--seed", "4"]);
    assert!(room.bytes("a.npz") == room.bytes("b.npz"));
    run("mean.npz", &["--by", "mean"]);
    run("samples.npz", &["--by", "samples", "--per-class", "2"]);
    let (mean, data) = (load("mean.npz").x.to_f64(), real());
    let shirts = data.select(&data.by_class()[&6]).unwrap().x.to_f64();
    let want = shirts.iter().skip(100).step_by(784).sum::<f64>() / (shirts.len() / 784) as f64;
    assert!((mean[6 * 784 + 100] - want).abs() < 1e-6);
    // the model answers most centres and samples with their class
    for (file, n) in [("a.npz", 30), ("samples.npz", 20)] {
        let report = room.json(&["evaluate", arg(&model), "--data", file, "--engine", "cpu"]);
        assert_eq!(report["samples"], n);
        assert!(report["accuracy"].as_f64().unwrap() > 0.7, "{file}: {report}");
    }
    room.json(&forget(&model, &["--inputs", "a.npz", "--class", "0", "-o", "out.onnx"]));
    let refuse = |more: &[&str], words: &[&str]| {
        let args = ["codes", "from-data", arg(&model), "--data", arg(&images), "-o", "no.npz"];
        room.refused(&[&args[..], more].concat(), words);
    };
    refuse(&["--per-class", "900"], &["class 0 has", "fewer than 900"]);
    refuse(&["--per-class", "0"], &["no code"]);
    refuse(&["--by", "mean", "--per-class", "2"], &["one mean"]);
}

#[test]
fn codes_follow_a_newer_model() {
    let room = Room::new();
    let (old, new, codes) = (fixture("cnn.onnx"), fixture("cnn_nocodes.onnx"), fixture("cnn.codes.npz"));
    let run = |out: &str, more: &[&str]| {
        room.json(
            &[&["codes", "update", arg(&codes), arg(&new), "--engine", "cpu", "--steps", "20", "-o", out], more]
                .concat(),
        )
    };
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let with = run("a.npz", &["--old", arg(&old)]);
    let without = run("b.npz", &[]);
    assert!(room.bytes("a.npz") == room.bytes("b.npz"), "the old model serves the comparison alone");
    let [was, is] = [0, 1].map(|i| number(&with["answered"][i]));
    assert!(is >= 9.0 && is > was, "{was} answered before, {is} after");
    assert!(number(&with["moved"]) > 0.0 && number(&with["fisher"]["relative"]) > 0.0);
    assert_ne!(with["fisher"], without["fisher"]);
    let evaluated = room.json(&["evaluate", arg(&new), "--data", "a.npz", "--engine", "cpu"]);
    assert_eq!(number(&evaluated["accuracy"]), is / 10.0);
    let expected = classifier("cnn").expected();
    let x = inputs::load(&room.path("a.npz"), &expected, &inputs::Options::default()).unwrap().x.to_f64();
    let [lo, hi] = [0, 1].map(|i| number(&with["range"][i]));
    assert!(x.iter().all(|v| (lo - 1e-6..=hi + 1e-6).contains(v)));
    let args = ["codes", "update", arg(&codes), arg(&new), "-o", "c.npz"];
    let mlp = fixture("mlp.onnx");
    room.refused(&[&args[..], &["--old", arg(&mlp), "--steps", "1"]].concat(), &["different weights"]);
    room.refused(&[&args[..], &["--steps", "0"]].concat(), &["one step"]);
    room.refused(&[&args[..], &["--range", "1,0"]].concat(), &["lo < hi"]);
    room.refused(&["codes", "update", arg(&codes), arg(&new), "-o", arg(&codes)], &["read as well"]);
}
