//! The page in `docs/web`, used as a person would.

use crate::common::{self, classifier, codes, fixture, tool};
use crate::forget::{plan, text_sent};
use crate::site::{Browser, Files, Site};
use crate::{alone, listen};
use onnx_unlearn::classifier::Weights;
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::fisher::{class_weights, estimate};
use onnx_unlearn::onnx::Model;
use std::path::Path;

/// The strength that the page proposes; its λ is 1.
const ALPHA: f64 = 4.0;

/// The files of the page as they lie there.
fn page() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/web");
    let mut files = Files::new();
    for name in ["index.html", "page.css", "page.js", "player.js", "forget.js"] {
        files.insert(format!("/web/{name}"), std::fs::read(folder.join(name)).unwrap());
    }
    for name in ["plan.json", "plan.bin", "model.onnx"] {
        files.insert(format!("/web/mlp/{name}"), std::fs::read(folder.join("mlp").join(name)).unwrap());
    }
    files
}

/// Whether each byte of a model file belongs to an element of a weight.
fn of_weights(model: &Model) -> Vec<bool> {
    let mut all = vec![false; model.bytes().len()];
    for weight in model.weights() {
        for run in weight.runs() {
            for i in 0..run.count {
                all[run.start + i * run.step..][..weight.storage().width()].fill(true);
            }
        }
    }
    all
}

#[test]
fn a_person_forgets_a_class_on_the_page() {
    let mut files = page();
    let own: Vec<String> = files.keys().map(|path| format!("GET {path}")).collect();
    let written = plan(&fixture("cnn.onnx"), &fixture("cnn.codes.npz"));
    files.extend(written.into_iter().map(|(path, bytes)| (format!("/own{path}"), bytes)));
    files.insert("/own/other.onnx".to_owned(), std::fs::read(fixture("cnn_nocodes.onnx")).unwrap());
    files.insert("/drive.html".to_owned(), include_bytes!("drive.html").to_vec());
    files.insert("/drive.js".to_owned(), include_bytes!("drive.js").to_vec());
    let (site, elsewhere) = (Site::serve(files), Site::serve(Files::new()));
    let _alone = alone();
    let Some(_browser) = Browser::open(&site.url(&format!("/drive.html#{}", elsewhere.url("/")))) else { return };
    let results = listen(&site);
    assert_eq!(text_sent(&results, "/told"), "Choose a class first.");
    assert_eq!(text_sent(&results, "/name"), "mlp.without-7.onnx");
    assert_eq!(text_sent(&results, "/still"), "0 of 1");
    assert_eq!(text_sent(&results, "/kept"), "9 of 9");
    assert_eq!(text_sent(&results, "/own"), "cnn.without-3.onnx");
    assert_eq!(text_sent(&results, "/other"), "this is not cnn.onnx as the plan was made for it");
    assert_eq!(text_sent(&results, "/narrow"), "0", "the page is wider than a telephone");

    // nothing is sent: of all requests, those that are not of the page's own files are the test's
    assert_eq!(text_sent(&results, "/elsewhere"), "refused");
    assert_eq!(elsewhere.requests(), Vec::<String>::new());
    let posted: Vec<String> =
        results.iter().map(|r| format!("POST {}", r.path)).chain(["POST /done".to_owned()]).collect();
    let drivers =
        |request: &str| ["GET /drive.", "GET /own/", "GET /favicon.ico"].iter().any(|start| request.starts_with(start));
    for request in site.requests() {
        assert!(own.contains(&request) || drivers(&request) || posted.contains(&request), "{request}");
    }

    let got = results.iter().find(|r| r.path == "/downloaded").unwrap().body.clone();
    check_model(&got);
}

/// The downloaded model is what `forget` with these strengths writes: weights within 1e-3 of their value, where the
/// Fisher does not lie within 1 % of the rule's threshold, and every other byte.
fn check_model(got: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let (model, inputs, out) = (fixture("mlp.onnx"), fixture("mlp.codes.npz"), folder.path().join("out.onnx"));
    let flags = ["--class", "7", "--rule", "dampen", "--alpha", &ALPHA.to_string(), "--lambda", "1", "--engine", "cpu"];
    let args = ["forget", common::arg(&model), "--inputs", common::arg(&inputs), "-o", common::arg(&out)];
    tool(args.iter().chain(&flags)).assert().success();
    let before = Model::open(&model).unwrap();
    let want = std::fs::read(&out).unwrap();
    assert_eq!(got.len(), want.len());
    let changeable = of_weights(&before);
    let differs = |i: usize| got[i] != want[i] && !changeable[i];
    assert_eq!((0..want.len()).find(|&i| differs(i)), None, "a byte beside the weights differs");

    std::fs::write(folder.path().join("got.onnx"), got).unwrap();
    let (got, want) = (Model::open(folder.path().join("got.onnx")).unwrap(), Model::open(&out).unwrap());
    let c = classifier("mlp");
    let data = codes("mlp", &c);
    let old = Weights::upload(&Cpu, &c.bind(1).unwrap()).unwrap();
    let sets = [vec![7], (0..10).filter(|&k| k != 7).collect()].map(|k| class_weights(&data, &k).unwrap());
    let fisher = estimate(&c, &Cpu, &old, &data, &sets, &mut |_| ()).unwrap().to_arrays().unwrap();
    let (mut changed, mut near, mut all) = (0, 0, 0);
    for (i, weight) in before.weights().iter().enumerate() {
        let [old, got, want] = [&before, &got, &want].map(|m| m.read(&m.weights()[i]).unwrap().to_f64());
        let sums = fisher.iter().find(|(name, _)| name == weight.name()).map(|(_, sums)| sums.to_f64());
        for k in 0..old.len() {
            all += 1;
            changed += usize::from(got[k] != old[k]);
            let ratio = sums.as_ref().map_or(0.0, |s| s[k] / (ALPHA * s[old.len() + k]));
            if (ratio - 1.0).abs() < 0.01 {
                near += 1;
                continue;
            }
            let off = (got[k] - want[k]).abs();
            assert!(
                off <= 1e-3 * want[k].abs(),
                "{}[{k}]: {} instead of {}, {} before",
                weight.name(),
                got[k],
                want[k],
                old[k]
            );
        }
    }
    println!("{changed} of {all} elements changed, {near} near the threshold");
    assert!(changed > 1000 && near < all / 100, "{changed} of {all} changed, {near} near the threshold");
}
