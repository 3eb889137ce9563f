//! IDX, the format of MNIST and its kin (<https://yann.lecun.com/exdb/mnist/>): a big-endian header of element type
//! and extents, then the elements; plain or gzipped.

use super::raw::{Elem, Raw, checked_len};
use super::{MAX_BYTES, Split, split_of};
use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
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
    let labels = labels_of(images)?;
    let x = read(images)?;
    let y = read(&labels)?.into_classes().map_err(|e| e.at(labels.display()))?;
    if x.samples() != y.len() {
        let (n, m) = (x.samples(), y.len());
        return Err(Error::invalid(format!(
            "{} holds {n} images but {} holds {m} labels",
            images.display(),
            labels.display()
        )));
    }
    Ok((x, y))
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

/// One IDX file.
pub(super) fn read(path: &Path) -> Result<Raw> {
    let cannot = |e: io::Error| Error::io(format!("cannot read {}", path.display()), &e);
    let mut file = File::open(path).map_err(cannot)?;
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(cannot)?;
    file.rewind().map_err(cannot)?;
    let file = BufReader::new(file);
    // by its first bytes, since a gzipped file may have lost its suffix
    let raw = if start == [0x1f, 0x8b] { parse(MultiGzDecoder::new(file)) } else { parse(file) };
    raw.map_err(|e| e.at(path.display()))
}

fn parse(mut r: impl Read) -> Result<Raw> {
    let mut word = [0; 4];
    let mut next = |r: &mut dyn Read| {
        r.read_exact(&mut word).map(|()| word).map_err(|e| Error::format(format!("IDX header cannot be read: {e}")))
    };
    let [zero, zero2, code, rank] = next(&mut r)?;
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
        shape.push(u32::from_be_bytes(next(&mut r)?) as usize);
    }
    if checked_len(&shape)? as u64 > MAX_BYTES / elem.size() {
        return Err(Error::invalid(format!("an array of shape {shape:?} is too large to be read")));
    }
    let raw = Raw::read(&mut r, shape, elem, true, false)?;
    match r.read(&mut [0]) {
        Ok(0) => Ok(raw),
        Ok(_) => Err(Error::format(format!("holds more than its shape {:?} says", raw.shape))),
        Err(e) => Err(Error::format(format!("cannot be read to its end: {e}"))),
    }
}
