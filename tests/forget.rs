//! Forgetting end to end, through the library and through the binary: what is written, and what is left alone.

mod common;

use common::{arg, classifier, codes, engines, fixture, json, tool};
use onnx_protobuf::{Message, ModelProto};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights};
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::fisher::{class_weights, estimate};
use onnx_unlearn::forget::{Method, Outcome, Request, Rule, Strength, forget};
use onnx_unlearn::inputs::Labelled;
use onnx_unlearn::onnx::Model;
use onnx_unlearn::report::format;
use onnx_unlearn::tensor::Array;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Strengths that make `mlp.onnx` forget a class.
const ALPHA: f64 = 6.0;
const LAMBDA: f64 = 1.0;
const DAMPEN: Strength = Strength::Dampen { alpha: ALPHA, lambda: LAMBDA };

/// `forget` on a model with its codes, on the embedded engine, writing to `out`.
fn command<'a>(model: &'a Path, codes: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["forget", arg(model), "--inputs", arg(codes), "-o", arg(out), "--engine", "cpu"];
    all.extend(more);
    all
}

/// The flags of [`DAMPEN`], for class 0.
const FLAGS: [&str; 8] = ["--class", "0", "--rule", "dampen", "--alpha", "6", "--lambda", "1"];

fn mlp() -> (PathBuf, PathBuf) {
    (fixture("mlp.onnx"), fixture("mlp.codes.npz"))
}

/// Runs `forget` on the MLP with its codes; the bytes that it wrote.
fn forgotten(more: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (model, codes) = mlp();
    let out = dir.path().join("out.onnx");
    json(&command(&model, &codes, &out, more));
    let all: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(all, ["out.onnx"], "nothing else is left behind");
    std::fs::read(&out).unwrap()
}

/// A model as the second reader sees it, the bytes of its initializers apart.
fn second_reader(file: &[u8]) -> (ModelProto, Vec<Vec<u8>>) {
    let mut model = ModelProto::parse_from_bytes(file).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let weights = graph.initializer.iter_mut().map(|t| std::mem::take(&mut t.raw_data)).collect();
    (model, weights)
}

/// Where these pieces of the file lie, found by their content, one after the other.
fn spans(file: &[u8], pieces: &[Vec<u8>]) -> Vec<Range<usize>> {
    let mut from = 0;
    let mut all = Vec::new();
    for p in pieces {
        let at = from + file[from..].windows(p.len()).position(|w| w == p).unwrap();
        from = at + p.len();
        all.push(at..from);
    }
    all
}

/// Checks with the second reader that only elements of weights differ; returns how many do.
fn only_weights_differ(before: &[u8], after: &[u8]) -> usize {
    let (old, old_weights) = second_reader(before);
    let (new, new_weights) = second_reader(after);
    assert_eq!(old, new, "every field but the weights' bytes");
    let lengths = |w: &[Vec<u8>]| w.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(&old_weights), lengths(&new_weights));
    let blank = |file: &[u8], spans: &[Range<usize>]| {
        let mut file = file.to_vec();
        spans.iter().for_each(|s| file[s.clone()].fill(0));
        file
    };
    let spans = spans(before, &old_weights);
    assert!(blank(before, &spans) == blank(after, &spans), "bytes outside of weights differ");
    let pairs = old_weights.iter().flatten().zip(new_weights.iter().flatten()).collect::<Vec<_>>();
    pairs.chunks(4).filter(|e| e.iter().any(|(a, b)| a != b)).count()
}

fn request(classes: &[usize], method: Method) -> Request {
    Request::new(classes.to_vec(), method)
}

fn run(c: &Classifier, engine: &dyn Engine, data: &Labelled, classes: &[usize], strength: Strength) -> Outcome {
    forget(c, engine, data, &request(classes, Method::Fixed(strength)), &mut |_| ()).unwrap()
}

#[test]
fn only_bytes_of_weights_change() {
    let before = std::fs::read(fixture("mlp.onnx")).unwrap();
    let after = forgotten(&FLAGS);
    assert!(only_weights_differ(&before, &after) > 1000);
    // our own reader says the same, and the graph still answers
    let (old, new) = (Model::from_bytes("old", before).unwrap(), Model::from_bytes("new", after).unwrap());
    assert_eq!(old.weights().len(), new.weights().len());
    for (a, b) in old.weights().iter().zip(new.weights()) {
        assert_eq!((a.name(), a.shape(), a.runs()), (b.name(), b.shape(), b.runs()));
        assert!(new.read(b).unwrap().is_finite());
    }
    let new = Classifier::from_model(new, ClassifierOptions::default()).unwrap();
    assert_eq!(new.classes(), 10);
}

#[test]
fn other_models_change_in_their_weights_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (name, of) in [("cnn", "cnn"), ("resnet", "resnet"), ("resnet_bn", "resnet")] {
        let (model, codes) = (fixture(&format!("{name}.onnx")), fixture(&format!("{of}.codes.npz")));
        let out = dir.path().join(format!("{name}.onnx"));
        let report = json(&command(&model, &codes, &out, &FLAGS));
        let changed = only_weights_differ(&std::fs::read(&model).unwrap(), &std::fs::read(&out).unwrap());
        assert_eq!(report["elements_changed"], changed, "{name}");
        assert!(changed > 0, "{name}");
        Classifier::open(&out, ClassifierOptions::default()).unwrap();
    }
}

#[test]
fn runs_with_one_seed_write_the_same_bytes() {
    for more in [&FLAGS[..], &["--class", "0", "--rule", "dampen"], &["--class", "0"]] {
        let more = [more, &["--seed", "7"]].concat();
        assert!(forgotten(&more) == forgotten(&more), "{more:?}");
    }
}

#[test]
fn several_classes_at_once() {
    let comma = forgotten(&[&["--class", "1,0"], &FLAGS[2..]].concat());
    let twice = forgotten(&[&["--class", "0", "--class", "1"], &FLAGS[2..]].concat());
    let repeated = forgotten(&[&["--class", "0,1,0"], &FLAGS[2..]].concat());
    assert!(comma == twice && comma == repeated);
    assert!(comma != forgotten(&FLAGS));
    // neither code is answered with either class any more
    let c = Classifier::from_model(Model::from_bytes("new", comma).unwrap(), ClassifierOptions::default()).unwrap();
    let data = codes("mlp", &c);
    let logits =
        common::run(&Cpu, &c.bind(10).unwrap().graph, std::slice::from_ref(&data.x)).unwrap().remove(0).to_f64();
    let answers = onnx_unlearn::forget::answers::Answers::classes_of(&logits, 10);
    assert!(answers[..2].iter().all(|a| *a > 1), "{answers:?}");
    assert_eq!(answers[2..], [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn in_place_is_the_same_change_in_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m.onnx");
    std::fs::copy(fixture("mlp.onnx"), &model).unwrap();
    let codes = fixture("mlp.codes.npz");
    let mut args = vec!["forget", arg(&model), "--inputs", arg(&codes), "--in-place", "--engine", "cpu"];
    args.extend(FLAGS);
    let report = json(&args);
    assert_eq!(report["file"], arg(&model));
    assert!(std::fs::read(&model).unwrap() == forgotten(&FLAGS));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Under whichever name.
#[test]
fn the_input_is_no_output_unless_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m.onnx");
    std::fs::copy(fixture("mlp.onnx"), &model).unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let mut names = vec![model.clone(), dir.path().join("sub/../m.onnx")];
    #[cfg(unix)]
    {
        let link = dir.path().join("link.onnx");
        std::os::unix::fs::symlink(&model, &link).unwrap();
        names.push(link);
        let hard = dir.path().join("hard.onnx");
        std::fs::hard_link(&model, &hard).unwrap();
        names.push(hard);
    }
    let entries = || std::fs::read_dir(dir.path()).unwrap().count();
    let there = entries();
    let codes = fixture("mlp.codes.npz");
    for name in names {
        let out = tool(command(&model, &codes, &name, &FLAGS)).output().unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{}: {stderr}", name.display());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(out.stdout.is_empty());
    }
    assert!(std::fs::read(&model).unwrap() == std::fs::read(fixture("mlp.onnx")).unwrap());
    assert_eq!(entries(), there, "nothing was written");
    // both at once is wrong usage
    let both = command(&model, &codes, &model, &[&FLAGS[..], &["--in-place"]].concat()).join(" ");
    tool(both.split(' ')).assert().code(2);
}

/// The report in words and the one in JSON, of the same run but for the time it took.
#[test]
fn json_carries_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (model, codes) = mlp();
    let out = dir.path().join("out.onnx");
    let args = command(&model, &codes, &out, &FLAGS);
    let report = json(&args);
    let text = tool(&args).output().unwrap();
    assert!(text.status.success());
    let text = String::from_utf8(text.stdout).unwrap();
    // numbers of tables stand apart from each other by spaces of any number
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |what: String| {
        let what: Vec<&str> = what.split_whitespace().collect();
        assert!(words.windows(what.len()).any(|w| w == what), "{what:?} is not in\n{text}");
    };
    let number = |v: &Value| usize::try_from(v.as_u64().unwrap()).unwrap();
    let changed = number(&report["elements_changed"]);
    let (weights, file) = (number(&report["weights_changed"]), arg(&out));
    has(format!("wrote {file}: {} elements of {weights} weights changed,", format::count(changed)));
    let engine = |what: &str| report["engine"][what].as_str().unwrap();
    has(format!("engine: {} ({}): {}", engine("name"), engine("adapter"), engine("why")));
    assert_eq!(report["classes"], serde_json::json!([0]));
    has("forget: class 0".to_owned());
    assert_eq!(report["rule"], "dampen");
    assert_eq!(report["strength"], serde_json::json!([["alpha", ALPHA], ["lambda", LAMBDA]]));
    has(format!(
        "dampen with alpha {}, lambda {} ({} tried, seed {})",
        format::significant(ALPHA, 4),
        format::significant(LAMBDA, 4),
        report["candidates"],
        report["seed"]
    ));
    let i = &report["inputs"];
    let row = |name: &str, before: &str, after: &str, all: &str| {
        has(format!("{name} {} of {all} {} of {all}", i[before], i[after], all = i[all]));
    };
    row("answered rightly", "retained_right_before", "retained_right_after", "retained_samples");
    row("still answered", "forgotten_answered_before", "forgotten_answered_after", "forgotten_samples");
    row("old head", "forgotten_answered_before", "old_head_answered_after", "forgotten_samples");
    assert_eq!((&i["retained_samples"], &i["forgotten_samples"]), (&9.into(), &1.into()));
    assert_eq!((&i["forgotten_answered_before"], &i["forgotten_answered_after"]), (&1.into(), &0.into()));
    has(format!("{} % of the change", format::percent(report["head_share"].as_f64().unwrap())));
    let changes = report["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 4);
    for c in changes.iter().filter(|c| number(&c["changed"]) > 0) {
        has(format!(
            "{} {} {} {}",
            c["name"].as_str().unwrap(),
            format::count(number(&c["elements"])),
            format::count(number(&c["changed"])),
            format::percent(c["share"].as_f64().unwrap())
        ));
    }
    let total: f64 = changes.iter().map(|c| c["share"].as_f64().unwrap()).sum();
    assert!((total - 1.0).abs() < 1e-9, "the shares add up to {total}");
    assert_eq!(changes.iter().map(|c| number(&c["changed"])).sum::<usize>(), changed);
    let differing = only_weights_differ(&std::fs::read(&model).unwrap(), &std::fs::read(&out).unwrap());
    assert_eq!(differing, changed);
    assert_eq!(number(&report["candidates"]), report["tried"].as_array().unwrap().len());
}

#[test]
fn the_list_at_the_end_says_what_was_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (model, codes) = mlp();
    let out = dir.path().join("out.onnx");
    let passed = |engine: &str, more: &[&str]| -> Vec<Option<bool>> {
        // both files are positional here
        let mut args = vec!["forget", arg(&model), arg(&out), "--inputs", arg(&codes), "--engine", engine];
        args.extend(more);
        let report = json(&args);
        report["checks"].as_array().unwrap().iter().map(|c| c["passed"].as_bool()).collect()
    };
    // bytes, ONNX Runtime, forgotten, retained, doubts; codes alone are not enough to be sure of a strength that is given
    assert_eq!(passed("cpu", &FLAGS), [Some(true), None, Some(true), Some(true), Some(false)]);
    assert_eq!(passed("cpu", &["--class", "0"]), [Some(true), None, Some(true), Some(true), Some(true)]);
    let weak = ["--class", "0", "--rule", "dampen", "--alpha", "1e30", "--lambda", "1"];
    assert_eq!(passed("cpu", &weak), [Some(true), None, Some(false), Some(true), Some(false)]);
    let strong = ["--class", "0", "--rule", "dampen", "--alpha", "0", "--lambda", "0"];
    assert_eq!(passed("cpu", &strong)[3], Some(false));
    if common::ort().is_some() {
        assert_eq!(passed("ort", &["--class", "0"]), [Some(true); 5]);
    }
}

#[test]
fn strengths_are_searched_when_none_is_given() {
    for more in [&["--class", "0", "--rule", "dampen"][..], &["--class", "0", "--rule", "ratio"], &["--class", "0"]] {
        let dir = tempfile::tempdir().unwrap();
        let (model, codes) = mlp();
        let out = dir.path().join("out.onnx");
        let report = json(&command(&model, &codes, &out, more));
        let tried = report["tried"].as_array().unwrap();
        assert!(tried.len() > 1, "{more:?}");
        assert_eq!(report["inputs"]["forgotten_answered_after"], 0, "{more:?}");
        if let Some(rule) = more.get(3) {
            assert_eq!(report["rule"], *rule);
        }
        only_weights_differ(&std::fs::read(&model).unwrap(), &std::fs::read(&out).unwrap());
    }
}

/// Both signs are tried, and the better one taken.
#[test]
fn the_ratio_rule_with_strengths() {
    let dir = tempfile::tempdir().unwrap();
    let (model, codes) = mlp();
    let out = dir.path().join("out.onnx");
    let flags = ["--class", "0", "--rule", "ratio", "--lambda1", "0.001", "--lambda2", "10"];
    let report = json(&command(&model, &codes, &out, &flags));
    let tried = report["tried"].as_array().unwrap();
    assert_eq!(tried.len(), 2);
    let value = |c: &Value| c["retained_answered"].as_f64().unwrap() - c["forget_answered"].as_f64().unwrap();
    let best = if value(&tried[1]) > value(&tried[0]) { -1.0 } else { 1.0 };
    assert_eq!(report["strength"], serde_json::json!([["lambda1", 0.001], ["lambda2", 10.0], ["sign", best]]));
    only_weights_differ(&std::fs::read(&model).unwrap(), &std::fs::read(&out).unwrap());
}

/// The figures on all test images and for every class are measured elsewhere; this is the path to them.
#[test]
fn a_forgotten_class_is_no_longer_answered_on_test_images() {
    let dir = tempfile::tempdir().unwrap();
    let (model, codes) = mlp();
    let out = dir.path().join("out.onnx");
    json(&command(&model, &codes, &out, &FLAGS));
    let images = fixture("fmnist_test_1000.npz");
    let evaluate =
        |model: &Path| json(&["evaluate", arg(model), "--data", arg(&images), "--forgotten", "0", "--engine", "cpu"]);
    let (before, after) = (evaluate(&model), evaluate(&out));
    let of = |r: &Value, what: &str| r[what].as_f64().unwrap();
    assert!(of(&before, "A_F") > 0.7, "{before}");
    assert!(of(&after, "E_F") >= 0.9, "{after}");
    assert!(of(&after, "A_R") >= of(&before, "A_R") - 0.03, "A_R {} then {}", before["A_R"], after["A_R"]);
    assert!((of(&after, "A_F") + of(&after, "E_F") - 1.0).abs() < 1e-12);
    assert_eq!(after["samples"], 1000);
}

/// `[f_F, f_R]` of every weight of the MLP on the embedded engine.
fn fishers(c: &Classifier, data: &Labelled) -> BTreeMap<String, [Vec<f64>; 2]> {
    let weights = Weights::upload(&Cpu, &c.bind(1).unwrap()).unwrap();
    let rest: Vec<usize> = (1..10).collect();
    let sets = [class_weights(data, &[0]).unwrap(), class_weights(data, &rest).unwrap()];
    let found = estimate(c, &Cpu, &weights, data, &sets, &mut |_| ()).unwrap().to_arrays().unwrap();
    let halves = |a: Array| {
        let v = a.to_f64();
        let (f, r) = v.split_at(v.len() / 2);
        [f.to_vec(), r.to_vec()]
    };
    found.into_iter().map(|(name, a)| (name, halves(a))).collect()
}

/// Every engine writes what the rule says, worked out here from the Fisher of the embedded engine. Of weights
/// whose Fisher lies within 1 % of the rule's threshold, rounding decides whether they are dampened.
#[test]
fn every_engine_writes_what_the_rule_says() {
    let c = classifier("mlp");
    let data = codes("mlp", &c);
    let fishers = fishers(&c, &data);
    for engine in engines() {
        let outcome = run(&c, &*engine, &data, &[0], DAMPEN);
        let new: BTreeMap<String, Array> = outcome.new.into_iter().collect();
        let mut dampened = 0;
        for w in c.model().weights() {
            let old = c.model().read(w).unwrap().to_f64();
            let got = new.get(w.name()).map_or_else(|| old.clone(), Array::to_f64);
            let [f_f, f_r] = &fishers[w.name()];
            for i in 0..old.len() {
                let far = (f_f[i] / (ALPHA * f_r[i]) - 1.0).abs() > 0.01;
                let above = f_f[i] > ALPHA * f_r[i];
                let want = if above { old[i] * (LAMBDA * f_r[i] / f_f[i]).min(1.0) } else { old[i] };
                dampened += usize::from(above);
                let off = (got[i] - want).abs();
                let name = engine.name();
                assert!(
                    !far || off <= 1e-3 * want.abs(),
                    "{name} {}[{i}]: {} instead of {want}, {} before, f_F {:e}, f_R {:e}",
                    w.name(),
                    got[i],
                    old[i],
                    f_f[i],
                    f_r[i]
                );
            }
        }
        assert!(dampened > 1000);
        assert_eq!(outcome.strength, DAMPEN);
        assert_eq!(outcome.one_by_one, None);
    }
}

#[test]
fn engines_agree_on_the_ratio_rule() {
    let c = classifier("mlp");
    let data = codes("mlp", &c);
    let strength = Strength::Ratio { lambda1: 1e-3, lambda2: 10.0, sign: 1.0 };
    let want = run(&c, &Cpu, &data, &[0], strength);
    for engine in engines().split_off(1) {
        let got = run(&c, &*engine, &data, &[0], strength);
        assert_eq!(got.strength, want.strength);
        for ((name, a), (_, b)) in got.new.iter().zip(&want.new) {
            let old = c.model().read(&c.model().weights()[c.model().weight_index(name).unwrap()]).unwrap().to_f64();
            let steps = |a: &Array| -> Vec<f64> { a.to_f64().iter().zip(&old).map(|(n, o)| n - o).collect() };
            let (a, b) = (steps(a), steps(b));
            let top = b.iter().fold(0.0f64, |m, s| m.max(s.abs()));
            let off = a.iter().zip(&b).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(off <= 1e-3 * top, "{} {name}: off by {off:e}, the greatest step is {top:e}", engine.name());
        }
    }
}

#[test]
fn the_library_tells_what_it_did() {
    let c = classifier("mlp");
    let data = codes("mlp", &c);
    let o = run(&c, &Cpu, &data, &[0], DAMPEN);
    let answers = |logits: &[f64]| onnx_unlearn::forget::answers::Answers::classes_of(logits, 10);
    assert_eq!(answers(&o.before.logits), (0..10).collect::<Vec<_>>());
    assert_ne!(answers(&o.after.logits)[0], 0);
    assert_eq!(answers(&o.after.logits)[1..], (1..10).collect::<Vec<_>>()[..]);
    assert_eq!(o.head, ["fc2.weight", "fc2.bias"]);
    assert!(o.after.old_head.is_some());
    assert_eq!(
        o.changes.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    );
    let error = |classes: &[usize], data: &Labelled| {
        let r = forget(&c, &Cpu, data, &request(classes, Method::Search(vec![Rule::Dampen])), &mut |_| ());
        r.err().expect("this has to fail").to_string()
    };
    assert!(error(&[10], &data).contains("out of range"));
    assert!(error(&[], &data).contains("no class"));
    assert!(error(&(0..10).collect::<Vec<_>>(), &data).contains("at least one has to be retained"));
    assert!(error(&[3], &data.select(&[0, 1, 2]).unwrap()).contains("no labelled input belongs to class 3"));
}
