//! Protobuf's wire format, read with every bound checked.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

use std::ops::Range;

/// What is wrong with some bytes, and at which offset.
#[derive(Debug)]
pub(super) struct Fault {
    pub offset: usize,
    pub what: String,
}

impl Fault {
    pub(super) fn new(offset: usize, what: impl Into<String>) -> Self {
        Self { offset, what: what.into() }
    }
}

/// A field as it stands on the wire; spans count from the start of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wire {
    Varint(u64),
    Fixed32(usize),
    Fixed64(usize),
    Bytes(Range<usize>),
}

/// One field: its number, the offset of its key, its content.
#[derive(Debug)]
pub(super) struct RawField {
    pub offset: usize,
    pub number: u32,
    pub wire: Wire,
}

/// Reads the fields of one message.
pub(super) struct Cursor<'a> {
    /// The bytes from the start of the file to the end of this message.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the beginning of `range`; nothing outside of it is read.
    pub(super) fn new(bytes: &'a [u8], range: Range<usize>) -> Result<Self, Fault> {
        match bytes.get(..range.end) {
            Some(bytes) if range.start <= range.end => Ok(Self { bytes, at: range.start }),
            _ => Err(Fault::new(range.start, "a message runs past the end of the file")),
        }
    }

    /// Offset of the next field.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// True when all of the range is read.
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next field, or `None` at the end of the message.
    pub(super) fn field(&mut self) -> Result<Option<RawField>, Fault> {
        if self.is_done() {
            return Ok(None);
        }
        let offset = self.at;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|n| (1..1 << 29).contains(n));
        let number = number.ok_or_else(|| Fault::new(offset, "field number out of range"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.skip(8, "an 8-byte value")?.start),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.skip(length, "a length-delimited value")?)
            }
            5 => Wire::Fixed32(self.skip(4, "a 4-byte value")?.start),
            // ONNX has no groups, and unbounded nesting of unknown groups is how parsers are made to crash
            3 | 4 => return Err(Fault::new(offset, "group fields are not part of ONNX")),
            other => return Err(Fault::new(offset, format!("unknown wire type {other}"))),
        };
        Ok(Some(RawField { offset, number, wire }))
    }

    /// A base-128 integer of at most ten bytes.
    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        let offset = self.at;
        let mut value = 0_u64;
        for place in 0..10_u32 {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(Fault::new(offset, "the bytes end inside a varint"));
            };
            self.at = self.at.saturating_add(1);
            if place == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::new(offset, "a varint is longer than 64 bits"))
    }

    fn skip(&mut self, length: u64, what: &str) -> Result<Range<usize>, Fault> {
        let start = self.at;
        let end = usize::try_from(length).ok().and_then(|n| start.checked_add(n));
        match end.filter(|&end| end <= self.bytes.len()) {
            Some(end) => {
                self.at = end;
                Ok(start..end)
            }
            None => {
                let rest = self.bytes.len().saturating_sub(start);
                Err(Fault::new(start, format!("{what} of {length} bytes where {rest} are left")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<u64, Fault> {
        Cursor::new(bytes, 0..bytes.len())?.varint()
    }

    #[test]
    fn varints_to_their_limits() {
        assert_eq!(varint(&[0x96, 0x01]).unwrap(), 150);
        let mut max = vec![0xff; 9];
        max.push(1);
        assert_eq!(varint(&max).unwrap(), u64::MAX);
        max[9] = 2;
        assert!(varint(&max).is_err());
        assert!(varint(&[0x80; 11]).is_err());
        assert!(varint(&[0x80]).is_err());
        assert!(varint(&[]).is_err());
        // padded with zeros is legal up to ten bytes
        assert_eq!(varint(&[0x81, 0x80, 0x80, 0]).unwrap(), 1);
    }

    #[test]
    fn lengths_and_wire_types_are_checked() {
        let field = |b: &[u8]| Cursor::new(b, 0..b.len()).unwrap().field();
        assert_eq!(field(&[0x0a, 2, 7, 7]).unwrap().unwrap().wire, Wire::Bytes(2..4));
        for bad in [
            &[0x0a, 3, 7, 7][..],                                             // longer than the rest
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], // u64::MAX long
            &[0x0b],                                                          // group
            &[0x0c],                                                          // end of group
            &[0x0e],                                                          // wire type 6
            &[0x00, 0x00],                                                    // field number 0
            &[0x0d, 0, 0, 0],                                                 // short fixed32
            &[0x09, 0, 0, 0, 0, 0, 0, 0],                                     // short fixed64
            &[0xf8, 0xff, 0xff, 0xff, 0x7f, 0x00],                            // field number beyond 29 bits
        ] {
            assert!(field(bad).is_err(), "{bad:?}");
        }
        assert!(Cursor::new(&[0; 4], 0..5).is_err());
    }
}
