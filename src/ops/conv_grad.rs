//! Weight gradients of Conv and ConvTranspose: our own ops, lowered to standard ones for export.

use super::conv::{check_floats, groups, planes};
use super::correlate::Layout;
use super::correlate_gpu::Sum;
use super::squares::lower_product;
use super::support::{float_type, given};
use super::window::{Window, kernel_shape, sized};
use super::{Case, Kernel, NodeView, Op, Spec, Vjp, reshape, transpose};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, TensorType};

/// Emits the weight gradient of a Conv with this window from `large` (its x) to `small` (its y) as the
/// gradient of input 1, per sample where that is asked for.
pub(super) fn set_weight_gradient(
    b: &mut Vjp,
    large: ValueId,
    small: ValueId,
    window: &Window,
    groups: usize,
) -> Result<()> {
    let attrs = window.attrs().with("group", groups as i64);
    if !b.apart(1) {
        let dw = b.emit("ConvGradWeight", &[large, small], attrs)?;
        b.set_exact(1, dw);
        return Ok(());
    }
    let x = b.x(0)?;
    let Batch::Axis { axis: 0, rows } = b.graph().value(x).batch else {
        return Err(b.needs_singles("its samples do not lie on the first axis"));
    };
    let mut dw = b.emit("ConvGradWeight", &[large, small], attrs.with("per_sample", 1))?;
    if rows > 1 {
        let shape = b.shape(dw);
        let apart = [&[b.samples(), rows], &shape[1..]].concat();
        dw = b.reshape(dw, &apart)?;
        dw = b.reduce_sum(dw, &[1], false)?;
    }
    b.set_apart(1, dw);
    Ok(())
}

fn layout(n: &NodeView) -> Result<Layout> {
    check_floats(n)?;
    let (rows, channels, input) = planes(n.shape(0)?)?;
    let (same, m, output) = planes(n.shape(1)?)?;
    if rows != same {
        return Err(Error::format(format!("batches of {rows} and {same} rows")));
    }
    let groups = groups(n, &[channels, m])?;
    let window = Window::between(n, input, &kernel_shape(n, input.len())?, output)?;
    Ok(Layout { n: rows, groups, c: channels / groups, m: m / groups, window })
}

/// Shape of the weights.
fn weights(l: &Layout) -> Vec<usize> {
    [&[l.groups * l.m, l.c][..], &l.window.kernel()].concat()
}

/// `dw[m, c, k] = Σ_{n, o} dy[n, m, o] · x[n, c, i(o, k)]` of x `[n, C, …]` and dy `[n, M, …]`, or with
/// `per_sample = 1` the same without the sum over n. Attributes as Conv, `kernel_shape` always.
struct ConvGradWeight;

impl ConvGradWeight {
    fn per_sample(n: &NodeView) -> Result<bool> {
        Ok(n.int("per_sample", 0)? != 0)
    }
}

impl Op for ConvGradWeight {
    fn spec(&self) -> Spec {
        Spec::internal("ConvGradWeight", (2, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let l = layout(n)?;
        let mut shape = weights(&l);
        if Self::per_sample(n)? {
            shape.insert(0, l.n);
        }
        Ok(vec![sized(n.dtype(0)?, shape)?])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        let apart = matches!(Self::per_sample(n), Ok(true)) && from[0] == from[1];
        vec![if apart && matches!(from[0], Batch::Axis { axis: 0, .. }) { from[0] } else { Batch::Lost }]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let l = layout(n)?;
        let (x, dy) = (given(x, 0)?, given(x, 1)?);
        let mut shape = weights(&l);
        float_type!(x, T => {
            let (x, dy) = (x.slice::<T>()?, dy.slice::<T>()?);
            Ok(vec![if Self::per_sample(n)? {
                shape.insert(0, l.n);
                Array::from_vec(&shape, l.weight_gradients(x, dy))?
            } else {
                Array::from_vec(&shape, l.weight_gradient(x, dy))?
            }])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "second derivatives of Conv are not needed"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        layout(n)?.weight_gradient_kernel(if Self::per_sample(n)? { Sum::Apart } else { Sum::Samples })
    }
    fn cases(&self) -> Vec<Case> {
        let mut cases = grad_cases("ConvGradWeight");
        let per_sample = cases.clone().into_iter().map(|mut c| {
            c.name += " per sample";
            c.attr("per_sample", 1)
        });
        cases.extend(per_sample.collect::<Vec<_>>());
        cases
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let view = g.view(self, "", inputs, attrs, &[true]);
        let (l, per_sample) = (layout(&view)?, Self::per_sample(&view)?);
        let [Some(x), Some(dy)] = *inputs else {
            return Err(Error::internal("ConvGradWeight takes two inputs"));
        };
        Ok(Some(vec![if per_sample { lower_apart(g, x, dy, &l)? } else { lower_sum(g, x, dy, &l)? }]))
    }
    fn squared(&self, n: &NodeView) -> Option<&'static str> {
        matches!(Self::per_sample(n), Ok(true)).then_some("ConvGradWeightSquared")
    }
}

fn ints(v: impl IntoIterator<Item = usize>) -> Vec<i64> {
    v.into_iter().map(|d| d as i64).collect()
}

/// Slice of the spatial axes.
fn slice(g: &mut Graph, x: ValueId, starts: &[i64], ends: &[i64], steps: &[i64]) -> Result<ValueId> {
    let axes: Vec<i64> = (2..).take(starts.len()).collect();
    let inputs = [x, g.ints(starts), g.ints(ends), g.ints(&axes), g.ints(steps)];
    g.push("Slice", &inputs, Attrs::new())
}

/// The gradient of every sample.
fn lower_apart(g: &mut Graph, x: ValueId, dy: ValueId, l: &Layout) -> Result<ValueId> {
    let [dy, seen] = lower_factors(g, x, dy, l)?;
    let dw = g.push("MatMul", &[dy, seen], Attrs::new())?;
    reshape(g, dw, &[&[l.n], &weights(l)[..]].concat())
}

/// What that is a product of: dy as `[n, group, M / group, positions]`, and what the taps see as `[n, group, positions,
/// C / group · taps]`, one Slice a tap, joined.
fn lower_factors(g: &mut Graph, x: ValueId, dy: ValueId, l: &Layout) -> Result<[ValueId; 2]> {
    let w = &l.window;
    let len = w.positions();
    let mut pads = vec![0; 2 * (2 + w.axes.len())];
    for (i, a) in w.axes.iter().enumerate() {
        pads[2 + i] = a.begin as i64;
        pads[4 + w.axes.len() + i] = a.tail().max(0);
    }
    let padded = if pads.iter().all(|&p| p == 0) {
        x
    } else {
        let (zero, pads) = (g.scalar(0.0, g.dtype(x)), g.ints(&pads));
        g.push("Pad", &[x, pads, zero], Attrs::new())?
    };
    let steps = ints(w.axes.iter().map(|a| a.stride));
    let mut taps = Vec::with_capacity(w.taps());
    for tap in 0..w.taps() {
        let (mut rest, mut starts) = (tap, vec![0; w.axes.len()]);
        for (s, a) in starts.iter_mut().zip(&w.axes).rev() {
            *s = rest % a.kernel * a.dilation;
            rest /= a.kernel;
        }
        let ends = ints(starts.iter().zip(&w.axes).map(|(s, a)| s + (a.output - 1) * a.stride + 1));
        let seen = slice(g, padded, &ints(starts.iter().copied()), &ends, &steps)?;
        taps.push(reshape(g, seen, &[l.n, l.groups * l.c, 1, len])?);
    }
    // [n, C, taps, positions], then [n, group, C / group · taps, positions]
    let cols = if let [one] = taps[..] { one } else { g.push("Concat", &taps, Attrs::new().with("axis", 2))? };
    let cols = reshape(g, cols, &[l.n, l.groups, l.c * w.taps(), len])?;
    let cols = transpose(g, cols, &[0, 1, 3, 2])?;
    let dy = reshape(g, dy, &[l.n, l.groups, l.m, len])?;
    Ok([dy, cols])
}

/// The gradient summed over the samples: a Conv whose batch is the channels of x, whose channels are the
/// samples, and whose kernel is dy; stride and dilation change places.
fn lower_sum(g: &mut Graph, x: ValueId, dy: ValueId, l: &Layout) -> Result<ValueId> {
    let w = &l.window;
    let (rank, input, output) = (w.axes.len(), w.input(), w.output());
    let spatial = |lead: usize| lead..lead + rank;
    // [n, group · c, …] as [c, group · n, …]
    let x = if w.axes.iter().any(|a| a.tail() < 0) {
        let ends = ints(w.axes.iter().map(|a| (a.input as i64 + a.tail().min(0)) as usize));
        slice(g, x, &vec![0; rank], &ends, &vec![1; rank])?
    } else {
        x
    };
    let seen: Vec<usize> = w.axes.iter().map(|a| (a.input as i64 + a.tail().min(0)) as usize).collect();
    debug_assert!(seen.iter().zip(&input).all(|(s, i)| s <= i));
    let x = reshape(g, x, &[&[l.n, l.groups, l.c][..], &seen].concat())?;
    let x = transpose(g, x, &[vec![2, 1, 0], spatial(3).collect()].concat())?;
    let x = reshape(g, x, &[&[l.c, l.groups * l.n][..], &seen].concat())?;
    // [n, group · m, …] as [group · m, n, …]
    let dy = reshape(g, dy, &[&[l.n, l.groups * l.m][..], &output].concat())?;
    let dy = transpose(g, dy, &[vec![1, 0], spatial(2).collect()].concat())?;
    let mut pads = ints(w.axes.iter().map(|a| a.begin));
    pads.extend(w.axes.iter().map(|a| a.tail().max(0)));
    let attrs = Attrs::new()
        .with("group", l.groups as i64)
        .with("kernel_shape", ints(output))
        .with("strides", ints(w.axes.iter().map(|a| a.dilation)))
        .with("dilations", ints(w.axes.iter().map(|a| a.stride)))
        .with("pads", pads);
    let dw = g.push("Conv", &[x, dy], attrs)?;
    transpose(g, dw, &[vec![1, 0], spatial(2).collect()].concat())
}

/// `[s, …w]`: `Σ_n u[s, n] · dw[n]²` of the gradients that ConvGradWeight with `per_sample = 1` gives of
/// x and dy, of which it never holds more than one a thread. u is `[s, n]`.
struct ConvGradWeightSquared;

impl ConvGradWeightSquared {
    fn sums(n: &NodeView, l: &Layout) -> Result<usize> {
        match *n.shape(2)? {
            [sums, rows] if rows == l.n && n.dtype(2)? == n.dtype(0)? => Ok(sums),
            _ => Err(Error::format(format!("u is {}, {}[s, {}] is needed", n.ty(2)?, n.dtype(0)?, l.n))),
        }
    }
}

impl Op for ConvGradWeightSquared {
    fn spec(&self) -> Spec {
        Spec::internal("ConvGradWeightSquared", (3, 3))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let l = layout(n)?;
        Ok(vec![sized(n.dtype(0)?, [&[Self::sums(n, &l)?], &weights(&l)[..]].concat())?])
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let l = layout(n)?;
        let sums = Self::sums(n, &l)?;
        let (x, dy, u) = (given(x, 0)?, given(x, 1)?, given(x, 2)?);
        let shape = [&[sums], &weights(&l)[..]].concat();
        float_type!(x, T => {
            Ok(vec![Array::from_vec(&shape, l.squared_weight_gradients::<T>(x.slice()?, dy.slice()?, u.slice()?, sums))?])
        })
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        Err(b.not_differentiable(0, "the Fisher information is not differentiated"))
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let l = layout(n)?;
        l.weight_gradient_kernel(Sum::Squares(Self::sums(n, &l)?))
    }
    fn cases(&self) -> Vec<Case> {
        let with = |sums: usize| {
            grad_cases("ConvGradWeightSquared").into_iter().map(move |mut c| {
                let n = match &c.inputs[0] {
                    super::Arg::Float(shape, _) => shape[0],
                    _ => 0,
                };
                c.name += &format!(" {sums} sums");
                c.arg(super::Arg::Float(vec![sums, n], super::Sampler::within(0.0, 1.0)))
            })
        };
        with(1).chain(with(2)).chain(with(3).take(2)).collect()
    }
    fn lower(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs) -> Result<Option<Vec<ValueId>>> {
        let view = g.view(self, "", inputs, attrs, &[true]);
        let (l, sums) = (layout(&view)?, Self::sums(&view, &layout(&view)?)?);
        let [Some(x), Some(dy), Some(u)] = *inputs else {
            return Err(Error::internal("ConvGradWeightSquared takes three inputs"));
        };
        let [dy, seen] = lower_factors(g, x, dy, &l)?;
        let sum = lower_product(g, dy, seen, u)?;
        Ok(Some(vec![reshape(g, sum, &[&[sums], &weights(&l)[..]].concat())?]))
    }
}

/// Cases of x and dy.
fn grad_cases(op: &str) -> Vec<Case> {
    let case = |name: &str, x: &[usize], dy: &[usize], kernel: &[i64]| {
        Case::new(&format!("{op} {name}"), &[x, dy])
            .attr("kernel_shape", kernel)
            .no_gradient("second derivatives of Conv are not needed")
    };
    vec![
        case("plain", &[2, 3, 5, 6], &[2, 4, 3, 5], &[3, 2]),
        case("pads", &[3, 2, 4, 5], &[3, 3, 3, 6], &[3, 3]).attr("pads", vec![0, 2, 1, 1]),
        case("pointwise", &[3, 5, 4, 3], &[3, 9, 4, 3], &[1, 1]),
        case("strided with remainder", &[2, 2, 8, 6], &[2, 3, 2, 2], &[3, 3]).attr("strides", vec![3, 2]),
        case("everything", &[2, 4, 9, 8], &[2, 6, 3, 4], &[3, 2])
            .attr("group", 2)
            .attr("strides", vec![2, 3])
            .attr("dilations", vec![3, 2])
            .attr("pads", vec![2, 1, 0, 3]),
        case("depthwise", &[5, 4, 6, 5], &[5, 4, 6, 5], &[3, 3]).attr("group", 4).attr("pads", vec![1, 1, 1, 1]),
        case("1-D", &[3, 2, 9], &[3, 4, 5], &[3]).attr("pads", vec![1, 2]).attr("strides", vec![2]),
        case("3-D", &[1, 2, 4, 5, 3], &[1, 3, 5, 2, 2], &[2, 3, 2])
            .attr("pads", vec![1, 0, 0, 1, 0, 0])
            .attr("strides", vec![1, 2, 1]),
        // 3 · 12 · 11 = 396 products of elements up to 4, squared in one of the ops
        case("larger", &[3, 16, 12, 11], &[3, 24, 12, 11], &[3, 3]).attr("pads", vec![1, 1, 1, 1]),
    ]
}

pub(super) static OPS: &[&dyn Op] = &[&ConvGradWeight, &ConvGradWeightSquared];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Arg;
    use crate::tensor::DType;

    /// What an op gives of a case in f64, and what its lowering gives: all constant, so it folds.
    fn both(op: &'static dyn Op, case: &Case) -> Result<[Array; 2]> {
        let (mut g, mut rng) = (Graph::new(0), case.rng());
        let mut inputs = Vec::new();
        for arg in &case.inputs {
            if let Arg::Float(shape, sampler) = arg {
                let x = Array::from_vec(shape, sampler.draw(shape.iter().product(), &mut rng))?;
                inputs.push(Some(g.constant_as(x, DType::F64)));
            }
        }
        let direct = g.push_multi(op, &inputs, case.attrs.clone(), &[true])?[0];
        let lowered = op.lower(&mut g, &inputs, &case.attrs)?.map(|v| v[0]);
        let get = |v: Option<ValueId>| {
            v.and_then(|v| g.constant_of(v)).cloned().ok_or_else(|| Error::internal("it did not fold"))
        };
        Ok([get(direct)?, get(lowered)?])
    }

    #[test]
    fn lowerings_give_the_same() -> Result<()> {
        for &op in OPS {
            for case in op.cases() {
                let [want, got] = both(op, &case).map_err(|e| e.at(&case.name))?;
                assert_eq!(got.shape(), want.shape(), "{}", case.name);
                for (g, w) in got.to_f64().iter().zip(want.to_f64()) {
                    assert!((g - w).abs() <= 1e-12 * w.abs().max(1.0), "{}: {g} instead of {w}", case.name);
                }
            }
        }
        Ok(())
    }

    /// Weight gradients with the samples apart are those of the samples alone.
    fn apart(op: &str, weight: &[usize], bias: usize, attrs: &Attrs, rows: usize) -> Result<()> {
        use crate::autodiff::{Samples, backward};
        use crate::engine::{Engine, Tensor, cpu::Cpu};
        const N: usize = 3;
        let wave = |shape: &[usize], k: f64| {
            let v: Vec<f64> = (0..shape.iter().product()).map(|i: usize| (i as f64 * k).sin()).collect();
            Array::from_vec(shape, v)
        };
        let (w, c) = (wave(weight, 0.7)?, wave(&[bias], 1.3)?);
        let x = wave(&[N * rows, 4, 5, 6], 0.37)?;
        // gradients of ⟨y, y⟩ / 2 for a batch of so many samples of x
        let gradients = |x: Array, samples: usize| -> Result<Vec<Array>> {
            let mut g = Graph::new(samples);
            let batch = Batch::Axis { axis: 0, rows };
            let ids = [g.input("x", x.ty(), batch), g.weight("w", w.clone()), g.weight("b", c.clone())];
            let y = g.push(op, &ids, attrs.clone())?;
            let grads = backward(&mut g, &[(y, y)], &ids[1..], Samples::Apart)?;
            g.outputs = grads.into_iter().flatten().collect();
            Cpu.prepare(&g)?.run(&[Tensor::from(x)])?.iter().map(Tensor::to_array).collect()
        };
        let all = gradients(x.clone(), N)?;
        assert_eq!(all.len(), 2);
        let one = x.len() / N;
        for n in 0..N {
            let sample = Array::from_vec(&[rows, 4, 5, 6], x.slice::<f64>()?[n * one..][..one].to_vec())?;
            for (got, want) in all.iter().zip(gradients(sample, 1)?) {
                let len = want.len();
                for (g, w) in got.slice::<f64>()?[n * len..][..len].iter().zip(want.slice::<f64>()?) {
                    assert!((g - w).abs() < 1e-12 * w.abs().max(1.0), "{op} {rows}: {g} instead of {w}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn samples_stay_apart() -> Result<()> {
        let attrs = Attrs::new().with("group", 2).with("strides", vec![2, 1]).with("pads", vec![1, 0, 0, 1]);
        for rows in [1, 2] {
            apart("Conv", &[6, 2, 3, 2], 6, &attrs, rows)?;
            apart("ConvTranspose", &[4, 3, 3, 2], 6, &attrs, rows)?;
        }
        Ok(())
    }
}
