//! Gather, and its derivative: <https://onnx.ai/onnx/operators/onnx__Gather.html>.

use super::constant::fill;
use super::layout::{behind, dims};
use super::pad::pad;
use super::support::{PARALLEL, given};
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, Element, TensorType};
use rayon::prelude::*;

/// Indices along an axis of this extent, counted from the end where negative.
///
/// # Errors
/// When one is out of range.
pub(super) fn indices(k: &Array, extent: usize) -> Result<Vec<usize>> {
    let e = i64::try_from(extent).unwrap_or(i64::MAX);
    k.slice::<i64>()?
        .iter()
        .map(|&k| {
            let at = usize::try_from(if k < 0 { k.saturating_add(e) } else { k });
            at.ok()
                .filter(|&k| k < extent)
                .ok_or_else(|| Error::invalid(format!("index {k} is out of range for an axis of extent {extent}")))
        })
        .collect()
}

/// Checks that input `i` holds indices, in range where they are known.
pub(super) fn check_indices(n: &NodeView, i: usize, extent: usize) -> Result<()> {
    if !matches!(n.dtype(i)?, DType::I32 | DType::I64) {
        return Err(Error::format(format!("indices are {}, int32 or int64 is needed", n.dtype(i)?)));
    }
    if let Some(Some(k)) = n.consts.get(i) {
        indices(k, extent)?;
    }
    Ok(())
}

/// A tensor as `[outer, extent, inner]` around an axis.
struct Around {
    outer: usize,
    extent: usize,
    inner: usize,
}

impl Around {
    fn new(shape: &[usize], axis: usize) -> Self {
        let [outer, inner] = [&shape[..axis], &shape[axis + 1..]].map(|s| s.iter().product());
        Self { outer, extent: shape[axis], inner }
    }
}

/// `y[…, i…, …] = x[…, indices[i…], …]` along an axis.
struct Gather;

impl Gather {
    fn axis(n: &NodeView) -> Result<usize> {
        n.axis(n.int("axis", 0)?, n.shape(0)?.len())
    }
}

impl Op for Gather {
    fn spec(&self) -> Spec {
        Spec::new("Gather", 13, (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (x, k, axis) = (n.shape(0)?, n.shape(1)?, Self::axis(n)?);
        check_indices(n, 1, x[axis])?;
        Ok(vec![TensorType::new(n.dtype(0)?, [&x[..axis], k, &x[axis + 1..]].concat())])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let (Some(k), Ok(along)) = (n.optional(1), Self::axis(n)) else {
            return vec![Batch::Lost];
        };
        vec![match (from[0], from[1]) {
            (Batch::Axis { axis, rows }, Batch::None) if axis < along => Batch::Axis { axis, rows },
            (Batch::Axis { axis, rows }, Batch::None) if axis > along => {
                Batch::Axis { axis: axis - 1 + k.shape.len(), rows }
            }
            (Batch::None, Batch::Axis { axis, rows }) => Batch::Axis { axis: along + axis, rows },
            _ => Batch::Lost,
        }]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element>(n: &NodeView, x: &Array, k: &Array) -> Result<Array> {
            let axis = Gather::axis(n)?;
            let a = Around::new(x.shape(), axis);
            let shape = [&x.shape()[..axis], k.shape(), &x.shape()[axis + 1..]].concat();
            let (x, k) = (x.slice::<T>()?, indices(k, a.extent)?);
            let mut y = vec![T::default(); shape.iter().product()];
            if !y.is_empty() {
                let few = PARALLEL.div_ceil(a.inner);
                y.par_chunks_mut(a.inner).with_min_len(few).enumerate().for_each(|(row, y)| {
                    let from = (row / k.len() * a.extent + k[row % k.len()]) * a.inner;
                    y.copy_from_slice(&x[from..from + a.inner]);
                });
            }
            Array::from_vec(&shape, y)
        }
        let (x, k) = (given(x, 0)?, given(x, 1)?);
        Ok(vec![match x {
            Array::F32(_) => go::<f32>(n, x, k)?,
            Array::F64(_) => go::<f64>(n, x, k)?,
            Array::I64(_) => go::<i64>(n, x, k)?,
            Array::Bool(_) => go::<bool>(n, x, k)?,
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let axis = Self::axis(&b.view())?;
        let (x, k, dy) = (b.x(0)?, b.x(1)?, b.dy()?);
        let shape = b.shape(x);
        if b.apart(0) {
            let dx = super::embedding::apart(b, &shape, axis)?;
            b.set_apart(0, dx);
            return Ok(());
        }
        let one = b.graph().constant_of(k).filter(|k| k.len() == 1).cloned();
        let dx = if let Some(one) = one {
            // dx = dy where it was taken from, 0 elsewhere
            let at = indices(&one, shape[axis])?[0];
            let mut slab = shape.clone();
            slab[axis] = 1;
            let dy = b.reshape(dy, &slab)?;
            let mut pads = vec![0; 2 * shape.len()];
            pads[axis] = dims(&[at])[0];
            pads[shape.len() + axis] = dims(&[shape[axis] - 1 - at])[0];
            pad(b.graph(), dy, &pads)?
        } else {
            // dx[…, v, …] = Σ dy[…, i…, …] over all i with indices[i] = v
            gather_grad(b.graph(), k, dy, axis, shape[axis])?
        };
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let a = Around::new(n.shape(0)?, Self::axis(n)?);
        let count = n.ty(1)?.len();
        let shape = [a.outer, count, a.inner];
        Ok(gather_kernel(a.extent, a.inner, &shape, &[a.extent * a.inner, 0, 1], &[0, 1, 0]))
    }
    fn cases(&self) -> Vec<Case> {
        let k = |shape: &[usize], v: &[i64]| Array::from_vec(shape, v.to_vec()).unwrap_or_else(|_| Array::ints(&[]));
        let fed = |shape: &[usize], v: &[i64]| Arg::Fed(k(shape, v), DType::I64);
        let constant = |shape: &[usize], v: &[i64]| Arg::Const(k(shape, v), DType::I64);
        vec![
            Case::new("Gather embedding", &[&[5, 3]]).arg(fed(&[2, 4], &[0, 3, 3, 1, 4, 0, 3, 2])),
            Case::new("Gather inner axis", &[&[2, 4, 3]]).arg(fed(&[3], &[1, 3, 1])).attr("axis", 1),
            Case::new("Gather negative", &[&[2, 4]]).arg(fed(&[2, 2], &[-1, 0, -4, 3])).attr("axis", -1),
            Case::new("Gather scalar", &[&[2, 4, 3]]).arg(constant(&[], &[-2])).attr("axis", 1),
            Case::new("Gather fed scalar", &[&[2, 4, 3]]).arg(fed(&[], &[1])).attr("axis", 1),
            Case::new("Gather constants", &[&[4, 3]]).arg(constant(&[3], &[2, 0, 2])),
            Case::new("Gather int32", &[&[4, 3]]).arg(Arg::Fed(k(&[2], &[3, 1]), DType::I32)),
            Case::new("Gather nothing", &[&[4, 3]]).arg(constant(&[0], &[])),
        ]
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        let Some(x) = inputs.first().copied().flatten() else {
            return Ok(None);
        };
        let axis = match attrs.get("axis") {
            Some(Attr::Int(a)) => *a,
            _ => 0,
        };
        let attrs = Attrs::new().with("axis", behind(axis, g.shape(x).len() - 1));
        g.push_some("Gather", inputs, attrs).map(Some)
    }
}

fn gather_grad(g: &mut Graph, k: ValueId, dy: ValueId, axis: usize, extent: usize) -> Result<ValueId> {
    let [axis, extent] = [axis, extent].map(|v| dims(&[v])[0]);
    g.push("GatherGrad", &[k, dy], Attrs::new().with("axis", axis).with("dim", extent))
}

/// Reads input 0 at the indices in input 1, which run along an axis of this extent and stride; `x` and `k`
/// are the strides of the two inside the output's `shape`.
pub(super) fn gather_kernel(extent: usize, step: usize, shape: &[usize], x: &[usize], k: &[usize]) -> Kernel {
    let len = shape.iter().product();
    if len == 0 {
        return Kernel::many(Vec::new());
    }
    Kernel::one(Step {
        shader: crate::shader!("gather"),
        overrides: Vec::new(),
        binds: vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)],
        params: Params::new()
            .u("n", len)
            .u("rank", shape.len())
            .i("extent", extent as i64)
            .u("step", step)
            .list::<8>("shape", shape, 1)
            .list::<8>("x_strides", x, 0)
            .list::<8>("k_strides", k, 0),
        grid: grid_1d(len),
    })
}

/// One line of a scatter: how many indices, and by how much each side moves from one to the next.
pub(super) struct Line {
    pub(super) count: usize,
    pub(super) extent: usize,
    pub(super) y: usize,
    pub(super) u: usize,
    pub(super) k: usize,
}

/// Writes `binds` (indices, updates) into output 0 along lines; `mode` as in `shaders/scatter.wgsl`.
pub(super) fn scatter_step(
    binds: [Bind; 2],
    mode: u32,
    line: &Line,
    shape: &[usize],
    y: &[usize],
    u: &[usize],
    k: &[usize],
) -> Option<Step> {
    let lines: usize = shape.iter().product();
    (lines * line.count > 0).then(|| Step {
        shader: crate::shader!("scatter"),
        overrides: vec![("MODE", f64::from(mode))],
        binds: vec![binds[0], binds[1], Bind::Output(0)],
        params: Params::new()
            .u("n", lines)
            .u("rank", shape.len())
            .u("count", line.count)
            .i("extent", line.extent as i64)
            .u("y_step", line.y)
            .u("u_step", line.u)
            .u("k_step", line.k)
            .list::<8>("shape", shape, 1)
            .list::<8>("y_strides", y, 0)
            .list::<8>("u_strides", u, 0)
            .list::<8>("k_strides", k, 0),
        grid: grid_1d(lines),
    })
}

/// `dx[…, v, …] = Σ dy[…, i…, …]` over all i with `indices[i…] = v`; `dx` has extent `dim` on `axis`.
/// Inputs: indices, dy.
struct GatherGrad;

impl GatherGrad {
    /// `dx` around the axis, the number of indices, and the shape of `dx`.
    fn around(n: &NodeView) -> Result<(Around, usize, Vec<usize>)> {
        let (k, dy) = (n.shape(0)?, n.shape(1)?);
        let [axis, dim] = ["axis", "dim"].map(|name| n.int(name, 0).map(usize::try_from));
        let (Ok(axis), Ok(dim)) = (axis?, dim?) else {
            return Err(Error::format("attributes axis and dim have to be positive"));
        };
        if dy.get(axis..axis + k.len()) != Some(k) {
            return Err(Error::format(format!("indices of shape {k:?} do not lie at axis {axis} of dy {dy:?}")));
        }
        let shape = [&dy[..axis], &[dim], &dy[axis + k.len()..]].concat();
        Ok((Around::new(&shape, axis), k.iter().product(), shape))
    }
}

impl Op for GatherGrad {
    fn spec(&self) -> Spec {
        Spec::internal("GatherGrad", (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let (a, _, shape) = Self::around(n)?;
        check_indices(n, 0, a.extent)?;
        Ok(vec![TensorType::new(n.dtype(1)?, shape)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let (Some(k), Ok(Ok(along))) = (n.optional(0), n.int("axis", 0).map(usize::try_from)) else {
            return vec![Batch::Lost];
        };
        vec![match (from[0], from[1]) {
            (Batch::None, Batch::Axis { axis, rows }) if axis < along => Batch::Axis { axis, rows },
            (Batch::None, Batch::Axis { axis, rows }) if axis >= along + k.shape.len() => {
                Batch::Axis { axis: axis + 1 - k.shape.len(), rows }
            }
            _ => Batch::Lost,
        }]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element + std::ops::AddAssign>(n: &NodeView, k: &Array, dy: &Array) -> Result<Array> {
            let (a, count, shape) = GatherGrad::around(n)?;
            let (k, dy) = (indices(k, a.extent)?, dy.slice::<T>()?);
            let mut dx = vec![T::default(); shape.iter().product()];
            if count * dx.len() > 0 {
                let (to, from) = (a.extent * a.inner, count * a.inner);
                let few = PARALLEL.div_ceil(to.max(from));
                dx.par_chunks_mut(to).zip(dy.par_chunks(from)).with_min_len(few).for_each(|(dx, dy)| {
                    for (&k, dy) in k.iter().zip(dy.chunks(a.inner)) {
                        dx[k * a.inner..][..a.inner].iter_mut().zip(dy).for_each(|(x, &d)| *x += d);
                    }
                });
            }
            Array::from_vec(&shape, dx)
        }
        let (k, dy) = (given(x, 0)?, given(x, 1)?);
        Ok(vec![match dy {
            Array::F32(_) => go::<f32>(n, k, dy)?,
            Array::F64(_) => go::<f64>(n, k, dy)?,
            _ => return Err(Error::internal("the gradient of a Gather holds no floats")),
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // it is linear in dy, and Gather is its transpose
        let axis = b.view().int("axis", 0)?;
        let (k, d) = (b.x(0)?, b.dy()?);
        let d = b.emit("Gather", &[d, k], Attrs::new().with("axis", axis))?;
        b.set_exact(1, d);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (a, count, shape) = Self::around(n)?;
        let line = Line { count, extent: a.extent, y: a.inner, u: a.inner, k: 1 };
        let (y, u) = ([a.extent * a.inner, 1], [count * a.inner, 1]);
        let binds = [Bind::Input(0), Bind::Input(1)];
        let mut steps: Vec<_> = fill(0, shape.iter().product(), 0).into_iter().collect();
        steps.extend(scatter_step(binds, 1, &line, &[a.outer, a.inner], &y, &u, &[0, 0]));
        Ok(Kernel::many(steps))
    }
    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, k: &[usize], v: &[i64], dy: &[usize]| {
            let k = Array::from_vec(k, v.to_vec()).unwrap_or_else(|_| Array::ints(&[]));
            Case::new(&format!("GatherGrad {name}"), &[])
                .arg(Arg::Fed(k, DType::I64))
                .arg(Arg::Float(dy.to_vec(), Sampler::within(-2.0, 2.0)))
        };
        vec![
            case("repeated", &[2, 3], &[0, 3, 3, 1, -1, 3], &[2, 3, 4]).attr("axis", 0).attr("dim", 5),
            case("inner axis", &[3], &[1, 0, 1], &[2, 3, 3]).attr("axis", 1).attr("dim", 2),
            case("scalar", &[], &[2], &[2, 3]).attr("axis", 1).attr("dim", 4),
        ]
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let (a, count, shape) = Self::around(&g.view(self, "", inputs, attrs, &[true]))?;
        let [Some(k), Some(dy)] = *inputs else {
            return Ok(None);
        };
        // as [outer, count, inner], every index repeated for every outer and inner place
        let flat = [a.outer, count, a.inner];
        let dy = super::reshape(g, dy, &flat)?;
        let k = super::reshape(g, k, &[1, count, 1])?;
        let k = expand(g, k, &flat)?;
        // Zeros as large as the table, by a node: as a constant they would stand in the file. A comparison
        // of an element with itself is false even for NaN.
        let zero = if flat.contains(&0) {
            g.scalar(0.0, g.dtype(dy))
        } else {
            let first = super::slice::slice(g, dy, &[0; 3], &[1; 3], &[0, 1, 2], &[1; 3])?;
            let no = g.push("Less", &[first, first], Attrs::new())?;
            let to = i64::from(g.dtype(dy).onnx());
            g.push("Cast", &[no], Attrs::new().with("to", to))?
        };
        let table = expand(g, zero, &[a.outer, a.extent, a.inner])?;
        let attrs = Attrs::new().with("axis", 1).with("reduction", "add");
        let dx = g.push("ScatterElements", &[table, k, dy], attrs)?;
        Ok(Some(vec![super::reshape(g, dx, &shape)?]))
    }
}

fn expand(g: &mut Graph, x: ValueId, shape: &[usize]) -> Result<ValueId> {
    let to = g.ints(&dims(shape));
    g.push("Expand", &[x, to], Attrs::new())
}

pub(super) static OPS: &[&dyn Op] = &[&Gather, &GatherGrad];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowered_gradient_is_the_same() {
        for case in GatherGrad.cases() {
            let mut g = Graph::new(0);
            let inputs: Vec<Option<ValueId>> = case
                .inputs
                .iter()
                .map(|arg| match arg {
                    Arg::Fed(k, t) => Some(g.constant_as(k.clone(), *t)),
                    Arg::Float(shape, s) => {
                        let v = s.draw(shape.iter().product(), &mut case.rng());
                        Some(g.constant(Array::from_vec(shape, v).unwrap()))
                    }
                    _ => None,
                })
                .collect();
            let whole = g.push_multi(&GatherGrad, &inputs, case.attrs.clone(), &[true]).unwrap()[0].unwrap();
            let lowered = GatherGrad.lower(&mut g, &inputs, &case.attrs).unwrap().unwrap()[0];
            assert_eq!(g.constant_of(whole), g.constant_of(lowered), "{}", case.name);
        }
    }

    #[test]
    fn an_index_out_of_range_is_named() {
        let mut g = Graph::new(0);
        let x = g.weight("w", Array::full(&[4, 2], 1f32));
        let k = g.ints(&[0, -5]);
        let e = g.push("Gather", &[x, k], Attrs::new()).unwrap_err();
        assert!(e.to_string().contains("index -5 is out of range"), "{e}");
    }
}
