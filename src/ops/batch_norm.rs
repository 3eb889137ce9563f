//! Batch normalization as inference has it: <https://onnx.ai/onnx/operators/onnx__BatchNormalization.html>.

use super::support::{PARALLEL, float_type, given};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
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
}

impl Op for BatchNormalization {
    fn spec(&self) -> Spec {
        Spec::new("BatchNormalization", 15, (5, 5)).outputs(1, 5)
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let mode = n.int("training_mode", 0)?;
        if mode != 0 {
            return Err(n.unsupported("training_mode", mode));
        }
        if n.wanted.iter().skip(1).any(|w| *w) {
            return Err(Error::unsupported("outputs after the first belong to training, which is not supported"));
        }
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
        Ok(vec![x.clone(); n.wanted.len().max(1)])
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
        ]
    }
    fn import(
        &self,
        g: &mut Graph,
        _: i64,
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
        g.push_multi(&Self, inputs, attrs, wanted)
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
    fn training_is_refused() {
        assert!(import(15, Attrs::new().with("training_mode", 1), &[true]).is_err());
        assert!(import(9, Attrs::new(), &[true, true]).is_err());
        assert!(import(7, Attrs::new().with("spatial", 0), &[true]).is_err());
        assert!(import(7, Attrs::new().with("spatial", 1), &[true, false, false]).is_ok());
        assert!(import(14, Attrs::new().with("training_mode", 0), &[true]).is_ok());
    }
}
