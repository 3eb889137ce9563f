//! Where output goes: what must not be replaced, disks that are full, folders that cannot be written.

use super::Room;
use super::child::{self, Limits};
use super::models::{self, CLASSES, INPUTS, bytes_of, classifier, external, floats, model_of, node, values};
use onnx_unlearn::onnx::Model;
use prost::Message;
use std::path::Path;

fn room() -> Room {
    let room = Room::new();
    room.write("m.onnx", classifier().encode_to_vec());
    models::codes(&room.path("c.npz"));
    room
}

/// Every command that writes, to `out`.
fn writers(out: &str) -> Vec<Vec<&str>> {
    vec![
        models::forget("m.onnx", &["-o", out]),
        vec!["fisher", "m.onnx", "--inputs", "c.npz", "--engine", "cpu", "-o", out],
        vec!["gradients", "m.onnx", "-o", out],
        vec!["codes", "new", "m.onnx", "-o", out],
    ]
}

/// The classifier with `w1` and `w2` in two files, in the folder `in`.
pub(crate) fn with_data(room: &Room, hidden: usize) {
    let gemm = |x: &str, w: &str, b: &str, y: &str| node("Gemm", &[x, w, b], &[y], vec![models::int("transB", 1)]);
    let (h, at) = (hidden as i64, |name: &'static str| [("location", name)]);
    let m = model_of(
        vec![gemm("x", "w1", "b1", "h"), node("Relu", &["h"], &["r"], vec![]), gemm("r", "w2", "b2", "logits")],
        vec![
            external("w1", &[h, INPUTS as i64], &at("data/one.bin")),
            floats("b1", &[hidden], 2),
            external("w2", &[CLASSES as i64, h], &at("data/two.bin")),
            floats("b2", &[CLASSES], 4),
        ],
        &[0, INPUTS],
    );
    room.write("in/m.onnx", m.encode_to_vec());
    room.write("in/data/one.bin", bytes_of(&values(hidden * INPUTS, 1)));
    room.write("in/data/two.bin", bytes_of(&values(hidden * CLASSES, 3)));
}

#[test]
fn targets_that_are_no_place_for_a_file() {
    let room = room();
    std::fs::create_dir(room.path("folder")).unwrap();
    let read_only = room.write("read-only", "mine");
    let mut permissions = read_only.metadata().unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&read_only, permissions).unwrap();
    let mut cases = vec![
        ("a folder", "folder", ""),
        ("a folder with a slash", "folder/", ""),
        ("a missing folder", "none/out", "does not exist"),
        ("below a file", "read-only/out", "read-only"),
        ("read-only", "read-only", "read-only"),
        ("the model", "m.onnx", ""),
        ("the model by another way", "folder/../m.onnx", ""),
        ("the folder above", "..", ""),
    ];
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        room.write("target", "mine");
        symlink("target", room.path("link")).unwrap();
        symlink("none", room.path("dangling")).unwrap();
        symlink("m.onnx", room.path("link-to-model")).unwrap();
        std::fs::hard_link(room.path("m.onnx"), room.path("hard")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(room.path("fifo")).status().unwrap().success());
        cases.extend([
            ("a symbolic link", "link", "symbolic link"),
            ("a symbolic link to nothing", "dangling", "symbolic link"),
            ("a symbolic link to the model", "link-to-model", ""),
            ("a FIFO", "fifo", "no regular file"),
            ("a device", "/dev/null", "no regular file"),
        ]);
    }
    for (case, out, word) in cases {
        for args in writers(out) {
            room.refuses(case, &args, &[word]);
        }
    }
    #[cfg(unix)]
    room.refuses("the model by a hard link", &models::forget("m.onnx", &["-o", "hard"]), &["it is the input"]);
    #[cfg(unix)]
    room.refuses("in place with a hard link", &models::forget("m.onnx", &["--in-place"]), &["hard links"]);
    room.refuses("the inputs", &models::forget("m.onnx", &["-o", "c.npz"]), &["read as well"]);
}

/// `/proc` takes no files, not even from root.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written() {
    let room = room();
    for args in writers("/proc/out") {
        room.refuses("/proc", &args, &["cannot write /proc/out"]);
    }
}

/// A file system of its own for one test, where that is allowed: as root.
#[cfg(target_os = "linux")]
struct Mounted(std::path::PathBuf);

#[cfg(target_os = "linux")]
impl Mounted {
    fn new(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let out = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).output();
        out.is_ok_and(|o| o.status.success()).then(|| Self(at.to_path_buf()))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk that is full: a small file system where one may be mounted, and everywhere a limit on the size of files.
#[cfg(target_os = "linux")]
#[test]
fn disk_full() {
    let room = room();
    let large = model_of(
        vec![
            node("Gemm", &["x", "w1"], &["h"], vec![models::int("transB", 1)]),
            node("Relu", &["h"], &["r"], vec![]),
            node("Gemm", &["r", "w2"], &["logits"], vec![models::int("transB", 1)]),
        ],
        vec![floats("w1", &[50_000, INPUTS], 1), floats("w2", &[CLASSES, 50_000], 3)],
        &[0, INPUTS],
    );
    room.write("m.onnx", large.encode_to_vec());
    with_data(&room, 50_000);
    std::fs::create_dir(room.path("out")).unwrap();
    let full = |case: &str, args: &[&str]| {
        let before = room.contents();
        let mut command = std::process::Command::new("bash");
        // 512 KiB: more than nothing, less than the model
        command.args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\"", "bash", env!("CARGO_BIN_EXE_onnx-unlearn")]);
        command.args(args).current_dir(room.root());
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let ended = child::watch(&mut command, &Limits::default());
        assert_eq!(ended.code, Some(2), "{case}: {args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("cannot write"), "{case}: {}", ended.stderr);
        assert!(before == room.contents(), "{case}: {args:?} changed or left something");
    };
    let mut all = writers("out/out");
    all.truncate(2);
    all.push(models::forget("m.onnx", &["--in-place"]));
    all.push(models::forget("in/m.onnx", &["-o", "out/m.onnx"]));
    all.push(models::forget("in/m.onnx", &["--in-place"]));
    for args in &all {
        full("files of at most 512 KiB", args);
    }
    let Some(_small) = Mounted::new(&room.path("small"), "size=600k") else { return };
    std::fs::copy(room.path("in/m.onnx"), room.path("small/other.onnx")).unwrap();
    for args in [
        models::forget("m.onnx", &["-o", "small/out.onnx"]),
        models::forget("in/m.onnx", &["-o", "small/out.onnx"]),
        vec!["fisher", "m.onnx", "--inputs", "c.npz", "--engine", "cpu", "-o", "small/out"],
    ] {
        room.refuses("a file system of 600 KiB", &args, &["cannot write", "small"]);
    }
}

/// A file system that is mounted read-only, where one may be mounted.
#[cfg(target_os = "linux")]
#[test]
fn a_read_only_file_system() {
    let room = room();
    let Some(fixed) = Mounted::new(&room.path("fixed"), "size=8m") else { return };
    for name in ["m.onnx", "c.npz"] {
        std::fs::copy(room.path(name), room.path("fixed").join(name)).unwrap();
    }
    let again = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(&fixed.0).status().unwrap();
    assert!(again.success());
    for args in writers("fixed/out") {
        room.refuses("read-only", &args, &["cannot write"]);
    }
    room.refuses("read-only in place", &models::forget("fixed/m.onnx", &["--in-place"]), &["cannot write"]);
    room.succeeds("a model there is read", &models::forget("fixed/m.onnx", &["-o", "out.onnx"]));
}

#[test]
fn external_data_go_along() {
    let room = room();
    with_data(&room, 16);
    let before = room.contents();
    std::fs::create_dir(room.path("out")).unwrap();
    room.succeeds("elsewhere", &models::forget("in/m.onnx", &["-o", "out/m.onnx"]));
    let after = room.contents();
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "the input changed");
    assert_eq!(
        after[&room.path("out/m.onnx")].as_ref().unwrap().len(),
        before[&room.path("in/m.onnx")].as_ref().unwrap().len()
    );
    assert_ne!(after[&room.path("out/data/one.bin")], after[&room.path("in/data/one.bin")]);
    room.refuses("the data files exist", &models::forget("in/m.onnx", &["-o", "out/m.onnx"]), &["exists already"]);
    room.refuses("beside the input", &models::forget("in/m.onnx", &["-o", "in/out.onnx"]), &["another directory"]);
    room.refuses("over the data", &models::forget("in/m.onnx", &["-o", "in/data/one.bin"]), &["data file"]);
    room.succeeds("in place", &models::forget("in/m.onnx", &["--in-place"]));
    for name in ["m.onnx", "data/one.bin", "data/two.bin"] {
        let (a, b) = (room.path("in").join(name), room.path("out").join(name));
        assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{name} differs");
    }
}

/// While one run has a model, another one that would change it is told so.
#[test]
fn two_runs_on_one_file() {
    let room = room();
    let model = Model::open(room.path("m.onnx")).unwrap();
    model.lock().unwrap();
    room.refuses("locked", &models::forget("m.onnx", &["--in-place"]), &["m.onnx", "another run"]);
    room.succeeds("reading needs no lock", &models::forget("m.onnx", &["-o", "out.onnx"]));
    drop(model);
    let once = std::fs::read(room.path("out.onnx")).unwrap();
    room.succeeds("unlocked", &models::forget("m.onnx", &["--in-place"]));
    assert!(std::fs::read(room.path("m.onnx")).unwrap() == once);
}

/// Eight at a time: each one that says it is done has changed the file as it found it, one after another.
#[test]
fn many_runs_at_once() {
    let room = room();
    let states = states(&room, "m.onnx", 8);
    let children: Vec<_> = (0..8)
        .map(|_| child::command(room.root(), &models::forget("m.onnx", &["--in-place"])).spawn().unwrap())
        .collect();
    let mut done = 0;
    for c in children {
        let out = c.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        match out.status.code() {
            Some(0) => done += 1,
            Some(2) => assert!(stderr.contains("another run") || stderr.contains("changed"), "{stderr}"),
            other => panic!("{other:?}: {stderr}"),
        }
    }
    assert!(done >= 1);
    assert!(std::fs::read(room.path("m.onnx")).unwrap() == states[done], "{done} runs and another state");
    assert_eq!(room.names(), ["c.npz", "m.onnx"]);
}

/// The model after 0, 1, 2, … runs.
fn states(room: &Room, model: &str, runs: usize) -> Vec<Vec<u8>> {
    let first = std::fs::read(room.path(model)).unwrap();
    let mut all = vec![first.clone()];
    for _ in 0..runs {
        room.succeeds("a run by itself", &models::forget(model, &["--in-place"]));
        all.push(std::fs::read(room.path(model)).unwrap());
    }
    std::fs::write(room.path(model), first).unwrap();
    all
}
