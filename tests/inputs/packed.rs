//! Arrays in npz files.

use super::{f32_model, fixture, in_file, load_x, message, npy, small, zipped};
use onnx_unlearn::inputs::codes::{self, Distribution};
use onnx_unlearn::inputs::{Expected, Options, Scaling, load, npz};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use std::process::Command;
use tempfile::TempDir;
use zip::CompressionMethod;

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
        // it is the one other reader of these files, so that it has to be there where all engines are
        assert!(std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_none(), "no python3 with numpy found");
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
    let mut all = codes::new(&[2, 3], 2, 2, Distribution::default(), 9).unwrap();
    all.extra.insert("ids".into(), Array::from_vec(&[4, 2], (-3..5i64).collect()).unwrap());
    all.extra.insert("on".into(), Array::from_vec(&[4], vec![true, false, false, true]).unwrap());
    npz::save(&dir.path().join("ours.npz"), &all).unwrap();
    let out = run("import numpy as np
f = np.load('ours.npz'); x = f['x']
print(sorted(f.files), x.dtype, x.shape)
for k in ('y', 'ids', 'on'): print(f[k].dtype, f[k].tolist())
print(*x.view('u4').ravel())");
    let bits: Vec<_> = all.x.slice::<f32>().unwrap().iter().map(|v| v.to_bits().to_string()).collect();
    let lines = [
        "['ids', 'on', 'x', 'y'] float32 (4, 2, 3)",
        "int64 [0, 0, 1, 1]",
        "int64 [[-3, -2], [-1, 0], [1, 2], [3, 4]]",
        "bool [True, False, False, True]",
        &bits.join(" "),
    ];
    assert_eq!(out.trim().lines().collect::<Vec<_>>(), lines);
}

fn python_with(module: &str) -> Option<&'static str> {
    ["python3", "/usr/bin/python3", "python"].into_iter().find(|p| {
        Command::new(p).args(["-c", &format!("import {module}")]).output().is_ok_and(|out| out.status.success())
    })
}
