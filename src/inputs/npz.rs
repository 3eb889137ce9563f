//! `.npz`: a zip file of NumPy arrays. Files are read with suspicion and written the same bytes every time.

use super::raw::{Raw, assemble, checked_len};
use super::{Expected, Labelled, MAX_BYTES, Options, npy};
use crate::error::{Error, Result};
use crate::files;
use crate::memory;
use crate::tensor::Array;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// More arrays than this are no labelled inputs.
const MAX_ENTRIES: usize = 10_000;
/// Deflate cannot shrink data to less than one part in so many.
const MAX_RATIO: u64 = 1032;

/// An open `.npz` file.
struct Npz<R> {
    archive: ZipArchive<R>,
    bytes: u64,
}

impl Npz<BufReader<File>> {
    fn open(path: &Path) -> Result<Self> {
        let cannot = |e: &io::Error| Error::io("cannot be read", e);
        let file = File::open(path).map_err(|e| cannot(&e))?;
        let bytes = file.metadata().map_err(|e| cannot(&e))?.len();
        Self::new(BufReader::new(file), bytes)
    }
}

impl<R: Read + Seek> Npz<R> {
    fn new(reader: R, bytes: u64) -> Result<Self> {
        let archive = ZipArchive::new(reader).map_err(|e| Error::format(format!("is no npz file: {e}")))?;
        if archive.len() > MAX_ENTRIES {
            return Err(Error::format(format!("holds {} arrays, more than {MAX_ENTRIES}", archive.len())));
        }
        Ok(Self { archive, bytes })
    }
    /// The arrays' names, sorted.
    fn keys(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.archive.file_names().map(|n| n.strip_suffix(".npy").unwrap_or(n).to_owned()).collect();
        all.sort();
        all
    }
    /// The entry that holds an array.
    fn entry_of(&self, key: &str) -> Option<String> {
        [format!("{key}.npy"), key.to_owned()].into_iter().find(|n| self.archive.index_for_name(n).is_some())
    }
    fn holds(&self, key: &str) -> bool {
        self.entry_of(key).is_some()
    }
    fn get(&mut self, key: &str) -> Result<Raw> {
        match self.entry_of(key) {
            Some(name) => self.entry(&name).map_err(|e| e.at(format!("array {key:?}"))),
            None => Err(Error::invalid(format!("no array {key:?}; the file holds {}", quoted(&self.keys())))),
        }
    }
    fn entry(&mut self, name: &str) -> Result<Raw> {
        let mut entry = self.archive.by_name(name).map_err(|e| Error::format(e.to_string()))?;
        let (size, packed) = (entry.size(), entry.compressed_size());
        let held = match entry.compression() {
            CompressionMethod::Stored => packed,
            _ => packed.saturating_mul(MAX_RATIO),
        };
        if packed > self.bytes || size > held {
            return Err(Error::format(format!(
                "{size} bytes are promised, the {} of the file cannot hold them",
                self.bytes
            )));
        }
        let header = npy::Header::read(&mut entry)?;
        let n = checked_len(&header.shape)? as u64;
        let data = n.checked_mul(header.elem.size()).filter(|&b| b <= MAX_BYTES);
        let data = data.ok_or_else(|| Error::invalid(format!("shape {:?} is too large to be read", header.shape)))?;
        // read once, and held once more as what the model takes
        memory::check(n.saturating_mul(header.elem.size().max(4)).saturating_mul(2), "reading it")?;
        if size != header.len + data {
            return Err(Error::format(format!(
                "shape {:?} of {} takes {} bytes, the file holds {size}",
                header.shape,
                header.elem,
                header.len + data
            )));
        }
        let raw = Raw::read(&mut entry, header.shape, header.elem, header.big_endian, header.fortran)?;
        // the checksum is compared at the end of the entry
        match entry.read(&mut [0]) {
            Ok(0) => Ok(raw),
            Ok(_) => Err(Error::format("more bytes than the header accounts for")),
            Err(e) => Err(Error::format(e.to_string())),
        }
    }
}

fn quoted(names: &[String]) -> String {
    match names {
        [] => "no array".into(),
        _ => names.iter().take(20).map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "),
    }
}

/// Labelled inputs from a file with `x`, `y` and one array per name in `expected.extra`.
///
/// # Errors
/// When the file is not what it says, lacks an array, or its samples do not suit the model.
pub fn load(path: &Path, expected: &Expected, options: &Options) -> Result<Labelled> {
    Npz::open(path).and_then(|npz| labelled(npz, expected, options)).map_err(|e| e.at(path.display()))
}

/// The same from any reader; `bytes` is the length of what it reads.
///
/// # Errors
/// As [`load`].
pub fn load_from(reader: impl Read + Seek, bytes: u64, expected: &Expected, options: &Options) -> Result<Labelled> {
    labelled(Npz::new(reader, bytes)?, expected, options)
}

fn labelled<R: Read + Seek>(mut npz: Npz<R>, expected: &Expected, options: &Options) -> Result<Labelled> {
    // several inputs may all go by their names
    let own = !npz.holds("x") && npz.holds(&expected.name);
    let x = npz.get(if own { &expected.name } else { "x" })?.fit("x", &expected.sample.shape, false)?;
    let y = npz.get("y")?.into_classes()?;
    let extra = expected
        .extra
        .iter()
        .map(|(name, ty)| {
            let found = npz.get(name).map_err(|e| e.at(format!("the model's input {name:?}, {ty} a sample")))?;
            Ok((name.clone(), found.fit(name, &ty.shape, false)?))
        })
        .collect::<Result<_>>()?;
    assemble(x, y, extra, expected, options)
}

/// Shape of every array in a file without its first axis, by name; only headers are read.
///
/// # Errors
/// When the file cannot be read or is no zip file.
pub fn sample_shapes(path: &Path) -> Result<BTreeMap<String, Vec<usize>>> {
    let read = || {
        let mut npz = Npz::open(path)?;
        let mut shapes = BTreeMap::new();
        for key in npz.keys() {
            let Some(name) = npz.entry_of(&key) else { continue };
            let mut entry = npz.archive.by_name(&name).map_err(|e| Error::format(e.to_string()))?;
            // what cannot be read is told when it is
            let Ok(header) = npy::Header::read(&mut entry) else { continue };
            shapes.insert(key, header.shape.get(1..).unwrap_or_default().to_vec());
        }
        Ok(shapes)
    };
    read().map_err(|e: Error| e.at(path.display()))
}

/// Names of the arrays in a file, sorted.
///
/// # Errors
/// When the file cannot be read or is no zip file.
pub fn keys(path: &Path) -> Result<Vec<String>> {
    Npz::open(path).map(|npz| npz.keys()).map_err(|e| e.at(path.display()))
}

/// One array of a file: integers come as int64, float16 as float32.
///
/// # Errors
/// When the file is not what it says or holds no such array.
pub fn read(path: &Path, key: &str) -> Result<Array> {
    let read = || Npz::open(path)?.get(key)?.into_array();
    read().map_err(|e| e.at(path.display()))
}

/// Writes labelled inputs: `x`, `y` as int64, then the extra inputs. Atomic; equal inputs give equal bytes.
///
/// # Errors
/// When an extra input is named `x` or `y`, or the file cannot be written.
pub fn save(path: &Path, inputs: &Labelled) -> Result<()> {
    let y = inputs.labels();
    let mut all = vec![("x", &inputs.x), ("y", &y)];
    all.extend(inputs.extra.iter().map(|(k, a)| (k.as_str(), a)));
    write(path, &all)
}

/// An array of this name says that the inputs were made from the model.
const MADE: &str = "onnx-unlearn.made";

/// An array of this name says that a code may stand for several classes.
const COMPOSITE: &str = "onnx-unlearn.composite";

/// Writes labelled inputs as [`save`] does, with a mark that they were made from the model.
///
/// # Errors
/// As [`save`].
pub fn save_made(path: &Path, inputs: &Labelled) -> Result<()> {
    save_marked(path, inputs, MADE)
}

/// Writes codes as [`save`] does, with a mark that one may stand for several classes.
///
/// # Errors
/// As [`save`].
pub fn save_composite(path: &Path, codes: &Labelled) -> Result<()> {
    save_marked(path, codes, COMPOSITE)
}

fn save_marked(path: &Path, inputs: &Labelled, mark: &str) -> Result<()> {
    let (y, one) = (inputs.labels(), Array::ints(&[1]));
    let mut all = vec![("x", &inputs.x), ("y", &y)];
    all.extend(inputs.extra.iter().map(|(k, a)| (k.as_str(), a)));
    all.push((mark, &one));
    write(path, &all)
}

/// True when [`save_composite`] wrote the file.
///
/// # Errors
/// As [`keys`].
pub(super) fn is_composite(path: &Path) -> Result<bool> {
    Ok(keys(path)?.iter().any(|k| k == COMPOSITE))
}

/// True when [`save_made`] wrote the file.
///
/// # Errors
/// As [`keys`].
pub(super) fn is_made(path: &Path) -> Result<bool> {
    Ok(keys(path)?.iter().any(|k| k == MADE))
}

/// The bytes that [`save`] writes.
///
/// # Errors
/// When an extra input is named `x` or `y`.
pub fn to_bytes(inputs: &Labelled) -> Result<Vec<u8>> {
    let y = inputs.labels();
    let mut all = vec![("x", &inputs.x), ("y", &y)];
    all.extend(inputs.extra.iter().map(|(k, a)| (k.as_str(), a)));
    check_names(&all)?;
    let mut bytes = io::Cursor::new(Vec::new());
    pack(&mut bytes, &all)?;
    Ok(bytes.into_inner())
}

/// Writes arrays under their names, uncompressed like `numpy.savez`. Atomic; equal arrays give equal bytes.
///
/// # Errors
/// When two arrays have one name, or the file cannot be written.
pub fn write(path: &Path, arrays: &[(&str, &Array)]) -> Result<()> {
    check_names(arrays)?;
    files::write_atomically(path, |file| {
        pack(file, arrays).map_err(|e| e.at(format!("cannot write {}", path.display())))
    })
}

fn check_names(arrays: &[(&str, &Array)]) -> Result<()> {
    for (i, (name, _)) in arrays.iter().enumerate() {
        if arrays[..i].iter().any(|(n, _)| n == name) {
            return Err(Error::invalid(format!("two arrays named {name:?} cannot be written to one npz file")));
        }
    }
    Ok(())
}

fn pack(file: &mut (impl Write + Seek), arrays: &[(&str, &Array)]) -> Result<()> {
    let io = |e: io::Error| Error::io("npz", &e);
    let bad = |e: zip::result::ZipError| Error::new(crate::Kind::Io, e.to_string());
    let mut zip = ZipWriter::new(file);
    for (name, array) in arrays {
        // the default time stamp is a constant, the first of 1980
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .unix_permissions(0o644)
            .large_file(array.len() as u64 > u64::from(u32::MAX) / 16);
        zip.start_file(format!("{name}.npy"), options).map_err(bad)?;
        match array {
            Array::F32(a) => elements(&mut zip, "<f4", a, |v| v.to_le_bytes()),
            Array::F64(a) => elements(&mut zip, "<f8", a, |v| v.to_le_bytes()),
            Array::I64(a) => elements(&mut zip, "<i8", a, |v| v.to_le_bytes()),
            Array::Bool(a) => elements(&mut zip, "|b1", a, |v| [u8::from(v)]),
        }
        .map_err(io)?;
    }
    zip.finish().map(drop).map_err(bad)
}

fn elements<T: Copy, const N: usize>(
    w: &mut impl Write,
    descr: &str,
    a: &ndarray::ArcArray<T, ndarray::IxDyn>,
    bytes: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    w.write_all(&npy::header(descr, a.shape()))?;
    let mut buffer = Vec::with_capacity(N << 14);
    for &v in a {
        buffer.extend(bytes(v));
        if buffer.len() >= N << 14 {
            w.write_all(&buffer)?;
            buffer.clear();
        }
    }
    w.write_all(&buffer)
}
