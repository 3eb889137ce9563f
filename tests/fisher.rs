//! A Fisher that is kept: parts that join to the bit, what it is made from, and forgetting with it.

mod common;
#[path = "hostile/models.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile files")]
mod models;

use common::{arg, engines, fixture, tool};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights};
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::fisher::store::{Kept, Origin, load, model_sha256};
use onnx_unlearn::fisher::{ClassSums, Counting, Plan, estimate, merge};
use onnx_unlearn::forget::{self, Method, Request, Rule, Stage, Strength};
use onnx_unlearn::inputs::{self, Labelled, Source, npz};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::onnx::proto::GraphProto;
use onnx_unlearn::tensor::Array;
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// One convolution and one Gemm on images of 4×5 pixels, three classes.
fn of_images() -> Vec<u8> {
    use models::*;
    let nodes = vec![
        node("Conv", &["x", "k", "kb"], &["c"], vec![ints("kernel_shape", &[3, 3])]),
        node("Relu", &["c"], &["r"], vec![]),
        node("Flatten", &["r"], &["f"], vec![]),
        node("Gemm", &["f", "w", "b"], &["logits"], vec![int("transB", 1)]),
    ];
    let weights =
        vec![floats("k", &[4, 1, 3, 3], 1), floats("kb", &[4], 2), floats("w", &[3, 24], 3), floats("b", &[3], 4)];
    model_of(nodes, weights, &[0, 1, 4, 5]).encode_to_vec()
}

/// Pixels that depend on class and number.
fn pixels(class: usize, n: usize) -> Vec<u8> {
    (0..20).map(|i| ((class * 83 + n * 37 + i * i * 29 + i * class * 11) % 256) as u8).collect()
}

const COUNTS: [usize; 3] = [700, 257, 5];

/// As many samples of each class as [`COUNTS`] says, the classes mixed.
fn samples() -> Labelled {
    let mut all: Vec<(usize, usize)> = (0..3).flat_map(|c| (0..COUNTS[c]).map(move |n| (n * 3 + c, c))).collect();
    all.sort_unstable();
    let x: Vec<f32> =
        all.iter().flat_map(|&(at, c)| pixels(c, at / 3)).map(|v| (f64::from(v) / 255.0) as f32).collect();
    Labelled::new(Array::from_vec(&[all.len(), 1, 4, 5], x).unwrap(), all.into_iter().map(|(_, c)| c).collect())
        .unwrap()
}

struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
    /// Runs the tool here; its answer.
    fn json(&self, args: &[&str]) -> serde_json::Value {
        let out = tool(args.iter().chain(&["--json", "-q"])).current_dir(self.0.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }
    /// Runs the tool here, which has to fail with exit code 2 and all of `words`, and writes nothing.
    fn refused(&self, args: &[&str], words: &[&str]) {
        let before = std::fs::read_dir(self.0.path()).unwrap().count();
        let out = tool(args.iter().chain(&["-q"])).current_dir(self.0.path()).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: {word:?} is not in {said}");
        }
        assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), before, "{args:?} wrote something");
    }
}

/// A prepared estimate of one model on one engine.
struct Bench<'a> {
    classifier: Classifier,
    weights: Weights,
    engine: &'a dyn Engine,
}

impl<'a> Bench<'a> {
    fn new(model: &Path, engine: &'a dyn Engine) -> Self {
        let classifier = Classifier::open(model, ClassifierOptions::default()).unwrap();
        let weights = Weights::upload(engine, &classifier.bind(1).unwrap()).unwrap();
        Self { classifier, weights, engine }
    }
    /// Writes one part of the work.
    fn part(&self, path: &Path, data: &Labelled, (k, n): (usize, usize)) -> Kept {
        let source = Source::of(data.clone(), &self.classifier.expected());
        let elements = self.weights.tensors.iter().map(|t| t.ty().len()).sum();
        let plan = Plan::new(&source.by_class(), &[], elements).unwrap();
        let origin = Origin {
            model_sha256: model_sha256(self.classifier.model()),
            listing_sha256: source.listing_sha256().to_owned(),
            engines: vec![self.engine.name().to_owned()],
            ..Origin::default()
        };
        let mut sums = ClassSums::new(&self.classifier, self.engine, &self.weights, &plan).unwrap();
        sums.write(path, &source, &plan.shard(k, n).unwrap(), origin, &mut |_| ()).unwrap();
        Kept::open(path).unwrap()
    }
}

#[test]
fn parts_join_to_the_bit_in_any_order_on_every_engine() {
    let room = Room::new();
    let model = room.write("m.onnx", &of_images());
    let data = samples();
    for engine in engines() {
        let bench = Bench::new(&model, &*engine);
        let whole = room.path("whole");
        let kept = bench.part(&whole, &data, (0, 1));
        assert!(kept.origin.is_whole() && kept.check_whole().is_ok());
        for n in [2, 4, 9] {
            let mut parts: Vec<Kept> =
                (0..n).map(|k| bench.part(&room.path(&format!("part{k}")), &data, (k, n))).collect();
            assert!(parts.iter().all(|p| p.check_whole().is_err()), "a part passes for the whole");
            for turn in 0..3 {
                let out = room.path("joined");
                merge(&parts, &out).unwrap();
                assert!(std::fs::read(&out).unwrap() == std::fs::read(&whole).unwrap(), "{}, {n}", engine.name());
                if turn == 0 { parts.reverse() } else { parts.rotate_left(n / 2) }
            }
        }
    }
}

/// The sum of every class is what the other way to estimate gives, whose gradients are tested against references.
#[test]
fn sums_are_those_of_the_classes() {
    let room = Room::new();
    let model = room.write("m.onnx", &of_images());
    let data = samples();
    let bench = Bench::new(&model, &Cpu);
    let kept = bench.part(&room.path("f"), &data, (0, 1));
    let one = |c: usize| data.y.iter().map(|&y| f64::from(u8::from(y == c))).collect::<Vec<f64>>();
    let want = estimate(&bench.classifier, &Cpu, &bench.weights, &data, &[one(0), one(1), one(2)], &mut |_| ());
    for (name, a) in want.unwrap().to_arrays().unwrap() {
        let weight = kept.weights().position(|(n, _)| n == name).unwrap();
        for (row, want) in a.to_f64().chunks(a.len() / 3).enumerate() {
            let got = kept.row(weight, row).unwrap();
            let top = want.iter().copied().fold(0.0, f64::max);
            assert!(top > 0.0);
            for (g, w) in got.iter().zip(want) {
                // up to 700 positive numbers are added in float32 there
                assert!((g - w).abs() <= 1e-4 * w + 1e-7 * top, "{name}, class {row}: {g} instead of {w}");
            }
        }
    }
    // the mean over classes, each by its samples or by its trace
    let names: Vec<String> = kept.weights().map(|(n, _)| n.to_owned()).collect();
    let rows = |c: usize| (0..names.len()).flat_map(|w| kept.row(w, c).unwrap()).collect::<Vec<f64>>();
    for counting in [Counting::Samples, Counting::Equalised] {
        let means = kept.means(&names, &[vec![1], vec![0, 2]], counting).unwrap();
        let scale = |c: usize| match counting {
            Counting::Samples => 1.0 / COUNTS[c] as f64,
            Counting::Equalised => 1.0 / rows(c).iter().sum::<f64>(),
        };
        for (mean, group) in means.iter().zip([&[1][..], &[0, 2]]) {
            for (i, got) in mean.concat().into_iter().enumerate() {
                let want: f64 = group.iter().map(|&c| rows(c)[i] * scale(c)).sum::<f64>() / group.len() as f64;
                assert!((got - want).abs() <= 1e-12 * want, "{counting:?}: {got} instead of {want}");
            }
        }
    }
    let all = kept.means(&names, &[kept.classes()], Counting::Samples).unwrap();
    for (summary, f) in kept.summaries().unwrap().iter().zip(&all[0]) {
        let (mean, max) = (f.iter().sum::<f64>() / f.len() as f64, f.iter().copied().fold(0.0, f64::max));
        assert!((summary.mean - mean).abs() <= 1e-12 * mean && (summary.max - max).abs() <= 1e-12 * max, "{summary:?}");
    }
}

/// The same samples as a file of arrays, as IDX files and as a folder of images.
fn three_ways(room: &Room) -> [PathBuf; 3] {
    let idx = |code: u8, shape: &[usize], data: &[u8]| {
        let header = [0, 0, code, shape.len() as u8].into_iter();
        let extents = shape.iter().flat_map(|&d| (d as u32).to_be_bytes());
        header.chain(extents).chain(data.iter().copied()).collect::<Vec<u8>>()
    };
    let all: Vec<(usize, usize)> =
        (0..3).flat_map(|c| (0..if c == 1 { 300 } else { 3 }).map(move |n| (c, n))).collect();
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for &(c, n) in &all {
        let data = pixels(c, n);
        let path = room.path(&format!("images/{c}/{n:05}.png"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::GrayImage::from_raw(5, 4, data.clone()).unwrap().save(&path).unwrap();
        x.extend(data);
        y.push(c as u8);
    }
    room.write("idx/t10k-images-idx3-ubyte", &idx(8, &[all.len(), 4, 5], &x));
    room.write("idx/t10k-labels-idx1-ubyte", &idx(8, &[all.len()], &y));
    let floats: Vec<f32> = x.iter().map(|v| (f64::from(*v) / 255.0) as f32).collect();
    let floats = Array::from_vec(&[all.len(), 1, 4, 5], floats).unwrap();
    npz::save(&room.path("x.npz"), &Labelled::new(floats, y.into_iter().map(usize::from).collect()).unwrap()).unwrap();
    [room.path("x.npz"), room.path("idx"), room.path("images")]
}

#[test]
fn shards_of_arrays_idx_files_and_folders_are_one_fisher() {
    let room = Room::new();
    room.write("m.onnx", &of_images());
    let mut rows = Vec::new();
    for inputs in three_ways(&room) {
        let fisher = |more: &[&str]| {
            room.json(&[&["fisher", "m.onnx", "--inputs", arg(&inputs), "--engine", "cpu"], more].concat())
        };
        let whole = fisher(&["-o", "whole"]);
        assert_eq!(whole["samples"], 306);
        rows.push(whole["origin"]["rows"].clone());
        let samples: u64 = (0..3)
            .map(|k| fisher(&["--shard", &format!("{k}/3"), "-o", &format!("p{k}")])["samples"].as_u64().unwrap())
            .sum();
        assert_eq!(samples, 306, "every sample is one part's");
        room.json(&["fisher", "merge", "p1", "p2", "p0", "-o", "joined"]);
        assert!(std::fs::read(room.path("joined")).unwrap() == std::fs::read(room.path("whole")).unwrap());
    }
    // the samples are the same however they are stored
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
}

/// A part reads its own samples alone: what is broken elsewhere does not reach it.
#[test]
fn a_part_reads_no_other_samples() {
    let room = Room::new();
    room.write("m.onnx", &of_images());
    let [_, _, images] = three_ways(&room);
    let good = std::fs::read(images.join("2/00001.png")).unwrap();
    std::fs::write(images.join("2/00001.png"), vec![0; good.len()]).unwrap();
    let fisher = |shard: &'static str| {
        ["fisher", "m.onnx", "--inputs", "images", "--engine", "cpu", "-o", "p", "--shard", shard]
    };
    room.refused(&fisher("0/1"), &["00001.png"]);
    room.json(&fisher("0/2"));
    room.refused(
        &["fisher", "m.onnx", "--inputs", "images", "--engine", "cpu", "-o", "q", "--shard", "1/2"],
        &["00001.png"],
    );
}

/// The command of the one container of a manifest in docs/scheduling.
fn command_of(manifest: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scheduling").join(manifest);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(str::trim).skip_while(|l| *l != "command:").skip(1);
    let words: Vec<String> = lines.map_while(|l| l.strip_prefix("- ")).map(str::to_owned).collect();
    assert_eq!(words[..2], ["onnx-unlearn", "fisher"], "{manifest}");
    words
}

/// The manifests' commands, with their variables put in as Kubernetes does it, make and join the parts.
#[test]
fn the_kubernetes_jobs_run() {
    let room = Room::new();
    room.write("model.onnx", &of_images());
    three_ways(&room);
    let parts = command_of("fisher-job.yaml");
    for index in 0..4 {
        let index = index.to_string();
        let set = |word: &String| word.replace("$(JOB_COMPLETION_INDEX)", &index);
        let words: Vec<String> = parts.iter().map(set).collect();
        assert!(words.iter().zip(&parts).filter(|(a, b)| a != b).count() == 2 && !words.concat().contains('$'));
        let out = tool(&words[1..]).env("JOB_COMPLETION_INDEX", &index).current_dir(room.0.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let merge = command_of("fisher-merge-job.yaml");
    let out = tool(&merge[1..]).current_dir(room.0.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    room.json(&["fisher", "model.onnx", "--inputs", "images", "-o", "whole"]);
    assert!(std::fs::read(room.path("fisher.safetensors")).unwrap() == std::fs::read(room.path("whole")).unwrap());
}

#[test]
fn what_does_not_belong_together_is_not_joined() {
    let room = Room::new();
    room.write("m.onnx", &of_images());
    let mut other = onnx_unlearn::onnx::proto::ModelProto::decode(&of_images()[..]).unwrap();
    let graph: &mut GraphProto = other.graph.as_mut().unwrap();
    graph.initializer[0] = models::floats("k", &[4, 1, 3, 3], 9);
    room.write("other.onnx", &other.encode_to_vec());
    let [_, _, images] = three_ways(&room);
    let fisher = |model: &str, out: &str, more: &[&str]| {
        let args = ["fisher", model, "--inputs", "images", "--engine", "cpu", "-o", out];
        room.json(&[&args[..], more].concat());
    };
    for k in 0..3 {
        fisher("m.onnx", &format!("p{k}"), &["--shard", &format!("{k}/3")]);
    }
    fisher("m.onnx", "whole", &[]);
    fisher("other.onnx", "other", &["--shard", "1/3"]);
    fisher("m.onnx", "layers", &["--shard", "1/3", "--layers", "w"]);
    fisher("m.onnx", "scaled", &["--shard", "1/3", "--mean", "0.5"]);
    fisher("m.onnx", "class", &["--shard", "1/3", "--class", "0,1"]);
    std::fs::copy(images.join("0/00000.png"), images.join("0/00009.png")).unwrap();
    fisher("m.onnx", "more", &["--shard", "1/3"]);
    let join = |parts: &[&'static str], words: &[&str]| {
        room.refused(&[&["fisher", "merge", "-o", "joined"], parts].concat(), words);
    };
    join(&["p0", "p2"], &["lack", "samples 0 to 255 of class 1"]);
    join(&["p0", "p1"], &["lack"]);
    join(&["p0"], &["lack"]);
    join(&["p0", "p1", "p2", "p1"], &["p1 and p1 overlap"]);
    join(&["whole", "p2"], &["whole and p2 overlap"]);
    join(&["p0", "other", "p2"], &["p0 and other are of different models"]);
    join(&["p0", "layers", "p2"], &["different weights"]);
    join(&["p0", "scaled", "p2"], &["different inputs"]);
    join(&["p0", "more", "p2"], &["different inputs"]);
    join(&["p0", "class", "p2"], &["different classes"]);
    join(&["p0", "p1", "m.onnx"], &["m.onnx", "no safetensors"]);
    join(&["p0", "p1", "nothing"], &["nothing"]);
    room.refused(&["fisher", "merge", "p0", "p1", "p2", "-o", "p1"], &["p1", "read as well"]);
    room.refused(&["fisher", "merge", "-o", "joined"], &["required"]);
    for bad in ["3/3", "0/0", "1", "a/b"] {
        room.refused(&["fisher", "m.onnx", "--inputs", "images", "-o", "q", "--shard", bad], &["--shard"]);
    }
    room.json(&["fisher", "merge", "p2", "p0", "p1", "-o", "joined"]);
    // a whole Fisher alone is joined already
    room.json(&["fisher", "merge", "joined", "-o", "again"]);
    assert!(std::fs::read(room.path("again")).unwrap() == std::fs::read(room.path("whole")).unwrap());
}

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
