//! A check of a model's bytes before anything is decoded, and the byte spans of its tensors.
//!
//! Every field of every message is visited, whatever graph or function it lies in: lengths stay within
//! their parents, varints within ten bytes, nesting within [`MAX_DEPTH`], text is UTF-8, wire types are
//! those of ONNX, groups are refused. Unknown fields are stepped over. Nothing is allocated by a length
//! that the file claims, and the memory that decoding will take is added up and bounded.
//!
//! A scalar field that occurs twice counts as protobuf says: the last one wins. A repeated singular
//! *message* and a repeated `raw_data` are refused instead. Protobuf would merge the former and drop all
//! but the last of the latter, but readers differ there; two programs that see different weights in one
//! file are what a tool that removes knowledge from weights must not leave behind.

use super::run::Run;
use super::schema::{Field, Kind, Message};
use super::wire::{Cursor, Fault, RawField, Wire};
use crate::error::{Error, Result};
use std::ops::Range;

/// How deep messages may nest; prost refuses the same depth.
pub(super) const MAX_DEPTH: usize = 100;

/// How much more memory than the file itself its decoded form may take, in bytes.
const DECODED_LIMIT: u64 = 2 << 30;

/// Where in the model a tensor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `graph.initializer[i]`.
    Initializer(usize),
    /// The tensor in an attribute of `graph.node[node]`.
    Attribute { node: usize, attribute: usize },
    /// The tensor in an attribute of `functions[function].node[node]`.
    Body { function: usize, node: usize, attribute: usize },
    /// The floats that stand in such an attribute itself.
    Floats { node: usize, attribute: usize },
    /// In a subgraph, a sparse tensor, a list.
    Elsewhere,
}

/// A tensor of the top-level graph or of a node in a function, or one with external data anywhere.
#[derive(Debug)]
pub(super) struct Found {
    pub place: Place,
    /// Field path, such as `graph.initializer[3]`.
    pub path: String,
    /// The encoded `TensorProto`, or the attribute of [`Place::Floats`].
    pub message: Range<usize>,
    pub external: bool,
    pub raw: Option<Range<usize>>,
    pub floats: Vec<Run>,
    pub doubles: Vec<Run>,
}

impl Found {
    fn new(place: Place, message: &Range<usize>) -> Self {
        let message = message.clone();
        Self { place, path: String::new(), message, external: false, raw: None, floats: vec![], doubles: vec![] }
    }
}

/// One step of a field path: a field and which occurrence of it.
#[derive(Clone, Copy)]
struct Step {
    field: &'static Field,
    index: u32,
}

/// Checks the bytes of a model and lists its tensors in the order of the file.
///
/// # Errors
/// [`Kind::Format`](crate::error::Kind::Format), naming the field path and the byte offset.
pub(super) fn scan(bytes: &[u8]) -> Result<Vec<Found>> {
    let mut walker = Walker { bytes, path: Vec::new(), tensor: None, attribute: None, tensors: Vec::new(), decoded: 0 };
    match walker.message(Message::Model, 0..bytes.len()) {
        Ok(()) => Ok(walker.tensors),
        Err(fault) => {
            let path = if walker.path.is_empty() { String::new() } else { format!("{}: ", walker.place()) };
            Err(Error::format(format!("{path}{} (at byte {})", fault.what, fault.offset)))
        }
    }
}

struct Walker<'a> {
    bytes: &'a [u8],
    path: Vec<Step>,
    /// The tensor being read; tensors hold no tensors.
    tensor: Option<Found>,
    /// The attribute of a top-level node being read, for its own floats.
    attribute: Option<Found>,
    tensors: Vec<Found>,
    decoded: u64,
}

impl Walker<'_> {
    fn message(&mut self, kind: Message, range: Range<usize>) -> Result<(), Fault> {
        if self.path.len() > MAX_DEPTH {
            return Err(Fault::new(range.start, format!("messages nest deeper than {MAX_DEPTH}")));
        }
        self.charge(range.start, kind.size())?;
        self.enter(kind, &range);
        let end = range.end;
        let mut counts = [0_u32; 32];
        let mut fields = Cursor::new(self.bytes, range)?;
        while let Some(raw) = fields.field()? {
            let Some(field) = kind.field(raw.number) else { continue };
            let Some(count) = usize::try_from(field.number).ok().and_then(|n| counts.get_mut(n)) else { continue };
            // on failure the path stays as it is, for the message
            self.path.push(Step { field, index: *count });
            if *count > 0 && !field.many && (field.name == "raw_data" || matches!(field.kind, Kind::Message(_))) {
                return Err(Fault::new(raw.offset, "a field that may stand once stands twice"));
            }
            *count = count.saturating_add(1);
            self.value(kind, field, &raw)?;
            self.path.pop();
        }
        self.leave(kind, end)
    }

    fn value(&mut self, parent: Message, field: &'static Field, raw: &RawField) -> Result<(), Fault> {
        match (field.kind, &raw.wire) {
            (Kind::Message(inner), Wire::Bytes(range)) => self.message(inner, range.clone()),
            (Kind::Text, Wire::Bytes(range)) => {
                self.charge(range.start, size_of::<String>().saturating_add(range.len()))?;
                match std::str::from_utf8(self.bytes.get(range.clone()).unwrap_or_default()) {
                    Ok(_) => Ok(()),
                    Err(e) => Err(Fault::new(range.start.saturating_add(e.valid_up_to()), "text is not valid UTF-8")),
                }
            }
            (Kind::Bytes, Wire::Bytes(range)) => {
                self.charge(range.start, size_of::<bytes::Bytes>())?;
                if let (Message::Tensor, "raw_data", Some(tensor)) = (parent, field.name, &mut self.tensor) {
                    tensor.raw = Some(range.clone());
                }
                Ok(())
            }
            (Kind::Int, Wire::Varint(value)) => match (parent, field.name) {
                (Message::Tensor, "data_location") => self.location(raw.offset, *value),
                _ => self.charge(raw.offset, size_of::<i64>()),
            },
            (Kind::Int, Wire::Bytes(range)) if field.many => self.packed_ints(range),
            (Kind::Float, Wire::Fixed32(at)) => self.numbers(parent, field, *at, 1, size_of::<f32>()),
            (Kind::Double, Wire::Fixed64(at)) => self.numbers(parent, field, *at, 1, size_of::<f64>()),
            (Kind::Float, Wire::Bytes(range)) if field.many => self.packed(parent, field, range, size_of::<f32>()),
            (Kind::Double, Wire::Bytes(range)) if field.many => self.packed(parent, field, range, size_of::<f64>()),
            _ => Err(Fault::new(raw.offset, "the wire type is not the one that ONNX gives this field")),
        }
    }

    /// Notes that a tensor's elements lie in another file.
    fn location(&mut self, offset: usize, value: u64) -> Result<(), Fault> {
        if value > 1 {
            return Err(Fault::new(offset, format!("unknown data location {value}")));
        }
        if let Some(tensor) = &mut self.tensor {
            tensor.external = value == 1;
        }
        Ok(())
    }

    fn packed_ints(&mut self, range: &Range<usize>) -> Result<(), Fault> {
        let mut ints = Cursor::new(self.bytes, range.clone())?;
        while !ints.is_done() {
            ints.varint()?;
            self.charge(range.start, size_of::<i64>())?;
        }
        Ok(())
    }

    fn packed(&mut self, parent: Message, field: &Field, range: &Range<usize>, width: usize) -> Result<(), Fault> {
        if !range.len().is_multiple_of(width) {
            return Err(Fault::new(range.start, format!("{} bytes are not whole elements of {width}", range.len())));
        }
        let count = range.len().checked_div(width).unwrap_or(0);
        if count == 0 { Ok(()) } else { self.numbers(parent, field, range.start, count, width) }
    }

    /// Notes `count` floats or doubles side by side.
    fn numbers(&mut self, parent: Message, field: &Field, at: usize, count: usize, width: usize) -> Result<(), Fault> {
        self.charge(at, count.saturating_mul(width))?;
        let top = parent == Message::Attribute && self.is_top_attribute(1);
        let found = if parent == Message::Tensor { &mut self.tensor } else { &mut self.attribute };
        let Some(found) = found.as_mut().filter(|_| top || parent == Message::Tensor) else { return Ok(()) };
        let runs = if field.name == "double_data" { &mut found.doubles } else { &mut found.floats };
        if !field.many {
            // of a singular field that stands twice, the last one counts
            runs.clear();
        }
        let run = Run { start: at, step: width, count };
        if run.append_to(runs) {
            self.charge(at, size_of::<Run>())?;
        }
        Ok(())
    }

    fn enter(&mut self, kind: Message, range: &Range<usize>) {
        match (kind, self.path.as_slice()) {
            (Message::Tensor, [g, i]) if g.field.name == "graph" && i.field.name == "initializer" => {
                self.tensor = Some(Found::new(Place::Initializer(index(i)), range));
            }
            (Message::Tensor, [_, n, a, t]) if self.is_top_attribute(1) && t.field.name == "t" => {
                let place = Place::Attribute { node: index(n), attribute: index(a) };
                self.tensor = Some(Found::new(place, range));
            }
            (Message::Tensor, [f, n, a, t])
                if f.field.name == "functions"
                    && n.field.name == "node"
                    && a.field.name == "attribute"
                    && t.field.name == "t" =>
            {
                let place = Place::Body { function: index(f), node: index(n), attribute: index(a) };
                self.tensor = Some(Found::new(place, range));
            }
            (Message::Tensor, _) => self.tensor = Some(Found::new(Place::Elsewhere, range)),
            (Message::Attribute, [_, n, a]) if self.is_top_attribute(0) => {
                let place = Place::Floats { node: index(n), attribute: index(a) };
                self.attribute = Some(Found::new(place, range));
            }
            _ => {}
        }
    }

    fn leave(&mut self, kind: Message, end: usize) -> Result<(), Fault> {
        let found = match kind {
            Message::Tensor => self.tensor.take().filter(|t| t.place != Place::Elsewhere || t.external),
            Message::Attribute if self.is_top_attribute(0) => self.attribute.take().filter(|a| !a.floats.is_empty()),
            _ => None,
        };
        if let Some(mut found) = found {
            found.path = self.place();
            self.charge(end, size_of::<Found>().saturating_add(found.path.len()))?;
            self.tensors.push(found);
        }
        Ok(())
    }

    /// True when the path without its last `above` steps is `graph.node[i].attribute[j]`.
    fn is_top_attribute(&self, above: usize) -> bool {
        let Some(depth) = self.path.len().checked_sub(above) else { return false };
        match self.path.get(..depth) {
            Some([g, n, a]) => g.field.name == "graph" && n.field.name == "node" && a.field.name == "attribute",
            _ => false,
        }
    }

    /// The path in words: `graph.node[3].attribute[0].t`.
    fn place(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(step.field.name);
            if step.field.many {
                text.push_str(&format!("[{}]", step.index));
            }
        }
        text
    }

    fn charge(&mut self, offset: usize, bytes: usize) -> Result<(), Fault> {
        let more = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.decoded = self.decoded.saturating_add(more);
        let file = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        if self.decoded > file.saturating_add(DECODED_LIMIT) {
            return Err(Fault::new(offset, "the model would take over 2 GiB more memory than its file"));
        }
        Ok(())
    }
}

fn index(step: &Step) -> usize {
    usize::try_from(step.index).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::proto::ModelProto;
    use super::super::samples::{field, sample, tensor};
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    #[test]
    fn finds_the_weights_of_the_top_graph() {
        let bytes = sample().encode_to_vec();
        let found = scan(&bytes).unwrap();
        let paths: Vec<_> = found.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "graph.node[0].attribute[0].t",
                "graph.node[1].attribute[0]",
                "graph.initializer[0]",
                "graph.initializer[1]",
                "graph.initializer[2]",
            ]
        );
        let f32_at = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        for f in &found {
            let starts: Vec<usize> = match (&f.raw, f.floats.as_slice(), f.doubles.as_slice()) {
                (Some(raw), [], []) => vec![raw.start, raw.start + 4],
                (None, [run], []) => vec![run.start, run.start + run.step],
                (None, [], [run]) => {
                    assert_eq!((run.step, run.count), (8, 2));
                    continue;
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(starts.iter().map(|&s| f32_at(s)).collect::<Vec<_>>(), [1.0, 2.0], "{}", f.path);
        }
        assert_eq!(found[1].floats[0].step, 5, "attribute floats are not packed");
    }

    #[test]
    fn unpacked_float_data_joins_into_one_run() {
        let mut t = tensor("w", 1, &[2]).encode_to_vec();
        for v in [1.0_f32, 2.0, 3.0] {
            t.push(4 << 3 | 5);
            t.extend(v.to_le_bytes());
        }
        let bytes = field(7, &field(5, &t));
        let found = scan(&bytes).unwrap();
        assert_eq!(found[0].floats.len(), 1);
        assert_eq!((found[0].floats[0].step, found[0].floats[0].count), (5, 3));
    }

    #[test]
    fn truncation_anywhere_is_an_error_or_a_smaller_model() {
        let bytes = sample().encode_to_vec();
        for end in 0..bytes.len() {
            if let Err(e) = scan(&bytes[..end]) {
                assert!(e.to_string().contains("at byte"), "{e}");
            } else {
                ModelProto::decode(&bytes[..end]).unwrap();
            }
        }
    }

    /// graph > node > attribute > graph > node > …, built from the innermost outwards.
    fn nested(depth: usize) -> Vec<u8> {
        let mut reversed = Vec::new();
        for level in (0..depth).rev() {
            let number = if level == 0 { 7 } else { [6, 1, 5][level % 3] };
            let mut head = vec![number << 3 | 2];
            prost::encoding::encode_varint(reversed.len() as u64, &mut head);
            reversed.extend(head.iter().rev());
        }
        reversed.reverse();
        reversed
    }

    #[test]
    fn depth_is_bounded() {
        assert!(scan(&nested(MAX_DEPTH)).is_ok());
        ModelProto::decode(nested(MAX_DEPTH).as_slice()).unwrap();
        let e = scan(&nested(MAX_DEPTH + 1)).unwrap_err();
        assert!(e.to_string().contains("nest deeper"), "{e}");
        assert!(scan(&nested(100_000)).is_err());
    }

    #[test]
    fn hostile_fields_are_refused_with_their_place() {
        let e = scan(&vec![0x0b; 1 << 20]).unwrap_err();
        assert!(e.to_string().contains("group"), "{e}");
        // raw_data twice
        let t = [field(9, &[0; 4]), field(9, &[0; 4])].concat();
        let e = scan(&field(7, &field(5, &t))).unwrap_err();
        assert!(e.to_string().starts_with("graph.initializer[0].raw_data: "), "{e}");
        // the graph twice
        assert!(scan(&[field(7, &[]), field(7, &[])].concat()).is_err());
        // wrong UTF-8 in a node name, wrong wire type, over-long varint in dims, odd float_data
        let e = scan(&field(7, &field(1, &field(3, &[b'a', 0xff])))).unwrap_err();
        assert!(e.to_string().starts_with("graph.node[0].name: text is not valid UTF-8 (at byte 7)"), "{e}");
        assert!(scan(&[0x3d, 0, 0, 0, 0]).is_err());
        assert!(scan(&field(7, &field(5, &field(1, &[0x80; 11])))).is_err());
        assert!(scan(&field(7, &field(5, &field(4, &[0; 5])))).is_err());
        assert!(scan(&field(7, &field(5, &[14 << 3, 2]))).is_err());
    }

    #[test]
    fn memory_of_the_decoded_form_is_bounded() {
        // empty attributes: two bytes here, hundreds of bytes each when decoded
        let attributes: Vec<u8> = [5 << 3 | 2, 0].repeat(8 << 20);
        let e = scan(&field(7, &field(1, &attributes))).unwrap_err();
        assert!(e.to_string().contains("more memory"), "{e}");
    }

    #[test]
    fn the_last_of_repeated_scalars_counts() {
        let bytes = [vec![0x08, 3, 0x08, 9], field(7, &[])].concat();
        scan(&bytes).unwrap();
        assert_eq!(ModelProto::decode(bytes.as_slice()).unwrap().ir_version(), 9);
    }

    proptest! {
        /// What the scan accepts, prost decodes; nothing panics.
        #[test]
        fn changed_bytes_never_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), more in any::<(u16, u8)>()) {
            let mut bytes = sample().encode_to_vec();
            let n = bytes.len();
            bytes[at.index(n)] = value;
            bytes[usize::from(more.0) % n] = more.1;
            if scan(&bytes).is_ok() {
                prop_assert!(ModelProto::decode(bytes.as_slice()).is_ok());
            }
        }
    }
}
