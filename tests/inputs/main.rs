//! Labelled inputs from real files, from NumPy's own writer, and from files made to deceive.

mod deceit;
mod folders;
mod idx;
mod packed;

use onnx_unlearn::Result;
use onnx_unlearn::inputs::codes::{self};
use onnx_unlearn::inputs::{Expected, Labelled, Options, load};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn f32_model(shape: &[usize], classes: usize) -> Expected {
    Expected::new(TensorType::new(DType::F32, shape), classes)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn message<T>(r: Result<T>) -> String {
    r.err().map(|e| e.to_string()).expect("an error")
}

/// `{'descr': …}` header and elements of one array.
fn npy(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let n = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &n[..], header.as_bytes(), data].concat()
}

fn zipped(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn in_file(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("x.npz");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// `x` as given, `y` of as many zeros as samples.
fn load_x(x: &[u8], samples: u8, expected: &Expected, options: &Options) -> Result<Labelled> {
    let dir = TempDir::new().unwrap();
    let y = npy("|u1", "False", &format!("({samples},)"), &vec![0; samples.into()]);
    let path = in_file(&dir, &zipped(&[("x.npy", x), ("y.npy", &y)], CompressionMethod::Deflated));
    load(&path, expected, options)
}

// --- the type -------------------------------------------------------------------------------------------------------

fn small() -> Labelled {
    let x = Array::from_vec(&[4, 2], (0..8u8).map(f32::from).collect()).unwrap();
    let mut all = Labelled::new(x, vec![2, 0, 2, 1]).unwrap();
    all.extra.insert("mask".into(), Array::from_vec(&[4, 1], vec![true, false, true, false]).unwrap());
    all
}

#[test]
fn batches_selections_and_subsets_keep_samples_together() {
    let all = small();
    let part = all.batch(1..3).unwrap();
    assert_eq!((part.x.to_f64(), part.y.clone()), (vec![2., 3., 4., 5.], vec![0, 2]));
    assert_eq!(part.extra["mask"].to_f64(), [0., 1.]);
    assert_eq!(all.batch(2..2).unwrap().len(), 0);
    assert!(message(all.batch(3..5)).contains("3..5 of 4"));
    let picked = all.select(&[3, 0, 0]).unwrap();
    assert_eq!((picked.x.to_f64(), picked.y), (vec![6., 7., 0., 1., 0., 1.], vec![1, 2, 2]));
    all.select(&[4]).unwrap_err();
    assert_eq!(all.by_class().into_iter().collect::<Vec<_>>(), [(0, vec![1]), (1, vec![3]), (2, vec![0, 2])]);
    let (inside, outside) = all.split_by(&[2]).unwrap();
    assert_eq!((inside.y.clone(), outside.y.clone()), (vec![2, 2], vec![0, 1]));
    assert_eq!(inside.concat(&outside).unwrap().x, all.select(&[0, 2, 1, 3]).unwrap().x);
    assert_eq!(all.labels().to_i64().unwrap(), [2, 0, 2, 1]);
    assert_eq!(all.subset(9, 1).unwrap(), all);
    assert_eq!(all.subset(2, 5).unwrap(), all.subset(2, 5).unwrap());
    // every pair of the four samples is drawn about equally often
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..600 {
        let drawn =
            all.subset(2, seed).unwrap().x.slice::<f32>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        *seen.entry(drawn).or_insert(0) += 1;
    }
    assert!(seen.len() == 6 && seen.values().all(|n| (60..140).contains(n)), "{seen:?}");
}

#[test]
fn a_check_names_what_is_wrong_and_where() {
    let mut model = f32_model(&[2], 3);
    model.extra.insert("mask".into(), TensorType::new(DType::Bool, [1]));
    small().check(&model).unwrap();

    let of = |change: &dyn Fn(&mut Labelled, &mut Expected)| {
        let (mut inputs, mut model) = (small(), model.clone());
        change(&mut inputs, &mut model);
        message(inputs.check(&model))
    };
    let text = of(&|_, m| m.sample.shape = vec![1, 2]);
    assert!(text.contains("[4, 2]") && text.contains("[1, 2]"), "{text}");
    let text = of(&|i, _| i.x.slice_mut::<f32>().unwrap()[5] = f32::NAN);
    assert!(text.contains("x is NaN at [2, 1] (sample 2)"), "{text}");
    let text = of(&|i, _| i.x.slice_mut::<f32>().unwrap()[0] = f32::NEG_INFINITY);
    assert!(text.contains("x is -inf at [0, 0]"), "{text}");
    let text = of(&|i, _| i.y[3] = 3);
    assert!(text.contains("sample 3 is of class 3, but the model has 3 classes (0 to 2)"), "{text}");
    let text = of(&|i, _| i.y.truncate(3));
    assert!(text.contains("x holds 4 samples but y holds 3"), "{text}");
    let text = of(&|_, m| m.sample.dtype = DType::I64);
    assert!(text.contains("x holds float32 but the model takes int64"), "{text}");
    let text = of(&|i, _| i.extra.clear());
    assert!(text.contains("\"mask\" is missing"), "{text}");
    let text = of(&|i, _| *i = i.batch(0..0).unwrap());
    assert!(text.contains("no labelled inputs"), "{text}");
}

// --- documentation --------------------------------------------------------------------------------------------------

#[test]
fn the_guide_shows_what_the_program_prints() {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mixing-codes.md")).unwrap();
    assert!(guide.contains(&codes::training_hint("codes.npz", 10, 0.2)));
}
