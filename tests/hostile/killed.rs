//! Runs that are killed at random moments: the original or the complete result is there, never a mixture, and the
//! next run cleans up.
#![cfg(unix)]

use super::Room;
use super::child;
use super::models::{self, CLASSES, INPUTS, floats, model_of, node};
use super::writing::with_data;
use onnx_unlearn::onnx::recover;
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Large enough that writing takes a while: about 2 MB of weights.
const HIDDEN: usize = 70_000;

/// The files of a model that a run may change, as they are.
type State = BTreeMap<&'static str, Option<Vec<u8>>>;

/// One way to write, in a room made for it.
struct Scene {
    room: Room,
    args: Vec<&'static str>,
    files: &'static [&'static str],
    /// The model whose change may have been decided and not carried out.
    target: PathBuf,
    original: State,
    complete: State,
    /// Names in the folder before.
    names: Vec<String>,
    /// The last run that was let be.
    took: std::cell::Cell<Duration>,
}

impl Scene {
    fn new(room: Room, args: Vec<&'static str>, files: &'static [&'static str], target: &str) -> Self {
        models::codes(&room.path("c.npz"));
        let target = room.path(target);
        let mut scene = Self {
            original: State::new(),
            complete: State::new(),
            names: room.names(),
            took: Default::default(),
            room,
            args,
            files,
            target,
        };
        scene.original = scene.state();
        scene.let_be("unhindered");
        scene.complete = scene.state();
        assert!(scene.original != scene.complete, "{:?} changes nothing", scene.args);
        scene
    }
    fn inline(args: &[&'static str], files: &'static [&'static str], target: &str) -> Self {
        let room = Room::new();
        let gemm = |x: &str, w: &str, y: &str| node("Gemm", &[x, w], &[y], vec![models::int("transB", 1)]);
        let m = model_of(
            vec![gemm("x", "w1", "h"), node("Relu", &["h"], &["r"], vec![]), gemm("r", "w2", "logits")],
            vec![floats("w1", &[HIDDEN, INPUTS], 1), floats("w2", &[CLASSES, HIDDEN], 3)],
            &[0, INPUTS],
        );
        room.write("m.onnx", m.encode_to_vec());
        // the output of an earlier run, which is replaced
        room.write("out.onnx", "the output of an earlier run");
        room.write("r.json", "the record of an earlier run");
        room.write("records/r.json", "the record of an earlier run");
        Self::new(room, models::forget("m.onnx", args), files, target)
    }
    fn external(args: &[&'static str], files: &'static [&'static str], target: &str) -> Self {
        let room = Room::new();
        with_data(&room, HIDDEN);
        std::fs::create_dir(room.path("out")).unwrap();
        Self::new(room, models::forget("in/m.onnx", args), files, target)
    }

    /// Runs to the end.
    fn let_be(&self, case: &str) {
        let start = Instant::now();
        self.room.succeeds(case, &self.args);
        self.took.set(start.elapsed());
    }
    fn state(&self) -> State {
        self.files.iter().map(|&f| (f, std::fs::read(self.room.path(f)).ok())).collect()
    }
    fn reset(&self) {
        for (name, bytes) in &self.original {
            match bytes {
                Some(bytes) => drop(self.room.write(name, bytes)),
                None => drop(std::fs::remove_file(self.room.path(name))),
            }
        }
    }
    /// Everything below the room that no run leaves behind.
    fn left_over(&self) -> Vec<PathBuf> {
        let all = self.room.contents().into_keys();
        all.filter(|p| p.file_name().unwrap().to_string_lossy().contains("onnx-unlearn")).collect()
    }
    /// Starts a run and sends it a signal at a random moment; says what that was, for messages.
    fn stop(&self, signal: i32, rng: &mut ChaCha8Rng) -> (Option<i32>, String) {
        let mut run = child::command(self.room.root(), &self.args).spawn().unwrap();
        // most of the time is spent before the first byte is written
        let from = if rng.random::<bool>() { 0.0 } else { 0.6 };
        let moment = self.took.get().mul_f64(rng.random_range(from..1.3));
        std::thread::sleep(moment);
        // SAFETY: the child is not waited for yet, so that the number is its own
        unsafe { libc::kill(run.id() as i32, signal) };
        (run.wait().unwrap().code(), format!("{:?} stopped after {moment:?}", self.args))
    }
}

/// What happened to the runs, for whoever reads the output.
#[derive(Debug, Default)]
struct Tally {
    original: usize,
    complete: usize,
    decided: usize,
    with_left_over: usize,
}

fn kill(scene: &Scene, times: usize, rng: &mut ChaCha8Rng) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..times {
        scene.reset();
        let (_, case) = scene.stop(libc::SIGKILL, rng);
        tally.with_left_over += usize::from(!scene.left_over().is_empty());
        let decided = recover(&scene.target).unwrap_or_else(|e| panic!("{case}: {e}"));
        let state = scene.state();
        if state == scene.original {
            assert!(!decided, "{case}: decided, and the original");
            tally.original += 1;
        } else {
            assert!(state == scene.complete, "{case}: a mixture");
            tally.complete += 1;
            tally.decided += usize::from(decided);
        }
        // the next run, from the original again, cleans up and does the whole work
        scene.reset();
        scene.let_be(&case);
        assert!(scene.state() == scene.complete, "{case}: the next run did something else");
        assert_eq!(scene.left_over(), Vec::<PathBuf>::new(), "{case}: the next run left something");
        assert_eq!(scene.room.names(), scene.names, "{case}");
    }
    tally
}

#[test]
fn killed_at_200_moments() {
    let seed = 20_260;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let scenes = [
        (Scene::inline(&["--in-place"], &["m.onnx", "out.onnx"], "m.onnx"), 60),
        (Scene::inline(&["-o", "out.onnx"], &["m.onnx", "out.onnx"], "out.onnx"), 50),
        (Scene::external(&["--in-place"], &["in/m.onnx", "in/data/one.bin", "in/data/two.bin"], "in/m.onnx"), 60),
        (
            Scene::external(
                &["-o", "out/m.onnx"],
                &[
                    "in/m.onnx",
                    "in/data/one.bin",
                    "in/data/two.bin",
                    "out/m.onnx",
                    "out/data/one.bin",
                    "out/data/two.bin",
                ],
                "out/m.onnx",
            ),
            30,
        ),
    ];
    for (scene, times) in &scenes {
        let tally = kill(scene, *times, &mut rng);
        println!("{:?}, {times} kills, seed {seed}, {:?} a run: {tally:?}", scene.args, scene.took.get());
        // or the moments were chosen badly
        assert!(tally.original > 0 && tally.complete > 0, "{:?}: {tally:?}", scene.args);
    }
    assert_eq!(scenes.iter().map(|s| s.1).sum::<usize>(), 200);
}

/// A record beside the model appears with it; one in another folder may be there before it, and never after it.
#[test]
fn killed_while_a_record_is_written() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for args in [["--in-place", "--record", "r.json"], ["-o=out.onnx", "--record", "r.json"]] {
        let target = if args[0] == "--in-place" { "m.onnx" } else { "out.onnx" };
        let scene = Scene::inline(&args, &["m.onnx", "out.onnx", "r.json"], target);
        let tally = kill(&scene, 10, &mut rng);
        println!("{args:?}: {tally:?}");
    }
    let elsewhere = ["--in-place", "--record", "records/r.json"];
    let scene = Scene::inline(&elsewhere, &["m.onnx", "records/r.json"], "m.onnx");
    for _ in 0..10 {
        scene.reset();
        let (_, case) = scene.stop(libc::SIGKILL, &mut rng);
        recover(&scene.target).unwrap();
        let (state, model) = (scene.state(), "m.onnx");
        let recorded = state["records/r.json"] == scene.complete["records/r.json"];
        let changed = state[model] == scene.complete[model];
        assert!(recorded || state["records/r.json"] == scene.original["records/r.json"], "{case}: part of a record");
        assert!(changed || state[model] == scene.original[model], "{case}: part of a model");
        assert!(recorded || !changed, "{case}: a model without its record");
        scene.reset();
        scene.let_be(&case);
        assert!(scene.state() == scene.complete, "{case}");
        assert_eq!(scene.left_over(), Vec::<PathBuf>::new(), "{case}: the next run left something");
    }
}

/// Ctrl-C, and the signal by which systems ask programs to end, leave nothing: no next run is needed.
#[test]
fn interrupted_runs_leave_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for scene in [
        Scene::inline(&["--in-place"], &["m.onnx", "out.onnx"], "m.onnx"),
        Scene::external(&["--in-place"], &["in/m.onnx", "in/data/one.bin", "in/data/two.bin"], "in/m.onnx"),
    ] {
        let mut stopped = 0;
        for i in 0..20 {
            scene.reset();
            let (code, case) = scene.stop(if i % 2 == 0 { libc::SIGINT } else { libc::SIGTERM }, &mut rng);
            let state = scene.state();
            assert!(state == scene.original || state == scene.complete, "{case}: a mixture");
            assert_eq!(scene.left_over(), Vec::<PathBuf>::new(), "{case}: left something");
            match code {
                // ended by the signal itself, as a shell expects it
                None => stopped += 1,
                Some(0) => assert!(state == scene.complete, "{case}: done, and not"),
                other => panic!("{case}: {other:?}"),
            }
        }
        assert!(stopped > 0, "{:?} was never stopped", scene.args);
    }
}

/// What a kill between two renames leaves: nothing reads the mixture, and the next run completes it.
#[test]
fn a_model_between_two_renames_does_not_open() {
    let room = Room::new();
    with_data(&room, 16);
    models::codes(&room.path("c.npz"));
    let old = std::fs::read(room.path("in/data/two.bin")).unwrap();
    let new: Vec<u8> = old.iter().map(|_| 0).collect();
    room.write("in/data/.onnx-unlearn-00000000-a.part", &new);
    room.write(
        "in/.m.onnx.onnx-unlearn-journal",
        r#"{"version":1,"renames":[{"from":"data/.onnx-unlearn-00000000-gone.part","to":"data/one.bin"},{"from":"data/.onnx-unlearn-00000000-a.part","to":"data/two.bin"}]}"#,
    );
    for args in [vec!["inspect", "in/m.onnx"], vec!["gradients", "in/m.onnx", "-o", "g.onnx"]] {
        room.refuses("between two renames", &args, &["in/m.onnx", "are being replaced", "forget"]);
    }
    std::fs::create_dir(room.path("out")).unwrap();
    let ended = room.run(&models::forget("in/m.onnx", &["-o", "out/m.onnx"]));
    assert!(ended.stderr.contains("note: completed the change of in/m.onnx"), "{}", ended.stderr);
    assert_eq!(std::fs::read(room.path("in/data/two.bin")).unwrap(), new);
    assert!(!room.path("in/.m.onnx.onnx-unlearn-journal").exists());
    room.succeeds("completed", &["inspect", "in/m.onnx"]);
}
