use super::super::proto::*;
use super::super::samples::*;
use super::splice::CHUNK;
use super::*;

use proptest::prelude::*;
use prost::Message;
use std::fs;
use std::io::{Seek, SeekFrom, Write};

mod companions;

struct Case {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Case {
    fn new(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("m.onnx");
        fs::write(&model, bytes).unwrap();
        Self { dir, model }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn open(&self) -> Model {
        Model::open(&self.model).unwrap()
    }
    /// Names in the directory, hidden ones included.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn change(model: &Model, name: &str, values: &[f32]) -> (usize, Array) {
    let i = model.weight_index(name).unwrap();
    (i, Array::from_vec(model.weights()[i].shape(), values.to_vec()).unwrap())
}

fn plain() -> PatchOptions {
    PatchOptions::default()
}

fn in_place() -> PatchOptions {
    PatchOptions { in_place: true, ..plain() }
}

/// A model with two weights and an integer in `data/w.bin`.
fn with_data() -> Case {
    let place = |offset: &'static str| [("location", "data/w.bin"), ("offset", offset)];
    let graph = model(
        vec![],
        vec![
            external("a", 1, &[2], &place("0")),
            external("b", 10, &[2], &place("8")),
            external("i", 7, &[1], &place("12")),
            raw("inline", 1, &[1], bytes_of(&[5.0])),
        ],
    );
    let case = Case::new(&graph.encode_to_vec());
    fs::create_dir(case.path("data")).unwrap();
    let halves = [0x3c00_u16, 0x4000].map(u16::to_le_bytes).concat();
    fs::write(
        case.path("data/w.bin"),
        [bytes_of(&[1.0, 2.0]), halves, 5_i64.to_le_bytes().to_vec(), vec![9; 3]].concat(),
    )
    .unwrap();
    case
}

#[test]
fn every_kind_of_weight_changes_and_reads_back() {
    let case = Case::new(&everything());
    let before = case.open();
    let names = ["c", "d", "raw", "typed", "double", "bf16", "unpacked"];
    let mut changes: Vec<_> = names.map(|n| change(&before, n, &[1.0, -0.5])).into();
    changes.push(change(&before, "scalar", &[f32::NAN]));
    changes.push(change(&before, "none", &[]));
    let out = case.path("out.onnx");
    let report = patch(&before, &changes, &out, &plain()).unwrap();
    assert_eq!(report.changed(), 8);
    assert_eq!(report.files, std::slice::from_ref(&out));
    assert_eq!(case.names(), ["m.onnx", "out.onnx"]);
    let after = Model::open(&out).unwrap();
    for name in names {
        let w = &after.weights()[after.weight_index(name).unwrap()];
        assert_eq!(after.read(w).unwrap().to_f64(), [1.0, -0.5], "{name}");
    }
    assert_eq!(fs::read(&case.model).unwrap(), everything());
    // the second reader agrees
    use onnx_protobuf::Message as _;
    let theirs = onnx_protobuf::ModelProto::parse_from_bytes(&fs::read(&out).unwrap()).unwrap();
    let unpacked = theirs.graph.initializer.iter().find(|t| t.name == "unpacked").unwrap();
    assert_eq!(unpacked.float_data, [1.0, -0.5]);
}

#[test]
fn equal_values_keep_their_bytes() {
    let mut m = model(vec![], vec![raw("f64", 11, &[2], [0.1_f64, 2.0].map(f64::to_le_bytes).concat())]);
    let odd = [0x7e01_u16, 0x8000, 0x3c01].map(u16::to_le_bytes).concat();
    m.graph.as_mut().unwrap().initializer.push(raw("f16", 10, &[3], odd));
    let case = Case::new(&m.encode_to_vec());
    let before = case.open();
    let same: Vec<_> =
        before.weights().iter().enumerate().map(|(i, w)| (i, before.read(w).unwrap().to_float(DType::F32))).collect();
    let report = patch(&before, &same, case.path("o"), &plain()).unwrap();
    assert_eq!(report.changed(), 0);
    assert_eq!(fs::read(case.path("o")).unwrap(), fs::read(&case.model).unwrap());
    // 0.0 is not -0.0
    let changes = [change(&before, "f16", &[1.0, 0.0, 1.0])];
    assert_eq!(patch(&before, &changes, case.path("o"), &plain()).unwrap().changed(), 3);
    // a double as double
    let wide = [(0, Array::from_vec(&[2], vec![0.1_f64, 2.000_000_000_1]).unwrap())];
    assert_eq!(patch(&before, &wide, case.path("o"), &plain()).unwrap().changed(), 1);
}

#[test]
fn halves_round_to_nearest_even() {
    let case = Case::new(&model(vec![], vec![raw("h", 10, &[4], vec![0; 8])]).encode_to_vec());
    let m = case.open();
    let step = 2.0_f32.powi(-10);
    let values = [1.0 + step / 2.0, 1.0 + 1.5 * step, 1.0 + 0.51 * step, 65519.0];
    patch(&m, &[change(&m, "h", &values)], case.path("o"), &plain()).unwrap();
    let after = Model::open(case.path("o")).unwrap();
    let read = after.read(&after.weights()[0]).unwrap();
    assert_eq!(read.slice::<f32>().unwrap(), [1.0, 1.0 + 2.0 * step, 1.0 + step, 65504.0]);
}

#[test]
fn wrong_changes_are_refused_and_nothing_is_written() {
    let case = Case::new(&everything());
    let m = case.open();
    let f16 = m.weight_index("f16").unwrap();
    let wrong: Vec<Vec<(usize, Array)>> = vec![
        vec![(99, Array::full(&[2], 0_f32))],
        vec![(0, Array::full(&[3], 0_f32))],
        vec![(0, Array::ints(&[1, 2]))],
        vec![(0, Array::full(&[2], 1e300_f64))],
        vec![(f16, Array::full(&[3], 70_000_f32))],
        vec![change(&m, "raw", &[0.0; 2]), change(&m, "raw", &[0.0; 2])],
        vec![change(&m, "halves", &[0.0; 2])],
    ];
    for changes in wrong {
        patch(&m, &changes, case.path("o"), &plain()).unwrap_err();
        assert_eq!(case.names(), ["m.onnx"]);
    }
}

#[test]
fn targets_that_would_lose_something_are_refused() {
    let case = Case::new(&everything());
    let m = case.open();
    let changes = [change(&m, "raw", &[0.0; 2])];
    let error = |target: &Path, o: PatchOptions| patch(&m, &changes, target, &o).unwrap_err().to_string();
    assert!(error(&case.model, plain()).contains("it is the input"));
    assert!(error(&case.path("./m.onnx"), plain()).contains("it is the input"));
    assert!(error(&case.path("o"), in_place()).contains("in place"));
    assert!(error(&case.path("none/o"), plain()).contains("directory does not exist"));
    assert!(error(case.dir.path(), plain()).contains("is a directory"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("m.onnx", case.path("link")).unwrap();
        assert!(error(&case.path("link"), plain()).contains("symbolic link"));
        assert!(error(&case.path("link"), in_place()).contains("symbolic link"));
        fs::hard_link(&case.model, case.path("hard")).unwrap();
        assert!(error(&case.path("hard"), plain()).contains("it is the input"));
        assert!(error(&case.model, in_place()).contains("hard links"));
    }
    fs::write(case.path("ro"), "x").unwrap();
    let mut permissions = fs::metadata(case.path("ro")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(case.path("ro"), permissions).unwrap();
    assert!(error(&case.path("ro"), plain()).contains("read-only"));
    assert_eq!(fs::read(&case.model).unwrap(), everything());
}

#[test]
fn in_place_replaces_the_file_and_keeps_its_permissions() {
    let case = Case::new(&everything());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&case.model, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let m = case.open();
    let changes = [change(&m, "raw", &[0.0; 2])];
    patch(&m, &changes, &case.model, &in_place()).unwrap();
    assert_eq!(case.names(), ["m.onnx"]);
    let after = case.open();
    assert_eq!(after.read(&after.weights()[2]).unwrap().to_f64(), [0.0; 2]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&case.model).unwrap().permissions().mode() & 0o777, 0o640);
    }
    // `m` still maps the old file, which is no longer the one under that name
    let e = patch(&m, &changes, &case.model, &in_place()).unwrap_err().to_string();
    assert!(e.contains("changed since it was opened"), "{e}");
    fs::write(&case.model, everything()).unwrap();
    let m = case.open();
    fs::OpenOptions::new().append(true).open(&case.model).unwrap().write_all(b"\x0a\x00").unwrap();
    let e = patch(&m, &changes, &case.model, &in_place()).unwrap_err().to_string();
    assert!(e.contains("changed since it was opened"), "{e}");
}

#[test]
fn external_data_go_along_to_another_directory() {
    let case = with_data();
    let m = case.open();
    let changes = [change(&m, "a", &[1.0, 7.0]), change(&m, "b", &[0.5, 2.0])];
    let e = patch(&m, &changes, case.path("o.onnx"), &plain()).unwrap_err().to_string();
    assert!(e.contains("another directory"), "{e}");
    // inline weights may change beside the original, whose data the copy then shares
    patch(&m, &[change(&m, "inline", &[6.0])], case.path("o.onnx"), &plain()).unwrap();
    fs::create_dir(case.path("out")).unwrap();
    let target = case.path("out/o.onnx");
    let report = patch(&m, &changes, &target, &plain()).unwrap();
    assert_eq!(report.files, [case.path("out/data/w.bin"), target.clone()]);
    assert_eq!(report.changed(), 2);
    assert_eq!(fs::read(&target).unwrap(), fs::read(&case.model).unwrap());
    let (old, new) = (fs::read(case.path("data/w.bin")).unwrap(), fs::read(case.path("out/data/w.bin")).unwrap());
    let differing: Vec<usize> = (0..old.len()).filter(|&i| old[i] != new[i]).collect();
    assert!(differing.iter().all(|i| (4..10).contains(i)), "{differing:?}");
    let after = Model::open(&target).unwrap();
    assert_eq!(after.read(&after.weights()[0]).unwrap().to_f64(), [1.0, 7.0]);
    // a data file that is there already is not ours to replace
    let e = patch(&m, &changes, &target, &plain()).unwrap_err().to_string();
    assert!(e.contains("exists already"), "{e}");
    patch(&m, &changes, &target, &PatchOptions { overwrite_data: true, ..plain() }).unwrap();
    // directories that a refused run made are gone again
    fs::create_dir(case.path("two")).unwrap();
    let huge = [change(&m, "b", &[1e6, 0.0])];
    assert!(patch(&m, &huge, case.path("two/o.onnx"), &plain()).is_err());
    assert!(fs::read_dir(case.path("two")).unwrap().next().is_none());
    // the output model must not take the name of its data
    assert!(patch(&m, &changes, case.path("data/w.bin"), &plain()).is_err());
}

#[test]
fn external_data_change_in_place() {
    let case = with_data();
    let m = case.open();
    let changes = [change(&m, "b", &[0.5, 2.0]), change(&m, "inline", &[6.0])];
    let report = patch(&m, &changes, &case.model, &in_place()).unwrap();
    assert_eq!(report.files.len(), 2);
    let after = case.open();
    let read = |n: &str| after.read(&after.weights()[after.weight_index(n).unwrap()]).unwrap().to_f64();
    assert_eq!((read("a"), read("b"), read("inline")), (vec![1.0, 2.0], vec![0.5, 2.0], vec![6.0]));
    // only the data change: the model file is left alone
    let report = patch(&after, &[change(&after, "a", &[0.0, 0.0])], &case.model, &in_place()).unwrap();
    assert_eq!(report.files, [case.path("data/w.bin").canonicalize().unwrap()]);
    assert_eq!(case.names(), ["data", "m.onnx"]);
}

#[test]
fn shared_bytes_and_checksums_are_refused() {
    let refused = |tensors: Vec<TensorProto>| {
        let case = Case::new(&model(vec![], tensors).encode_to_vec());
        fs::write(case.path("w"), vec![0; 64]).unwrap();
        let m = case.open();
        fs::create_dir(case.path("out")).unwrap();
        patch(&m, &[change(&m, "a", &[1.0, 2.0])], case.path("out/o"), &plain()).map_err(|e| e.to_string())
    };
    // of 64 zeros
    const ZEROS: &str = "c8d7d0ef0eedfa82d2ea1aa592845b9a6d4b02b7";
    let at = |name: &str, offset: &str| external(name, 1, &[2], &[("location", "w"), ("offset", offset)]);
    let integer = |offset: &str| external("i", 7, &[1], &[("location", "./w"), ("offset", offset)]);
    assert!(refused(vec![at("a", "0"), at("b", "8"), integer("16")]).is_ok());
    assert!(refused(vec![at("a", "0"), at("b", "16"), at("c", "20")]).is_ok(), "unchanged tensors may overlap");
    for tensors in [
        vec![at("a", "0"), at("b", "0")],
        vec![at("a", "8"), at("b", "4")],
        vec![at("a", "8"), integer("12")],
        vec![external("long", 1, &[16], &[("location", "w")]), at("b", "4"), at("a", "40")],
    ] {
        let e = refused(tensors).unwrap_err();
        assert!(e.contains("share bytes"), "{e}");
    }
    let sum = external("s", 1, &[1], &[("location", "w"), ("offset", "32"), ("checksum", ZEROS)]);
    assert!(refused(vec![at("a", "0"), sum]).unwrap_err().contains("checksum"));
}

#[test]
fn verification_sees_a_stray_byte() {
    let source = everything();
    let case = Case::new(&source);
    let m = case.open();
    let changes = [(2, Array::full(&[2], 3_f32))];
    let jobs = plan(&m, &changes).unwrap();
    let job = &jobs[0];
    let mut done = PatchedWeight { index: 2, name: String::new(), elements: 2, changed: 2, bytes: 8 };
    let mut temp = tempfile::NamedTempFile::new().unwrap();
    splice_all(&mut temp, &source, &[], &changes, &mut [(job, &mut done)], &case.model).unwrap();
    assert_eq!(done.changed, 2);
    verify(&files::map(temp.as_file()).unwrap(), &source, &[], &[(job, &mut done)]).unwrap();
    done.changed = 1;
    assert!(verify(&files::map(temp.as_file()).unwrap(), &source, &[], &[(job, &mut done)]).is_err());
    done.changed = 2;
    temp.seek(SeekFrom::Start(3)).unwrap();
    temp.write_all(&[source[3] ^ 1]).unwrap();
    assert!(verify(&files::map(temp.as_file()).unwrap(), &source, &[], &[(job, &mut done)]).is_err());
    temp.seek(SeekFrom::Start(3)).unwrap();
    temp.write_all(&[source[3]]).unwrap();
    temp.seek(SeekFrom::End(0)).unwrap();
    temp.write_all(&[0]).unwrap();
    assert!(verify(&files::map(temp.as_file()).unwrap(), &source, &[], &[(job, &mut done)]).is_err());
}

#[test]
fn weights_longer_than_a_piece_change_everywhere() {
    let n = CHUNK * 2 + 17;
    let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let bytes = model(vec![], vec![raw("w", 1, &[n as i64], bytes_of(&values))]).encode_to_vec();
    let case = Case::new(&bytes);
    let m = case.open();
    let new: Vec<f32> = values.iter().map(|v| -v - 1.0).collect();
    let report = patch(&m, &[change(&m, "w", &new)], case.path("o"), &plain()).unwrap();
    assert_eq!(report.changed(), n);
    let after = Model::open(case.path("o")).unwrap();
    assert_eq!(after.read(&after.weights()[0]).unwrap().slice::<f32>().unwrap(), new);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is changed, no byte outside the changed weights differs, and the values come back.
    #[test]
    fn nothing_else_changes(chosen in prop::collection::btree_map(0_usize..11, prop::array::uniform3(-9e3_f32..9e3), 0..8)) {
        let source = everything();
        let case = Case::new(&source);
        let m = case.open();
        let mut changes = Vec::new();
        let mut may = std::collections::BTreeSet::new();
        for (i, values) in &chosen {
            let w = &m.weights()[*i];
            if !w.is_patchable() {
                continue;
            }
            changes.push((*i, Array::from_vec(w.shape(), values[..w.elements()].to_vec()).unwrap()));
            for r in w.runs() {
                may.extend((0..r.count).flat_map(|k| (0..w.storage().width()).map(move |b| r.start + k * r.step + b)));
            }
        }
        let out = case.path("o");
        patch(&m, &changes, &out, &plain()).unwrap();
        let written = fs::read(&out).unwrap();
        prop_assert_eq!(written.len(), source.len());
        for i in 0..source.len() {
            prop_assert!(written[i] == source[i] || may.contains(&i), "byte {}", i);
        }
        let after = Model::open(&out).unwrap();
        for (i, values) in &changes {
            let (w, read) = (&after.weights()[*i], after.read(&after.weights()[*i]).unwrap());
            let tolerance = match w.storage() { Storage::F16 => 1e-3, Storage::Bf16 => 1e-2, _ => 0.0 };
            for (a, b) in read.to_f64().iter().zip(values.to_f64()) {
                prop_assert!((a - b).abs() <= tolerance * b.abs(), "{}: {a} {b}", w.name());
            }
        }
    }
}

#[test]
fn a_change_between_strided_elements_is_seen() {
    let run = Run { start: 2, step: 5, count: 3 };
    let old: Vec<u8> = (0..18).collect();
    for i in 0..old.len() {
        let mut new = old.clone();
        new[i] ^= 1;
        let inside = (2..16).contains(&i) && (i - 2) % 5 < 4;
        assert_eq!(differing(&old, &new, &[(run, 4)]), inside.then_some(1), "byte {i}");
    }
    assert_eq!(differing(&old, &old[..17], &[(run, 4)]), None);
}
