//! `codes embed`: the steps against backpropagation written out by hand, going on where a run was stopped, and what comes
//! of it.

mod common;

use common::{arg, classifier, engines, fixture, json, tool};
use onnx_unlearn::classifier::Classifier;
use onnx_unlearn::engine::Engine;
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::inputs::codes::{self, Distribution};
use onnx_unlearn::inputs::{Labelled, Options as Reading, Source, npz};
use onnx_unlearn::onnx::Model;
use onnx_unlearn::tensor::Array;
use onnx_unlearn::training::checkpoint::{self, Run};
use onnx_unlearn::training::{Draws, Embedded, Ended, Material, Options, Row, Trainer};
use onnx_unlearn::{Error, Kind};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// Three steps, of which the second and third have a velocity and another rate.
const THREE: Options = Options {
    steps: 3,
    batch: 70,
    rate: 0.05,
    momentum: 0.9,
    decay: 0.01,
    t_mix: 0.4,
    until: 1.0,
    look_every: 2,
    hold_out: 0,
    seed: 5,
};

fn images(c: &Classifier) -> Source {
    Source::open(&fixture("fmnist_test_1000.npz"), &c.expected(), &Reading::default()).unwrap()
}

fn new_codes(c: &Classifier, per_class: usize) -> Labelled {
    codes::new(c.sample_shape(), c.classes(), per_class, Distribution::default(), 9).unwrap()
}

fn train(c: &Classifier, engine: &dyn Engine, material: &Material, options: Options) -> Embedded {
    let mut trainer = Trainer::new(c, engine, material, options).unwrap();
    let place = trainer.start(c).unwrap();
    trainer.run(place, &mut |_| (), &mut |_| Ok(())).unwrap()
}

fn elements(made: &Embedded) -> BTreeMap<String, Vec<f64>> {
    let tensors = made.weights.names.iter().zip(&made.weights.tensors);
    tensors.map(|(n, t)| (n.clone(), t.to_array().unwrap().to_f64())).collect()
}

fn stored(model: &Path) -> BTreeMap<String, Vec<f64>> {
    let model = Model::open(model).unwrap();
    model.weights().iter().map(|w| (w.name().to_owned(), model.read(w).unwrap().to_f64())).collect()
}

// --- one step -------------------------------------------------------------------------------------------------------

/// A layer: weights by rows, biases.
struct Layer {
    w: Vec<Vec<f64>>,
    b: Vec<f64>,
}

impl Layer {
    fn of(all: &BTreeMap<String, Vec<f64>>, name: &str) -> Self {
        let b = all[&format!("{name}.bias")].clone();
        let w = all[&format!("{name}.weight")].chunks(all[&format!("{name}.weight")].len() / b.len());
        Self { w: w.map(<[f64]>::to_vec).collect(), b }
    }
    fn like(&self) -> Self {
        Self { w: self.w.iter().map(|r| vec![0.0; r.len()]).collect(), b: vec![0.0; self.b.len()] }
    }
    fn at(&self, x: &[f64]) -> Vec<f64> {
        let dot = |row: &Vec<f64>| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        self.w.iter().map(dot).zip(&self.b).map(|(z, b)| z + b).collect()
    }
    /// Adds `u · d xᵀ`.
    fn add(&mut self, u: f64, d: &[f64], x: &[f64]) {
        for ((row, b), d) in self.w.iter_mut().zip(&mut self.b).zip(d) {
            row.iter_mut().zip(x).for_each(|(w, x)| *w += u * d * x);
            *b += u * d;
        }
    }
    fn all(&mut self) -> impl Iterator<Item = &mut f64> {
        self.w.iter_mut().flatten().chain(&mut self.b)
    }
}

/// Three steps of the MLP (sigmoid between two layers) in float64, nothing of which is this project's code.
fn by_hand(start: &BTreeMap<String, Vec<f64>>, batches: &[Vec<(Vec<f64>, usize)>], o: &Options) -> [Layer; 2] {
    let mut net = ["fc1", "fc2"].map(|n| Layer::of(start, n));
    let mut velocity = [net[0].like(), net[1].like()];
    for (t, batch) in batches.iter().enumerate() {
        let rate = o.rate * (1.0 + (std::f64::consts::PI * t as f64 / o.steps as f64).cos()) / 2.0;
        let mut slope = [net[0].like(), net[1].like()];
        for (x, y) in batch {
            let h: Vec<f64> = net[0].at(x).into_iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
            let z = net[1].at(&h);
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            let d: Vec<f64> = z.iter().enumerate().map(|(k, z)| z.exp() / sum - f64::from(u8::from(k == *y))).collect();
            let back: Vec<f64> = (0..h.len())
                .map(|j| h[j] * (1.0 - h[j]) * d.iter().zip(&net[1].w).map(|(d, row)| d * row[j]).sum::<f64>())
                .collect();
            let u = 1.0 / batch.len() as f64;
            slope[1].add(u, &d, &h);
            slope[0].add(u, &back, x);
        }
        for k in 0..2 {
            for ((w, v), g) in net[k].all().zip(velocity[k].all()).zip(slope[k].all()) {
                *v = o.momentum * *v + *g + o.decay * *w;
                *w -= rate * *v;
            }
        }
    }
    net
}

#[test]
fn steps_are_those_worked_out_by_hand() {
    let c = classifier("mlp");
    let (data, codes) = (images(&c), new_codes(&c, 2));
    let material = Material::new(&data, &codes, &THREE).unwrap();
    let mut draws = Draws::new(&material, &THREE);
    let row = |r: Row| match r {
        Row::Sample(i) => data.read(&[i]).unwrap(),
        Row::Code(k) => codes.select(&[k]).unwrap(),
    };
    let batches: Vec<Vec<(Vec<f64>, usize)>> =
        (0..3).map(|t| draws.batch(t).into_iter().map(row).map(|one| (one.x.to_f64(), one.y[0])).collect()).collect();
    let start = stored(&fixture("mlp.onnx"));
    let [mut one, mut two] = by_hand(&start, &batches, &THREE);
    let want: BTreeMap<&str, Vec<f64>> = BTreeMap::from([
        ("fc1.weight", one.w.concat()),
        ("fc1.bias", one.all().skip(400 * 784).map(|v| *v).collect()),
        ("fc2.weight", two.w.concat()),
        ("fc2.bias", two.all().skip(10 * 400).map(|v| *v).collect()),
    ]);
    for engine in engines() {
        let got = elements(&train(&c, &*engine, &material, THREE));
        for (name, want) in &want {
            let (mut off, mut moved) = (0.0, 0.0);
            for ((g, w), s) in got[*name].iter().zip(want).zip(&start[*name]) {
                off += (g - w) * (g - w);
                moved += (w - s) * (w - s);
            }
            // float32 against float64, over three steps
            let off = (off / moved).sqrt();
            assert!(moved > 0.0 && off < 2e-4, "{} {name}: {off:e}", engine.name());
        }
    }
}

#[test]
fn every_sample_comes_once_a_round_or_its_class_does() {
    let c = classifier("mlp");
    let (data, codes) = (images(&c), new_codes(&c, 2));
    let options = Options { batch: 90, t_mix: 0.25, hold_out: 100, ..THREE };
    let material = Material::new(&data, &codes, &options).unwrap();
    // a class gives its part, rounded down
    let held = material.held_out.len();
    assert!((91..=100).contains(&held), "{held} held out");
    assert_eq!(material.learned.len() + held, 1000);
    let mut draws = Draws::new(&material, &options);
    let rows: Vec<Row> = (0..40).flat_map(|t| draws.batch(t)).collect();
    let n = material.learned.len();
    let mut orders = Vec::new();
    for round in rows.chunks(n).filter(|r| r.len() == n) {
        let mut samples: Vec<usize> =
            round.iter().filter_map(|r| if let Row::Sample(i) = r { Some(*i) } else { None }).collect();
        orders.push(samples.clone());
        samples.sort_unstable();
        assert!(samples.windows(2).all(|w| w[0] < w[1]) && samples.iter().all(|i| material.learned.contains(i)));
        // with the codes of their classes, the classes of all samples
        let mut of_class = vec![0; 10];
        for r in round {
            of_class[match r {
                Row::Sample(i) => data.classes()[*i],
                Row::Code(k) => codes.y[*k],
            }] += 1;
        }
        let want: Vec<usize> =
            (0..10).map(|c| material.learned.iter().filter(|&&i| data.classes()[i] == c).count()).collect();
        assert_eq!(of_class, want);
    }
    assert!(orders.len() >= 3 && orders[0][..20] != orders[1][..20]);
    let used: Vec<usize> = rows.iter().filter_map(|r| if let Row::Code(k) = r { Some(*k) } else { None }).collect();
    let part = used.len() as f64 / rows.len() as f64;
    assert!((part - 0.25).abs() < 0.03, "{part} of the rows are codes");
    assert!((0..20).all(|k| used.contains(&k)), "a code is never shown");
    // any step by itself
    assert_eq!(Draws::new(&material, &options).batch(17), draws.batch(17));
    assert_ne!(Draws::new(&material, &Options { seed: 6, ..options }).batch(17), draws.batch(17));
}

// --- going on -------------------------------------------------------------------------------------------------------

fn run_of(options: Options) -> Run {
    let hash = |c: char| c.to_string().repeat(64);
    Run {
        model_sha256: hash('a'),
        data_sha256: hash('b'),
        codes_sha256: hash('c'),
        engine: "cpu".to_owned(),
        layers: Vec::new(),
        options,
    }
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    let c = classifier("mlp");
    let (data, codes) = (images(&c), new_codes(&c, 1));
    let options = Options { steps: 5, batch: 8, look_every: 2, hold_out: 30, ..THREE };
    let material = Material::new(&data, &codes, &options).unwrap();
    let whole = train(&c, &Cpu, &material, options);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("way");
    let run = run_of(options);
    let mut trainer = Trainer::new(&c, &Cpu, &material, options).unwrap();
    let place = trainer.start(&c).unwrap();
    let weights = place.state.weights.clone();
    assert!(checkpoint::load(&path, &run, &weights).unwrap().is_none());
    let stopped = trainer.run(place, &mut |_| (), &mut |place| {
        checkpoint::save(&path, &run, place)?;
        if place.looks.len() == 3 { Err(Error::invalid("stopped")) } else { Ok(()) }
    });
    assert_eq!(stopped.err().unwrap().to_string(), "stopped");
    let first = std::fs::read(&path).unwrap();
    let mut other = Trainer::new(&c, &Cpu, &material, options).unwrap();
    let kept = checkpoint::load(&path, &run, &weights).unwrap().unwrap();
    assert_eq!(kept.looks.last().unwrap().step, 4);
    let place = other.resume(kept).unwrap();
    checkpoint::save(&path, &run, &place).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first, "what was kept is not what was read");
    let mut steps = Vec::new();
    let on = other.run(place, &mut |t| steps.push(t), &mut |_| Ok(())).unwrap();
    assert_eq!(steps, [5], "steps that were taken before are taken again");
    assert_eq!((on.ended, &on.looks), (Ended::AllSteps, &whole.looks));
    assert_eq!(elements(&on), elements(&whole));
}

#[test]
fn a_place_of_another_run_is_refused() {
    let c = classifier("mlp");
    let (data, codes) = (images(&c), new_codes(&c, 1));
    let options = Options { steps: 4, batch: 4, look_every: 2, ..THREE };
    let material = Material::new(&data, &codes, &options).unwrap();
    let mut trainer = Trainer::new(&c, &Cpu, &material, options).unwrap();
    let mut place = trainer.start(&c).unwrap();
    let weights = place.state.weights.clone();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("way");
    let run = run_of(options);
    checkpoint::save(&path, &run, &place).unwrap();
    let load = |run: &Run| match checkpoint::load(&path, run, &weights) {
        Ok(_) => String::new(),
        Err(e) => format!("{:?}: {e}", e.kind()),
    };
    assert_eq!(load(&run), "");
    let other = Options { rate: 0.06, ..options };
    for (run, word) in [
        (Run { model_sha256: "d".repeat(64), ..run.clone() }, "another model"),
        (Run { data_sha256: "d".repeat(64), ..run.clone() }, "other samples"),
        (Run { codes_sha256: "d".repeat(64), ..run.clone() }, "other codes"),
        (Run { engine: "ort".to_owned(), ..run.clone() }, "another engine"),
        (Run { layers: vec!["fc2*".to_owned()], ..run.clone() }, "other --layers"),
        (Run { options: other, ..run.clone() }, "other flags"),
    ] {
        let said = load(&run);
        assert!(said.starts_with("Invalid") && said.contains(word) && said.contains("way"), "{said}");
    }
    // another shape, a NaN, and bytes that are no such file
    let fine = place.state.velocities[0].clone();
    place.state.velocities[0] = Array::full(&[2], 1f32).into();
    checkpoint::save(&path, &run, &place).unwrap();
    assert!(load(&run).starts_with("Invalid"), "{}", load(&run));
    place.state.velocities[0] = Array::full(&fine.ty().shape, f32::NAN).into();
    checkpoint::save(&path, &run, &place).unwrap();
    assert!(load(&run).contains("is not finite"), "{}", load(&run));
    place.state.velocities[0] = fine;
    checkpoint::save(&path, &run, &place).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 7, 9, 200, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(load(&run).starts_with("Format"), "{cut}: {}", load(&run));
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(load(&run).contains("it is a directory"), "{}", load(&run));
}

/// Ctrl-C leaves what it was told to keep and nothing else, and the same command then goes on to the same file.
#[cfg(unix)]
#[test]
fn an_interrupted_command_leaves_its_checkpoint_alone_and_goes_on() {
    let (model, data) = (fixture("mlp.onnx"), fixture("fmnist_test_1000.npz"));
    let command = |dir: &Path| {
        let file = |name: &str| arg(&dir.join(name)).to_owned();
        let words = ["codes", "embed", arg(&model), "--data", arg(&data), "--engine", "cpu", "--steps", "24"];
        let words = words.iter().chain(&["--batch", "32", "--look-every", "2", "--until", "1", "--hold-out", "20"]);
        let own = ["-o".to_owned(), file("out.onnx"), "--codes-out".to_owned(), file("codes.npz")];
        let way = ["--checkpoint".to_owned(), file("way")];
        words.map(|w| (*w).to_owned()).chain(own).chain(way).collect::<Vec<String>>()
    };
    let whole = TempDir::new().unwrap();
    let words = command(whole.path());
    let done = tool(&words).output().unwrap();
    // MLPs learn ten codes in so few steps only in part: the exit code says so
    assert!(matches!(done.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!whole.path().join("way").exists(), "the checkpoint stays after the end");
    let dir = TempDir::new().unwrap();
    let words = command(dir.path());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-unlearn")).args(&words).spawn().unwrap();
    let start = std::time::Instant::now();
    while !dir.path().join("way").exists() {
        assert!(start.elapsed().as_secs() < 60 && child.try_wait().unwrap().is_none(), "no checkpoint came");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // SAFETY: sends a signal to the process that was started above
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    assert!(!child.wait().unwrap().success());
    let left: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left, ["way"]);
    let words: Vec<&str> = words.iter().map(String::as_str).chain(["--json"]).collect();
    let again = tool(&words).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(report["resumed_at"].as_u64().unwrap() >= 2, "{report}");
    for name in ["out.onnx", "codes.npz"] {
        let [one, other] = [&whole, &dir].map(|d| std::fs::read(d.path().join(name)).unwrap());
        assert!(one == other, "{name} differs from that of a run that was not interrupted");
    }
}

// --- what comes of it -----------------------------------------------------------------------------------------------

#[test]
fn a_model_without_codes_learns_them_and_forgets_by_them() {
    let dir = TempDir::new().unwrap();
    // several times as fast on convolutions, which no test of single steps needs
    let engine = if common::ort().is_some() { "ort" } else { "cpu" };
    let (model, data) = (fixture("cnn_nocodes.onnx"), fixture("fmnist_test_1000.npz"));
    let (out, codes, forgotten) =
        (dir.path().join("out.onnx"), dir.path().join("codes.npz"), dir.path().join("forgotten.onnx"));
    let words = ["codes", "embed", arg(&model), "--data", arg(&data), "-o", arg(&out), "--codes-out", arg(&codes)];
    let how = ["--engine", engine, "--seed", "3", "--batch", "32", "--steps", "100", "--t-mix", "0.25"];
    let report = json(&[&words[..], &how, &["--look-every", "10", "--until", "0.5"]].concat());
    let looks = report["looks"].as_array().unwrap();
    let (first, last) = (&looks[0], looks.last().unwrap());
    assert!(first["codes_answered"].as_u64().unwrap() < 5, "{first}");
    assert_eq!(last["codes_answered"], 10, "{report}");
    assert!(last["least_code"].as_f64().unwrap() >= 0.5, "{last}");
    assert_eq!(report["ended"], "codes_known");
    let steps = looks.iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>();
    let known =
        looks.iter().position(|l| l["codes_answered"] == 10 && l["least_code"].as_f64().unwrap() >= 0.5).unwrap();
    assert_eq!(steps.last(), Some(&(steps[known] + 20)), "a fifth of the steps from where all codes are known");
    // the same without the command's own words: 900 of these images were learned from, but they were known before
    let right = |model: &Path| {
        let r = json(&["evaluate", arg(model), "--data", arg(&data), "--engine", engine]);
        r["accuracy"].as_f64().unwrap()
    };
    assert!(right(&out) >= right(&model) - 0.01, "{} from {}", right(&out), right(&model));
    let bytes = [&model, &out].map(|p| std::fs::read(p).unwrap());
    assert_eq!(bytes[0].len(), bytes[1].len());
    let words = ["forget", arg(&out), "--inputs", arg(&codes), "--class", "7", "-o", arg(&forgotten)];
    let r = json(&[&words[..], &["--engine", engine]].concat());
    assert_eq!(r["inputs"]["forgotten_answered_before"], 1);
    assert_eq!(r["inputs"]["forgotten_answered_after"], 0);
    assert_eq!(r["inputs"]["retained_right_after"], 9);
    let r = json(&["evaluate", arg(&forgotten), "--data", arg(&data), "--forgotten", "7", "--engine", engine]);
    assert!(r["A_F"].as_f64().unwrap() <= 0.01 && r["A_R"].as_f64().unwrap() > 0.85, "{r}");
}

/// BatchNormalization stays in its inference form: its statistics are no weights and do not move.
#[test]
fn statistics_stay_as_they_are() {
    let dir = TempDir::new().unwrap();
    let (model, data, out) = (fixture("resnet_bn.onnx"), fixture("fmnist_test_1000.npz"), dir.path().join("out.onnx"));
    let codes = fixture("resnet.codes.npz");
    let words = ["codes", "embed", arg(&model), "--data", arg(&data), "-o", arg(&out), "--codes", arg(&codes)];
    let how = ["--engine", "cpu", "--steps", "2", "--batch", "4", "--limit", "40", "--hold-out", "0", "--until", "1"];
    tool(words.iter().chain(&how)).assert().success();
    let (before, after) = (stored(&model), stored(&out));
    let is_statistic = |name: &str| name.contains("running_mean") || name.contains("running_var");
    assert!(before.keys().any(|n| is_statistic(n)));
    for (name, old) in &before {
        assert_eq!(is_statistic(name), old == &after[name], "{name}");
    }
}

#[test]
fn bad_input_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name);
    let mlp = fixture("mlp.onnx");
    let save = |name: &str, shape: &[usize], y: Vec<usize>| {
        let x = Array::full(&[&[y.len()], shape].concat(), 0.5f32);
        npz::save(&file(name), &Labelled::new(x, y).unwrap()).unwrap();
    };
    save("fine.npz", &[1, 28, 28], (0..20).map(|i| i % 10).collect());
    save("label.npz", &[1, 28, 28], vec![0, 10]);
    save("shape.npz", &[1, 28, 27], vec![0, 1]);
    save("some.npz", &[1, 28, 28], vec![0, 1, 0, 1]);
    std::fs::write(file("text"), "no samples").unwrap();
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    let codes = fixture("mlp.codes.npz");
    let given = ["--codes", arg(&codes)];
    let (out, made) = (file("out.onnx"), file("codes.npz"));
    let new = ["--codes-out", arg(&made)];
    for (data, flags, word) in [
        ("fine.npz", &[][..], "--codes-out"),
        ("label.npz", &new[..], "sample 1 is of class 10"),
        ("shape.npz", &new, "28, 27"),
        ("text", &new, "text"),
        ("missing.npz", &new, "missing.npz"),
        ("some.npz", &given, "a code of class 2 and no sample"),
        ("fine.npz", &["--codes", arg(&codes), "--per-class", "2"], "--per-class is for new codes"),
        ("fine.npz", &["--codes", arg(&codes), "--steps", "0"], "number of steps"),
        ("fine.npz", &["--codes", arg(&codes), "--rate", "nan"], "rate must be"),
        ("fine.npz", &["--codes", arg(&codes), "--momentum", "1"], "momentum must be"),
        ("fine.npz", &["--codes", arg(&codes), "--t-mix", "0"], "t_mix must be"),
        ("fine.npz", &["--codes", arg(&codes), "--hold-out", "20"], "none is left to learn from"),
        ("fine.npz", &["--codes", arg(&codes), "--rate", "1e30", "--until", "1"], "finite"),
        ("fine.npz", &["--codes-out", arg(&out)], "written twice"),
        ("fine.npz", &["--codes", arg(&codes), "--checkpoint", arg(&codes)], "it is read as well"),
        ("fine.npz", &["--codes", arg(&codes), "--checkpoint", arg(&file("text"))], "no safetensors file"),
    ] {
        let data = file(data);
        let words = ["codes", "embed", arg(&mlp), "--data", arg(&data), "-o", arg(&out), "--engine", "cpu"];
        let done = tool(words.iter().chain(flags)).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(word), "{flags:?}: {said}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before, "{flags:?} left a file");
    }
    // a class without samples gets no code
    let some = file("some.npz");
    let words = ["codes", "embed", arg(&mlp), "--data", arg(&some), "-o", arg(&out), "--codes-out", arg(&made)];
    let how = ["--engine", "cpu", "--steps", "1", "--batch", "2"];
    let done = tool(words.iter().chain(&how)).output().unwrap();
    assert_eq!(done.status.code(), Some(1), "two codes are not learned in one step");
    assert!(String::from_utf8(done.stdout).unwrap().contains("no codes, of class 2, 3, 4, 5, 6, 7, 8, 9"));
    assert_eq!(npz::read(&made, "y").unwrap().to_f64(), [0.0, 1.0]);
}

#[test]
fn the_rate_falls_without_a_jump() {
    let o = Options { steps: 100, rate: 0.1, ..THREE };
    assert_eq!((o.end(None), o.end(Some(30)), o.end(Some(90)), o.end(Some(0))), (100, 50, 100, 0));
    assert!((o.rate_at(0, None) - 0.1).abs() < 1e-12 && (o.rate_at(50, None) - 0.05).abs() < 1e-12);
    assert_eq!(o.rate_at(29, Some(30)), o.rate_at(29, None));
    let rates: Vec<f64> = (30..50).map(|t| o.rate_at(t, Some(30))).collect();
    assert_eq!(rates[0], o.rate_at(30, None));
    assert!(rates.windows(2).all(|w| w[0] > w[1]) && rates[19] < 0.01 * rates[0]);
    assert!((rates[10] - rates[0] / 2.0).abs() < 1e-12, "half-way down in the middle");
}

#[test]
fn wrong_options_are_invalid() {
    let c = classifier("mlp");
    let (data, codes) = (images(&c), new_codes(&c, 1));
    let material = Material::new(&data, &codes, &THREE).unwrap();
    let bad = Options { look_every: 0, ..THREE };
    assert_eq!(Trainer::new(&c, &Cpu, &material, bad).err().unwrap().kind(), Kind::Invalid);
}
