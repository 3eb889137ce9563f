//! Folders of images.

use super::{f32_model, message};
use onnx_unlearn::inputs::{Options, Scaling, Split, load};
use std::path::PathBuf;
use tempfile::TempDir;

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
