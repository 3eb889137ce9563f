//! Attributes of a node, by their ONNX names.

use crate::tensor::{Array, DType};
use std::collections::BTreeMap;

/// The value of one attribute.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Attr {
    Int(i64),
    Float(f32),
    Str(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<String>),
    Tensor(Array, DType),
}

macro_rules! from {
    ($t:ty, $v:ident) => {
        impl From<$t> for Attr {
            fn from(v: $t) -> Self {
                Self::$v(v.into())
            }
        }
    };
}
from!(i64, Int);
from!(f32, Float);
from!(&str, Str);
from!(Vec<i64>, Ints);
from!(&[i64], Ints);
from!(Vec<f32>, Floats);

/// The attributes of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(BTreeMap<String, Attr>);

impl Attrs {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }
    /// The same attributes and one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Attr>) -> Self {
        self.set(name, value);
        self
    }
    /// Sets an attribute.
    pub fn set(&mut self, name: &str, value: impl Into<Attr>) {
        self.0.insert(name.to_owned(), value.into());
    }
    /// Takes an attribute out.
    pub fn take(&mut self, name: &str) -> Option<Attr> {
        self.0.remove(name)
    }
    /// The attribute of that name.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.get(name)
    }
    /// All attributes, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }
}
