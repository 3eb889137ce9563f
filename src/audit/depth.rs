//! Where the change between two files lies.

use crate::error::Result;
use crate::onnx::Model;
use serde::Serialize;

/// The change of every float tensor between two files of the same tensors.
#[derive(Clone, Debug, Serialize)]
pub struct Depth {
    /// Tensors in the file's order.
    pub layers: Vec<Layer>,
    /// Elements that are not what they were.
    pub changed: usize,
    /// `Σ|Δw|` of the last layer over that of all; 0 to 1, and 0 where nothing changed.
    pub head_share: f64,
    /// One plain sentence.
    pub sentence: String,
}

/// The change of one tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// Name of the tensor.
    pub name: String,
    /// True for tensors of the last layer.
    pub is_head: bool,
    /// Number of elements.
    pub elements: usize,
    /// Elements that are not what they were.
    pub changed: usize,
    /// `Σ|Δw|` of this tensor over that of all; 0 to 1. Tensors with an infinite change share all of it.
    pub share: f64,
    /// `‖Δw‖₂ / ‖w‖₂`; infinite for an infinite change.
    pub relative: f64,
}

/// Compares two files tensor by tensor; `head` names the tensors of the last layer. `Err` with the reason where the files
/// do not hold the same tensors.
///
/// # Errors
/// When a tensor cannot be read.
pub fn depth(before: &Model, after: &Model, head: &[String]) -> Result<std::result::Result<Depth, String>> {
    let (mut layers, mut sums) = (Vec::new(), Vec::new());
    for w in before.weights() {
        let twin = after.weight_index(w.name()).and_then(|i| after.weights().get(i));
        let Some(twin) = twin.filter(|t| t.shape() == w.shape()) else {
            return Ok(Err(format!("AFTER has no tensor '{}' of shape {:?}", w.name(), w.shape())));
        };
        let (a, b) = (before.read(w)?.to_f64(), after.read(twin)?.to_f64());
        let (mut sum, mut square, mut norm, mut changed) = (0.0, 0.0, 0.0, 0);
        for (x, y) in a.into_iter().zip(b) {
            norm += x * x;
            if x != y {
                let d: f64 = y - x;
                changed += 1;
                sum += d.abs();
                square += d * d;
            }
        }
        let relative = match (square > 0.0, norm > 0.0) {
            (false, _) => 0.0,
            (true, true) => (square / norm).sqrt(),
            (true, false) => f64::INFINITY,
        };
        let is_head = head.iter().any(|h| h == w.name());
        layers.push(Layer {
            name: w.name().to_owned(),
            is_head,
            elements: w.elements(),
            changed,
            share: 0.0,
            relative,
        });
        sums.push(sum);
    }
    // an infinite change hides every finite one
    if sums.iter().any(|s| s.is_infinite()) {
        sums.iter_mut().for_each(|s| *s = f64::from(u8::from(s.is_infinite())));
    }
    let total: f64 = sums.iter().sum();
    for (layer, sum) in layers.iter_mut().zip(sums) {
        layer.share = if total > 0.0 { sum / total } else { 0.0 };
    }
    let of = |f: &dyn Fn(&Layer) -> bool| layers.iter().filter(|l| l.changed > 0 && f(l)).count();
    let head_share = layers.iter().filter(|l| l.is_head).map(|l| l.share).sum::<f64>();
    let sentence = match (of(&|l| l.is_head), of(&|l| !l.is_head)) {
        (0, 0) => "no weight changed".to_owned(),
        (_, 0) => "the change lies in the last layer alone: everything below it is what it was, so that the class is \
                   hidden and not forgotten"
            .to_owned(),
        (0, body) => format!("the change lies below the last layer, in {body} of {} tensors", layers.len()),
        (top, body) => format!(
            "{:.1} % of the change lies in the last layer, the rest in {body} of the {} tensors below it",
            100.0 * head_share,
            layers.len() - layers.iter().filter(|l| l.is_head).count().max(top)
        ),
    };
    let changed = layers.iter().map(|l| l.changed).sum();
    Ok(Ok(Depth { layers, changed, head_share, sentence }))
}
