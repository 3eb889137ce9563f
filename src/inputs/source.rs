//! Labelled inputs that are read piece by piece: the classes first, samples when they are asked for.

use super::load::{Found, find, no_extra};
use super::raw::assemble;
use super::{Expected, Labelled, Options, folder, idx, load, npz};
use crate::error::{Error, Result};
use crate::files;
use crate::tensor::Array;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Labelled inputs whose classes are known and whose samples are read when they are asked for. Images in folders and
/// in plain IDX files are read one by one; an `.npz` or a gzipped file is read as a whole when it is opened.
pub struct Source {
    kind: Kind,
    classes: Vec<usize>,
    listing_sha256: String,
    expected: Expected,
    /// The subset is chosen when the source is opened.
    options: Options,
}

enum Kind {
    Held(Labelled),
    /// The folder's name, for messages.
    Images(PathBuf, folder::Images),
    /// The file's name, and the rows of the file.
    Idx(PathBuf, idx::Images, Vec<usize>),
}

impl Source {
    /// Opens what [`load`] reads.
    ///
    /// # Errors
    /// As [`load`], but for what is wrong with samples that are not read yet.
    pub fn open(path: &Path, expected: &Expected, options: &Options) -> Result<Self> {
        let mut listing = Sha256::new();
        listing.update(format!("{:?} {:?} {:?}", expected.sample, expected.extra, options.scaling));
        let all = Options { limit: None, ..options.clone() };
        let (kind, classes) = match find(path, options.split)? {
            Found::Npz(file) => {
                listing.update(files::sha256(&file)?);
                held(npz::load(&file, expected, options)?)
            }
            Found::Idx(file) => {
                no_extra(expected)?;
                match idx::Images::open(&file)? {
                    Some(images) => {
                        let chosen = options.choose(images.classes.len()).map_err(|e| e.at(file.display()))?;
                        let rows = chosen.unwrap_or_else(|| (0..images.classes.len()).collect());
                        listing.update(format!("{:?} {rows:?}", images.shape()));
                        let classes = rows.iter().map(|&i| images.classes[i]).collect();
                        (Kind::Idx(file, images, rows), classes)
                    }
                    None => {
                        listing.update(files::sha256(&file)?);
                        held(load(&file, expected, options)?)
                    }
                }
            }
            Found::Images(root) => {
                no_extra(expected)?;
                let images = folder::Images::list(&root, expected, options).map_err(|e| e.at(root.display()))?;
                for (name, length) in images.listing()? {
                    listing.update(format!("{name}\n{length}\n"));
                }
                let classes = images.files.iter().map(|(_, c)| *c).collect();
                (Kind::Images(root, images), classes)
            }
        };
        classes.iter().for_each(|c: &usize| listing.update((*c as u64).to_le_bytes()));
        let listing_sha256 = files::hex(&listing.finalize());
        let this = Self { kind, classes, listing_sha256, expected: expected.clone(), options: all };
        this.check_classes().map_err(|e| e.at(path.display()))?;
        Ok(this)
    }

    /// What is held in memory already.
    pub fn of(data: Labelled, expected: &Expected) -> Self {
        let listing_sha256 = files::hex(&data.digest());
        let (kind, classes) = held(data);
        Self { kind, classes, listing_sha256, expected: expected.clone(), options: Options::default() }
    }

    fn check_classes(&self) -> Result<()> {
        if self.classes.is_empty() {
            return Err(Error::invalid("there are no labelled inputs"));
        }
        let n = self.expected.classes;
        match self.classes.iter().position(|&c| c >= n) {
            Some(i) => Err(Error::invalid(format!(
                "sample {i} is of class {}, but the model has {n} classes (0 to {})",
                self.classes[i],
                n.saturating_sub(1)
            ))),
            None => Ok(()),
        }
    }

    /// The class of every sample.
    pub fn classes(&self) -> &[usize] {
        &self.classes
    }

    /// Positions of the samples of every class that occurs.
    pub fn by_class(&self) -> BTreeMap<usize, Vec<usize>> {
        super::by_class(&self.classes)
    }

    /// SHA-256, hexadecimal, of what can be told of these inputs without reading the samples: classes, names and
    /// lengths of files, how they are scaled; the whole file where it is read as a whole.
    pub fn listing_sha256(&self) -> &str {
        &self.listing_sha256
    }

    /// Reads the samples at these positions, in this order.
    ///
    /// # Errors
    /// When a sample cannot be read or does not suit the model.
    pub fn read(&self, positions: &[usize]) -> Result<Labelled> {
        let (name, found) = match &self.kind {
            Kind::Held(data) => return data.select(positions),
            Kind::Images(root, images) => (root, images.read(positions)),
            Kind::Idx(file, images, rows) => {
                let rows: Vec<usize> = positions.iter().map(|&i| rows[i]).collect();
                let y = positions.iter().map(|&i| self.classes[i]).collect();
                let fit = |x: super::raw::Raw| Ok((x.fit("x", &self.expected.sample.shape, true)?, y));
                (file, images.read(&rows).and_then(fit))
            }
        };
        let (x, y) = found
            .map_err(|e| if e.to_string().contains(&name.display().to_string()) { e } else { e.at(name.display()) })?;
        assemble(x, y, Vec::new(), &self.expected, &self.options).map_err(|e| e.at(name.display()))
    }
}

fn held(data: Labelled) -> (Kind, Vec<usize>) {
    let classes = data.y.clone();
    (Kind::Held(data), classes)
}

impl Labelled {
    /// SHA-256 of the samples as the model takes them, in their order; the classes are not part of it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let extra = self.extra.iter().map(|(k, a)| (k.as_str(), a));
        for (name, a) in [("", &self.x)].into_iter().chain(extra) {
            hash.update(format!("{name} {} {:?}\n", a.dtype(), a.shape()));
            match a {
                Array::F32(a) => hash_elements(&mut hash, a.iter(), |v| v.to_le_bytes()),
                Array::F64(a) => hash_elements(&mut hash, a.iter(), |v| v.to_le_bytes()),
                Array::I64(a) => hash_elements(&mut hash, a.iter(), |v| v.to_le_bytes()),
                Array::Bool(a) => hash_elements(&mut hash, a.iter(), |v| [u8::from(v)]),
            }
        }
        hash.finalize().into()
    }
}

fn hash_elements<'a, T: Copy + 'a, const N: usize>(
    hash: &mut Sha256,
    elements: impl Iterator<Item = &'a T>,
    bytes: impl Fn(T) -> [u8; N],
) {
    let mut buffer = Vec::with_capacity(N << 14);
    for &v in elements {
        buffer.extend(bytes(v));
        if buffer.len() == N << 14 {
            hash.update(&buffer);
            buffer.clear();
        }
    }
    hash.update(&buffer);
}
