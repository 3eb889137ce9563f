//! Types and shapes of values.

use super::StringStringEntryProto;

/// Name and type of a value: `ValueInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfoProto {
    /// Name of the value.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
    /// Free text.
    #[prost(string, optional, tag = "3")]
    pub doc_string: Option<String>,
    /// Named strings.
    #[prost(message, repeated, tag = "4")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// Type of a value: [`TypeProto`](https://github.com/onnx/onnx/blob/main/docs/IR.md#standard-data-types).
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// Meaning of the value, such as `IMAGE`.
    #[prost(string, optional, tag = "6")]
    pub denotation: Option<String>,
    /// The type itself.
    #[prost(oneof = "type_proto::Value", tags = "1, 4, 5, 7, 8, 9")]
    pub value: Option<type_proto::Value>,
}

/// What a [`TypeProto`] may be.
pub mod type_proto {
    use super::{TensorShapeProto, TypeProto};

    /// The alternatives of [`TypeProto::value`].
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[allow(missing_docs)]
    pub enum Value {
        #[prost(message, tag = "1")]
        TensorType(Tensor),
        #[prost(message, tag = "4")]
        SequenceType(Box<Sequence>),
        #[prost(message, tag = "5")]
        MapType(Box<Map>),
        #[prost(message, tag = "7")]
        OpaqueType(Opaque),
        #[prost(message, tag = "8")]
        SparseTensorType(SparseTensor),
        #[prost(message, tag = "9")]
        OptionalType(Box<Optional>),
    }

    /// A dense tensor.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Tensor {
        /// Element type: a value of [`DataType`](crate::onnx::proto::DataType).
        #[prost(int32, optional, tag = "1")]
        pub elem_type: Option<i32>,
        /// Shape; absent when even the rank is unknown.
        #[prost(message, optional, tag = "2")]
        pub shape: Option<TensorShapeProto>,
    }

    /// A sparse tensor.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SparseTensor {
        /// Element type: a value of [`DataType`](crate::onnx::proto::DataType).
        #[prost(int32, optional, tag = "1")]
        pub elem_type: Option<i32>,
        /// Shape; absent when even the rank is unknown.
        #[prost(message, optional, tag = "2")]
        pub shape: Option<TensorShapeProto>,
    }

    /// A sequence of values of one type.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sequence {
        /// Type of each value.
        #[prost(message, optional, boxed, tag = "1")]
        pub elem_type: Option<Box<TypeProto>>,
    }

    /// A map.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Map {
        /// Integer type or string: a value of [`DataType`](crate::onnx::proto::DataType).
        #[prost(int32, optional, tag = "1")]
        pub key_type: Option<i32>,
        /// Type of each value.
        #[prost(message, optional, boxed, tag = "2")]
        pub value_type: Option<Box<TypeProto>>,
    }

    /// A value that may be missing.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Optional {
        /// Type of the value.
        #[prost(message, optional, boxed, tag = "1")]
        pub elem_type: Option<Box<TypeProto>>,
    }

    /// A type that ONNX does not describe.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Opaque {
        /// Domain.
        #[prost(string, optional, tag = "1")]
        pub domain: Option<String>,
        /// Name in that domain.
        #[prost(string, optional, tag = "2")]
        pub name: Option<String>,
    }
}

/// Shape of a tensor: [`TensorShapeProto`](https://github.com/onnx/onnx/blob/main/docs/IR.md#static-tensor-shapes).
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorShapeProto {
    /// Extents, outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// One extent of a [`TensorShapeProto`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// Meaning of the axis, such as `DATA_BATCH`.
    #[prost(string, optional, tag = "3")]
    pub denotation: Option<String>,
    /// Number or name; absent when unknown.
    #[prost(oneof = "dimension::Value", tags = "1, 2")]
    pub value: Option<dimension::Value>,
}

/// What a [`Dimension`] may be.
pub mod dimension {
    /// The alternatives of [`Dimension::value`](super::Dimension).
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum Value {
        /// A fixed extent.
        #[prost(int64, tag = "1")]
        DimValue(i64),
        /// A named extent, equal wherever the name appears.
        #[prost(string, tag = "2")]
        DimParam(String),
    }
}
