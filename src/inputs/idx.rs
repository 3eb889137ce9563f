//! IDX, the format of MNIST and its kin (<https://yann.lecun.com/exdb/mnist/>): a big-endian header of element type
//! and extents, then the elements; plain or gzipped.

use super::raw::{Elem, Raw, checked_len};
use super::{MAX_BYTES, Split, split_of};
use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// True for the names that image files have: `…-images-idx3-ubyte` and `….images.idx3-ubyte`, also gzipped.
pub(super) fn is_images(name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.contains("images") && (name.ends_with("idx3-ubyte") || name.ends_with("idx4-ubyte"))
}

/// The image file of a split among the files of a folder, if the folder holds any IDX image files.
///
/// # Errors
/// When it holds some but none, or several, of the split.
pub(super) fn find(names: &[String], split: Split) -> Result<Option<&str>> {
    let all: Vec<&str> = names.iter().map(String::as_str).filter(|n| is_images(n)).collect();
    // a file that lies both plain and gzipped is read plain
    let fits =
        |n: &&str| split_of(n).is_none_or(|s| s == split) && !n.strip_suffix(".gz").is_some_and(|p| all.contains(&p));
    match all.iter().copied().filter(fits).collect::<Vec<_>>()[..] {
        [one] => Ok(Some(one)),
        _ if all.is_empty() => Ok(None),
        [] => Err(Error::invalid(format!("no IDX images of the {split} split among {}", all.join(", ")))),
        [..] => Err(Error::invalid(format!("several IDX files of the {split} split: {}; name one", all.join(", ")))),
    }
}

/// Images and classes; the label file stands beside the image file and is named like it.
pub(super) fn load(images: &Path) -> Result<(Raw, Vec<usize>)> {
    let x = read(images)?;
    let y = labels(images, x.samples())?;
    Ok((x, y))
}

/// The classes of so many images.
fn labels(images: &Path, samples: usize) -> Result<Vec<usize>> {
    let labels = labels_of(images)?;
    let y = read(&labels)?.into_classes().map_err(|e| e.at(labels.display()))?;
    if samples != y.len() {
        let m = y.len();
        return Err(Error::invalid(format!(
            "{} holds {samples} images but {} holds {m} labels",
            images.display(),
            labels.display()
        )));
    }
    Ok(y)
}

/// A plain image file of which rows are read when they are asked for.
#[derive(Clone, Debug)]
pub(super) struct Images {
    path: PathBuf,
    header: Header,
    /// Class of every image in the file.
    pub(super) classes: Vec<usize>,
}

impl Images {
    /// Reads header and classes; `None` for a gzipped file, which can only be read from its start.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let (file, gzipped) = open(path)?;
        if gzipped {
            return Ok(None);
        }
        let length = file.metadata().map_err(|e| cannot(path, &e))?.len();
        let header = Header::read(&mut BufReader::new(file)).map_err(|e| e.at(path.display()))?;
        if length != header.bytes() + header.samples() as u64 * header.bytes_of_sample() {
            return Err(Error::format(format!(
                "{}: {length} bytes are not what its shape {:?} takes",
                path.display(),
                header.shape
            )));
        }
        let classes = labels(path, header.samples())?;
        Ok(Some(Self { path: path.to_path_buf(), header, classes }))
    }
    /// The extents of the whole file.
    pub(super) fn shape(&self) -> &[usize] {
        &self.header.shape
    }
    /// The images of these rows; nothing else is read.
    pub(super) fn read(&self, rows: &[usize]) -> Result<Raw> {
        let file = File::open(&self.path).map_err(|e| cannot(&self.path, &e))?;
        let (start, each) = (self.header.bytes(), self.header.bytes_of_sample());
        let mut shape = self.header.shape.clone();
        if let Some(n) = shape.first_mut() {
            *n = rows.len();
        }
        let mut bytes = Rows { file, start, each, rows: rows.iter(), left: 0 };
        Raw::read(&mut bytes, shape, self.header.elem, true, false).map_err(|e| e.at(self.path.display()))
    }
}

/// The bytes of some rows of a file, one after another.
struct Rows<'a> {
    file: File,
    start: u64,
    each: u64,
    rows: std::slice::Iter<'a, usize>,
    /// Bytes of the present row that are still to come.
    left: u64,
}

impl Read for Rows<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some(&row) = self.rows.next() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(self.start + row as u64 * self.each))?;
            self.left = self.each;
            if self.each == 0 {
                return Ok(0);
            }
        }
        let n = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read(&mut buffer[..n])?;
        self.left = if got == 0 { 0 } else { self.left - got as u64 };
        Ok(got)
    }
}

fn labels_of(images: &Path) -> Result<PathBuf> {
    let name = images.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let labels = plain.replace("images", "labels").replace("idx3-", "idx1-").replace("idx4-", "idx1-");
    [labels.clone(), format!("{labels}.gz")]
        .into_iter()
        .map(|n| images.with_file_name(n))
        .find(|p| p.is_file())
        .ok_or_else(|| Error::invalid(format!("{}: its labels {labels}[.gz] are not beside it", images.display())))
}

fn cannot(path: &Path, e: &io::Error) -> Error {
    Error::io(format!("cannot read {}", path.display()), e)
}

/// An open file at its start, and whether it is gzipped.
fn open(path: &Path) -> Result<(File, bool)> {
    let mut file = File::open(path).map_err(|e| cannot(path, &e))?;
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(|e| cannot(path, &e))?;
    file.rewind().map_err(|e| cannot(path, &e))?;
    // by its first bytes, since a gzipped file may have lost its suffix
    Ok((file, start == [0x1f, 0x8b]))
}

/// One IDX file.
pub(super) fn read(path: &Path) -> Result<Raw> {
    let (file, gzipped) = open(path)?;
    let file = BufReader::new(file);
    let raw = if gzipped { parse(MultiGzDecoder::new(file)) } else { parse(file) };
    raw.map_err(|e| e.at(path.display()))
}

/// Element type and extents.
#[derive(Clone, Debug)]
struct Header {
    elem: Elem,
    shape: Vec<usize>,
}

impl Header {
    fn read(r: &mut impl Read) -> Result<Self> {
        let mut word = [0; 4];
        let mut next = || {
            r.read_exact(&mut word).map(|()| word).map_err(|e| Error::format(format!("IDX header cannot be read: {e}")))
        };
        let [zero, zero2, code, rank] = next()?;
        let elem = match code {
            0x08 => Elem::U8,
            0x09 => Elem::I8,
            0x0b => Elem::I16,
            0x0c => Elem::I32,
            0x0d => Elem::F32,
            0x0e => Elem::F64,
            _ => return Err(Error::format(format!("is no IDX file: element type {code:#04x}"))),
        };
        if [zero, zero2] != [0, 0] || rank == 0 {
            return Err(Error::format("is no IDX file: it must begin with two zero bytes and state a rank"));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(u32::from_be_bytes(next()?) as usize);
        }
        if checked_len(&shape)? as u64 > MAX_BYTES / elem.size() {
            return Err(Error::invalid(format!("an array of shape {shape:?} is too large to be read")));
        }
        Ok(Self { elem, shape })
    }
    /// Bytes of the header itself.
    fn bytes(&self) -> u64 {
        4 + 4 * self.shape.len() as u64
    }
    fn samples(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }
    fn bytes_of_sample(&self) -> u64 {
        self.shape.iter().skip(1).product::<usize>() as u64 * self.elem.size()
    }
}

fn parse(mut r: impl Read) -> Result<Raw> {
    let header = Header::read(&mut r)?;
    let raw = Raw::read(&mut r, header.shape, header.elem, true, false)?;
    match r.read(&mut [0]) {
        Ok(0) => Ok(raw),
        Ok(_) => Err(Error::format(format!("holds more than its shape {:?} says", raw.shape))),
        Err(e) => Err(Error::format(format!("cannot be read to its end: {e}"))),
    }
}
