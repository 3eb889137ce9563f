//! Files that appear together with a model, or not at all.

use super::*;
use crate::onnx::{Companion, FileDigest};
use sha2::{Digest, Sha256};

fn together() -> PatchOptions {
    PatchOptions { companions: true, ..plain() }
}

fn companion(path: PathBuf) -> Companion {
    Companion { path, bytes: b"about it".to_vec() }
}

fn sum(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn hashes_are_known_before_the_files_have_their_names() {
    let case = with_data();
    fs::create_dir(case.path("out")).unwrap();
    let m = case.open();
    let changes = [change(&m, "b", &[0.5, 2.0]), change(&m, "inline", &[6.0])];
    let target = case.path("out/new.onnx");
    let staged = stage(&m, &changes, &target, &together()).unwrap();
    let digests = staged.digests().unwrap();
    let weight = |n: &str| &m.weights()[m.weight_index(n).unwrap()];
    let (b, a) = (staged.weight_sha256(weight("b")).unwrap(), staged.weight_sha256(weight("a")).unwrap());
    assert!(!target.exists());
    staged.commit(&[companion(case.path("out/r.json"))]).unwrap();
    let named = |name: &str, path: &str| FileDigest { name: name.into(), sha256: sum(&case.path(path)) };
    assert_eq!(digests, [named("new.onnx", "out/new.onnx"), named("data/w.bin", "out/data/w.bin")]);
    assert_eq!(m.digests(), [named("m.onnx", "m.onnx"), named("data/w.bin", "data/w.bin")]);
    let halves: String = Sha256::digest([0x3800_u16, 0x4000].map(u16::to_le_bytes).concat())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(b, halves);
    assert_eq!(a, m.weight_sha256(weight("a")).unwrap());
    assert_ne!(b, m.weight_sha256(weight("b")).unwrap());
    assert_eq!(fs::read(case.path("out/r.json")).unwrap(), b"about it");
    assert_eq!(fs::read_dir(case.path("out")).unwrap().count(), 3);
}

#[test]
fn a_staged_model_that_is_dropped_leaves_nothing() {
    let case = Case::new(&everything());
    let m = case.open();
    drop(stage(&m, &[change(&m, "raw", &[1.0, 2.0])], case.path("o"), &together()).unwrap());
    assert_eq!(case.names(), ["m.onnx"]);
}

/// A run that was killed left unfinished files, of which no journal speaks, where companions go.
#[test]
fn what_a_killed_run_left_goes_where_companions_go() {
    let case = Case::new(&everything());
    fs::create_dir(case.path("folder")).unwrap();
    let m = case.open();
    let staged = stage(&m, &[change(&m, "raw", &[1.0, 2.0])], case.path("o"), &together()).unwrap();
    let names = case.names();
    let mark = names.iter().find_map(|n| n.strip_prefix(".onnx-unlearn-")).unwrap().split_once('-').unwrap().0;
    let part = |mark: &str| case.path(&format!("folder/.onnx-unlearn-{mark}-left.part"));
    for path in [part(mark), part("another"), case.path("folder/.onnx-unlearn-left.tmp")] {
        fs::write(path, "x").unwrap();
    }
    staged.commit(&[companion(case.path("folder/r"))]).unwrap();
    let mut left: Vec<_> = fs::read_dir(case.path("folder")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".onnx-unlearn-another-left.part", "r"]);
}

#[test]
fn companions_may_replace_no_file_of_a_model() {
    let case = with_data();
    fs::create_dir(case.path("out")).unwrap();
    fs::create_dir(case.path("folder")).unwrap();
    let m = case.open();
    for (path, why) in [
        ("m.onnx", "file of the input"),
        ("data/w.bin", "file of the input"),
        ("out/o.onnx", "same name"),
        ("out/data/w.bin", "same name"),
        ("folder", "directory"),
        ("none/r", "does not exist"),
    ] {
        let staged = stage(&m, &[change(&m, "a", &[1.5, 2.0])], case.path("out/o.onnx"), &together()).unwrap();
        let e = staged.commit(&[companion(case.path(path))]).unwrap_err().to_string();
        assert!(e.contains(why), "{path}: {e}");
        assert_eq!(fs::read_dir(case.path("out")).unwrap().count(), 0, "{path}");
    }
    let staged = stage(&m, &[change(&m, "a", &[1.5, 2.0])], case.path("out/o.onnx"), &together()).unwrap();
    let twice = [companion(case.path("folder/r")), companion(case.path("out/../folder/r"))];
    assert!(staged.commit(&twice).unwrap_err().to_string().contains("written twice"));
    assert_eq!(fs::read_dir(case.path("folder")).unwrap().count(), 0);
}

/// The model's place is taken by something that no rename replaces, after the companion has its name already.
#[test]
fn companions_elsewhere_are_put_back_when_the_model_cannot_appear() {
    for before in [None, Some("older")] {
        let case = Case::new(&everything());
        for folder in ["out", "records"] {
            fs::create_dir(case.path(folder)).unwrap();
        }
        let record = case.path("records/r.json");
        if let Some(text) = before {
            fs::write(&record, text).unwrap();
        }
        let m = case.open();
        let staged = stage(&m, &[change(&m, "raw", &[1.0, 2.0])], case.path("out/o.onnx"), &together()).unwrap();
        // its temporary file goes, so that the rename fails
        for entry in fs::read_dir(case.path("out")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let e = staged.commit(&[companion(record.clone())]).unwrap_err().to_string();
        assert!(e.contains("cannot write"), "{e}");
        assert_eq!(fs::read_to_string(&record).ok().as_deref(), before);
        assert_eq!(fs::read_dir(case.path("out")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(case.path("records")).unwrap().count(), usize::from(before.is_some()));
    }
}
