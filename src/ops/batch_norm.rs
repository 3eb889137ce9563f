//! Batch normalization: <https://onnx.ai/onnx/operators/onnx__BatchNormalization.html>. In inference it is an op of its
//! own; with statistics of the batch (`training_mode = 1`) it is made of others.

use super::support::{PARALLEL, float_type, given};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Pen, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, DType, TensorType};
use rayon::prelude::*;

/// `y = (x − mean) · scale / √(var + epsilon) + b`, channel by channel (axis 1).
struct BatchNormalization;

impl BatchNormalization {
    fn epsilon(n: &NodeView) -> Result<f64> {
        n.float("epsilon", 1e-5)
    }
    /// Checks the parameters against the channels of x, and returns their number.
    fn channels(n: &NodeView) -> Result<usize> {
        let x = n.ty(0)?;
        let Some(&channels) = x.shape.get(1) else {
            return Err(Error::unsupported(format!("an input of shape {:?} has no channel axis", x.shape)));
        };
        for i in 1..5 {
            let p = n.ty(i)?;
            if p.shape != [channels] || p.dtype != x.dtype {
                return Err(Error::format(format!("input {i} is {p}, and {}[{channels}] is needed", x.dtype)));
            }
        }
        Ok(channels)
    }
}

/// `y = x̂ · scale + b` with `x̂ = (x − mean) / √(var + epsilon)`, mean and variance those of a channel in this batch;
/// outputs 1 and 2 move the running statistics towards them, outputs 3 and 4 (before opset 14) are they.
fn train(p: &mut Pen, x: [ValueId; 5], epsilon: f64, momentum: f64, wanted: &[bool]) -> Result<Vec<Option<ValueId>>> {
    let [x, scale, bias, running_mean, running_var] = x;
    let shape = p.shape(x);
    if shape[1] == 0 || shape.iter().product::<usize>() / shape[1] == 0 {
        return Err(Error::unsupported(format!("a batch of shape {shape:?} has no statistics")));
    }
    let mut channel = vec![1; shape.len()];
    channel[1] = shape[1];
    let beside: Vec<i64> = (0..shape.len() as i64).filter(|&a| a != 1).collect();
    let beside = p.graph().ints(&beside);
    let mean = p.op("ReduceMean", &[x, beside])?;
    let centered = p.sub(x, mean)?;
    let squares = p.mul(centered, centered)?;
    let var = p.op("ReduceMean", &[squares, beside])?;
    let shifted = p.shift(var, epsilon)?;
    let deviation = p.op("Sqrt", &[shifted])?;
    let normal = p.div(centered, deviation)?;
    let (scale, bias) = (p.reshape(scale, &channel)?, p.reshape(bias, &channel)?);
    let scaled = p.mul(normal, scale)?;
    let mut out = vec![Some(p.add(scaled, bias)?)];
    let statistics = [(running_mean, mean), (running_var, var)];
    let moved = statistics.map(|(old, new)| (Some(old), new)).into_iter().chain(statistics.map(|(_, new)| (None, new)));
    for (wanted, (old, new)) in wanted.iter().skip(1).zip(moved) {
        out.push(if *wanted {
            let new = p.reshape(new, &[shape[1]])?;
            Some(match old {
                Some(old) => {
                    let (old, new) = (p.scale(old, momentum)?, p.scale(new, 1.0 - momentum)?);
                    p.add(old, new)?
                }
                None => new,
            })
        } else {
            None
        });
    }
    Ok(out)
}

impl Op for BatchNormalization {
    fn spec(&self) -> Spec {
        Spec::new("BatchNormalization", 15, (5, 5)).outputs(1, 5)
    }
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        let n = g.view(self, "", inputs, attrs, wanted);
        match n.int("training_mode", 0)? {
            0 => return Ok(None),
            1 => {}
            mode => return Err(n.unsupported("training_mode", mode)),
        }
        Self::channels(&n)?;
        let (epsilon, momentum) = (Self::epsilon(&n)?, n.float("momentum", 0.9)?);
        let &[Some(x), Some(scale), Some(bias), Some(mean), Some(var)] = inputs else {
            return Err(Error::internal("BatchNormalization takes five inputs"));
        };
        train(&mut Pen { g }, [x, scale, bias, mean, var], epsilon, momentum, wanted).map(Some)
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        if n.wanted.iter().skip(1).any(|w| *w) {
            return Err(Error::format("outputs after the first need attribute training_mode = 1"));
        }
        Self::channels(n)?;
        Ok(vec![n.ty(0)?.clone(); n.wanted.len().max(1)])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![batch::unless_on(from, &[1]); out.len()]
    }
    fn frozen_inputs(&self) -> &'static [usize] {
        &[3, 4]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let epsilon = Self::epsilon(n)?;
        let shape = given(x, 0)?.shape();
        let inner: usize = shape[2..].iter().product();
        float_type!(given(x, 0)?, T => {
            let v = given(x, 0)?.slice::<T>()?;
            let [scale, bias, mean, var] = [
                given(x, 1)?.slice::<T>()?,
                given(x, 2)?.slice::<T>()?,
                given(x, 3)?.slice::<T>()?,
                given(x, 4)?.slice::<T>()?,
            ];
            let factor: Vec<T> = scale.iter().zip(var).map(|(&s, &v)| s / (v + epsilon as T).sqrt()).collect();
            let mut y: Vec<T> = vec![0.0; v.len()];
            if !y.is_empty() {
                let least = (PARALLEL / inner).max(1);
                y.par_chunks_mut(inner).with_min_len(least).zip(v.par_chunks(inner)).enumerate().for_each(
                    |(i, (y, x))| {
                        let c = i % factor.len();
                        let (f, m, b) = (factor[c], mean[c], bias[c]);
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x - m) * f + b);
                    },
                );
            }
            Ok(vec![Array::from_vec(shape, y)?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        if let Some(i) = (3..5).find(|&i| b.wants(i)) {
            return Err(b.not_differentiable(i, "running statistics are not trained by gradients"));
        }
        let epsilon = Self::epsilon(&b.view())?;
        let (x, scale, mean, var, dy) = (b.x(0)?, b.x(1)?, b.x(3)?, b.x(4)?, b.dy()?);
        let shape = b.shape(x);
        let mut channel = vec![1; shape.len()];
        channel[1] = shape[1];
        let shifted = b.shift(var, epsilon)?;
        let deviation = b.op("Sqrt", &[shifted])?;
        if b.wants(0) {
            // dx = dy · scale / √(var + ε)
            let factor = b.div(scale, deviation)?;
            let factor = b.reshape(factor, &channel)?;
            let dx = b.mul(dy, factor)?;
            b.set_dx(0, dx);
        }
        if b.wants(1) {
            // dscale = dy · (x − mean) / √(var + ε), summed beside the channel axis
            let (mean, deviation) = (b.reshape(mean, &channel)?, b.reshape(deviation, &channel)?);
            let centered = b.sub(x, mean)?;
            let normal = b.div(centered, deviation)?;
            let dscale = b.mul(dy, normal)?;
            b.set_along(1, dscale, 1);
        }
        // db = dy, summed likewise
        b.set_along(2, dy, 1);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let shape = n.shape(0)?;
        let len = shape.iter().product();
        Ok(Kernel::one(Step {
            shader: crate::shader!("batch_norm"),
            overrides: Vec::new(),
            binds: (0..5).map(Bind::Input).chain([Bind::Output(0)]).collect(),
            params: Params::new()
                .u("n", len)
                .u("channels", shape[1])
                .u("inner", shape[2..].iter().product())
                .f("epsilon", Self::epsilon(n)?),
            grid: grid_1d(len),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        let statistics = |channels: usize| {
            let vector = |f: fn(usize) -> f64| {
                let v = (0..channels).map(f).collect();
                Arg::Const(Array::from_vec(&[channels], v).unwrap_or_else(|_| Array::full(&[], 1.0)), DType::F64)
            };
            // quarters, so that both precisions start from the same numbers
            (vector(|c| 0.25 * c as f64 - 0.5), vector(|c| 0.5 + 0.75 * c as f64))
        };
        let case = |name: &str, shape: &[usize]| {
            let c = shape[1];
            let (mean, var) = statistics(c);
            Case::new(&format!("BatchNormalization {name}"), &[shape, &[c], &[c]]).arg(mean).arg(var)
        };
        vec![
            case("images", &[2, 3, 4, 5]),
            case("vectors", &[5, 4]),
            case("sequences", &[2, 3, 7]),
            case("volumes", &[1, 2, 3, 2, 2]),
            case("epsilon", &[2, 3, 2, 2]).attr("epsilon", 0.25f32).attr("momentum", 0.5f32),
            case("one channel", &[3, 1, 2, 2]).sampled_at(1, &Sampler::within(0.5, 1.5)),
            case("training", &[3, 2, 4, 5]).attr("training_mode", 1),
            case("training on vectors", &[6, 4]).attr("training_mode", 1).attr("epsilon", 0.25f32),
            Case::new("BatchNormalization running statistics", &[&[2, 3, 3, 2, 2], &[3], &[3], &[3], &[3]])
                .attr("training_mode", 1)
                .attr("momentum", 0.75f32)
                .outputs(&[true, true, true]),
            case("running variance alone", &[4, 3, 5]).attr("training_mode", 1).outputs(&[true, false, true]),
            Case::new("BatchNormalization saved statistics", &[&[4, 3, 5], &[3], &[3], &[3], &[3]])
                .attr("training_mode", 1)
                .outputs(&[true, true, true, true, true]),
            // the mean is 16 times the deviation
            case("training far from zero", &[8, 2, 6])
                .attr("training_mode", 1)
                .sampled_at(0, &Sampler::within(30.0, 34.0))
                .within(1e-4),
        ]
    }
    fn import(
        &self,
        g: &mut Graph,
        opset: i64,
        inputs: &[Option<ValueId>],
        mut attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        // opset 7 and 8 have it, always 1 in practice: statistics for each channel, not for each element
        if let Some(spatial) = attrs.take("spatial")
            && spatial != Attr::Int(1)
        {
            return Err(Error::unsupported(format!("attribute spatial = {spatial:?} is not supported")));
        }
        let statistics = wanted.iter().skip(1).any(|w| *w);
        if opset < 14 {
            // until then asking for the statistics meant training
            if statistics {
                attrs.set("training_mode", 1);
            }
        } else if wanted.len() > 3 {
            return Err(Error::format(format!("{} outputs named, it has 3 at most since opset 14", wanted.len())));
        }
        g.push_multi(super::find("BatchNormalization")?, inputs, attrs, wanted)
    }
}

pub(super) static OPS: &[&dyn Op] = &[&BatchNormalization];

#[cfg(test)]
mod tests {
    use super::*;

    fn import(opset: i64, attrs: Attrs, wanted: &[bool]) -> Result<Vec<Option<ValueId>>> {
        let mut g = Graph::new(2);
        let x = g.input("x", TensorType::new(DType::F32, [2, 3, 4]), Batch::LEADING);
        let p = g.weight("p", Array::full(&[3], 1.0f32));
        let inputs = [Some(x), Some(p), Some(p), Some(p), Some(p)];
        BatchNormalization.import(&mut g, opset, &inputs, attrs, wanted)
    }

    #[test]
    fn every_opset_says_training_in_its_own_way() {
        let count = |opset, mode: Option<i64>, wanted: &[bool]| {
            let attrs = mode.map_or_else(Attrs::new, |m| Attrs::new().with("training_mode", m));
            import(opset, attrs, wanted).ok().map(|y| y.into_iter().flatten().count())
        };
        assert_eq!(count(15, Some(1), &[true, true, true]), Some(3));
        assert_eq!(count(14, Some(1), &[true]), Some(1));
        assert_eq!(count(14, Some(0), &[true]), Some(1));
        assert_eq!(count(9, None, &[true, true, true, true, true]), Some(5));
        assert_eq!(count(7, None, &[true, false, false]), Some(1));
        // statistics without training, more outputs than there are, a mode that is none
        assert_eq!(count(15, None, &[true, true]), None);
        assert_eq!(count(15, Some(1), &[true, true, true, true]), None);
        assert_eq!(count(15, Some(2), &[true]), None);
    }

    #[test]
    fn statistics_of_elements_are_refused() {
        assert!(import(7, Attrs::new().with("spatial", 0), &[true]).is_err());
        assert!(import(7, Attrs::new().with("spatial", 1), &[true]).is_ok());
    }
}
