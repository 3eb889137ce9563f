//! Replacing bytes of a model that are no weights: values of `metadata_props`, when somebody asks for it.

use super::load::Model;
use super::run::Run;
use super::wire::{Cursor, Fault, Wire};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// `ModelProto.metadata_props`.
const METADATA_PROPS: u32 = 14;
/// `StringStringEntryProto.value`.
const VALUE: u32 = 2;

/// Bytes of a model file and what stands there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go.
    pub range: Range<usize>,
    /// Those that come.
    pub bytes: Vec<u8>,
}

/// Bytes that stay, and where they stand afterwards.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub source: Range<usize>,
    pub at: usize,
}

impl Kept {
    /// Where they end afterwards.
    pub(super) fn end(&self) -> usize {
        self.at.saturating_add(self.source.len())
    }
}

/// The edits that give entries of the model's `metadata_props` new values, by their index; sorted.
///
/// An entry keeps its key and all that is unknown in it; only its value and the lengths in front change.
///
/// # Errors
/// `Internal` when there is no such entry.
pub fn metadata_edits(model: &Model, values: &BTreeMap<usize, String>) -> Result<Vec<Edit>> {
    let bytes = model.bytes();
    let fault = |f: Fault| Error::internal(format!("byte {}: {}", f.offset, f.what));
    let mut fields = Cursor::new(bytes, 0..bytes.len()).map_err(fault)?;
    let (mut edits, mut index) = (Vec::new(), 0_usize);
    while let Some(field) = fields.field().map_err(fault)? {
        let (METADATA_PROPS, Wire::Bytes(message)) = (field.number, field.wire) else { continue };
        if let Some(value) = values.get(&index) {
            let range = field.offset..message.end;
            edits.push(Edit { range, bytes: entry(bytes, message, value).map_err(fault)? });
        }
        index = index.saturating_add(1);
    }
    let whole = values.keys().all(|&i| i < index);
    if whole { Ok(edits) } else { Err(Error::internal("the model has fewer metadata entries")) }
}

/// An entry of `metadata_props` with another value.
fn entry(bytes: &[u8], message: Range<usize>, value: &str) -> Result<Vec<u8>, Fault> {
    let mut new = Vec::new();
    let mut fields = Cursor::new(bytes, message.clone())?;
    let mut at = message.start;
    let mut has_value = false;
    while let Some(field) = fields.field()? {
        let end = fields.position();
        if field.number == VALUE {
            // also one that a later field of the same number makes void: its text would remain
            put(&mut new, VALUE, value.as_bytes());
            has_value = true;
        } else {
            new.extend_from_slice(bytes.get(at..end).unwrap_or_default());
        }
        at = end;
    }
    if !has_value {
        put(&mut new, VALUE, value.as_bytes());
    }
    let mut out = Vec::new();
    put(&mut out, METADATA_PROPS, &new);
    Ok(out)
}

/// Appends a length-delimited field.
fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(bytes);
}

/// What stays of `length` bytes, in order.
pub(super) fn kept(length: usize, edits: &[Edit]) -> Vec<Kept> {
    let (mut all, mut from, mut at) = (Vec::new(), 0_usize, 0_usize);
    for edit in edits {
        let source = from..edit.range.start;
        from = edit.range.end;
        let next = at.saturating_add(source.len()).saturating_add(edit.bytes.len());
        all.push(Kept { source, at });
        at = next;
    }
    all.push(Kept { source: from..length, at });
    all
}

/// The file with its edits.
pub(super) fn edited(source: &[u8], edits: &[Edit]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(source.len());
    let mut news = edits.iter();
    for piece in kept(source.len(), edits) {
        let bytes = source.get(piece.source).ok_or_else(|| Error::internal("edits overlap or leave the file"))?;
        out.extend_from_slice(bytes);
        if let Some(edit) = news.next() {
            out.extend_from_slice(&edit.bytes);
        }
    }
    Ok(out)
}

/// Where these elements stand afterwards; none of them is in an edit, since weights are no metadata.
pub(super) fn moved(run: Run, edits: &[Edit]) -> Run {
    let before = edits.iter().filter(|e| e.range.end <= run.start);
    let (less, more) = before.fold((0_usize, 0_usize), |(less, more), e| {
        (less.saturating_add(e.range.len()), more.saturating_add(e.bytes.len()))
    });
    Run { start: run.start.saturating_sub(less).saturating_add(more), ..run }
}
