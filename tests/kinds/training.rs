//! Models in training form.

use super::common::{arg, engines, json, tool};
use super::{decoded, inputs_of, labelled, off, own, path, reference, summed};
use onnx_unlearn::autodiff::gradient::Mode;
use onnx_unlearn::classifier::{Classifier, ClassifierOptions};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::onnx::import::Training;
use prost::Message;

fn training(seed: Option<u64>) -> Classifier {
    let options = ClassifierOptions { training: Some(Training { seed }), ..ClassifierOptions::default() };
    Classifier::open(&path("bn_dropout.onnx"), options).unwrap()
}

#[test]
fn training_form_has_pytorchs_gradients() {
    let kind = own("bn_dropout");
    let (c, want) = (training(None), reference(&kind));
    let data = labelled(&kind, &c);
    let mask = onnx_unlearn::inputs::npz::read(&inputs_of(&kind), "mask").unwrap();
    for engine in engines() {
        let g = c.gradients(data.len(), Mode::Sum).unwrap();
        let names: Vec<String> = g.graph.inputs.iter().map(|&i| g.graph.label(i)).collect();
        assert_eq!(names, ["x", "drop.mask", "labels", "sample_weights"]);
        let sums = summed(&*engine, &g, &data, std::slice::from_ref(&mask));
        assert!(off(&sums[0], &[want.loss]) < 1e-5, "loss {:?} instead of {}", sums[0], want.loss);
        for ((name, _), got) in g.gradients.iter().zip(&sums[1..]) {
            // a bias before a normalisation has no gradient: what remains is rounding
            let off =
                if name == "b1" { got.iter().fold(0.0f64, |m, v| m.max(v.abs())) } else { off(got, &want.grad[name]) };
            assert!(off < 1e-4, "{} {name}: off by {off:.1e}", engine.name());
        }
    }
}

#[test]
fn batch_statistics_have_no_gradient_of_a_sample() {
    let c = training(Some(3));
    for mode in [Mode::PerSample, Mode::Fisher { sets: 1 }] {
        let e = c.gradients(4, mode).err().unwrap().to_string();
        assert!(e.contains("'norm' (BatchNormalization)") && e.contains("summed"), "{e}");
    }
}

#[test]
fn a_model_exported_for_training_is_refused() {
    let mut model = decoded("bn_dropout.onnx");
    let norm = model.graph.as_mut().unwrap().node.iter_mut().find(|n| n.name() == "norm").unwrap();
    let mut training = norm.attribute[0].clone();
    (training.name, training.r#type, training.f, training.i) = (Some("training_mode".into()), Some(2), None, Some(1));
    norm.attribute.push(training);
    let model = Model::from_bytes("training", model.encode_to_vec()).unwrap();
    let e = Classifier::from_model(model, ClassifierOptions::default()).err().unwrap().to_string();
    assert!(e.contains("node 'norm' (BatchNormalization) is in its training form"), "{e}");
}

#[test]
fn masks_are_drawn_by_seed() {
    let room = tempfile::tempdir().unwrap();
    let model = path("bn_dropout.onnx");
    let file = |name: &str, seed: &str| {
        let out = room.path().join(name);
        let report =
            json(&["gradients", arg(&model), "-o", arg(&out), "--batch", "8", "--training-mode", "--seed", seed]);
        assert_eq!(report["inputs"].as_array().unwrap().len(), 3, "{report}");
        std::fs::read(out).unwrap()
    };
    let (a, b, c) = (file("a", "1"), file("b", "1"), file("c", "2"));
    assert!(a == b && a != c);
    let out = room.path().join("d");
    let report = json(&["gradients", arg(&model), "-o", arg(&out), "--batch", "8", "--training-mode"]);
    assert!(report["inputs"].to_string().contains("drop.mask bool[8, 8]"), "{report}");
    let plain = json(&["gradients", arg(&model), "-o", arg(&out), "--batch", "8"]);
    assert!(!plain["inputs"].to_string().contains("mask"), "{plain}");
    let line = tool(["gradients", arg(&model), "-o", arg(&out), "--seed", "1"]).output().unwrap();
    assert_eq!(line.status.code(), Some(2));
}
