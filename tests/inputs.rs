//! Labelled inputs from real files, from NumPy's own writer, and from files made to deceive.

use onnx_unlearn::Result;
use onnx_unlearn::inputs::codes::{self, Distribution};
use onnx_unlearn::inputs::{Expected, Labelled, Options, Scaling, Split, load, npz};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use proptest::prelude::*;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
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

// --- npz ------------------------------------------------------------------------------------------------------------

#[test]
fn what_is_saved_is_loaded_and_the_bytes_are_always_the_same() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a.npz"), dir.path().join("b.npz"));
    let mut all = codes::new(&[3, 4, 5], 7, 2, Distribution::Normal(0.0, 1.0), 1).unwrap();
    all.extra.insert("ids".into(), Array::from_vec(&[14, 2], (0..28i64).collect()).unwrap());
    all.extra.insert("on".into(), Array::full(&[14], true));
    npz::save(&a, &all).unwrap();
    npz::save(&b, &all.clone()).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    let mut model = f32_model(&[3, 4, 5], 7);
    model.extra.insert("ids".into(), TensorType::new(DType::I64, [2]));
    model.extra.insert("on".into(), TensorType::new(DType::Bool, []));
    assert_eq!(load(&a, &model, &Options::default()).unwrap(), all);
    assert_eq!(npz::keys(&a).unwrap(), ["ids", "on", "x", "y"]);
    assert_eq!(npz::read(&a, "y").unwrap(), all.labels());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");

    // an independent reader agrees
    let mut other = ndarray_npy::NpzReader::new(std::fs::File::open(&a).unwrap()).unwrap();
    let x: ndarray::ArrayD<f32> = other.by_name("x").unwrap();
    assert_eq!(Array::new(x), all.x);
    let y: ndarray::Array1<i64> = other.by_name("y").unwrap();
    assert_eq!(Array::new(y.into_dyn()), all.labels());
}

#[test]
fn a_failed_save_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let mut all = small();
    let missing = dir.path().join("no/such/folder/x.npz");
    assert!(message(npz::save(&missing, &all)).contains("cannot write"));
    all.extra.insert("y".into(), Array::full(&[4], true));
    assert!(message(npz::save(&dir.path().join("x.npz"), &all)).contains("two arrays named \"y\""));
    assert!(message(npz::save(dir.path(), &small())).contains("it is a directory"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn fixtures_load() {
    let model = f32_model(&[1, 28, 28], 10);
    let c = load(&fixture("cnn.codes.npz"), &model, &Options::default()).unwrap();
    assert_eq!((c.x.shape(), &c.y[..]), (&[10, 1, 28, 28][..], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9][..]));
    // uint8 images come divided by 255
    let t = load(&fixture("fmnist_test_1000.npz"), &model, &Options::default()).unwrap();
    assert_eq!((t.x.shape(), &t.y[..4]), (&[1000, 1, 28, 28][..], &[9, 2, 1, 1][..]));
    let x = t.x.slice::<f32>().unwrap();
    assert!(x.iter().all(|v| (0.0..=1.0).contains(v)) && x.contains(&1.0));
    let part =
        load(&fixture("fmnist_test_1000.npz"), &model, &Options { limit: Some(50), seed: 3, ..Options::default() });
    assert_eq!(part.unwrap(), t.subset(50, 3).unwrap());
    let text = message(load(&fixture("cnn.codes.npz"), &f32_model(&[3, 32, 32], 10), &Options::default()));
    assert!(text.contains("[10, 1, 28, 28]") && text.contains("[3, 32, 32]"), "{text}");
    let text = message(load(&fixture("cnn.codes.npz"), &f32_model(&[1, 28, 28], 7), &Options::default()));
    assert!(text.contains("sample 7 is of class 7"), "{text}");
    let text = message(npz::read(&fixture("cnn.codes.npz"), "z"));
    assert!(text.contains("no array \"z\"; the file holds \"x\", \"y\""), "{text}");
}

#[test]
fn every_element_type_and_order_is_read() {
    let cases: [(&str, Vec<u8>); 12] = [
        ("<f4", [1.5f32, -2.0].map(f32::to_le_bytes).concat()),
        (">f4", [1.5f32, -2.0].map(f32::to_be_bytes).concat()),
        ("<f8", [1.5f64, -2.0].map(f64::to_le_bytes).concat()),
        ("<f2", [half::f16::from_f32(1.5), half::f16::from_f32(-2.0)].map(half::f16::to_le_bytes).concat()),
        ("|i1", vec![3, 254]),
        ("<i2", [3i16, -2].map(i16::to_le_bytes).concat()),
        (">i4", [3i32, -2].map(i32::to_be_bytes).concat()),
        ("<i8", [3i64, -2].map(i64::to_le_bytes).concat()),
        ("<u2", [3u16, 65_535].map(u16::to_le_bytes).concat()),
        ("<u4", [3u32, 7].map(u32::to_le_bytes).concat()),
        ("<u8", [3u64, 7].map(u64::to_le_bytes).concat()),
        ("|b1", vec![1, 0]),
    ];
    let expected = [[1.5, -2.0]; 4].into_iter().chain([[3.0, -2.0]; 4]).chain([
        [3.0, 65_535.0],
        [3.0, 7.0],
        [3.0, 7.0],
        [1.0, 0.0],
    ]);
    for ((descr, data), expected) in cases.into_iter().zip(expected) {
        let x = npy(descr, "False", "(1, 2)", &data);
        let all = load_x(&x, 1, &f32_model(&[2], 1), &Options::default()).unwrap_or_else(|e| panic!("{descr}: {e}"));
        assert_eq!((all.x.to_f64(), all.x.dtype()), (expected.to_vec(), DType::F32), "{descr}");
    }
    let x = npy("<u8", "False", "(1, 1)", &u64::MAX.to_le_bytes());
    assert!(message(load_x(&x, 1, &f32_model(&[1], 1), &Options::default())).contains("above 2^63"));
    // column-major: [[0, 2, 4], [1, 3, 5]]
    let x = npy("<f4", "True", "(2, 3)", &[0f32, 1., 2., 3., 4., 5.].map(f32::to_le_bytes).concat());
    let all = load_x(&x, 2, &f32_model(&[3], 1), &Options::default()).unwrap();
    assert_eq!(all.x.to_f64(), [0., 2., 4., 1., 3., 5.]);
}

#[test]
fn scaling_is_scale_then_mean_then_std() {
    let x = npy("|u1", "False", "(1, 2, 1, 2)", &[0, 255, 51, 102]);
    let scaled = |shape: &[usize], scaling: Scaling| {
        load_x(&x, 1, &f32_model(shape, 1), &Options { scaling, ..Options::default() }).map(|all| all.x.to_f64())
    };
    let near = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    let v = scaled(&[2, 1, 2], Scaling::default()).unwrap();
    assert!(near(&v, &[0.0, 1.0, 0.2, 0.4]), "{v:?}");
    let v = scaled(&[2, 1, 2], Scaling { scale: Some(1.0), ..Scaling::default() }).unwrap();
    assert!(near(&v, &[0.0, 255.0, 51.0, 102.0]), "{v:?}");
    // one mean for all, one deviation per channel, channels first
    let per_channel = |scale| Scaling { scale, mean: vec![0.2], std: vec![0.5, 2.0] };
    let v = scaled(&[2, 1, 2], per_channel(None)).unwrap();
    assert!(near(&v, &[-0.4, 1.6, 0.0, 0.1]), "{v:?}");
    // channels last
    let v = scaled(&[1, 2, 2], Scaling { mean: vec![0.0, 1.0], ..Scaling::default() });
    assert!(near(&v.unwrap(), &[0.0, 0.0, 0.2, -0.6]));
    assert!(message(scaled(&[2, 1, 2], Scaling { std: vec![0.0], ..Scaling::default() })).contains("must be positive"));
    assert!(
        message(scaled(&[2, 1, 2], Scaling { mean: vec![0.0; 3], ..Scaling::default() }))
            .contains("fit no channel axis")
    );
    assert!(
        message(scaled(&[2, 1, 2], Scaling { mean: vec![0.0; 2], std: vec![1.0; 3], ..Scaling::default() }))
            .contains("mean has 2")
    );
    // a float that leaves float32 is found
    let x = npy("<f8", "False", "(1, 1)", &1e300f64.to_le_bytes());
    assert!(message(load_x(&x, 1, &f32_model(&[1], 1), &Options::default())).contains("x is inf"));
}

#[test]
fn tokens_stay_integers() {
    let model = Expected::new(TensorType::new(DType::I32, [3]), 1);
    let x = npy("<i8", "False", "(1, 3)", &[5i64, 0, 1 << 31].map(i64::to_le_bytes).concat());
    assert!(
        message(load_x(&x, 1, &model, &Options::default())).contains("x is 2147483648 at [0, 2], which is no int32")
    );
    let model = Expected::new(TensorType::new(DType::I64, [3]), 1);
    let all = load_x(&x, 1, &model, &Options::default()).unwrap();
    assert_eq!(all.x.to_i64().unwrap(), [5, 0, 1 << 31]);
    let options = Options { scaling: Scaling { mean: vec![0.5], ..Scaling::default() }, ..Options::default() };
    assert!(message(load_x(&x, 1, &model, &options)).contains("do not apply"));
    let x = npy("<f4", "False", "(1, 3)", &[0; 12]);
    assert!(message(load_x(&x, 1, &model, &Options::default())).contains("takes int64, the file holds float32"));
}

#[test]
fn shapes_fit_when_they_are_another_view() {
    let x = npy("|u1", "False", "(2, 4, 3)", &[0; 24]);
    for shape in [&[4, 3][..], &[1, 4, 3], &[4, 3, 1]] {
        let all = load_x(&x, 2, &f32_model(shape, 1), &Options::default()).unwrap();
        assert_eq!(all.x.shape()[1..], *shape);
    }
    load_x(&x, 2, &f32_model(&[12], 1), &Options::default()).unwrap_err();
    let x = npy("|u1", "False", "(1, 4, 5, 3)", &[0; 60]);
    let text = message(load_x(&x, 1, &f32_model(&[3, 4, 5], 1), &Options::default()));
    assert!(text.contains("channels come last, the model wants them first"), "{text}");
}

#[test]
fn labels_must_be_class_ids() {
    let x = npy("|u1", "False", "(2, 1)", &[0; 2]);
    let dir = TempDir::new().unwrap();
    let with = |y: &[u8]| {
        let path = in_file(&dir, &zipped(&[("x.npy", &x), ("y.npy", y)], CompressionMethod::Stored));
        load(&path, &f32_model(&[1], 3), &Options::default())
    };
    assert_eq!(with(&npy("<i4", "False", "(2, 1)", &[1, 0, 0, 0, 2, 0, 0, 0])).unwrap().y, [1, 2]);
    let text = message(with(&npy("|i1", "False", "(2,)", &[0, 255])));
    assert!(text.contains("sample 1") && text.contains("-1"), "{text}");
    let text = message(with(&npy("|u1", "False", "(2,)", &[0, 3])));
    assert!(text.contains("sample 1 is of class 3"), "{text}");
    assert!(message(with(&npy("<f4", "False", "(2,)", &[0; 8]))).contains("integer class ids, it holds float32"));
    assert!(message(with(&npy("|u1", "False", "(2, 3)", &[0; 6]))).contains("one class id a sample"));
    assert!(message(with(&npy("|u1", "False", "()", &[0]))).contains("one class id a sample"));
    assert!(message(with(&npy("|u1", "False", "(3,)", &[0; 3]))).contains("x holds 2 samples but y holds 3"));
}

#[test]
fn numpy_and_this_program_read_each_other() {
    let Some(python) = python_with("numpy") else {
        eprintln!("skipped: no python3 with numpy found");
        return;
    };
    let dir = TempDir::new().unwrap();
    let run = |script: &str| {
        let out = Command::new(python).arg("-c").arg(script).current_dir(dir.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    run("import numpy as np
x = np.arange(24).reshape(2, 3, 4); y = np.array([1, 0])
for t in '?bhilBHILefd':
    np.savez(f'c_{ord(t)}.npz', x=x.astype(t), y=y.astype('i8'))
    np.savez_compressed(f'f_{ord(t)}.npz', x=np.asfortranarray(x.astype(t)).astype(np.dtype(t).newbyteorder('>')), y=y.astype('u1'))
np.savez('object.npz', x=np.array([[None], [1]], dtype=object), y=y)
np.savez('struct.npz', x=np.zeros((2, 1), dtype=[('a', 'f4')]), y=y)
np.savez('complex.npz', x=x.astype('c8'), y=y)
np.savez('text.npz', x=np.array([['a'], ['b']]), y=y)
np.savez('positional.npz', x, y)
np.save('single.npz.npy', x)");
    for t in "?bhilBHILefd".chars() {
        for order in ["c", "f"] {
            let path = dir.path().join(format!("{order}_{}.npz", u32::from(t)));
            let options = Options { scaling: Scaling { scale: Some(1.0), ..Scaling::default() }, ..Options::default() };
            let all = load(&path, &f32_model(&[3, 4], 2), &options).unwrap();
            let expected: Vec<f64> =
                (0..24u8).map(|v| if t == '?' { f64::from(v.min(1)) } else { f64::from(v) }).collect();
            assert_eq!((all.x.to_f64(), all.y), (expected, vec![1, 0]), "{order} {t}");
        }
    }
    for (file, word) in [
        ("object", "Python objects"),
        ("struct", "structured"),
        ("complex", "<c8"),
        ("text", "<U1"),
        ("positional", "the file holds \"arr_0\", \"arr_1\""),
    ] {
        let text = message(load(&dir.path().join(format!("{file}.npz")), &f32_model(&[3, 4], 2), &Options::default()));
        assert!(text.contains(word), "{file}: {text}");
    }
    let all = codes::new(&[2, 3], 2, 1, Distribution::default(), 9).unwrap();
    npz::save(&dir.path().join("ours.npz"), &all).unwrap();
    let out = run("import numpy as np
f = np.load('ours.npz'); x, y = f['x'], f['y']
print(x.dtype, x.shape, y.dtype, y.tolist(), ' '.join(str(int(v)) for v in x.view('u4').ravel()))");
    let bits: Vec<_> = all.x.slice::<f32>().unwrap().iter().map(|v| v.to_bits().to_string()).collect();
    assert_eq!(out.trim(), format!("float32 (2, 2, 3) int64 [0, 1] {}", bits.join(" ")));
}

fn python_with(module: &str) -> Option<&'static str> {
    ["python3", "/usr/bin/python3", "python"].into_iter().find(|p| {
        Command::new(p).args(["-c", &format!("import {module}")]).output().is_ok_and(|out| out.status.success())
    })
}

// --- files made to deceive ------------------------------------------------------------------------------------------

#[test]
fn hostile_files_are_errors() {
    let model = f32_model(&[2], 10);
    let good = npy("<f4", "False", "(1, 2)", &[0; 8]);
    load_x(&good, 1, &model, &Options::default()).unwrap();
    let huge = [
        "(1, 2, 3)",                    // more than the entry holds
        "(1, 1)",                       // less
        "(4611686018427387904, 2)",     // 2^63 bytes and more
        "(18446744073709551615, 2)",    // overflow
        "(0, 18446744073709551615, 9)", // overflow hidden by a zero
        "(4294967296, 4294967296)",     // product wraps to 0
        "(0, 2)",                       // nothing
        "()",
        "(1000000000, 2)",
    ];
    for shape in huge {
        for order in ["True", "False"] {
            let x = npy("<f4", order, shape, &[0; 8]);
            load_x(&x, 1, &model, &Options::default()).expect_err(shape);
        }
    }
    for bytes in
        [&b""[..], b"\x93NUMPY", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", b"\x93NUMPY\x09\x00\x10\x00", &[0; 300]]
    {
        load_x(bytes, 1, &model, &Options::default()).unwrap_err();
    }
    // brackets without end would exhaust the stack of a recursive reader
    load_x(&npy("<f4", "False", &"(".repeat(9_000), &[]), 1, &model, &Options::default()).unwrap_err();
}

#[test]
fn a_zip_cannot_promise_more_than_it_holds() {
    let dir = TempDir::new().unwrap();
    let model = f32_model(&[2], 10);
    let x = npy("<f4", "False", "(1, 2)", &[0; 8]);
    let y = npy("|u1", "False", "(1,)", &[0]);
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let whole = zipped(&[("x.npy", &x), ("y.npy", &y)], method);
        load(&in_file(&dir, &whole), &model, &Options::default()).unwrap();
        for end in 0..whole.len() {
            load(&in_file(&dir, &whole[..end]), &model, &Options::default()).unwrap_err();
        }
        // the sizes in the central directory, 24 bytes into the entry, made to lie
        let at = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        for size in [0u32, 1, 1 << 20, 0xffff_fff0] {
            for field in [20, 24] {
                let mut lie = whole.clone();
                lie[at + field..at + field + 4].copy_from_slice(&size.to_le_bytes());
                load(&in_file(&dir, &lie), &model, &Options::default()).unwrap_err();
            }
        }
    }
    // one changed element: the checksum finds it
    let mut whole = zipped(&[("x.npy", &x), ("y.npy", &y)], CompressionMethod::Stored);
    let at = whole.windows(8).position(|w| w == [0; 8]).unwrap();
    whole[at + 3] ^= 1;
    assert!(message(load(&in_file(&dir, &whole), &model, &Options::default())).to_lowercase().contains("checksum"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), deflate: bool) {
        let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let x = npy("<f4", "False", "(2, 2)", &[1; 16]);
        let y = npy("<i8", "False", "(2,)", &[0; 16]);
        let mut bytes = zipped(&[("x.npy", &x), ("y.npy", &y)], method);
        for (at, v) in changes {
            let at = at.index(bytes.len());
            bytes[at] = v;
        }
        let dir = TempDir::new().unwrap();
        let path = in_file(&dir, &bytes);
        let _ = load(&path, &f32_model(&[2], 2), &Options::default());
        let _ = npz::keys(&path);
    }

    #[test]
    fn changed_headers_never_panic(text in "[(){}\\[\\]',: 0-9A-Za-z<|_]{0,80}") {
        let n = u16::try_from(text.len()).unwrap().to_le_bytes();
        let x = [b"\x93NUMPY\x01\x00", &n[..], text.as_bytes(), &[0; 8]].concat();
        prop_assert!(load_x(&x, 1, &f32_model(&[2], 2), &Options::default()).is_err());
    }

    #[test]
    fn idx_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), header in prop::bool::ANY) {
        let dir = TempDir::new().unwrap();
        let bytes = if header { [&[0, 0, 8, 3][..], &bytes].concat() } else { bytes };
        std::fs::write(dir.path().join("test-images-idx3-ubyte"), bytes).unwrap();
        std::fs::write(dir.path().join("test-labels-idx1-ubyte"), idx(8, &[1], &[0])).unwrap();
        let _ = load(dir.path(), &f32_model(&[2, 2], 2), &Options::default());
    }
}

// --- IDX ------------------------------------------------------------------------------------------------------------

fn idx(code: u8, shape: &[u32], data: &[u8]) -> Vec<u8> {
    let rank = u8::try_from(shape.len()).unwrap();
    [&[0, 0, code, rank][..], &shape.iter().flat_map(|d| d.to_be_bytes()).collect::<Vec<_>>(), data].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

#[test]
fn idx_is_found_under_every_usual_name() {
    let images: Vec<u8> = (0..24).collect();
    let (x, y) = (idx(8, &[2, 3, 4], &images), idx(8, &[2], &[1, 0]));
    let (x3, y3) = (idx(8, &[3, 3, 4], &[7; 36]), idx(8, &[3], &[0, 1, 1]));
    let model = f32_model(&[1, 3, 4], 2);
    let train = Options { split: Split::Train, ..Options::default() };
    let expected: Vec<f64> = (0..24).map(|v| f64::from((f64::from(v) / 255.0) as f32)).collect();
    for (test, train_name) in
        [("t10k-%s-idx%d-ubyte", "train-%s-idx%d-ubyte"), ("test-%s.idx%d-ubyte.gz", "train-%s.idx%d-ubyte.gz")]
    {
        let dir = TempDir::new().unwrap();
        let put = |pattern: &str, word: &str, rank: &str, bytes: &[u8]| {
            let name = pattern.replace("%s", word).replace("%d", rank);
            let bytes = if name.ends_with(".gz") { gzip(bytes) } else { bytes.to_vec() };
            std::fs::write(dir.path().join(&name), bytes).unwrap();
            dir.path().join(name)
        };
        let images = put(test, "images", "3", &x);
        put(test, "labels", "1", &y);
        put(train_name, "images", "3", &x3);
        put(train_name, "labels", "1", &y3);
        let all = load(dir.path(), &model, &Options::default()).unwrap();
        assert_eq!((all.x.shape(), all.x.to_f64(), &all.y[..]), (&[2, 1, 3, 4][..], expected.clone(), &[1, 0][..]));
        assert_eq!(load(&images, &f32_model(&[12], 2), &Options::default()).unwrap().x.shape(), [2, 12]);
        assert_eq!(load(&images, &f32_model(&[3, 4, 1], 2), &Options::default()).unwrap().x.shape(), [2, 3, 4, 1]);
        assert_eq!(load(dir.path(), &model, &train).unwrap().y, [0, 1, 1]);
        let text = message(load(&images, &f32_model(&[1, 4, 4], 2), &Options::default()));
        assert!(text.contains("[2, 3, 4]") && text.contains("[1, 4, 4]"), "{text}");
    }
}

#[test]
fn wrong_idx_files_are_errors() {
    let good = idx(8, &[2, 1, 2], &[0; 4]);
    let labels = idx(8, &[2], &[0, 1]);
    let with = |x: &[u8], y: &[u8]| {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("t10k-images-idx3-ubyte"), x).unwrap();
        std::fs::write(dir.path().join("t10k-labels-idx1-ubyte"), y).unwrap();
        load(dir.path(), &f32_model(&[1, 2], 2), &Options::default())
    };
    with(&good, &labels).unwrap();
    for end in 0..good.len() {
        with(&good[..end], &labels).unwrap_err();
    }
    for end in 1..gzip(&good).len() {
        with(&gzip(&good)[..end], &labels).unwrap_err();
    }
    with(&[&good[..], &[0]].concat(), &labels).unwrap_err();
    with(&idx(8, &[u32::MAX, u32::MAX, u32::MAX], &[0; 4]), &labels).unwrap_err();
    with(&idx(8, &[2_000_000_000, 1, 2], &[0; 4]), &labels).unwrap_err();
    with(&idx(7, &[2, 1, 2], &[0; 4]), &labels).unwrap_err();
    assert!(message(with(&good, &idx(8, &[3], &[0; 3]))).contains("holds 2 images"));
    assert!(message(with(&good, &idx(8, &[2], &[0, 2]))).contains("sample 1 is of class 2"));
    // only one split is there, or no labels
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("train-images-idx3-ubyte"), &good).unwrap();
    assert!(
        message(load(dir.path(), &f32_model(&[1, 2], 2), &Options::default()))
            .contains("no IDX images of the test split")
    );
    let train = Options { split: Split::Train, ..Options::default() };
    assert!(
        message(load(dir.path(), &f32_model(&[1, 2], 2), &train))
            .contains("labels train-labels-idx1-ubyte[.gz] are not beside it")
    );
}

#[test]
fn fashion_mnist_of_debian() {
    let root = Path::new("/usr/share/datasets/fashion-mnist");
    if !root.is_dir() {
        eprintln!("skipped: the Debian package dataset-fashion-mnist is not installed");
        return;
    }
    let model = f32_model(&[1, 28, 28], 10);
    let all = load(root, &model, &Options::default()).unwrap();
    assert_eq!(all.x.shape(), [10_000, 1, 28, 28]);
    assert!(all.by_class().values().all(|v| v.len() == 1000));
    let fixture = load(&fixture("fmnist_test_1000.npz"), &model, &Options::default()).unwrap();
    assert_eq!(all.batch(0..1000).unwrap(), fixture);
    let options = Options { split: Split::Train, limit: Some(100), ..Options::default() };
    assert_eq!(load(root, &f32_model(&[784], 10), &options).unwrap().x.shape(), [100, 784]);
}

// --- folders of images ----------------------------------------------------------------------------------------------

/// A 3 wide, 2 high image whose red is `v`, green 10, blue 20.
fn picture(path: PathBuf, v: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(3, 2, image::Rgb([v, 10, 20])).save(path).unwrap();
}

#[test]
fn folders_of_images_are_classes() {
    let dir = TempDir::new().unwrap();
    let at = |p: &str| dir.path().join(p);
    picture(at("cat/b.png"), 51);
    picture(at("cat/a.bmp"), 102);
    picture(at("ant/z.png"), 0);
    std::fs::write(at("ant/notes.txt"), "not an image").unwrap();
    std::fs::write(at(".hidden"), "").unwrap();
    let raw = Options { scaling: Scaling { scale: Some(1.0), ..Scaling::default() }, ..Options::default() };
    let all = load(dir.path(), &f32_model(&[3, 2, 3], 2), &raw).unwrap();
    assert_eq!((all.x.shape(), &all.y[..]), (&[3, 3, 2, 3][..], &[0, 1, 1][..]));
    // channels first: six reds, six greens, six blues
    let first: Vec<f64> = [[102.0; 6], [10.0; 6], [20.0; 6]].concat();
    assert_eq!(all.x.to_f64()[18..36], first);
    // channels last
    let all = load(dir.path(), &f32_model(&[2, 3, 3], 2), &raw).unwrap();
    assert_eq!(all.x.to_f64()[36..39], [51.0, 10.0, 20.0]);
    // grey by ITU-R 601: 0.299 * 102 + 0.587 * 10 + 0.114 * 20 = 38.6
    for shape in [&[1, 2, 3][..], &[2, 3, 1], &[2, 3]] {
        let all = load(dir.path(), &f32_model(shape, 2), &raw).unwrap();
        assert_eq!((all.x.to_f64()[6], &all.x.shape()[1..]), (39.0, shape));
    }
    // bytes are divided by 255 unless told otherwise
    let all = load(dir.path(), &f32_model(&[2, 3, 3], 2), &Options::default()).unwrap();
    assert!((all.x.to_f64()[36] - 0.2).abs() < 1e-6);
    let part = load(dir.path(), &f32_model(&[2, 3, 3], 2), &Options { limit: Some(2), seed: 1, ..Options::default() });
    assert_eq!(part.unwrap(), all.subset(2, 1).unwrap());
}

#[test]
fn numbers_name_classes_and_train_and_test_name_splits() {
    let dir = TempDir::new().unwrap();
    picture(dir.path().join("test/10/a.png"), 1);
    picture(dir.path().join("test/9/a.png"), 2);
    picture(dir.path().join("train/3/a.png"), 3);
    let model = f32_model(&[3, 2, 3], 11);
    assert_eq!(load(dir.path(), &model, &Options::default()).unwrap().y, [9, 10]);
    let train = Options { split: Split::Train, ..Options::default() };
    assert_eq!(load(dir.path(), &model, &train).unwrap().y, [3]);
    assert!(message(load(dir.path(), &f32_model(&[3, 2, 3], 10), &Options::default())).contains("folder \"10\""));
}

#[test]
fn wrong_folders_are_errors() {
    let model = f32_model(&[3, 2, 3], 2);
    let dir = TempDir::new().unwrap();
    let at = |p: &str| dir.path().join(p);
    let error = || message(load(dir.path(), &model, &Options::default()));
    assert!(error().contains("neither IDX files nor"), "{}", error());
    picture(at("a/1.png"), 1);
    assert!(error().contains("1 class folders, but the model has 2 classes"), "{}", error());
    std::fs::create_dir(at("b")).unwrap();
    assert!(error().contains("holds no images"), "{}", error());
    image::RgbImage::new(2, 3).save(at("b/1.png")).unwrap();
    assert!(error().contains("image of 2x3 pixels") && error().contains("takes 3x2"), "{}", error());
    std::fs::write(at("b/1.png"), b"\x89PNG\r\n\x1a\n and then nothing").unwrap();
    assert!(error().contains("1.png") && error().contains("cannot be decoded"), "{}", error());
    std::fs::write(at("b/2.webp"), "").unwrap();
    assert!(error().contains("webp images are not read"), "{}", error());
    std::fs::remove_file(at("b/2.webp")).unwrap();
    picture(at("b/1.png"), 1);
    let text = message(load(dir.path(), &f32_model(&[4, 5, 7], 2), &Options::default()));
    assert!(text.contains("not [4, 5, 7]"), "{text}");
    load(dir.path(), &model, &Options::default()).unwrap();
    assert!(message(load(&at("none"), &model, &Options::default())).contains("cannot read"));
    std::fs::write(at("x.csv"), "").unwrap();
    assert!(message(load(&at("x.csv"), &model, &Options::default())).contains("labelled inputs are a .npz file"));
    let text = message(load(dir.path(), &model, &Options { limit: Some(0), ..Options::default() }));
    assert!(text.contains("limit of 0"), "{text}");
}

// --- documentation --------------------------------------------------------------------------------------------------

#[test]
fn the_guide_shows_what_the_program_prints() {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mixing-codes.md")).unwrap();
    assert!(guide.contains(&codes::training_hint("codes.npz", 10, 0.2)));
}
