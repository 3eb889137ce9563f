//! Tensors whose elements lie in other files: which names are accepted, and what is checked.
//!
//! A location comes from the model file, so it is a stranger's word. It must be a relative path of plain
//! names below the model's directory, and every step of it must be a real directory and a regular file with
//! one name: no symbolic links, no hard links. One layout of symbolic links is accepted, since model hubs
//! use it: the model itself and its data are links into one directory `blobs`.
//!
//! <https://github.com/onnx/onnx/blob/main/docs/ExternalData.md>

use super::files::{self, Identity, Opened};
use super::proto::StringStringEntryProto;
use crate::error::{Error, Result};
pub(super) use crate::files::parent;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// More data files than this are refused; each takes one memory map, of which systems allow about 65,000.
const MAX_FILES: usize = 16_384;

/// What `external_data` of a tensor says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub location: &'a str,
    pub offset: usize,
    pub length: Option<usize>,
    /// SHA-1 of the whole file, which a change of its weights would make wrong.
    pub checksum: Option<[u8; 20]>,
}

impl<'a> Entry<'a> {
    /// Reads the key and value pairs.
    ///
    /// # Errors
    /// `Format` for a missing location, a repeated key, an offset or length that is no number;
    /// `Unsupported` for a key that ONNX does not define, since it may change what the bytes mean.
    pub(super) fn parse(pairs: &'a [StringStringEntryProto]) -> Result<Self> {
        let (mut location, mut offset, mut length, mut checksum) = (None, None, None, None);
        for pair in pairs {
            let slot = match pair.key() {
                "location" => &mut location,
                "offset" => &mut offset,
                "length" => &mut length,
                "checksum" => &mut checksum,
                key => return Err(Error::unsupported(format!("external data has the unknown key '{key}'"))),
            };
            if slot.replace(pair.value()).is_some() {
                return Err(Error::format(format!("external data gives '{}' twice", pair.key())));
            }
        }
        let location = location.ok_or_else(|| Error::format("external data gives no location"))?;
        Ok(Self {
            location,
            offset: number("offset", offset)?.unwrap_or(0),
            length: number("length", length)?,
            checksum: checksum.map(sha1).transpose()?,
        })
    }
}

fn number(key: &str, text: Option<&str>) -> Result<Option<usize>> {
    let Some(text) = text else { return Ok(None) };
    // `parse` would take a leading plus sign
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<usize>() {
        Ok(n) if digits => Ok(Some(n)),
        _ => Err(Error::format(format!("external data has the {key} '{text}', which is not a byte count"))),
    }
}

/// The 20 bytes of a SHA-1 in hexadecimal.
fn sha1(text: &str) -> Result<[u8; 20]> {
    let bad = || Error::format(format!("external data has the checksum '{text}', which is no hexadecimal SHA-1"));
    let (digits, []) = text.as_bytes().as_chunks::<2>() else { return Err(bad()) };
    let mut sum = [0; 20];
    if digits.len() != sum.len() {
        return Err(bad());
    }
    for (byte, pair) in sum.iter_mut().zip(digits) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let [high, low] = pair.map(digit);
        *byte = high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(bad)?;
    }
    Ok(sum)
}

/// A data file of a model.
#[derive(Debug)]
pub struct DataFile {
    /// Relative path as written in the model, without `./`.
    pub(super) location: PathBuf,
    /// The file itself, all links resolved.
    pub(super) real: PathBuf,
    pub(super) opened: Opened,
    /// Index of the first data file that is the same file.
    pub(super) group: usize,
    /// Its SHA-1, once a tensor asked for it.
    sum: std::sync::OnceLock<[u8; 20]>,
}

impl DataFile {
    /// Relative path from the model's directory.
    pub fn location(&self) -> &Path {
        &self.location
    }
    /// The file as it is.
    pub fn bytes(&self) -> &Bytes {
        &self.opened.bytes
    }
    /// Compares the file with the checksum that the model gives for it.
    ///
    /// # Errors
    /// `Format` when it is another file than the model was saved with.
    pub(super) fn check(&self, sum: &[u8; 20]) -> Result<()> {
        use sha1::{Digest, Sha1};
        if self.sum.get_or_init(|| Sha1::digest(self.bytes()).into()) == sum {
            return Ok(());
        }
        Err(Error::format("the data file does not have the checksum that the model gives for it"))
    }
    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.opened.bytes.len()
    }
    /// True when the file holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The data files of one model, each opened once.
#[derive(Debug, Default)]
pub(super) struct DataFiles {
    pub files: Vec<DataFile>,
    by_location: HashMap<PathBuf, usize>,
    by_real: HashMap<PathBuf, usize>,
}

impl DataFiles {
    /// Index of the file at `location`, opening it when it is new.
    pub(super) fn add(&mut self, model: &Path, location: &str) -> Result<usize> {
        let relative = plain(location)?;
        if let Some(&i) = self.by_location.get(&relative) {
            return Ok(i);
        }
        let i = self.files.len();
        if i >= MAX_FILES {
            return Err(Error::unsupported(format!("the model names more than {MAX_FILES} data files")));
        }
        let (opened, real) = open(model, &relative)?;
        let group = *self.by_real.entry(real.clone()).or_insert(i);
        self.by_location.insert(relative.clone(), i);
        self.files.push(DataFile { location: relative, real, opened, group, sum: std::sync::OnceLock::new() });
        Ok(i)
    }

    /// Index of the file at `location` if it is open.
    pub(super) fn find(&self, location: &str) -> Result<usize> {
        let found = self.by_location.get(&plain(location)?).copied();
        found.ok_or_else(|| Error::internal(format!("data file '{location}' was not opened with the model")))
    }
}

/// The location as a relative path of plain names.
pub(super) fn plain(location: &str) -> Result<PathBuf> {
    let refuse = |why: &str| Err(Error::invalid(format!("external data location '{}' {why}", location.escape_debug())));
    let drive = location.as_bytes().get(1) == Some(&b':') && location.starts_with(|c: char| c.is_ascii_alphabetic());
    if location.is_empty() {
        return refuse("is empty");
    }
    if location.contains('\0') {
        return refuse("contains a NUL");
    }
    if location.contains('\\') {
        return refuse("contains a backslash; ONNX separates directories with '/'");
    }
    if location.starts_with('/') || drive || (cfg!(windows) && location.contains(':')) {
        return refuse("is absolute; it must be relative to the model's directory");
    }
    let mut path = PathBuf::new();
    for name in location.split('/') {
        match name {
            "." => {}
            "" => return refuse("has an empty part"),
            ".." => return refuse("leaves the model's directory"),
            name => path.push(name),
        }
    }
    if path.as_os_str().is_empty() { refuse("names no file") } else { Ok(path) }
}

/// Opens a data file after looking at every step of the way.
fn open(model: &Path, relative: &Path) -> Result<(Opened, PathBuf)> {
    let mut path = parent(model).to_path_buf();
    let shown = relative.display();
    let failed = |e| Error::io(format!("cannot open external data {shown}"), &e);
    let mut blob = false;
    let mut names = relative.iter().peekable();
    while let Some(name) = names.next() {
        path.push(name);
        // these looks are for the message: what counts is how the file is opened below
        let found = path.symlink_metadata().map_err(failed)?;
        if found.is_symlink() && names.peek().is_none() && shares_blobs(model, &path) {
            blob = true;
        } else if found.is_symlink() {
            return Err(Error::invalid(format!("external data {shown} passes a symbolic link; copy the data itself")));
        } else if !found.is_dir() && !found.is_file() {
            return Err(Error::invalid(format!("external data {shown} is not a regular file")));
        }
    }
    let real = path.canonicalize().map_err(failed)?;
    let opened = if blob {
        let name = real.file_name().map(Path::new).ok_or_else(|| Error::internal("a blob without a name"))?;
        files::open_below(parent(&real), name)
    } else {
        files::open_below(parent(model), relative)
    };
    let opened = opened.map_err(|e| e.at(format!("external data {shown}")))?;
    if files::links(&opened.metadata) > 1 {
        return Err(Error::invalid(format!("external data {shown} is a hard link to another file; copy it instead")));
    }
    let again = real.symlink_metadata().map_err(failed)?;
    if !Identity::of(&again).eq(&opened.identity) {
        return Err(Error::invalid(format!("external data {shown} changed while it was opened")));
    }
    Ok((opened, real))
}

/// True when `model` and `data` are both symbolic links to files of one directory `blobs`, as in the cache
/// of the Hugging Face hub.
fn shares_blobs(model: &Path, data: &Path) -> bool {
    let directory = |p: &Path| p.canonicalize().ok()?.parent().map(Path::to_path_buf);
    model.is_symlink()
        && directory(model).is_some_and(|d| d.ends_with("blobs") && directory(data).is_some_and(|other| d == other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_stay_below_the_model() {
        for bad in [
            "",
            ".",
            "./",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "/etc/passwd",
            "C:\\x",
            "C:x",
            "..\\x",
            "a\\b",
            "a//b",
            "a/",
            "a\0b",
        ] {
            assert!(plain(bad).is_err(), "{bad:?}");
        }
        assert_eq!(plain("./a/b.bin").unwrap(), Path::new("a/b.bin"));
        assert_eq!(plain("w..x").unwrap(), Path::new("w..x"));
        #[cfg(not(windows))]
        assert_eq!(plain("onnx::MatMul_1").unwrap(), Path::new("onnx::MatMul_1"));
    }

    #[test]
    fn entries_are_numbers_and_known() {
        let pairs = |p: &[(&str, &str)]| -> Vec<StringStringEntryProto> {
            p.iter().map(|(k, v)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) }).collect()
        };
        let good = pairs(&[("location", "w"), ("offset", "4096"), ("length", "8")]);
        let entry = Entry::parse(&good).unwrap();
        assert_eq!((entry.location, entry.offset, entry.length), ("w", 4096, Some(8)));
        for bad in [
            &[("offset", "0")][..],
            &[("location", "w"), ("offset", "-1")],
            &[("location", "w"), ("offset", "+1")],
            &[("location", "w"), ("offset", "")],
            &[("location", "w"), ("offset", "0x10")],
            &[("location", "w"), ("length", "99999999999999999999999")],
            &[("location", "w"), ("location", "v")],
            &[("location", "w"), ("prepacked_0", "v")],
        ] {
            assert!(Entry::parse(&pairs(bad)).is_err(), "{bad:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused_except_into_shared_blobs() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        std::fs::create_dir_all(d.join("real")).unwrap();
        std::fs::create_dir_all(d.join("blobs")).unwrap();
        std::fs::create_dir_all(d.join("snap")).unwrap();
        for f in ["m.onnx", "real/w", "outside", "blobs/m", "blobs/w"] {
            std::fs::write(d.join(f), b"12345678").unwrap();
        }
        symlink(d.join("real"), d.join("linked")).unwrap();
        symlink(d.join("outside"), d.join("link")).unwrap();
        std::fs::hard_link(d.join("outside"), d.join("hard")).unwrap();
        let model = d.join("m.onnx");
        let try_open = |model: &Path, l: &str| DataFiles::default().add(model, l).map_err(|e| e.to_string());
        assert_eq!(try_open(&model, "real/w"), Ok(0));
        assert!(try_open(&model, "linked/w").unwrap_err().contains("symbolic link"));
        assert!(try_open(&model, "link").unwrap_err().contains("symbolic link"));
        assert!(try_open(&model, "hard").unwrap_err().contains("hard link"));
        assert!(try_open(&model, "real").unwrap_err().contains("directory"));
        assert!(try_open(&model, "none").unwrap_err().contains("cannot open"));
        assert!(try_open(&model, "real/w/x").is_err());
        // the hub's cache
        symlink("../blobs/m", d.join("snap/m.onnx")).unwrap();
        symlink("../blobs/w", d.join("snap/w")).unwrap();
        symlink("../outside", d.join("snap/o")).unwrap();
        let model = d.join("snap/m.onnx");
        assert_eq!(try_open(&model, "w"), Ok(0));
        assert!(try_open(&model, "o").unwrap_err().contains("symbolic link"));
        // and the same data file through a model that is no link
        std::fs::write(d.join("snap/n.onnx"), b"x").unwrap();
        assert!(try_open(&d.join("snap/n.onnx"), "w").unwrap_err().contains("symbolic link"));
    }
}
