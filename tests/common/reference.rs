//! How gradients are held against what PyTorch's autograd says of a model.

use onnx_unlearn::classifier::Classifier;
use onnx_unlearn::onnx::{ImportOptions, Imported, import};
use onnx_unlearn::tensor::DType;

/// One tensor of a reference: norms, and entries at `index`.
#[derive(serde::Deserialize)]
pub struct Stated {
    pub shape: Vec<usize>,
    pub index: Vec<usize>,
    pub norm: f64,
    pub grad: Vec<f64>,
    pub fisher_norm: f64,
    pub fisher: Vec<f64>,
}

/// The model in the given precision.
pub fn bind(c: &Classifier, batch: usize, float: DType) -> Imported {
    let options = ImportOptions { batch, float, ..ImportOptions::default() };
    import(c.model().proto(), &|t| c.model().array(t), &options).unwrap()
}

/// Checks entries and norm of a tensor. An entry may be off by `tolerance` of itself or of the tensor's root
/// mean square, whichever is greater: entries far below the mean square are sums that cancel, and no f32
/// arithmetic has more than the terms' precision there.
pub fn check(got: &[f64], index: &[usize], want: &[f64], norm: f64, tolerance: f64) -> Result<(), String> {
    let mine = got.iter().map(|v| v * v).sum::<f64>().sqrt();
    let off = (mine - norm).abs() / norm;
    if off.is_nan() || off > tolerance {
        return Err(format!("norm {mine:e} instead of {norm:e}, off by {off:.1e}"));
    }
    let typical = norm / (got.len() as f64).sqrt();
    for (&i, &w) in index.iter().zip(want) {
        let off = (got[i] - w).abs() / w.abs().max(typical);
        if off.is_nan() || off > tolerance {
            return Err(format!("entry {i} is {:e} instead of {w:e}, off by {off:.1e}", got[i]));
        }
    }
    Ok(())
}
