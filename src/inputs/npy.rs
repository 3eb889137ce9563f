//! The header of a `.npy` array, as NumPy's `numpy.lib.format` describes it (versions 1.0, 2.0 and 3.0).
//!
//! Our own reader and not a kept crate's, since a header is a Python literal that comes from anywhere: only the one
//! flat dictionary that NumPy writes is read, without recursion, and every size is checked before it is used.

use super::raw::Elem;
use crate::error::{Error, Result};
use std::io::Read;

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy refuses headers above 10,000 characters unless told to trust the file.
const MAX_HEADER: usize = 10_000;

/// What stands before the elements.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) elem: Elem,
    pub(super) big_endian: bool,
    pub(super) fortran: bool,
    pub(super) shape: Vec<usize>,
    /// Bytes from the start of the array file to its elements.
    pub(super) len: u64,
}

impl Header {
    pub(super) fn read(r: &mut impl Read) -> Result<Self> {
        let mut take = |n: usize| {
            let mut bytes = vec![0; n];
            r.read_exact(&mut bytes)
                .map(|()| bytes)
                .map_err(|e| Error::format(format!("npy header cannot be read: {e}")))
        };
        let start = take(8)?;
        if !start.starts_with(MAGIC) {
            return Err(Error::format("is no npy array (it does not start with \\x93NUMPY)"));
        }
        let prefix = match start[6] {
            1 => 2,
            2 | 3 => 4,
            v => return Err(Error::unsupported(format!("npy version {v}.{} (1.0 to 3.0 are read)", start[7]))),
        };
        let n = take(prefix)?.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b));
        if n > MAX_HEADER {
            return Err(Error::format(format!("npy header of {n} bytes (at most {MAX_HEADER} are read)")));
        }
        let text = String::from_utf8(take(n)?).map_err(|_| Error::format("npy header is no text"))?;
        let len = (8 + prefix + n) as u64;
        Parser { rest: &text }.header(len).map_err(|e| e.at(format!("npy header {:?}", text.trim_end())))
    }
}

/// Reads the one flat Python dictionary; `rest` is what has not been read.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn header(mut self, len: u64) -> Result<Header> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.take('}') {
            let key = self.string()?;
            self.expect(':')?;
            match key {
                "descr" if self.peek('[') => {
                    return Err(Error::unsupported("structured arrays are not read, save plain numbers"));
                }
                "descr" => descr = Some(element(self.string()?)?),
                "fortran_order" => fortran = Some(self.boolean()?),
                "shape" => shape = Some(self.tuple()?),
                _ => return Err(Error::format(format!("unknown key {key:?}"))),
            }
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        if !self.rest.trim().is_empty() {
            return Err(Error::format("text after the dictionary"));
        }
        match (descr, fortran, shape) {
            (Some((elem, big_endian)), Some(fortran), Some(shape)) => {
                Ok(Header { elem, big_endian, fortran, shape, len })
            }
            _ => Err(Error::format("descr, fortran_order or shape is missing")),
        }
    }
    fn peek(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.starts_with(c)
    }
    fn take(&mut self, c: char) -> bool {
        let found = self.peek(c);
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        found
    }
    fn expect(&mut self, c: char) -> Result<()> {
        if self.take(c) { Ok(()) } else { Err(Error::format(format!("{c:?} expected before {:?}", self.rest))) }
    }
    fn string(&mut self) -> Result<&'a str> {
        let quote = if self.take('\'') {
            '\''
        } else {
            self.expect('"')?;
            '"'
        };
        let (s, rest) = self.rest.split_once(quote).ok_or_else(|| Error::format("unfinished string"))?;
        self.rest = rest;
        Ok(s)
    }
    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
    fn boolean(&mut self) -> Result<bool> {
        match self.word() {
            "True" => Ok(true),
            "False" => Ok(false),
            w => Err(Error::format(format!("fortran_order is {w:?}"))),
        }
    }
    fn tuple(&mut self) -> Result<Vec<usize>> {
        self.expect('(')?;
        let mut all = Vec::new();
        while !self.take(')') {
            let word = self.word();
            // Python 2 wrote long integers with an L
            let digits = word.strip_suffix('L').unwrap_or(word);
            all.push(digits.parse().map_err(|_| Error::format(format!("extent {word:?} in the shape")))?);
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(all)
    }
}

/// Element type and byte order of a NumPy type string such as `<f4`.
fn element(descr: &str) -> Result<(Elem, bool)> {
    let (order, name) = match descr.as_bytes().first() {
        Some(b'<' | b'>' | b'=' | b'|') => descr.split_at(1),
        _ => ("=", descr),
    };
    let elem = match name {
        "f2" => Elem::F16,
        "f4" => Elem::F32,
        "f8" => Elem::F64,
        "i1" => Elem::I8,
        "i2" => Elem::I16,
        "i4" => Elem::I32,
        "i8" => Elem::I64,
        "u1" => Elem::U8,
        "u2" => Elem::U16,
        "u4" => Elem::U32,
        "u8" => Elem::U64,
        "b1" => Elem::Bool,
        _ if name.starts_with('O') => {
            return Err(Error::unsupported("arrays of Python objects (pickles) are not read, save plain numbers"));
        }
        _ => return Err(Error::unsupported(format!("element type {descr:?} (floats, integers and bools are read)"))),
    };
    // `=` is the writer's own order, which no file should say; little endian is what every such writer had
    Ok((elem, order == ">"))
}

/// The bytes before the elements of a row-major array, as NumPy writes them.
pub(super) fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let extents: String = match shape {
        [n] => format!("{n},"),
        _ => shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}").into_bytes();
    // elements begin at a multiple of 64
    let padded = (10 + text.len() + 1).next_multiple_of(64);
    text.resize(padded - 11, b' ');
    text.push(b'\n');
    // a rank that needs more than 65,535 bytes of text does not exist
    let n = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    [MAGIC, &[1, 0], &n, &text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Header> {
        Parser { rest: text }.header(0)
    }

    #[test]
    fn headers_of_every_writer_are_read() {
        let h = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n").unwrap();
        assert_eq!((h.elem, h.big_endian, h.fortran, h.shape), (Elem::F32, false, false, vec![3, 4]));
        let h = parse(r#"{"shape": (), "descr": ">i8", "fortran_order": True}"#).unwrap();
        assert_eq!((h.elem, h.big_endian, h.fortran, h.shape), (Elem::I64, true, true, vec![]));
        assert_eq!(parse("{'descr':'|u1','fortran_order':False,'shape':(7L,)}").unwrap().shape, [7]);
        let bytes = header("<f4", &[12, 1, 28, 28]);
        assert_eq!(bytes.len() % 64, 0);
        let h = Header::read(&mut &bytes[..]).unwrap();
        assert_eq!((h.shape, h.len), (vec![12, 1, 28, 28], bytes.len() as u64));
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4'}",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
            "{'descr': '<U3', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3",
            "{'descr",
        ] {
            parse(text).unwrap_err();
        }
        assert!(parse(&"(".repeat(9_000)).is_err());
    }
}
