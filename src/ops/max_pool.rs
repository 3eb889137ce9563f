//! Greatest elements of windows, and where they lie: <https://onnx.ai/onnx/operators/onnx__MaxPool.html>.

use super::conv::planes;
use super::correlate_gpu::window_params;
use super::pool::{MAX, PLACE, pool_cases, step, window, with_spatial};
use super::support::{float_type, given};
use super::window::{Window, kernel_shape, sized};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Pen, Sampler, Spec, Step, Vjp, grid_1d, reshape};
use crate::each_type;
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, DType, Element, TensorType};
use rayon::prelude::*;
use std::cmp::Ordering;

/// The first greatest element that every position of `w` sees, and its place in the flattened x.
pub(super) fn max<T: Element>(w: &Window, x: &[T]) -> (Vec<T>, Vec<i64>) {
    let (inputs, len) = (w.inputs(), w.positions());
    let count = x.len() / inputs * len;
    let (mut y, mut at) = (vec![T::default(); count], vec![-1; count]);
    let planes = y.par_chunks_mut(len).zip(at.par_chunks_mut(len)).zip(x.par_chunks(inputs));
    planes.enumerate().for_each(|(plane, ((y, at), x))| {
        let base = (plane * inputs) as i64;
        for tap in 0..w.taps() {
            w.runs(tap, 0..w.rows().1, |r| {
                for (j, i) in (r.out..r.out + r.len).zip((r.input..).step_by(w.step())) {
                    // a NaN compares with nothing, not even with itself: it is taken over, and stays
                    let stays = y[j].partial_cmp(&y[j]).is_none();
                    let greater = !matches!(x[i].partial_cmp(&y[j]), Some(Ordering::Less | Ordering::Equal));
                    if at[j] < 0 || (greater && !stays) {
                        (y[j], at[j]) = (x[i], base + i as i64);
                    }
                }
            });
        }
    });
    (y, at)
}

/// `y = max` over a window; output 1 is the place of the maximum in the flattened x.
struct MaxPool;

/// Places counted with the first spatial axis running fastest, from those counted with the last one running fastest,
/// plane by plane.
fn column_major(p: &mut Pen, at: ValueId, spatial: &[usize]) -> Result<ValueId> {
    let mut rest = at;
    let mut sum: Option<ValueId> = None;
    // the step of an axis is the product of the extents before it
    for (i, &extent) in spatial.iter().enumerate().rev() {
        let size = p.number_like(extent as i64, at);
        let outer = p.div(rest, size)?;
        let whole = p.mul(outer, size)?;
        let along = p.sub(rest, whole)?;
        let step = p.number_like(spatial[..i].iter().product::<usize>() as i64, at);
        let moved = p.mul(along, step)?;
        sum = Some(match sum {
            Some(sum) => p.add(sum, moved)?,
            None => moved,
        });
        rest = outer;
    }
    let plane = p.number_like(spatial.iter().product::<usize>() as i64, at);
    let first = p.mul(rest, plane)?;
    match sum {
        Some(sum) => p.add(sum, first),
        None => Ok(first),
    }
}

impl Op for MaxPool {
    fn spec(&self) -> Spec {
        Spec::new("MaxPool", 22, (1, 1)).outputs(1, 2)
    }
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        let n = g.view(self, "", inputs, attrs, wanted);
        match n.int("storage_order", 0)? {
            0 => return Ok(None),
            1 => {}
            order => return Err(n.unsupported("storage_order", order)),
        }
        // the gradient asks for row-major places, so that the node counts like that; only what the model sees differs
        let spatial = planes(n.shape(0)?)?.2.to_vec();
        let mut plain = attrs.clone();
        plain.take("storage_order");
        let mut out = g.push_multi(self, inputs, plain, wanted)?;
        if let Some(Some(at)) = out.get_mut(1) {
            *at = column_major(&mut Pen { g }, *at, &spatial)?;
        }
        Ok(Some(out))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        if n.dtype(0)? == DType::Bool {
            return Err(Error::format("the maximum of bool"));
        }
        let y = sized(n.dtype(0)?, with_spatial(n, &window(n)?.0.output())?)?;
        let at = TensorType::new(DType::I64, y.shape.clone());
        Ok(vec![y, at])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![batch::leading(from); 2]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element>(x: &ndarray::ArcArray<T, ndarray::IxDyn>, w: &Window, shape: &[usize]) -> Result<Vec<Array>> {
            let x = x.as_slice().ok_or_else(|| Error::internal("an array is not in row-major order"))?;
            let (y, at) = max(w, x);
            Ok(vec![Array::from_vec(shape, y)?, Array::from_vec(shape, at)?])
        }
        let (w, _) = window(n)?;
        let shape = with_spatial(n, &w.output())?;
        each_type!(given(x, 0)?, x => go(x, &w, &shape))
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx[i] = Σ_{o: argmax(o) = i} dy[o]
        let (x, dy, at) = (b.x(0)?, b.dy()?, b.y(1)?);
        let (w, _) = window(&b.view())?;
        let dx = max_pool_grad(b, x, dy, at, &w)?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (w, planes) = window(n)?;
        let ops = [MAX, PLACE].into_iter().enumerate().filter(|&(i, _)| n.wants(i));
        let steps = ops.map(|(i, op)| step(n, &w, planes, op, false, i));
        Ok(Kernel::many(steps.collect::<Result<_>>()?))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, shape: &[usize], kernel: &[i64]| {
            // steps of central differences must not change which element is greatest
            let apart = Sampler { low: -2.0, high: 2.0, avoid: &[], distinct: true };
            Case::new(&format!("MaxPool {name}"), &[shape]).attr("kernel_shape", kernel).sampled(&apart)
        };
        let mut cases = pool_cases(case);
        cases.push(case("indices", &[2, 3, 4, 5], &[2, 3]).outputs(&[true, true]).attr("strides", vec![1, 2]));
        cases.push(case("storage order", &[2, 2, 4, 3], &[2, 2]).attr("storage_order", 1).outputs(&[true, true]));
        cases.push(
            case("storage order, 3-D", &[1, 2, 2, 3, 4], &[2; 3]).attr("storage_order", 1).outputs(&[true, true]),
        );
        let bytes =
            Array::from_vec(&[1, 1, 2, 4], vec![3i64, -4, 7, 0, 9, -1, 7, 2]).unwrap_or_else(|_| Array::ints(&[]));
        cases.push(case("int8", &[], &[2, 2]).no_gradient("integers"));
        if let Some(c) = cases.last_mut() {
            c.inputs = vec![Arg::Fed(bytes, DType::I8)];
        }
        cases
    }
}

/// Emits the gradient of a max pool of `x` whose maxima lie at `at`.
pub(super) fn max_pool_grad(b: &mut Vjp, x: ValueId, dy: ValueId, at: ValueId, w: &Window) -> Result<ValueId> {
    let shape: Vec<i64> = b.shape(x).iter().map(|&d| d as i64).collect();
    b.emit("MaxPoolGrad", &[dy, at], w.attrs().with("shape", shape))
}

/// `dx[i] = Σ_{o: indices[o] = i} dy[o]`: dy and indices `[n, C, …]`, dx of attribute `shape`; the window
/// attributes of the MaxPool say which positions can point to an element.
struct MaxPoolGrad;

impl MaxPoolGrad {
    fn parse(n: &NodeView) -> Result<(Vec<usize>, Window)> {
        let shape: Option<Vec<usize>> =
            n.ints("shape")?.unwrap_or_default().iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape.ok_or_else(|| n.unsupported("shape", n.attrs.get("shape")))?;
        let (rows, channels, input) = planes(&shape)?;
        let (same_rows, same_channels, output) = planes(n.shape(0)?)?;
        if (rows, channels) != (same_rows, same_channels) || n.shape(0)? != n.shape(1)? {
            return Err(Error::format(format!("{:?} and {:?} do not fit {shape:?}", n.shape(0)?, n.shape(1)?)));
        }
        let window = Window::between(n, input, &kernel_shape(n, input.len())?, output)?;
        Ok((shape, window))
    }
}

impl Op for MaxPoolGrad {
    fn spec(&self) -> Spec {
        Spec::internal("MaxPoolGrad", (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (dy, at) = (n.dtype(0)?, n.dtype(1)?);
        if !dy.is_float() || at != DType::I64 {
            return Err(Error::format(format!("operands are {dy} and {at}")));
        }
        Ok(vec![sized(dy, Self::parse(n)?.0)?])
    }
    fn batch(&self, _: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let same = from[0] == from[1] && matches!(from[0], Batch::Axis { axis: 0, .. });
        vec![if same { from[0] } else { Batch::Lost }]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let (shape, w) = Self::parse(n)?;
        let (dy, at) = (given(x, 0)?, given(x, 1)?.slice::<i64>()?);
        let (inputs, len) = (w.inputs(), w.positions());
        float_type!(dy, T => {
            let mut dx = vec![T::default(); shape.iter().product()];
            let planes = dx.par_chunks_mut(inputs).zip(dy.slice::<T>()?.par_chunks(len)).zip(at.par_chunks(len));
            planes.enumerate().for_each(|(plane, ((dx, dy), at))| {
                for (&dy, &at) in dy.iter().zip(at) {
                    let i = usize::try_from(at).ok().and_then(|i| i.checked_sub(plane * inputs));
                    if let Some(d) = i.and_then(|i| dx.get_mut(i)) {
                        *d += dy;
                    }
                }
            });
            Ok(vec![Array::from_vec(&shape, dx)?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "second derivatives of MaxPool are not needed"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (shape, w) = Self::parse(n)?;
        let len = shape.iter().product();
        Ok(Kernel::one(Step {
            shader: crate::shader!("max_pool_grad"),
            overrides: Vec::new(),
            binds: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
            params: window_params(Params::new().u("elements", len), &w.three()?),
            grid: grid_1d(len),
        }))
    }
    fn cases(&self) -> Vec<Case> {
        // x [2, 1, 3, 4], kernel 2 × 2, stride 1: windows share elements
        let at = vec![0, 2, 2, 4, 5, 10, 13, 13, 14, 20, 18, 19];
        let at = Array::from_vec(&[2, 1, 2, 3], at).unwrap_or_else(|_| Array::ints(&[]));
        vec![
            Case::new("MaxPoolGrad shared", &[&[2, 1, 2, 3]])
                .arg(Arg::Fed(at, DType::I64))
                .attr("shape", vec![2, 1, 3, 4])
                .attr("kernel_shape", vec![2, 2])
                .no_gradient("second derivatives of MaxPool are not needed"),
        ]
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let (shape, _) = Self::parse(&g.view(self, "", inputs, attrs, &[true]))?;
        let [Some(dy), Some(at)] = *inputs else {
            return Err(Error::internal("MaxPoolGrad takes two inputs"));
        };
        let count = g.value(dy).ty.len();
        let (flat, at) = (reshape(g, dy, &[count])?, reshape(g, at, &[count])?);
        let zeros = g.constant(Array::full_float(g.dtype(dy), &[shape.iter().product()], 0.0));
        let attrs = Attrs::new().with("axis", 0).with("reduction", "add");
        let dx = g.push("ScatterElements", &[zeros, at, flat], attrs)?;
        Ok(Some(vec![reshape(g, dx, &shape)?]))
    }
}

pub(super) static OPS: &[&dyn Op] = &[&MaxPool, &MaxPoolGrad];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blind_windows_are_refused() -> Result<()> {
        let attrs = Attrs::new().with("kernel_shape", vec![1, 1]).with("pads", vec![1, 0, 0, 0]);
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [1, 1, 5, 6]), Batch::None);
        let refused = g.push("MaxPool", &[x], attrs).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|e| e.contains("pads = Some([1, 0, 0, 0])")));
        Ok(())
    }

    #[test]
    fn a_nan_is_the_maximum() {
        let w = Window::global(&[4]).unwrap();
        assert!(max(&w, &[1.0, f32::NAN, 2.0, f32::INFINITY]).0[0].is_nan());
        assert_eq!(max(&w, &[f32::NEG_INFINITY; 4]), (vec![f32::NEG_INFINITY], vec![0]));
    }

    #[test]
    fn the_lowering_gives_the_same() -> Result<()> {
        let case = &MaxPoolGrad.cases()[0];
        let mut g = Graph::new(0);
        let dy = Array::from_vec(&[2, 1, 2, 3], (1..=12).map(f64::from).collect())?;
        let Arg::Fed(at, _) = &case.inputs[1] else { return Err(Error::internal("indices are fed")) };
        let inputs = [Some(g.constant(dy)), Some(g.constant(at.clone()))];
        let y = g.push_multi(&MaxPoolGrad, &inputs, case.attrs.clone(), &[true])?[0];
        let z = MaxPoolGrad.lower(&mut g, &inputs, &case.attrs)?.map(|v| v[0]);
        assert_eq!(y.and_then(|y| g.constant_of(y)), z.and_then(|z| g.constant_of(z)));
        assert!(z.is_some_and(|z| g.constant_of(z).is_some()));
        Ok(())
    }
}
