//! Softmax, its logarithm and its limit: <https://onnx.ai/onnx/operators/onnx__Softmax.html>.

use super::smooth::Exp;
use super::support::{PARALLEL, float_type, given};
use super::{Bind, Case, Kernel, NodeView, Op, Params, Spec, Step, Vjp, grid_1d, reshape};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, Element, TensorType};
use rayon::prelude::*;

/// `y = exp(x − max x) / Σ exp(x − max x)` along `axis`, its logarithm, or 1 at the first maximum alone.
struct Softmax {
    name: &'static str,
    kind: Kind,
}

/// The branch of `shaders/softmax.wgsl`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain = 0,
    Log = 1,
    Hard = 2,
}

/// A tensor as `[outer, run, inner]` around one axis.
fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

fn axis(n: &NodeView) -> Result<usize> {
    n.axis(n.int("axis", -1)?, n.shape(0)?.len())
}

/// One row, in floats of type `$t`.
macro_rules! row {
    ($t:ty, $x:expr, $y:expr, $log:expr) => {{
        let (x, y): (&[$t], &mut [$t]) = ($x, $y);
        let most = x.iter().fold(x[0], |m, &v| if v > m || v.is_nan() { v } else { m });
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x - most);
        <$t>::exp_all(y);
        let sum = y.iter().sum::<$t>();
        if $log {
            let last = sum.ln();
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x - most - last);
        } else {
            let last = 1.0 / sum;
            y.iter_mut().for_each(|y| *y *= last);
        }
    }};
}

/// The columns of one `[run, inner]` slab, in floats of type `$t`.
macro_rules! slab {
    ($t:ty, $x:expr, $y:expr, $inner:expr, $log:expr) => {{
        let (x, y, inner): (&[$t], &mut [$t], usize) = ($x, $y, $inner);
        let mut most = x[..inner].to_vec();
        for row in x.chunks_exact(inner).skip(1) {
            most.iter_mut().zip(row).for_each(|(m, &v)| *m = if v > *m || v.is_nan() { v } else { *m });
        }
        let mut sum = vec![0.0; inner];
        for (y, x) in y.chunks_exact_mut(inner).zip(x.chunks_exact(inner)) {
            for (((y, &x), &m), s) in y.iter_mut().zip(x).zip(&most).zip(&mut sum) {
                let e = (x - m).exp();
                *s += e;
                *y = if $log { x - m } else { e };
            }
        }
        sum.iter_mut().for_each(|s| *s = if $log { s.ln() } else { 1.0 / *s });
        for y in y.chunks_exact_mut(inner) {
            y.iter_mut().zip(&sum).for_each(|(y, &s)| *y = if $log { *y - s } else { *y * s });
        }
    }};
}

/// 1 at the first maximum of each of the `inner` columns of one `[run, inner]` slab.
fn hard<T: Element>(x: &[T], y: &mut [T], inner: usize, one: T) {
    for column in 0..inner {
        let mut most = column;
        for at in (column..x.len()).step_by(inner).skip(1) {
            if x[at] > x[most] {
                most = at;
            }
        }
        y[most] = one;
    }
}

impl Op for Softmax {
    fn spec(&self) -> Spec {
        Spec::new(self.name, 13, (1, 1))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let x = n.ty(0)?;
        if !x.dtype.is_float() {
            return Err(Error::format(format!("{} of {}", self.name, x.dtype)));
        }
        axis(n)?;
        Ok(vec![x.clone()])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![axis(n).map_or(Batch::Lost, |a| batch::unless_on(from, &[a]))]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let x = given(x, 0)?;
        let [_, run, inner] = around(x.shape(), axis(n)?);
        float_type!(x, T => {
            let v = x.slice::<T>()?;
            let mut y: Vec<T> = vec![0.0; v.len()];
            let size = run * inner;
            if !y.is_empty() {
                y.par_chunks_mut(size)
                    .with_min_len((PARALLEL / size).max(1))
                    .zip(v.par_chunks(size))
                    .for_each(|(y, x)| match (self.kind, inner) {
                        (Kind::Hard, _) => hard(x, y, inner, 1.0),
                        (kind, 1) => row!(T, x, y, kind == Kind::Log),
                        (kind, _) => slab!(T, x, y, inner, kind == Kind::Log),
                    });
            }
            Ok(vec![Array::from_vec(x.shape(), y)?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let axis = axis(&b.view())?;
        let (y, dy) = (b.y(0)?, b.dy()?);
        let dx = match self.kind {
            Kind::Log => {
                // dx = dy − exp(y) · Σ dy
                let sum = b.reduce_sum(dy, &[axis], true)?;
                let share = b.op("Exp", &[y])?;
                let taken = b.mul(share, sum)?;
                b.sub(dy, taken)?
            }
            Kind::Plain => {
                // dx = y · (dy − Σ dy · y)
                let product = b.mul(dy, y)?;
                let sum = b.reduce_sum(product, &[axis], true)?;
                let less = b.sub(dy, sum)?;
                b.mul(y, less)?
            }
            // dx = 0 · dy: y is flat but where it jumps
            Kind::Hard => b.scale(dy, 0.0)?,
        };
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let [outer, run, inner] = around(n.shape(0)?, axis(n)?);
        Ok(Kernel::one(Step {
            shader: crate::shader!("softmax"),
            overrides: vec![("KIND", f64::from(self.kind as u8))],
            binds: vec![Bind::Input(0), Bind::Output(0)],
            params: Params::new().u("n", outer * inner).u("run", run).u("inner", inner),
            grid: grid_1d(outer * inner),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        // 2e-5: the exp and log of a GPU are approximations
        let case = |name: &str, shape: &[usize]| {
            let distinct = super::Sampler { low: -2.0, high: 2.0, avoid: &[], distinct: true };
            Case::new(&format!("{} {name}", self.name), &[shape]).sampled(&distinct).within(2e-5)
        };
        let wide = super::Sampler { low: -120.0, high: 120.0, avoid: &[], distinct: true };
        vec![
            case("rows", &[4, 7]),
            case("vector", &[6]),
            case("rank 3", &[2, 3, 5]),
            case("first axis", &[5, 3]).attr("axis", 0),
            case("channels", &[2, 4, 3, 2]).attr("axis", 1),
            case("negative axis", &[2, 4, 3]).attr("axis", -2),
            case("one element", &[3, 1]),
            // exp overflows unless the maximum is taken off first
            case("wide", &[3, 4]).sampled(&wide),
            case("many rows", &[300, 10]),
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
        let op = super::find(self.name)?;
        let (Some(Some(x)), true) = (inputs.first().copied(), opset < 13) else {
            return g.push_multi(op, inputs, attrs, wanted);
        };
        // before opset 13 all axes from `axis` (default 1) on were normalised together
        let shape = g.shape(x).to_vec();
        let at = match attrs.take("axis") {
            None => 1,
            Some(Attr::Int(a)) => a,
            Some(a) => return Err(Error::format(format!("attribute axis = {a:?} is not an integer"))),
        };
        let rank = shape.len() as i64;
        let axis = usize::try_from(if at < 0 { at + rank } else { at })
            .ok()
            .filter(|&a| a <= shape.len())
            .ok_or_else(|| Error::format(format!("axis {at} is out of range for rank {rank}")))?;
        if axis + 1 == shape.len() {
            return g.push_multi(op, inputs, attrs.with("axis", -1), wanted);
        }
        let flat = [shape[..axis].iter().product(), shape[axis..].iter().product()];
        let x = reshape(g, x, &flat)?;
        let y = g.push_some(self.name, &[Some(x)], attrs.with("axis", 1))?;
        Ok(vec![Some(reshape(g, y, &shape)?)])
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        let axis = match attrs.get("axis") {
            Some(&Attr::Int(a)) if a >= 0 => a + 1,
            Some(&Attr::Int(a)) => a,
            _ => -1,
        };
        g.push_some(self.name, inputs, attrs.clone().with("axis", axis)).map(Some)
    }
}

static SOFTMAX: Softmax = Softmax { name: "Softmax", kind: Kind::Plain };
static LOG_SOFTMAX: Softmax = Softmax { name: "LogSoftmax", kind: Kind::Log };
static HARDMAX: Softmax = Softmax { name: "Hardmax", kind: Kind::Hard };

pub(super) static OPS: &[&dyn Op] = &[&SOFTMAX, &LOG_SOFTMAX, &HARDMAX];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, cpu::Cpu};
    use crate::tensor::DType;

    /// Softmax of `[2, 2, 2]` as an old operator set has it.
    fn old(opset: i64, attrs: Attrs, op: &dyn Op) -> Vec<f64> {
        let mut g = Graph::new(2);
        let x = g.input("x", TensorType::new(DType::F64, [2, 2, 2]), Batch::LEADING);
        let y = op.import(&mut g, opset, &[Some(x)], attrs, &[true]).unwrap()[0].unwrap();
        assert_eq!(g.value(y).batch, Batch::LEADING);
        g.outputs = vec![y];
        let v = Array::from_vec(&[2, 2, 2], (0..8).map(f64::from).collect()).unwrap();
        Cpu.prepare(&g).unwrap().run(&[v.into()]).unwrap()[0].to_array().unwrap().to_f64()
    }

    #[test]
    fn before_opset_13_inner_axes_are_joined() {
        let sum: f64 = (0..4).map(|i| f64::from(i).exp()).sum();
        let joined = old(11, Attrs::new(), &SOFTMAX);
        assert!((joined[1] - 1f64.exp() / sum).abs() < 1e-12);
        let last = old(11, Attrs::new().with("axis", -1), &SOFTMAX);
        assert!((last[1] - 1f64.exp() / (1.0 + 1f64.exp())).abs() < 1e-12);
        assert_eq!(last, old(13, Attrs::new(), &SOFTMAX));
        let logs = old(7, Attrs::new(), &LOG_SOFTMAX);
        assert!(logs.iter().zip(&joined).all(|(l, p)| (l.exp() - p).abs() < 1e-12));
    }

    #[test]
    fn an_axis_out_of_range_is_an_error() {
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [2, 3]), Batch::None);
        for opset in [11, 13] {
            assert!(SOFTMAX.import(&mut g, opset, &[Some(x)], Attrs::new().with("axis", 3), &[true]).is_err());
        }
    }
}
