//! The operator set versions in which ONNX changed what a node looks like: attributes, inputs, outputs or defaults.
//! Versions that only took in more element types are left out.

/// Of the operators of `ai.onnx`, the versions above 7 that changed their form, as `onnx` 1.22 (operator set 27)
/// knows them; `tests/python/check_versions.py` holds this table against that package.
const FORMS: &[(&str, &[i64])] = &[
    ("ArgMax", &[12]),
    ("ArgMin", &[12]),
    ("Attention", &[24]),
    ("AveragePool", &[10, 19]),
    ("BatchNormalization", &[9, 14]),
    ("Cast", &[19, 24]),
    ("CastLike", &[19, 24]),
    ("Clip", &[11]),
    ("Constant", &[11, 12]),
    ("DFT", &[20]),
    ("DepthToSpace", &[11]),
    ("DequantizeLinear", &[13, 21, 23]),
    ("Dropout", &[12]),
    ("GRU", &[14]),
    ("GatherND", &[12]),
    ("Gemm", &[11]),
    ("GridSample", &[20]),
    ("GroupNormalization", &[21]),
    ("Hardmax", &[13]),
    ("LSTM", &[14]),
    ("LogSoftmax", &[13]),
    ("LpPool", &[18]),
    ("MaxPool", &[8, 10]),
    ("OptionalHasElement", &[18]),
    ("Pad", &[11, 18]),
    ("QuantizeLinear", &[13, 19, 21, 23]),
    ("RNN", &[14]),
    ("Range", &[27]),
    ("ReduceL1", &[18]),
    ("ReduceL2", &[18]),
    ("ReduceLogSum", &[18]),
    ("ReduceLogSumExp", &[18]),
    ("ReduceMax", &[18]),
    ("ReduceMean", &[18]),
    ("ReduceMin", &[18]),
    ("ReduceProd", &[18]),
    ("ReduceSum", &[13]),
    ("ReduceSumSquare", &[18]),
    ("Reshape", &[14]),
    ("Resize", &[11, 13, 18]),
    ("RoiAlign", &[16]),
    ("Scan", &[9]),
    ("ScatterElements", &[16]),
    ("ScatterND", &[16]),
    ("Shape", &[15]),
    ("Slice", &[10]),
    ("Softmax", &[13]),
    ("Split", &[13, 18]),
    ("Squeeze", &[13]),
    ("TopK", &[10, 11]),
    ("Unsqueeze", &[13]),
    ("Upsample", &[9]),
];

/// The version in which `op` got a form that someone who knows it up to version `known` would misread in a model of
/// operator set `opset`.
pub(super) fn unknown_form(op: &str, known: i64, opset: i64) -> Option<i64> {
    let (_, versions) = FORMS.iter().find(|(name, _)| *name == op)?;
    versions.iter().copied().filter(|&v| v > known && v <= opset).min()
}

#[cfg(test)]
mod tests {
    use super::unknown_form;

    #[test]
    fn only_forms_between_the_known_one_and_the_models_count() {
        assert_eq!(unknown_form("Range", 11, 27), Some(27));
        assert_eq!(unknown_form("Range", 11, 26), None);
        assert_eq!(unknown_form("Range", 27, 27), None);
        assert_eq!(unknown_form("AveragePool", 8, 19), Some(10));
        assert_eq!(unknown_form("Relu", 6, 27), None);
    }
}
