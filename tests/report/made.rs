//! Runs to tell of: one that is real, and some that no test could wait for.

use crate::common::{classifier, codes};
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::forget::answers::Answers;
use onnx_unlearn::forget::search::Candidate;
use onnx_unlearn::forget::{self, Aim, Change, Method, Outcome, Passes, Request, Rule, Still, Strength};
use onnx_unlearn::inputs::Labelled;
use onnx_unlearn::report::html::File;
use onnx_unlearn::report::html::forget::{Run, page};
use onnx_unlearn::tensor::Array;
use std::sync::OnceLock;

fn real() -> &'static (Outcome, Labelled) {
    static RUN: OnceLock<(Outcome, Labelled)> = OnceLock::new();
    RUN.get_or_init(|| {
        let c = classifier("cnn");
        let data = codes("cnn", &c);
        let request = Request::new(vec![7], Method::Search(vec![Rule::Dampen]));
        (forget::forget(&c, &Cpu, &data, &request, &mut |_| ()).unwrap(), data)
    })
}

/// The page of a run on a fixture.
pub fn small() -> &'static str {
    static PAGE: OnceLock<String> = OnceLock::new();
    PAGE.get_or_init(small_again)
}

/// The same, made once more.
pub fn small_again() -> String {
    let (outcome, data) = real();
    let command = "onnx-unlearn forget fixtures/cnn.onnx --inputs fixtures/cnn.codes.npz --class 7 -o forgotten.onnx \
                   --report forgotten.html";
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    let file = |role, name: &str, byte: &str| File { role, name: name.to_owned(), sha256: byte.repeat(32) };
    let files = [file("before", "cnn.onnx", "ab"), file("after", "forgotten.onnx", "cd")];
    let run = Run {
        command: &command,
        model: "cnn.onnx",
        engine: "cpu (embedded): asked for by name",
        classes: &[7],
        data,
        inputs: "fixtures/cnn.codes.npz",
        made: false,
        seed: 0,
        outcome,
        files: &files,
        notes: &[],
    };
    page(&run).unwrap().render().unwrap()
}

/// Answers of a model that answers every sample with its own class but for some.
fn answers(truth: &[usize], classes: usize, is_wrong: impl Fn(usize) -> bool) -> Answers {
    let mut logits = vec![0.0; truth.len() * classes];
    for (i, y) in truth.iter().enumerate() {
        let answer = if is_wrong(*y) { (y + 1) % classes } else { *y };
        logits[i * classes + answer] = 9.0;
    }
    Answers { classes, logits, old_head: None }
}

fn candidate(strength: Strength, retained: f64, forget: f64) -> Candidate {
    Candidate {
        strength: strength.to_string(),
        forget_answered: forget.round(),
        retained_answered: retained.round(),
        forget_probability: forget,
        old_head_probability: None,
        retained_probability: retained,
        retained_loss: 0.1,
        finite: retained > 0.0,
        calibration: None,
    }
}

fn outcome(truth: &[usize], classes: usize, lost: &[usize], names: &[String]) -> Outcome {
    let strength = Strength::Dampen { alpha: 10.0, lambda: 1.0 };
    let ratio = |sign| Strength::Ratio { lambda1: 1e30, lambda2: 0.5, sign };
    let n = names.len() as f64;
    let change = |(i, name): (usize, &String)| Change {
        name: name.clone(),
        elements: 1000,
        changed: if i == 0 { 0 } else { 10 },
        share: 2.0 * i as f64 / (n * (n - 1.0)),
        relative: 0.01,
    };
    Outcome {
        strength,
        tried: vec![
            candidate(strength, 0.98, 0.02),
            candidate(ratio(1.0), 0.5, 0.3),
            candidate(ratio(-1.0), 0.0, 0.0),
            candidate(Strength::Noise { sigma: 0.1, seed: 0 }, 0.7, 0.6),
        ],
        before: answers(truth, classes, |_| false),
        after: answers(truth, classes, |y| lost.contains(&y) || y % 97 == 3),
        changes: names.iter().enumerate().map(change).collect(),
        beside: None,
        calibration: None,
        steps: vec![],
        grouping: None,
        value: 0.9,
        new: vec![],
        estimated: vec![],
        passes: Passes::default(),
        aim: Aim::new(&Request::new(lost.to_vec(), Method::Fixed(strength)), &labelled(&[1], truth), classes).unwrap(),
        one_by_one: None,
        head: names.last().cloned().into_iter().collect(),
        doubts: vec![],
    }
}

/// Samples of this shape, one for each class.
pub fn labelled(shape: &[usize], truth: &[usize]) -> Labelled {
    let whole: Vec<usize> = std::iter::once(truth.len()).chain(shape.iter().copied()).collect();
    let n: usize = whole.iter().product();
    let x: Vec<f32> = (0..n).map(|i| (i % 251) as f32).collect();
    Labelled::new(Array::from_vec(&whole, x).unwrap(), truth.to_vec()).unwrap()
}

fn told(outcome: &Outcome, data: &Labelled, classes: &[usize], words: &str) -> String {
    let command: Vec<String> = vec!["onnx-unlearn".to_owned(), "forget".to_owned(), words.to_owned()];
    let file = File { role: "before", name: words.to_owned(), sha256: "00".repeat(32) };
    let run = Run {
        command: &command,
        model: words,
        engine: words,
        classes,
        data,
        inputs: words,
        made: true,
        seed: 1,
        outcome,
        files: &[file],
        notes: &[words.to_owned()],
    };
    page(&run).unwrap().render().unwrap()
}

/// A page of codes that the old head still answers, all of them, and so many of eight inputs that were made beside them.
pub fn beside(hidden: usize) -> String {
    let truth: Vec<usize> = (0..3).collect();
    let mut outcome = outcome(&truth, 3, &[1], &["fc.weight".to_owned()]);
    outcome.after.old_head = Some(outcome.before.logits.clone());
    outcome.beside = Some(Still { samples: 8, before: 8, after: 0, old_head: Some(hidden) });
    told(&outcome, &labelled(&[4], &truth), &[1], "m.onnx")
}

/// A name that wants to be more.
pub const WORDS: &str =
    "<script>alert(1)</script><img src=x onerror=alert(2)>x\" onload=\"alert(3)\" ' \u{202e}gnp.exe {{ 7 }} </style>";

/// A page of names that want to be more; its inputs are images of three channels.
pub fn hostile() -> String {
    let words = WORDS;
    let names = [words.to_owned(), format!("{words}.weight"), "w".repeat(1 << 20), "层.权重".to_owned()];
    let truth: Vec<usize> = (0..3).collect();
    let mut outcome = outcome(&truth, 3, &[1], &names);
    outcome.doubts = vec![words.to_owned()];
    outcome.after.old_head = Some(outcome.before.logits.clone());
    told(&outcome, &labelled(&[3, 24, 24], &truth), &[1], words)
}

/// A page of a model of so many classes and weights, most of which changed; its inputs are rows of numbers.
pub fn large(classes: usize, weights: usize) -> String {
    let truth: Vec<usize> = (0..2 * classes).map(|i| i % classes).collect();
    let names: Vec<String> =
        (0..weights).map(|i| format!("features.block{}.layer{i}.convolution.weight", i / 7)).collect();
    let lost = [classes / 2, classes / 3];
    told(&outcome(&truth, classes, &lost, &names), &labelled(&[300], &truth), &lost, "large.onnx")
}
