//! A Fisher that is kept: parts that join to the bit, what it is made from, and forgetting with it.

#[path = "../common/mod.rs"]
mod common;
mod kept;
#[path = "../hostile/models.rs"]
#[allow(dead_code, reason = "shared with the tests of hostile files")]
mod models;

use common::{arg, engines, tool};
use onnx_unlearn::classifier::{Classifier, ClassifierOptions, Weights};
use onnx_unlearn::engine::{Engine, cpu::Cpu};
use onnx_unlearn::fisher::store::{Kept, Origin, model_sha256};
use onnx_unlearn::fisher::{ClassSums, Counting, Plan, estimate, merge};
use onnx_unlearn::inputs::{Labelled, Source, npz};
use onnx_unlearn::onnx::proto::GraphProto;
use onnx_unlearn::tensor::Array;
use prost::Message;
use std::path::{Path, PathBuf};
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
