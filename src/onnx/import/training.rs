//! The training form of BatchNormalization and Dropout, written with other ops.

use super::Import;
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::inputs::generator;
use crate::ops::reshape;
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
    /// The training form of a node, where there is one and it was asked for.
    pub(super) fn train(
        &mut self,
        op: &str,
        label: &str,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Outputs>> {
        let Some(training) = self.training else { return Ok(None) };
        match op {
            "BatchNormalization" => {
                self.batch_statistics.push(label.to_owned());
                batch_norm(&mut self.g, inputs, attrs, wanted).map(Some)
            }
            "Dropout" => {
                let outputs = dropout(&mut self.g, label, inputs, attrs, training)?;
                if training.seed.is_none() {
                    self.masks.extend(outputs.get(1).copied().flatten());
                }
                Ok(Some(outputs))
            }
            _ => Ok(None),
        }
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

/// `y = (x − mean) / √(var + ε) · scale + b` with mean and variance over all axes but the channels', and the running
/// statistics that follow: <https://onnx.ai/onnx/operators/onnx__BatchNormalization.html>, training mode.
fn batch_norm(g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, wanted: &[bool]) -> Result<Outputs> {
    let [Some(x), Some(scale), Some(b), Some(running_mean), Some(running_var)] = *inputs else {
        return Err(Error::format(format!("{} inputs given, it takes 5", inputs.len())));
    };
    let (epsilon, momentum) = (float(attrs, "epsilon", 1e-5)?, float(attrs, "momentum", 0.9)?);
    let shape = g.shape(x).to_vec();
    let Some(&channels) = shape.get(1) else {
        return Err(Error::unsupported(format!("an input of shape {shape:?} has no channel axis")));
    };
    let along: Vec<usize> = (0..shape.len()).map(|axis| if axis == 1 { channels } else { 1 }).collect();
    let axes: Vec<i64> = (0..shape.len()).filter(|&a| a != 1).filter_map(|a| i64::try_from(a).ok()).collect();
    let axes = g.ints(&axes);
    let mean = op(g, "ReduceMean", &[x, axes])?;
    let centred = op(g, "Sub", &[x, mean])?;
    let squares = op(g, "Mul", &[centred, centred])?;
    let var = op(g, "ReduceMean", &[squares, axes])?;
    let epsilon = g.scalar(epsilon, g.dtype(x));
    let shifted = op(g, "Add", &[var, epsilon])?;
    let deviation = op(g, "Sqrt", &[shifted])?;
    let normal = op(g, "Div", &[centred, deviation])?;
    let (scale, b) = (reshape(g, scale, &along)?, reshape(g, b, &along)?);
    let scaled = op(g, "Mul", &[normal, scale])?;
    let mut out = vec![Some(op(g, "Add", &[scaled, b])?)];
    for (i, (running, now)) in [(running_mean, mean), (running_var, var)].into_iter().enumerate() {
        let used = wanted.get(i.saturating_add(1)) == Some(&true);
        out.push(if used { Some(running_statistic(g, running, now, momentum)?) } else { None });
    }
    if wanted.iter().skip(3).any(|w| *w) {
        return Err(Error::unsupported("outputs after the third are not supported"));
    }
    Ok(out)
}

/// `running · momentum + now · (1 − momentum)`
fn running_statistic(g: &mut Graph, running: ValueId, now: ValueId, momentum: f64) -> Result<ValueId> {
    let shape = g.shape(running).to_vec();
    let now = reshape(g, now, &shape)?;
    let (kept, new) = (g.scalar(momentum, g.dtype(now)), g.scalar(1.0 - momentum, g.dtype(now)));
    let (kept, new) = (op(g, "Mul", &[running, kept])?, op(g, "Mul", &[now, new])?);
    op(g, "Add", &[kept, new])
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
