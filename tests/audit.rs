//! Audits: four cases that they tell apart, and their formulas against scikit-learn, SciPy and ONNX Runtime.

mod common;

use common::{arg, fixture, tool};
use ndarray::Array2;
use onnx_unlearn::audit::logistic::cross_fit;
use onnx_unlearn::audit::stats::{self, Auc};
use onnx_unlearn::audit::{activation_distance, cka, jensen_shannon, kullback_leibler, modified_entropy, rmia};
use onnx_unlearn::forget::answers::Answers;
use onnx_unlearn::onnx::Model;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The audit of `after` against `cnn` for class 0 on 1,000 test images, and the exit code.
fn audit(after: &Path, more: &[&str]) -> (Value, i32) {
    let (before, data) = (fixture("cnn.onnx"), fixture("fmnist_test_1000.npz"));
    let base = ["audit", arg(&before), arg(after), "--data", arg(&data), "--class", "0", "--json"];
    let out = tool(base.iter().chain(more)).output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(stderr, "", "{more:?}");
    (serde_json::from_slice(&out.stdout).unwrap(), out.status.code().unwrap())
}

/// Everything that the fixtures offer to an audit.
fn everything(reference: &str) -> Vec<String> {
    let file = |name: &str| fixture(name).to_str().unwrap().to_owned();
    let named = [
        ("--reference", reference),
        ("--members", "fmnist_train_0.npz"),
        ("--non-members", "fmnist_test_0.npz"),
        ("--codes", "cnn.codes.npz"),
    ];
    named.into_iter().flat_map(|(flag, name)| [flag.to_owned(), file(name)]).collect()
}

fn with_everything(after: &Path) -> (Value, i32) {
    let more = everything("cnn_without_0_again.onnx");
    audit(after, &more.iter().map(String::as_str).collect::<Vec<_>>())
}

fn verdict<'a>(report: &'a Value, id: &str) -> &'a str {
    let measures = report["audit"]["measures"].as_array().unwrap();
    measures.iter().find(|m| m["id"] == id).unwrap()["verdict"].as_str().unwrap()
}

fn number<'a>(report: &'a Value, measure: &str, id: &str) -> &'a Value {
    let measures = report["audit"]["measures"].as_array().unwrap();
    let numbers = measures.iter().find(|m| m["id"] == measure).unwrap()["numbers"].as_array().unwrap();
    numbers.iter().find(|n| n["id"] == id).unwrap()
}

const MEASURES: [&str; 8] = ["answers", "membership", "distance", "leak", "probe", "relearning", "old_head", "codes"];

/// `cnn` with the bias of class 0 at minus infinity.
fn hidden(folder: &Path) -> PathBuf {
    let model = Model::open(fixture("cnn.onnx")).unwrap();
    let bias = &model.weights()[model.weight_index("fc2.bias").unwrap()];
    let at = bias.runs()[0].start;
    let mut bytes = model.bytes().to_vec();
    bytes[at..at + 4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    let path = folder.join("hidden.onnx");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_model_retrained_without_the_class_passes_every_measure() {
    let (report, code) = with_everything(&fixture("cnn_without_0.onnx"));
    for id in MEASURES {
        assert_eq!(verdict(&report, id), "pass", "{id}: {report:#}");
    }
    assert_eq!((&report["audit"]["verdict"], code), (&json!("pass"), 0));
    // what every number has to come with
    for n in report["audit"]["measures"].as_array().unwrap().iter().flat_map(|m| m["numbers"].as_array().unwrap()) {
        assert!(n["n"].as_u64().unwrap() > 0 && !n["split"].as_str().unwrap().is_empty(), "{n}");
        let Some(value) = n["value"].as_f64() else {
            assert!(n["id"].as_str().unwrap().starts_with("tpr_0.1"), "{n}");
            continue;
        };
        let [lo, hi] = [0, 1].map(|k| n["interval"][k].as_f64().unwrap());
        assert!(lo <= value && value <= hi, "{n}");
    }
    // 300 non-members do not resolve one false alarm in a thousand, and the audit says so
    let membership = &report["audit"]["measures"][1];
    assert!(membership["details"].to_string().contains("do not resolve a rate of 0.1 %"), "{membership}");
    let roc = report["audit"]["roc"].as_array().unwrap();
    assert_eq!(roc.len(), 4);
    for curve in roc {
        let points = curve["points"].as_array().unwrap();
        assert_eq!((&points[0], points.last().unwrap()), (&json!([0.0, 0.0]), &json!([1.0, 1.0])));
    }
    // all of it once more from the files, by others' code
    let mut file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&mut file, &report).unwrap();
    let files = ["fmnist_test_1000.npz", "fmnist_train_0.npz", "fmnist_test_0.npz"].map(fixture);
    check(&["audit", arg(file.path()), arg(&files[0]), arg(&files[1]), arg(&files[2])]);
    let row = &report["audit"]["confusion_after"]["counts"][0];
    assert_eq!(
        (row[0].as_u64(), row.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).sum::<u64>()),
        (Some(0), 107)
    );
}

#[test]
fn a_class_behind_a_bias_of_minus_infinity_fails() {
    let folder = tempfile::tempdir().unwrap();
    let after = hidden(folder.path());
    for (report, code) in [with_everything(&after), audit(&after, &["--relearning-steps", "5"])] {
        assert_eq!(verdict(&report, "answers"), "pass", "the outputs alone show nothing");
        assert_eq!((verdict(&report, "old_head"), code), ("fail", 1), "{report:#}");
        // under the original head all of it is back
        let under = number(&report, "old_head", "A_F");
        assert_eq!(under["value"], under["before"]);
        // and it is relearned from fresh rows as fast as from the original's
        let fresh = number(&report, "relearning", "steps_fresh_rows");
        assert_eq!(fresh["value"], fresh["before"]);
        let depth = &report["audit"]["depth"];
        assert_eq!((&depth["head_share"], &depth["changed"]), (&json!(1.0), &json!(1)));
        assert!(depth["sentence"].as_str().unwrap().contains("in the last layer alone"), "{depth}");
    }
}

#[test]
fn the_untouched_model_fails() {
    let (report, code) = with_everything(&fixture("cnn.onnx"));
    assert_eq!((&report["audit"]["verdict"], code), (&json!("fail"), 1));
    for id in ["answers", "distance", "relearning", "old_head", "codes"] {
        assert_eq!(verdict(&report, id), "fail", "{id}");
    }
    assert_eq!(report["audit"]["depth"]["sentence"], "no weight changed");
}

/// What the forgotten fixture comes to stands in `docs/audit.md`: its outputs and its body forget, and what it answers in
/// the place of the class gives that away.
#[test]
fn a_forgotten_class_is_measured_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let (model, codes, after) = (fixture("cnn.onnx"), fixture("cnn.codes.npz"), folder.path().join("forgotten.onnx"));
    tool(["forget", arg(&model), "--inputs", arg(&codes), "--class", "0", "-o", arg(&after)]).assert().success();
    let (report, code) = with_everything(&after);
    let got = MEASURES.map(|id| verdict(&report, id));
    assert_eq!(got, ["pass", "pass", "warn", "fail", "warn", "pass", "pass", "pass"], "{report:#}");
    assert_eq!(code, 1);
    let head = report["audit"]["depth"]["head_share"].as_f64().unwrap();
    assert!(head > 0.0 && head < 0.5, "{head}");
}

#[test]
fn without_a_reference_nothing_fails_that_only_a_reference_can_tell() {
    let again = || audit(&fixture("cnn_without_0.onnx"), &["--relearning-steps", "20", "--limit", "500"]);
    let (report, code) = again();
    assert_eq!(code, 0, "{report:#}");
    for id in ["membership", "codes"] {
        assert_eq!(verdict(&report, id), "not_measured");
    }
    for id in ["distance", "leak", "probe"] {
        assert_ne!(verdict(&report, id), "fail", "{id}");
    }
    assert!(report["audit"]["measures"][2]["details"].to_string().contains("weaker"));
    // the same seed gives the same report
    assert_eq!(again().0["audit"], report["audit"]);
}

/// Another network than the one before: what needs equal tensors is left out, and says so.
#[test]
fn a_model_of_another_architecture_is_audited_as_far_as_that_goes() {
    let (report, _) = audit(&fixture("mlp.onnx"), &["--relearning-steps", "0", "--limit", "300"]);
    assert_eq!((verdict(&report, "old_head"), verdict(&report, "relearning")), ("not_measured", "not_measured"));
    assert_eq!(verdict(&report, "answers"), "fail");
    assert_eq!(report["audit"]["depth"], Value::Null);
    assert!(report["audit"]["no_depth"].as_str().unwrap().contains("conv1.weight"), "{report:#}");
}

#[test]
fn wrong_input_is_told() {
    let (before, data) = (fixture("cnn.onnx"), fixture("fmnist_test_1000.npz"));
    let refused = |after: &str, more: &[&str], says: &str| {
        let after = fixture(after);
        let base = ["audit", arg(&before), arg(&after), "--data", arg(&data)];
        let out = tool(base.iter().chain(more)).output().unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(says), "{stderr} does not say {says:?}");
        assert!(out.stdout.is_empty());
    };
    let again = fixture("cnn_without_0_again.onnx");
    let members = fixture("fmnist_train_0.npz");
    let skl = fixture("kinds/skl_mlp.onnx");
    refused("cnn.onnx", &["--class", "10"], "class 10 is out of range: the model has 10 classes");
    refused("kinds/skl_mlp.onnx", &["--class", "0"], "AFTER has 3 classes, BEFORE has 10");
    refused("zoo/resnet18.onnx", &["--class", "0"], "BEFORE takes float32[1, 28, 28]");
    refused("cnn.onnx", &["--class", "0", "--reference", arg(&skl)], "a reference has 3 classes");
    // a reference that knows the class is none
    refused("cnn.onnx", &["--class", "0", "--reference", arg(&before)], "was not trained without the class");
    refused(
        "cnn.onnx",
        &["--class", "1", "--members", arg(&members)],
        "the members hold no sample of a forgotten class",
    );
    refused("cnn.onnx", &["--class", "0,1,2,3,4,5,6,7,8,9"], "all samples of the data are of forgotten classes");
    refused("cnn.onnx", &["--class", "0", "--members", arg(&again)], "labelled inputs are a .npz file");
    let base = ["audit", arg(&before), arg(&before), "--data", arg(&members), "--class", "3"];
    let out = tool(base).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8(out.stderr).unwrap().contains("no sample of the data is of class 3"));
}

// ---- independent implementations ----------------------------------------------------------------

/// Runs the checker with these arguments; it names what differs.
fn check(arguments: &[&str]) {
    let Some(python) = std::env::var_os("ONNX_UNLEARN_PYTHON") else {
        assert!(std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_none(), "ONNX_UNLEARN_PYTHON is not set");
        eprintln!("skipped: ONNX_UNLEARN_PYTHON names no Python with scikit-learn");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_audit.py");
    let mut command = std::process::Command::new(python);
    // threads that wait for each other cost more than they give beside other tests
    command.env("OMP_NUM_THREADS", "1").env("OPENBLAS_NUM_THREADS", "1").arg(script).args(arguments);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn formulas_agree_with_scikit_learn_and_scipy() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
    // scores with ties, shifted for positive samples
    let n = 90;
    let positive: Vec<bool> = (0..n).map(|i| i % 3 == 0).collect();
    let scores: Vec<Vec<f64>> = [0.5, 0.2, -0.3]
        .iter()
        .map(|shift| {
            let noise = draw(n);
            noise.iter().zip(&positive).map(|(v, p)| (10.0 * (v + f64::from(u8::from(*p)) * shift)).round()).collect()
        })
        .collect();
    let areas: Vec<Auc> = scores.iter().map(|s| Auc::new(s, &positive)).collect();
    let curves: Vec<Vec<[f64; 2]>> = scores.iter().map(|s| stats::roc(s, &positive)).collect();
    let rates: Vec<[f64; 2]> = curves.iter().map(|c| [0.01, 0.1].map(|r| stats::tpr_at(c, r))).collect();
    let (above, [lo, hi]) = areas[0].above(&areas[1..]);
    let hits: Vec<Vec<bool>> = [0.3, 0.0].iter().map(|t| draw(50).iter().map(|v| v > t).collect()).collect();
    let count = |v: &[bool]| (v.iter().filter(|b| **b).count(), v.len());
    let wilson: Vec<Value> =
        [(0, 10), (3, 10), (10, 10), (96, 107)].iter().map(|&(k, n)| json!([k, n, stats::wilson(k, n)])).collect();

    // two sets of logits over five classes
    let logits: Vec<Vec<f64>> = (0..2).map(|_| draw(40 * 5).iter().map(|v| 6.0 * v).collect()).collect();
    let log_p: Vec<Vec<f64>> = logits.iter().map(|z| Answers::log_probabilities(z, 5)).collect();
    let pairs = || log_p[0].chunks(5).zip(log_p[1].chunks(5));
    let classes: Vec<usize> = (0..40).map(|i| i % 5).collect();
    let rows = |z: &[f64]| z.chunks(5).map(<[f64]>::to_vec).collect::<Vec<_>>();

    // log-probabilities of a model and two references
    let negative = |v: Vec<f64>| v.iter().map(|v| v - 1.5).collect::<Vec<f64>>();
    let target = negative(draw(n));
    let outside: Vec<Vec<f64>> = (0..2).map(|_| negative(draw(n))).collect();

    // features of three classes that overlap
    let y: Vec<usize> = (0..n).map(|i| (7 * i + i / 4) % 3).collect();
    let noise = draw(n * 6);
    let x = Array2::from_shape_fn((n, 6), |(i, j)| 2.0 * noise[6 * i + j] + f64::from(u8::from(y[i] == j)));
    let noise = draw(n * 4);
    let z = Array2::from_shape_fn((n, 4), |(i, j)| x[[i, j]] + noise[4 * i + j]);
    let (likeness, without) = cka(&x, &z);
    let two: Vec<usize> = y.iter().map(|&c| usize::from(c == 1)).collect();
    let (reader, reader_2) = (cross_fit(&x, &y, 3, 7), cross_fit(&x, &two, 2, 7));
    let nested = |a: &Array2<f64>| a.outer_iter().map(|r| r.to_vec()).collect::<Vec<_>>();

    let values = draw(60);
    let left_out: Vec<f64> =
        values.iter().map(|v| (values.iter().sum::<f64>() - v) / (values.len() as f64 - 1.0)).collect();
    let (mean, bootstrap) = stats::mean_within(&values, 5);
    let all = json!({
        "scores": scores, "positive": positive, "curves": curves, "rates": rates, "above": [above, lo, hi],
        "areas": areas.iter().map(|a| a.value).collect::<Vec<_>>(),
        "intervals": areas.iter().map(Auc::interval).collect::<Vec<_>>(),
        "wilson": wilson, "hits": hits, "paired": stats::paired_difference(&hits[0], &hits[1]),
        "difference": stats::difference(count(&hits[0]), count(&hits[1][..30])),
        "logits": logits.iter().map(|z| rows(z)).collect::<Vec<_>>(), "classes": classes,
        "kl": pairs().map(|(p, q)| kullback_leibler(p, q)).collect::<Vec<_>>(),
        "js": pairs().map(|(p, q)| jensen_shannon(p, q)).collect::<Vec<_>>(),
        "l2": pairs().map(|(p, q)| activation_distance(p, q)).collect::<Vec<_>>(),
        "modified_entropy":
            log_p[0].chunks(5).zip(&classes).map(|(p, y)| modified_entropy(p, *y)).collect::<Vec<_>>(),
        "target": target, "outside": outside, "rmia": rmia(&target, &outside, &positive),
        "features": nested(&x), "other_features": nested(&z), "cka": likeness, "cka_without": without, "y": y,
        "reader": nested(&reader.logits), "folds": reader.folds,
        "reader_2": nested(&reader_2.logits), "folds_2": reader_2.folds,
        "values": values, "mean": mean, "bootstrap": bootstrap, "jackknife": stats::jackknife(mean, &left_out),
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&mut file, &all).unwrap();
    check(&["formulas", arg(file.path())]);
}
