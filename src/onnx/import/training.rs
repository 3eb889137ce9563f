//! The training form of BatchNormalization and Dropout.

use super::Import;
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::inputs::generator;
use crate::tensor::{Array, DType, TensorType};
use rand::Rng;

/// How the ops that behave otherwise in training are imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// Draws the masks of Dropout; without it every Dropout node takes its mask as an input `NODE.mask` (true: kept).
    pub seed: Option<u64>,
}

/// What a training form gives for every output of its node.
type Outputs = Vec<Option<ValueId>>;

impl Import<'_> {
    /// Brings BatchNormalization to its training form where that was asked for, and notes every node that is in it: by
    /// its attribute, or, before operator set 14, by having more than one output.
    pub(super) fn train_batch_norm(&mut self, label: &str, attrs: &mut Attrs, wanted: &[bool]) {
        if self.training.is_some() {
            attrs.set("training_mode", 1);
        }
        let by_outputs = self.opset() < 14 && wanted.iter().skip(1).any(|w| *w);
        if by_outputs || attrs.get("training_mode") == Some(&Attr::Int(1)) {
            self.batch_statistics.push(label.to_owned());
        }
    }

    /// The training form of a Dropout node, where that was asked for.
    pub(super) fn train_dropout(
        &mut self,
        label: &str,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
    ) -> Result<Option<Outputs>> {
        let Some(training) = self.training else { return Ok(None) };
        let outputs = dropout(&mut self.g, label, inputs, attrs, training)?;
        if training.seed.is_none() {
            self.masks.extend(outputs.get(1).copied().flatten());
        }
        Ok(Some(outputs))
    }
}

fn float(attrs: &Attrs, name: &str, default: f32) -> Result<f64> {
    match attrs.get(name) {
        None => Ok(f64::from(default)),
        Some(Attr::Float(v)) => Ok(f64::from(*v)),
        Some(a) => Err(Error::format(format!("attribute {name} = {a:?} is not a float"))),
    }
}

fn op(g: &mut Graph, name: &str, inputs: &[ValueId]) -> Result<ValueId> {
    g.push(name, inputs, Attrs::new())
}

/// `y = mask · x / (1 − ratio)`
fn dropout(
    g: &mut Graph,
    label: &str,
    inputs: &[Option<ValueId>],
    attrs: &Attrs,
    training: Training,
) -> Result<Outputs> {
    let x = inputs.first().copied().flatten().ok_or_else(|| Error::format("input 0 is missing"))?;
    let ratio = match inputs.get(1).copied().flatten() {
        None => float(attrs, "ratio", 0.5)?,
        Some(id) => {
            let given = g.constant_of(id).and_then(|a| a.to_f64().first().copied());
            given.ok_or_else(|| Error::unsupported("its ratio has to be constant"))?
        }
    };
    if !(0.0..1.0).contains(&ratio) {
        return Err(Error::format(format!("ratio {ratio} is not in [0, 1)")));
    }
    let shape = g.shape(x).to_vec();
    let mask = match training.seed {
        Some(seed) => {
            let mask = draw(seed, label, shape.iter().product(), 1.0 - ratio);
            g.constant(Array::from_vec(&shape, mask)?)
        }
        None => {
            let at = match g.value(x).batch {
                Batch::Lost => Batch::None,
                found => found,
            };
            g.input(format!("{label}.mask"), TensorType::new(DType::Bool, shape), at)
        }
    };
    let (zero, factor) = (g.scalar(0.0, g.dtype(x)), g.scalar(1.0 / (1.0 - ratio), g.dtype(x)));
    let kept = op(g, "Mul", &[x, factor])?;
    let y = op(g, "Where", &[mask, kept, zero])?;
    Ok(vec![Some(y), Some(mask)])
}

/// `n` flags, each true with probability `keep`: 32-bit words of ChaCha8 below `keep · 2³²`. The key is made of the
/// seed and the node's name, so that no node's mask depends on another's.
fn draw(seed: u64, label: &str, n: usize, keep: f64) -> Vec<bool> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in label.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut rng = generator(seed, b"dropout");
    rng.set_stream(hash);
    (0..n).map(|_| f64::from(rng.next_u32()) < keep * 4_294_967_296.0).collect()
}
