//! Audits to tell of: one that is real, and some that no test could wait for.

use crate::common::{arg, fixture, tool};
use crate::made::labelled;
use onnx_unlearn::audit::{Audit, Band, Confusion, Depth, Layer, Measure, Number, Roc, Unit, Verdict};
use onnx_unlearn::report::html::File;
use onnx_unlearn::report::html::audit::{Run, page};
use std::path::Path;
use std::sync::OnceLock;

/// Audits a model that was retrained without class 0; what the command wrote to `--report` in this folder.
fn told(room: &Path) -> String {
    let file = |name: &str| fixture(name).to_str().unwrap().to_owned();
    let files = ["cnn.onnx", "cnn_without_0.onnx"].map(file);
    let flags = [
        ("--data", "fmnist_test_1000.npz"),
        ("--reference", "cnn_without_0_again.onnx"),
        ("--members", "fmnist_train_0.npz"),
        ("--non-members", "fmnist_test_1000.npz"),
        ("--codes", "cnn.codes.npz"),
    ];
    let flags = flags.into_iter().flat_map(|(flag, name)| [flag.to_owned(), file(name)]);
    let report = room.join("audit.html");
    let out = tool(["audit"].map(str::to_owned).into_iter().chain(files).chain(flags))
        .args(["--class", "0", "--limit", "150", "--relearning-steps", "0", "--report", arg(&report)])
        .output()
        .unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(matches!(out.status.code(), Some(0 | 1)), "{stderr}");
    let verdict = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code() == Some(1), verdict.contains("verdict: FAIL"), "{verdict}");
    std::fs::read_to_string(report).unwrap()
}

/// The page of an audit on fixtures.
pub fn small() -> &'static str {
    static PAGE: OnceLock<String> = OnceLock::new();
    PAGE.get_or_init(|| told(tempfile::tempdir().unwrap().path()))
}

fn audit(classes: usize, lost: &[usize], layers: &[String], words: &str) -> Audit {
    let confusion = |is_right: &dyn Fn(usize) -> bool| {
        let truth: Vec<usize> = (0..3 * classes).map(|i| i % classes).collect();
        let answers: Vec<usize> = truth.iter().map(|y| if is_right(*y) { *y } else { (y + 1) % classes }).collect();
        Confusion::new(&truth, &answers, classes)
    };
    let band = Band { pass: 0.05, fail: Some(0.1) };
    let number =
        |hits| Number::share("answered", words, hits, 900, words).before(0.9).reference(Some(0.5)).judged(band);
    let mut few = Number::new("few", words, Unit::Difference, 0.1, 3, words).unresolved();
    few.before = Some(-0.25);
    let measures = vec![
        Measure::new("answers", "answers", vec![number(500), number(0), few], words).detail(words),
        Measure::new("membership", "membership inference", vec![number(60)], words),
        Measure::not_measured("probe", "features", words),
    ];
    let points = |a: f64| (0..=2000).map(|i| f64::from(i) / 2000.0).map(|x| [x, x.powf(a)]).collect();
    let layer = |(i, name): (usize, &String)| Layer {
        name: name.clone(),
        is_head: i == 0,
        elements: 1000,
        changed: 10,
        share: 1.0 / layers.len() as f64,
        relative: if i == 1 { f64::INFINITY } else { 0.01 },
    };
    let depth = Depth {
        layers: layers.iter().enumerate().map(layer).collect(),
        changed: 10 * layers.len(),
        head_share: 0.1,
        sentence: words.to_owned(),
    };
    Audit {
        verdict: Verdict::Fail,
        classes: lost.to_vec(),
        class_count: classes,
        samples: 3 * classes,
        forgotten_samples: 3 * lost.len(),
        references: 0,
        seed: 0,
        measures,
        roc: vec![Roc { attack: "loss", points: points(0.5) }, Roc { attack: "rmia", points: points(2.0) }],
        confusion_before: confusion(&|_| true),
        confusion_after: confusion(&|y| !lost.contains(&y) && y % 97 != 3),
        depth: Some(depth),
        no_depth: None,
    }
}

fn page_of(audit: &Audit, words: &str, codes: bool) -> String {
    let file = File { role: "before", name: words.to_owned(), sha256: "00".repeat(32) };
    let truth: Vec<usize> = (0..audit.class_count).collect();
    let inputs = labelled(&[1, 16, 16], &truth);
    let run = Run {
        command: &[words.to_owned()],
        before: words,
        after: words,
        data: words,
        engine: words,
        audit,
        codes: codes.then_some(&inputs),
        files: &[file],
    };
    page(&run).unwrap().render().unwrap()
}

/// A page of names that want to be more.
pub fn hostile(words: &str) -> String {
    page_of(&audit(4, &[1], &[words.to_owned(), "w".repeat(1 << 20)], words), words, true)
}

/// A page of an audit of models of so many classes and weights.
pub fn large(classes: usize, weights: usize) -> String {
    let names: Vec<String> = (0..weights).map(|i| format!("features.block{}.layer{i}.weight", i / 7)).collect();
    let lost: Vec<usize> = (0..classes).step_by(3).collect();
    page_of(&audit(classes, &lost, &names, "large"), "large.onnx", true)
}
