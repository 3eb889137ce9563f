//! IDX files.

use super::{f32_model, fixture, message};
use onnx_unlearn::inputs::{Options, Split, load};
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

pub(super) fn idx(code: u8, shape: &[u32], data: &[u8]) -> Vec<u8> {
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
