//! Attributes: from messages, with those of the calling node in the place of references to them.

use super::super::proto::{AttributeProto, AttributeType};
use super::Import;
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs};
use crate::tensor::DType;

impl Import<'_> {
    /// The attributes of a node. One that refers to an attribute of the function is left out where neither the call
    /// nor the function gives it.
    pub(super) fn attributes(&self, given: &[AttributeProto]) -> Result<Attrs> {
        let mut attrs = Attrs::new();
        for a in given {
            match a.ref_attr_name() {
                "" => attrs.set(a.name(), self.attribute(a)?),
                outer => {
                    if let Some(value) = self.of_call(outer)? {
                        attrs.set(a.name(), value);
                    }
                }
            }
        }
        Ok(attrs)
    }

    /// Brings attributes that speak of float types to the precision in use.
    pub(super) fn adapt(&self, op: &str, attrs: &mut Attrs) {
        let named = if op == "EyeLike" { "dtype" } else { "to" };
        if let ("Cast" | "EyeLike", Some(Attr::Int(to))) = (op, attrs.get(named))
            && let Some(dtype) = i32::try_from(*to).ok().and_then(DType::from_onnx)
        {
            attrs.set(named, i64::from(self.precision(dtype).onnx()));
        }
        let floats: Vec<(String, Attr)> = attrs
            .iter()
            .filter_map(|(k, a)| match a {
                Attr::Tensor(data, dtype) if dtype.is_float() => {
                    Some((k.to_owned(), Attr::Tensor(data.to_float(self.float), self.float)))
                }
                _ => None,
            })
            .collect();
        for (name, a) in floats {
            attrs.set(&name, a);
        }
    }

    /// The value of one attribute that refers to no other.
    pub(super) fn attribute(&self, a: &AttributeProto) -> Result<Attr> {
        let text = |b: &bytes::Bytes| {
            String::from_utf8(b.to_vec()).map_err(|_| Error::format(format!("attribute {} is not UTF-8", a.name())))
        };
        let kind = AttributeType::try_from(a.r#type.unwrap_or_default()).unwrap_or(AttributeType::Undefined);
        Ok(match kind {
            AttributeType::Float => Attr::Float(a.f.unwrap_or_default()),
            AttributeType::Int => Attr::Int(a.i.unwrap_or_default()),
            AttributeType::String => Attr::Str(text(&a.s.clone().unwrap_or_default())?),
            AttributeType::Floats => Attr::Floats(a.floats.clone()),
            AttributeType::Ints => Attr::Ints(a.ints.clone()),
            AttributeType::Strings => Attr::Strs(a.strings.iter().map(text).collect::<Result<_>>()?),
            AttributeType::Tensor => {
                let t = a.t.as_ref().ok_or_else(|| Error::format(format!("attribute {} holds no tensor", a.name())))?;
                let (data, dtype) = (self.read)(t).map_err(|e| e.at(format!("attribute {}", a.name())))?;
                Attr::Tensor(data, dtype)
            }
            other => return Err(Error::unsupported(format!("attribute {} of type {other:?}", a.name()))),
        })
    }
}
