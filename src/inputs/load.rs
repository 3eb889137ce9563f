//! One way in for every kind of labelled inputs.

use super::raw::assemble;
use super::{Labelled, Scaling, choose, folder, idx, npz};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// What a model takes and answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Name of the model's first input; a `.npz` file may hold it under this name or as `x`.
    pub name: String,
    /// One sample of the model's first input: its type without the batch axis.
    pub sample: TensorType,
    /// Number of classes that the model tells apart.
    pub classes: usize,
    /// One sample of each further input, by name.
    pub extra: BTreeMap<String, TensorType>,
}

impl Expected {
    /// For a model with one input, given the type of one sample.
    pub fn new(sample: TensorType, classes: usize) -> Self {
        Self { name: "x".to_owned(), sample, classes, extra: BTreeMap::new() }
    }
    /// For a model with one input, given that input's type with the batch axis first.
    ///
    /// # Errors
    /// When the input is a scalar.
    pub fn of_input(input: &TensorType, classes: usize) -> Result<Self> {
        match input.shape.split_first() {
            Some((_, sample)) => Ok(Self::new(TensorType::new(input.dtype, sample), classes)),
            None => Err(Error::unsupported("the model's input is a scalar, it has no batch axis")),
        }
    }
}

/// Which part of a data set is read where there are two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// Samples held back from training: file names with `t10k` or `test`.
    #[default]
    Test,
    /// Samples the model was trained with: file names with `train`.
    Train,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Test => "test",
            Self::Train => "train",
        })
    }
}

/// The split that a file or folder name speaks of.
pub fn split_of(name: &str) -> Option<Split> {
    let name = name.to_lowercase();
    if name.contains("t10k") || name.contains("test") {
        Some(Split::Test)
    } else if name.contains("train") {
        Some(Split::Train)
    } else {
        None
    }
}

/// How labelled inputs are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// From stored numbers to the model's input.
    pub scaling: Scaling,
    /// Which part of a data set.
    pub split: Split,
    /// At most so many samples, drawn by `seed`.
    pub limit: Option<usize>,
    /// Decides which samples `limit` keeps.
    pub seed: u64,
}

impl Options {
    /// The rows that `limit` keeps of `n`, or `None` for all.
    pub(super) fn choose(&self, n: usize) -> Result<Option<Vec<usize>>> {
        match self.limit {
            Some(0) => Err(Error::invalid("a limit of 0 samples leaves nothing")),
            Some(limit) => Ok(choose(n, limit, self.seed)),
            None => Ok(None),
        }
    }
}

/// Reads labelled inputs and checks that they suit the model. `path` is
///
/// - a `.npz` file with `x`, `y` and the model's further inputs by name;
/// - a folder with IDX files as MNIST and Fashion-MNIST have them, plain or gzipped (`options.split` decides which), or
///   one IDX image file with its label file beside it;
/// - a folder with one folder of images (png, jpeg, bmp) per class. Folders that are all named by numbers are those
///   classes; otherwise there must be one for each class, in the order of their names. A folder that holds only `train`
///   and `test` is entered by `options.split`. Images must have the model's size; they come as grey or RGB and with
///   channels first or last as the model's input has them.
///
/// Where the samples differ from the model's shape only by extents of 1, or are IDX images of as many elements, they
/// are taken in the model's shape.
///
/// # Errors
/// When nothing of this kind is there, a file is malformed, or the samples do not suit the model.
pub fn load(path: &Path, expected: &Expected, options: &Options) -> Result<Labelled> {
    match find(path, options.split)? {
        Found::Npz(path) => npz::load(&path, expected, options),
        Found::Idx(images) => from_idx(&images, expected, options),
        Found::Images(root) => {
            no_extra(expected)?;
            let read = || {
                let images = folder::Images::list(&root, expected, options)?;
                let (x, y) = images.read(&(0..images.files.len()).collect::<Vec<_>>())?;
                // the subset is chosen already: only the chosen images were decoded
                let all = Options { limit: None, ..options.clone() };
                assemble(x, y, Vec::new(), expected, &all)
            };
            read().map_err(|e: Error| e.at(root.display()))
        }
    }
}

/// True for an `.npz` file of inputs that were made from the model, as [`npz::save_made`] writes it. No model has
/// memorised such inputs.
///
/// # Errors
/// When the file cannot be read.
pub fn are_made(path: &Path) -> Result<bool> {
    match find(path, Split::default()) {
        Ok(Found::Npz(file)) => npz::is_made(&file),
        _ => Ok(false),
    }
}

/// True for an `.npz` file of codes of which one may stand for several classes, as [`npz::save_composite`] writes it.
///
/// # Errors
/// When the file cannot be read.
pub fn are_composite(path: &Path) -> Result<bool> {
    match find(path, Split::default()) {
        Ok(Found::Npz(file)) => npz::is_composite(&file),
        _ => Ok(false),
    }
}

/// What lies at a path.
pub(super) enum Found {
    Npz(PathBuf),
    /// The image file.
    Idx(PathBuf),
    /// A folder with one folder of images per class.
    Images(PathBuf),
}

pub(super) fn find(path: &Path, split: Split) -> Result<Found> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(format!("cannot read {}", path.display()), &e))?;
    if meta.is_dir() {
        return find_in_folder(path, split);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if idx::is_images(&name) {
        return Ok(Found::Idx(path.to_path_buf()));
    }
    if name.to_lowercase().ends_with(".npz") {
        return Ok(Found::Npz(path.to_path_buf()));
    }
    Err(Error::unsupported(format!(
        "{}: labelled inputs are a .npz file, IDX images (…-images-idx3-ubyte) or a folder",
        path.display()
    )))
}

/// The shape of one sample of every array at `path`, by name, without reading the elements: of an `.npz` file's
/// arrays, or of IDX images as `x`. Nothing for a folder of image files.
///
/// # Errors
/// When the file cannot be read.
pub fn sample_shapes(path: &Path, split: Split) -> Result<BTreeMap<String, Vec<usize>>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.to_lowercase().ends_with(".npz") && path.is_file() {
        return npz::sample_shapes(path);
    }
    let images = if path.is_dir() {
        let files: Vec<String> =
            folder::entries(path)?.into_iter().filter(|(_, p)| p.is_file()).map(|(n, _)| n).collect();
        idx::find(&files, split)?.map(|images| path.join(images))
    } else {
        idx::is_images(&name).then(|| path.to_path_buf())
    };
    let Some(images) = images else { return Ok(BTreeMap::new()) };
    let (x, _) = idx::load(&images).map_err(|e| e.at(images.display()))?;
    // grey images have one channel
    Ok(BTreeMap::from([("x".to_owned(), [&[1], x.shape.get(1..).unwrap_or_default()].concat())]))
}

fn from_idx(images: &Path, expected: &Expected, options: &Options) -> Result<Labelled> {
    no_extra(expected)?;
    let (x, y) = idx::load(images)?;
    let done = x.fit("x", &expected.sample.shape, true).and_then(|x| assemble(x, y, Vec::new(), expected, options));
    done.map_err(|e| e.at(images.display()))
}

fn find_in_folder(root: &Path, split: Split) -> Result<Found> {
    let entries = folder::entries(root)?;
    let files: Vec<String> = entries.iter().filter(|(_, p)| p.is_file()).map(|(n, _)| n.clone()).collect();
    if let Some(images) = idx::find(&files, split).map_err(|e| e.at(root.display()))? {
        return Ok(Found::Idx(root.join(images)));
    }
    let folders: Vec<_> = entries.iter().filter(|(_, p)| p.is_dir()).collect();
    let part = |n: &str| match n.to_lowercase().as_str() {
        "test" | "val" | "valid" | "validation" => Some(Split::Test),
        "train" | "training" => Some(Split::Train),
        _ => None,
    };
    if !folders.is_empty() && folders.iter().all(|(n, _)| part(n).is_some()) {
        let found: Vec<_> = folders.iter().filter(|(n, _)| part(n) == Some(split)).collect();
        return match found[..] {
            [(_, path)] => Ok(Found::Images(path.clone())),
            _ => {
                let n = found.len();
                Err(Error::invalid(format!("{}: {n} folders of the {split} split; name one", root.display())))
            }
        };
    }
    Ok(Found::Images(root.to_path_buf()))
}

pub(super) fn no_extra(expected: &Expected) -> Result<()> {
    match expected.extra.iter().next() {
        Some((name, ty)) => Err(Error::invalid(format!(
            "the model has a second input {name:?} ({ty} a sample), which only a .npz file can hold"
        ))),
        None => Ok(()),
    }
}
