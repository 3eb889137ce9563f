//! Forgetting several classes stage by stage, codes that several classes share, and real samples that a search listens to.

mod common;

use common::{arg, classifier, codes, fixture, tool};
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::forget::answers::Answers;
use onnx_unlearn::forget::{Depth, Method, Outcome, Request, Rule, Strategy, forget};
use onnx_unlearn::inputs::{self, Labelled, npz};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// The first real images, of all classes.
fn real(n: usize) -> Labelled {
    let all =
        inputs::load(&fixture("fmnist_test_1000.npz"), &classifier("mlp").expected(), &inputs::Options::default());
    all.unwrap().batch(0..n).unwrap()
}

fn searched(model: &str, request: Request) -> Outcome {
    let c = classifier(model);
    forget(&c, &Cpu, &codes(model, &c), &request, &mut |_| ()).unwrap()
}

fn request(classes: &[usize]) -> Request {
    Request::new(classes.to_vec(), Method::Search(vec![Rule::Ascent, Rule::Dampen, Rule::Ratio]))
}

fn run(dir: &Path, args: &[&str]) -> (Option<i32>, Value, String) {
    let out = tool(args.iter().chain(&["--json", "-q"])).current_dir(dir).output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    (out.status.code(), serde_json::from_slice(&out.stdout).unwrap_or_default(), stderr)
}

#[test]
fn every_strategy_forgets_and_tells_its_stages() {
    let expected = |strategy| match strategy {
        Strategy::Joint => vec![(vec![0, 6, 8], false)],
        _ => vec![(vec![0], false), (vec![6], false), (vec![8], false)],
    };
    let mut strengths = Vec::new();
    for strategy in [Strategy::Joint, Strategy::OneByOne, Strategy::Auto] {
        let o = searched("mlp", Request { strategy, ..request(&[0, 6, 8]) });
        let answers = Answers::classes_of(&o.after.logits, 10);
        assert!([0, 6, 8].iter().all(|&c| ![0, 6, 8].contains(&answers[c])), "{strategy:?}: {answers:?}");
        assert_eq!((0..10).filter(|&c| answers[c] == c).count(), 7, "{strategy:?}");
        let g = o.grouping.unwrap();
        assert_eq!(g.asked, strategy);
        let told: Vec<_> = g.steps.iter().map(|s| (s.classes.clone(), s.shared)).collect();
        if strategy == Strategy::Auto {
            // the inputs leave no doubt, so that nothing else is tried
            assert_eq!((g.taken, g.tried, o.doubts.len()), (Strategy::Joint, vec![(Strategy::Joint, 0)], 0));
            assert_eq!(g.steps, strengths[0]);
        } else {
            assert_eq!((g.taken, told), (strategy, expected(strategy)));
            strengths.push(g.steps);
        }
    }
    let [_, apart] = &strengths[..] else { panic!() };
    assert!(apart.iter().any(|s| s.strength != apart[0].strength), "each class has its own strength: {apart:?}");
    // one class alone has no strategy
    assert!(searched("mlp", request(&[3])).grouping.is_none());
}

/// What the model shows no difference of is similar: classes 0 and 1 share their samples, which class 5 has no part in.
#[test]
fn similar_classes_are_found_and_share_a_stage() {
    let c = classifier("mlp");
    let data = real(300);
    let of = |class: usize| data.y.iter().position(|&y| y == class).unwrap();
    let shared: Vec<usize> = (0..300).filter(|&i| data.y[i] == 0).take(2).collect();
    let mut y: Vec<usize> = (2..10).collect();
    let mut rows: Vec<usize> = (2..10).map(of).collect();
    for class in [0, 1] {
        rows.extend(&shared);
        y.extend([class; 2]);
    }
    let mut data = data.select(&rows).unwrap();
    data.y = y;
    let request = Request { strategy: Strategy::Hierarchical, depth: Depth::Body, ..request(&[0, 1, 5]) };
    let o = forget(&c, &Cpu, &data, &request, &mut |_| ()).unwrap();
    let g = o.grouping.unwrap();
    assert_eq!(g.similar, [vec![0, 1], vec![5]], "{:?} {:?}", g.overlaps, g.retained);
    let told: Vec<_> = g.steps.iter().map(|s| (s.classes.clone(), s.shared)).collect();
    let own = [(vec![0], false), (vec![1], false), (vec![5], false)];
    assert_eq!(told, [&[(vec![0, 1], true)], &own[..]].concat());
    // what is shared lies in the body
    let shared = &g.steps[0].strength;
    assert!(shared.contains(&("head_steps", 0.0)) && shared[0].1 > 0.0, "{shared:?}");
    assert_eq!(g.overlaps.len(), 3);
    assert!(g.overlaps[0].2 > g.overlaps[1].2 && g.retained.len() == 3);
}

#[test]
fn strategies_on_the_command_line() {
    let dir = TempDir::new().unwrap();
    let (model, codes) = (fixture("mlp.onnx"), fixture("mlp.codes.npz"));
    let words = ["forget", arg(&model), "--inputs", arg(&codes), "--class", "2,8", "--engine", "cpu"];
    let apart = ["--strategy", "one-by-one", "-o", "a.onnx", "--record", "a.json", "--report", "a.html"];
    let (code, report, said) = run(dir.path(), &[&words[..], &apart].concat());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(report["inputs"]["forgotten_answered_after"], 0);
    assert_eq!(report["grouping"]["steps"].as_array().unwrap().len(), 2);
    let record: Value = serde_json::from_slice(&std::fs::read(dir.path().join("a.json")).unwrap()).unwrap();
    let definition = &record["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["strategy"], "one-by-one");
    let stages = &definition["internalParameters"]["stages"];
    assert_eq!((&stages["strategy"], &stages["stages"][1]["classes"]), (&"one-by-one".into(), &serde_json::json!([8])));
    let (code, _, said) = run(dir.path(), &["verify", "a.onnx", "--record", "a.json", "--original", arg(&model)]);
    assert_eq!(code, Some(0), "{said}");
    let text =
        tool(words.iter().chain(&["--strategy", "one-by-one", "-q", "-o", "b.onnx"])).current_dir(dir.path()).output();
    let text = String::from_utf8(text.unwrap().stdout).unwrap();
    assert!(text.contains("strategy: one-by-one") && text.contains("  class 8: ascent with body_steps"), "{text}");
    let [one, other] = ["a.onnx", "b.onnx"].map(|n| std::fs::read(dir.path().join(n)).unwrap());
    assert!(one == other, "two runs differ");
    // given strengths are taken in every stage
    let given = ["--rule", "dampen", "--alpha", "8", "--lambda", "1", "-o", "c.onnx"];
    let (_, report, _) = run(dir.path(), &[&words[..], &given, &["--strategy", "one-by-one"]].concat());
    let steps = report["grouping"]["steps"].as_array().unwrap().clone();
    assert!(steps.len() == 2 && steps.iter().all(|s| s["strength"][0][1] == 8.0), "{steps:?}");
}

#[test]
fn a_code_that_classes_share_is_forgotten_for_all_of_them() {
    let dir = TempDir::new().unwrap();
    let (model, given, data) = (fixture("mlp.onnx"), dir.path().join("new.npz"), fixture("fmnist_test_1000.npz"));
    run(dir.path(), &["codes", "new", arg(&model), "-o", "new.npz", "--seed", "5"]);
    let (code, report, said) =
        run(dir.path(), &["codes", "compose", arg(&given), "--group", "5,7,9", "--group", "0,6", "-o", "c.npz"]);
    assert_eq!((code, &report["groups"]), (Some(0), &serde_json::json!([[5, 7, 9], [0, 6]])), "{said}");
    let x = npz::read(&dir.path().join("c.npz"), "x").unwrap().to_f64();
    let code_of = |c: usize| &x[c * 784..(c + 1) * 784];
    assert!(
        code_of(5) == code_of(7) && code_of(5) == code_of(9) && code_of(0) == code_of(6) && code_of(0) != code_of(5)
    );
    let update = ["codes", "update", "c.npz", arg(&model), "-o", "u.npz", "--engine", "cpu"];
    let (code, _, said) = run(dir.path(), &update);
    assert!(code == Some(2) && said.contains("classes share codes"), "{said}");
    assert!(!dir.path().join("u.npz").exists());
    // learned as any other, and known when its classes together are sure
    let words =
        ["codes", "embed", arg(&model), "--data", arg(&data), "--codes", "c.npz", "-o", "m.onnx", "--engine", "cpu"];
    let how =
        ["--steps", "120", "--batch", "40", "--rate", "0.1", "--t-mix", "0.3", "--look-every", "20", "--until", "0.8"];
    let (code, report, said) = run(dir.path(), &[&words[..], &how].concat());
    assert_eq!(code, Some(0), "{said} {report}");
    let looks = report["looks"].as_array().unwrap();
    assert!(
        looks[0]["codes_answered"].as_u64().unwrap() < 10 && looks.last().unwrap()["codes_answered"] == 10,
        "{report}"
    );
    let words = ["forget", "m.onnx", "--inputs", "c.npz", "--engine", "cpu", "-o", "f.onnx", "--class"];
    let (code, _, said) = run(dir.path(), &[&words[..], &["0,5"]].concat());
    assert!(code == Some(2) && said.contains("share one code"), "{said}");
    assert!(!dir.path().join("f.onnx").exists());
    let (code, report, said) = run(dir.path(), &[&words[..], &["0,6", "--strategy", "joint"]].concat());
    assert_eq!((code, &report["inputs"]["forgotten_answered_after"]), (Some(0), &0.into()), "{said}");
    let (_, seen, _) =
        run(dir.path(), &["evaluate", "f.onnx", "--data", arg(&data), "--forgotten", "0,6", "--engine", "cpu"]);
    assert!(seen["A_F"].as_f64().unwrap() < 0.02 && seen["A_R"].as_f64().unwrap() > 0.8, "{seen}");
    for (more, word) in [
        (&["--group", "1"][..], "two classes"),
        (&["--group", "1,2", "--group", "2,3"], "named twice"),
        (&["--group", "1,x"], "class ids with commas"),
        (&["--group", "1,10"], "no code of class 10"),
    ] {
        let (code, _, said) = run(dir.path(), &[&["codes", "compose", arg(&given), "-o", "n.npz"], more].concat());
        assert!(code == Some(2) && said.contains(word) && !dir.path().join("n.npz").exists(), "{more:?}: {said}");
    }
}

/// Codes say that deep forgetting costs the other classes nothing, and images say that it does: with images the search
/// stops sooner, and the others keep more.
#[test]
fn real_samples_change_what_codes_would_choose() {
    let data = real(1000);
    let (own, held) = (data.batch(0..200).unwrap(), data.batch(200..1000).unwrap());
    let deep =
        |calibration: Option<Labelled>| searched("mlp", Request { depth: Depth::Body, calibration, ..request(&[8]) });
    let (without, with) = (deep(None), deep(Some(own.clone())));
    let body = |o: &Outcome| o.steps[0].strength.iter().find(|(n, _)| *n == "body_steps").map(|(_, v)| *v);
    assert!(body(&with) < body(&without), "{:?} and {:?}", with.steps, without.steps);
    let [before, after] = with.calibration.clone().unwrap();
    assert_eq!(before.retained_samples + before.forgotten_samples, 200);
    assert!(after.retained_right + 6 >= before.retained_right && after.forgotten_answered == 0, "{before:?} {after:?}");
    assert_eq!(with.before.logits.len(), 100, "answers are those to the inputs");
    // on images that no search saw
    let right = |o: &Outcome| {
        let c = classifier("mlp");
        let mut weights = onnx_unlearn::classifier::Weights::upload(&Cpu, &c.bind(1).unwrap()).unwrap();
        for (name, a) in &o.new {
            let i = weights.names.iter().position(|n| n == name).unwrap();
            weights.tensors[i] = a.clone().into();
        }
        let mut answerer = onnx_unlearn::forget::answers::Answerer::new(&c, &Cpu, 100, false).unwrap();
        let z = answerer.answer(&weights, &weights, &held, &mut |_| ()).unwrap().logits;
        Answers::classes_of(&z, 10).iter().zip(&held.y).filter(|(a, y)| *y != &8 && a == y).count()
    };
    assert!(right(&with) > right(&without), "{} and {}", right(&with), right(&without));
    // the Fisher is of the codes alone, unless it is asked for
    assert_eq!(with.passes.fisher, 10);
    let both = searched("mlp", Request { calibration: Some(own), calibration_in_fisher: true, ..request(&[8]) });
    assert_eq!(both.passes.fisher, 210);
}

#[test]
fn calibration_on_the_command_line() {
    let dir = TempDir::new().unwrap();
    let (model, codes, data) = (fixture("mlp.onnx"), fixture("mlp.codes.npz"), fixture("fmnist_test_1000.npz"));
    let words = ["forget", arg(&model), "--inputs", arg(&codes), "--class", "7", "--engine", "cpu", "-o", "f.onnx"];
    let real = ["--calibration", arg(&data), "--limit", "30", "--record", "f.json", "--report", "f.html"];
    let (code, report, said) = run(dir.path(), &[&words[..], &real].concat());
    assert_eq!(code, Some(0), "{said}");
    let [before, after] = [0, 1].map(|i| &report["inputs"]["calibration"][i]);
    let samples = |side: &Value, what: &str| side[what].as_u64().unwrap();
    assert_eq!(samples(before, "forgotten_samples") + samples(before, "retained_samples"), 30);
    assert!(samples(before, "forgotten_answered") > 0 && samples(after, "forgotten_answered") == 0, "{after}");
    assert_eq!(report["inputs"]["retained_samples"], 9, "the codes are not mixed up with the samples");
    let record: Value = serde_json::from_slice(&std::fs::read(dir.path().join("f.json")).unwrap()).unwrap();
    let read = record["predicate"]["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
    assert!(read.iter().any(|d| d["annotations"]["role"] == "calibration"), "{read:?}");
    assert!(std::fs::read_to_string(dir.path().join("f.html")).unwrap().contains("Calibration samples"));
    // scaling flags are those of the samples: codes stay as they are
    let scaled = ["--calibration", arg(&data), "--limit", "30", "--scale", "0.00392156862745098"];
    let (_, same, said) = run(dir.path(), &[&words[..], &scaled].concat());
    assert_eq!(same["strength"], report["strength"], "{said}");
    let before: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    for (more, word) in [
        (&["--calibration", "none.npz"][..], "none.npz"),
        (&["--calibration-in-fisher"], "--calibration"),
        (&["--calibration", "f.onnx"], "read as well"),
    ] {
        let (code, _, said) = run(dir.path(), &[&words[..], more].concat());
        assert!(code == Some(2) && said.contains(word), "{more:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before.len());
}
