//! Sums, means, maxima and minima of any number of operands:
//! <https://onnx.ai/onnx/operators/onnx__Sum.html> and its relatives.

use super::support::{broadcast, broadcast_strides, given, zip_map};
use super::{Arg, Bind, Case, Kernel, MANY, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Batch, ValueId, batch};
use crate::tensor::{Array, DType, TensorType};

/// `y = f(x0, x1, …)` with broadcasting.
struct Variadic {
    name: &'static str,
    which: Which,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Sum,
    Mean,
    Max,
    Min,
}

impl Variadic {
    fn shape(n: &NodeView) -> Result<Vec<usize>> {
        let shapes = (0..n.inputs.len()).map(|i| n.shape(i)).collect::<Result<Vec<_>>>()?;
        broadcast(&shapes)
    }
    fn extreme(&self) -> bool {
        matches!(self.which, Which::Max | Which::Min)
    }
    fn join(&self, a: &Array, b: &Array) -> Result<Array> {
        let s = broadcast(&[a.shape(), b.shape()])?;
        // a NaN wins
        macro_rules! of {
            ($t:ty, $nan:expr, $plus:expr) => {
                match self.which {
                    Which::Max => zip_map::<$t, $t, $t>(a, b, &s, |p, q| if q > p || $nan(q) { q } else { p }),
                    Which::Min => zip_map::<$t, $t, $t>(a, b, &s, |p, q| if q < p || $nan(q) { q } else { p }),
                    _ => zip_map::<$t, $t, $t>(a, b, &s, $plus),
                }
            };
        }
        match a {
            Array::F32(_) => of!(f32, f32::is_nan, |p, q| p + q),
            Array::F64(_) => of!(f64, f64::is_nan, |p, q| p + q),
            Array::I64(_) => of!(i64, |_| false, i64::wrapping_add),
            Array::Bool(_) => Err(Error::format(format!("{} of bool", self.name))),
        }
    }
}

impl Op for Variadic {
    fn spec(&self) -> Spec {
        Spec::new(self.name, 13, (1, MANY))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let dtype = n.dtype(0)?;
        if n.inputs.iter().flatten().any(|t| t.dtype != dtype) {
            return Err(Error::format("operands of different types"));
        }
        if !(dtype.is_float() || self.extreme() && dtype.is_int()) {
            return Err(Error::format(format!("{} of {dtype}", self.name)));
        }
        Ok(vec![TensorType::new(dtype, Self::shape(n)?)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![batch::elementwise(n, from, &out[0])]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let mut y = given(x, 0)?.clone();
        for i in 1..x.len() {
            y = self.join(&y, given(x, i)?)?;
        }
        if self.which == Which::Mean {
            let count = Array::full_float(n.dtype(0)?, &[], x.len() as f64);
            let shape = y.shape().to_vec();
            y = match y {
                Array::F32(_) => zip_map::<f32, f32, f32>(&y, &count, &shape, |p, q| p / q)?,
                _ => zip_map::<f64, f64, f64>(&y, &count, &shape, |p, q| p / q)?,
            };
        }
        Ok(vec![y])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let (mut dy, count) = (b.dy()?, b.n_inputs());
        if !self.extreme() {
            // dx_i = dy, or dy / count
            if self.which == Which::Mean {
                dy = b.scale(dy, 1.0 / count as f64)?;
            }
            (0..count).for_each(|i| b.set_dx(i, dy));
            return Ok(());
        }
        // dx_i = dy / k where x_i = y, 0 elsewhere; k operands are equal to y
        let y = b.y(0)?;
        let (zero, one) = (b.scalar_like(0.0, y), b.scalar_like(1.0, y));
        let mut equal = Vec::with_capacity(count);
        let mut ties: Option<ValueId> = None;
        for i in 0..count {
            let x = b.x(i)?;
            let mask = b.op("Equal", &[x, y])?;
            let ones = b.choose(mask, one, zero)?;
            ties = Some(match ties {
                None => ones,
                Some(t) => b.add(t, ones)?,
            });
            equal.push(mask);
        }
        let share = match ties {
            Some(t) => b.div(dy, t)?,
            None => dy,
        };
        for (i, mask) in equal.into_iter().enumerate() {
            if b.wants(i) {
                let dx = b.choose(mask, share, zero)?;
                b.set_dx(i, dx);
            }
        }
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let shape = Self::shape(n)?;
        let len = shape.iter().product();
        if shape.len() > 8 {
            return Err(Error::unsupported(format!("rank {} has no kernel", shape.len())));
        }
        let int = u32::from(!n.dtype(0)?.is_float());
        let join = match self.which {
            Which::Sum | Which::Mean => 0,
            Which::Max => 1,
            Which::Min => 2,
        };
        let count = n.inputs.len();
        // one operand after the other is joined to y
        let step = |i: usize| -> Result<Step> {
            let mean = self.which == Which::Mean && i + 1 == count;
            Ok(Step {
                shader: crate::shader!("variadic"),
                overrides: [("JOIN", join), ("INT", int), ("FIRST", u32::from(i == 0))]
                    .map(|(name, v)| (name, f64::from(v)))
                    .to_vec(),
                binds: vec![Bind::Input(i), Bind::Output(0)],
                params: Params::new()
                    .u("n", len)
                    .u("rank", shape.len())
                    .f("scale", if mean { 1.0 / count as f64 } else { 1.0 })
                    .list::<8>("shape", &shape, 1)
                    .list::<8>("strides", &broadcast_strides(n.shape(i)?, &shape), 0),
                grid: grid_1d(len),
            })
        };
        Ok(Kernel::many((0..count).map(step).collect::<Result<_>>()?))
    }
    fn cases(&self) -> Vec<Case> {
        // no two elements of an operand are equal, and the operands lie apart, so that a maximum stays put
        let shift = |i: usize| Sampler { low: -2.0 + 0.01 * i as f64, high: 2.0, avoid: &[], distinct: true };
        let case = |name: &str, shapes: &[&[usize]]| {
            let mut c = Case::new(&format!("{} {name}", self.name), shapes);
            for i in 0..shapes.len() {
                c = c.sampled_at(i, &shift(i));
            }
            c
        };
        let mut cases = vec![
            case("two", &[&[3, 5], &[3, 5]]),
            case("one", &[&[2, 3]]),
            case("three", &[&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]]),
            case("broadcast", &[&[3, 1], &[2, 1, 4], &[]]),
        ];
        if self.extreme() {
            let ints = |v: [i64; 4]| {
                Arg::Fed(Array::from_vec(&[2, 2], v.to_vec()).unwrap_or_else(|_| Array::ints(&[1])), DType::I64)
            };
            cases.push(
                Case::new(&format!("{} int64", self.name), &[])
                    .arg(ints([4, -7, 0, 3]))
                    .arg(ints([2, -3, 0, 9]))
                    .no_gradient("integers"),
            );
        }
        cases
    }
}

static SUM: Variadic = Variadic { name: "Sum", which: Which::Sum };
static MEAN: Variadic = Variadic { name: "Mean", which: Which::Mean };
static MAX: Variadic = Variadic { name: "Max", which: Which::Max };
static MIN: Variadic = Variadic { name: "Min", which: Which::Min };

pub(super) static OPS: &[&dyn Op] = &[&SUM, &MEAN, &MAX, &MIN];
