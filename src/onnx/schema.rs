//! Which fields each ONNX message has: what the scan holds the bytes against.

use super::proto;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Float,
    Double,
    Bytes,
    Text,
    Message(Message),
}

/// A field of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub number: u32,
    pub name: &'static str,
    pub kind: Kind,
    pub many: bool,
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, many: false }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, many: true }
}

/// Every message type of an ONNX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Segment,
    SparseTensor,
    ValueInfo,
    Type,
    TypeTensor,
    TypeSequence,
    TypeMap,
    TypeOptional,
    TypeOpaque,
    Shape,
    Dimension,
    Entry,
    OpsetId,
    Function,
    Annotation,
    Training,
    Device,
    NodeDevice,
    Sharding,
    IntIntList,
    ShardedDim,
    SimpleShardedDim,
}

impl Message {
    /// The field with this number, if the message has one.
    pub(super) fn field(self, number: u32) -> Option<&'static Field> {
        self.fields().iter().find(|f| f.number == number)
    }

    /// Bytes of the decoded struct, for the memory budget of the scan.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Model => size_of::<proto::ModelProto>(),
            Self::Graph => size_of::<proto::GraphProto>(),
            Self::Node => size_of::<proto::NodeProto>(),
            Self::Attribute => size_of::<proto::AttributeProto>(),
            Self::Tensor => size_of::<proto::TensorProto>(),
            Self::SparseTensor => size_of::<proto::SparseTensorProto>(),
            Self::ValueInfo => size_of::<proto::ValueInfoProto>(),
            Self::Function => size_of::<proto::FunctionProto>(),
            Self::Training => size_of::<proto::TrainingInfoProto>(),
            // the rest are small; one bound fits them all
            _ => size_of::<proto::TypeProto>(),
        }
    }

    #[rustfmt::skip]
    pub(super) fn fields(self) -> &'static [Field] {
        use Kind::{Bytes, Double, Float, Int, Message as M, Text};
        use Message as T;
        const PROPS: Kind = M(T::Entry);
        match self {
            T::Model => const { &[
                one(1, "ir_version", Int), one(2, "producer_name", Text), one(3, "producer_version", Text),
                one(4, "domain", Text), one(5, "model_version", Int), one(6, "doc_string", Text),
                one(7, "graph", M(T::Graph)), many(8, "opset_import", M(T::OpsetId)),
                many(14, "metadata_props", PROPS), many(20, "training_info", M(T::Training)),
                many(25, "functions", M(T::Function)), many(26, "configuration", M(T::Device)),
            ] },
            T::Graph => const { &[
                many(1, "node", M(T::Node)), one(2, "name", Text), many(5, "initializer", M(T::Tensor)),
                one(10, "doc_string", Text), many(11, "input", M(T::ValueInfo)), many(12, "output", M(T::ValueInfo)),
                many(13, "value_info", M(T::ValueInfo)), many(14, "quantization_annotation", M(T::Annotation)),
                many(15, "sparse_initializer", M(T::SparseTensor)), many(16, "metadata_props", PROPS),
            ] },
            T::Node => const { &[
                many(1, "input", Text), many(2, "output", Text), one(3, "name", Text), one(4, "op_type", Text),
                many(5, "attribute", M(T::Attribute)), one(6, "doc_string", Text), one(7, "domain", Text),
                one(8, "overload", Text), many(9, "metadata_props", PROPS),
                many(10, "device_configurations", M(T::NodeDevice)),
            ] },
            T::Attribute => const { &[
                one(1, "name", Text), one(2, "f", Float), one(3, "i", Int), one(4, "s", Bytes),
                one(5, "t", M(T::Tensor)), one(6, "g", M(T::Graph)), many(7, "floats", Float), many(8, "ints", Int),
                many(9, "strings", Bytes), many(10, "tensors", M(T::Tensor)), many(11, "graphs", M(T::Graph)),
                one(13, "doc_string", Text), one(14, "tp", M(T::Type)), many(15, "type_protos", M(T::Type)),
                one(20, "type", Int), one(21, "ref_attr_name", Text), one(22, "sparse_tensor", M(T::SparseTensor)),
                many(23, "sparse_tensors", M(T::SparseTensor)),
            ] },
            T::Tensor => const { &[
                many(1, "dims", Int), one(2, "data_type", Int), one(3, "segment", M(T::Segment)),
                many(4, "float_data", Float), many(5, "int32_data", Int), many(6, "string_data", Bytes),
                many(7, "int64_data", Int), one(8, "name", Text), one(9, "raw_data", Bytes),
                many(10, "double_data", Double), many(11, "uint64_data", Int), one(12, "doc_string", Text),
                many(13, "external_data", PROPS), one(14, "data_location", Int), many(16, "metadata_props", PROPS),
            ] },
            T::Segment => const { &[one(1, "begin", Int), one(2, "end", Int)] },
            T::SparseTensor => const { &[
                one(1, "values", M(T::Tensor)), one(2, "indices", M(T::Tensor)), many(3, "dims", Int),
            ] },
            T::ValueInfo => const { &[
                one(1, "name", Text), one(2, "type", M(T::Type)), one(3, "doc_string", Text),
                many(4, "metadata_props", PROPS),
            ] },
            T::Type => const { &[
                one(1, "tensor_type", M(T::TypeTensor)), one(4, "sequence_type", M(T::TypeSequence)),
                one(5, "map_type", M(T::TypeMap)), one(6, "denotation", Text), one(7, "opaque_type", M(T::TypeOpaque)),
                one(8, "sparse_tensor_type", M(T::TypeTensor)), one(9, "optional_type", M(T::TypeOptional)),
            ] },
            T::TypeTensor => const { &[one(1, "elem_type", Int), one(2, "shape", M(T::Shape))] },
            T::TypeSequence | T::TypeOptional => const { &[one(1, "elem_type", M(T::Type))] },
            T::TypeMap => const { &[one(1, "key_type", Int), one(2, "value_type", M(T::Type))] },
            T::TypeOpaque => const { &[one(1, "domain", Text), one(2, "name", Text)] },
            T::Shape => const { &[many(1, "dim", M(T::Dimension))] },
            T::Dimension => const { &[one(1, "dim_value", Int), one(2, "dim_param", Text), one(3, "denotation", Text)] },
            T::Entry => const { &[one(1, "key", Text), one(2, "value", Text)] },
            T::OpsetId => const { &[one(1, "domain", Text), one(2, "version", Int)] },
            T::Function => const { &[
                one(1, "name", Text), many(4, "input", Text), many(5, "output", Text), many(6, "attribute", Text),
                many(7, "node", M(T::Node)), one(8, "doc_string", Text), many(9, "opset_import", M(T::OpsetId)),
                one(10, "domain", Text), many(11, "attribute_proto", M(T::Attribute)),
                many(12, "value_info", M(T::ValueInfo)), one(13, "overload", Text), many(14, "metadata_props", PROPS),
            ] },
            T::Annotation => const { &[one(1, "tensor_name", Text), many(2, "quant_parameter_tensor_names", PROPS)] },
            T::Training => const { &[
                one(1, "initialization", M(T::Graph)), one(2, "algorithm", M(T::Graph)),
                many(3, "initialization_binding", PROPS), many(4, "update_binding", PROPS),
            ] },
            T::Device => const { &[one(1, "name", Text), one(2, "num_devices", Int), many(3, "device", Text)] },
            T::NodeDevice => const { &[
                one(1, "configuration_id", Text), many(2, "sharding_spec", M(T::Sharding)), one(3, "pipeline_stage", Int),
            ] },
            T::Sharding => const { &[
                one(1, "tensor_name", Text), many(2, "device", Int),
                many(3, "index_to_device_group_map", M(T::IntIntList)), many(4, "sharded_dim", M(T::ShardedDim)),
            ] },
            T::IntIntList => const { &[one(1, "key", Int), many(2, "value", Int)] },
            T::ShardedDim => const { &[one(1, "axis", Int), many(2, "simple_sharding", M(T::SimpleShardedDim))] },
            T::SimpleShardedDim => const { &[
                one(1, "dim_value", Int), one(2, "dim_param", Text), one(3, "num_shards", Int),
            ] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scan counts the occurrences of each field in an array indexed by its number.
    #[test]
    fn field_numbers_are_small_and_unique() {
        let mut queue = vec![Message::Model];
        let mut seen = Vec::new();
        while let Some(message) = queue.pop() {
            if seen.contains(&message) {
                continue;
            }
            seen.push(message);
            for f in message.fields() {
                assert!((1..32).contains(&f.number), "{message:?}.{}", f.name);
                assert_eq!(message.field(f.number), Some(f), "{message:?}.{}", f.name);
                if let Kind::Message(inner) = f.kind {
                    queue.push(inner);
                }
            }
        }
        assert_eq!(seen.len(), 27, "a message type is not reachable from the model");
    }
}
