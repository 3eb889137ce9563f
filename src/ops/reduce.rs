//! Reductions over axes: <https://onnx.ai/onnx/operators/onnx__ReduceSum.html> and its relatives.

use super::constant::{fill, filled, word};
use super::fold::{Dims, Fold, compute, kernel};
use super::support::given;
use super::{Arg, Case, Kernel, NodeView, Op, Sampler, Spec, Vjp};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId};
use crate::tensor::{Array, DType, TensorType};

/// `y = f(x over axes)`; `axes` is a constant input (an attribute before opset 13 or 18).
struct Reduce {
    name: &'static str,
    version: i64,
    fold: Fold,
    /// True when integers are reduced too.
    ints: bool,
    vjp: fn(&mut Vjp, &Dims) -> Result<ValueId>,
    sampler: Sampler,
}

const fn reduce(name: &'static str, version: i64, fold: Fold, vjp: fn(&mut Vjp, &Dims) -> Result<ValueId>) -> Reduce {
    Reduce { name, version, fold, ints: false, vjp, sampler: Sampler::within(-2.0, 2.0) }
}

impl Op for Reduce {
    fn spec(&self) -> Spec {
        Spec::new(self.name, self.version, (1, 2))
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let dtype = n.dtype(0)?;
        if !(dtype.is_float() || self.ints && dtype.is_int()) {
            return Err(Error::unsupported(format!("{} of {dtype} is not supported", self.name)));
        }
        Ok(vec![TensorType::new(dtype, Dims::of(n)?.out)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, _: &[TensorType]) -> Vec<Batch> {
        vec![Dims::of(n).map_or(Batch::Lost, |d| d.batch(from[0]))]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        let d = Dims::of(n)?;
        if let (0, Some(y)) = (d.count, self.fold.of_nothing(n.dtype(0)?)) {
            return Ok(vec![filled(&d.out, &y)?]);
        }
        let x = given(x, 0)?;
        Ok(vec![match x {
            Array::F32(_) => compute::<f32>(self.fold, x, &d)?,
            Array::F64(_) => compute::<f64>(self.fold, x, &d)?,
            Array::I64(_) => compute::<i64>(self.fold, x, &d)?,
            Array::Bool(_) => return Err(Error::unsupported(format!("{} of bool is not supported", self.name))),
        }])
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        let d = Dims::of(&b.view())?;
        let dx = (self.vjp)(b, &d)?;
        b.set_dx(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (x, d) = (n.ty(0)?, Dims::of(n)?);
        if let (0, Some(y)) = (d.count, self.fold.of_nothing(x.dtype)) {
            return Ok(Kernel::many(fill(0, d.out.iter().product(), word(&y)).into_iter().collect()));
        }
        kernel(&x.shape, &d.axes, self.fold.codes(), !x.dtype.is_float())
    }
    fn cases(&self) -> Vec<Case> {
        let case =
            |name: &str, shape: &[usize]| Case::new(&format!("{} {name}", self.name), &[shape]).sampled(&self.sampler);
        let mut cases = vec![
            case("all", &[3, 5]),
            case("all away", &[2, 3, 4]).attr("keepdims", 0),
            case("last", &[4, 9]).ints(&[1]),
            case("first away", &[5, 3, 2]).ints(&[0]).attr("keepdims", 0),
            case("middle", &[2, 5, 3]).ints(&[-2]),
            case("spatial", &[2, 3, 4, 5]).ints(&[-1, -2]),
            case("outer and inner away", &[3, 4, 2, 5]).ints(&[0, 2, 3]).attr("keepdims", 0),
            case("alternating", &[2, 3, 2, 3]).ints(&[3, 1]),
            case("scalar", &[]),
            case("long", &[3, 700]).ints(&[1]),
            case("long columns", &[600, 3]).ints(&[0]),
        ];
        // a mean of nothing is undefined
        if self.fold != Fold::Mean {
            cases.push(case("nothing", &[2, 0, 3]).ints(&[1]).no_gradient("nothing is reduced"));
        }
        let empty = |c: Case| {
            c.arg(Arg::Const(Array::from_vec(&[0], Vec::<i64>::new()).unwrap_or_else(|_| Array::ints(&[])), DType::I64))
        };
        cases.push(empty(case("empty axes", &[2, 3])));
        cases.push(empty(case("no axes", &[2, 3])).attr("noop_with_empty_axes", 1));
        if self.ints {
            cases.push(
                Case::new(&format!("{} int64", self.name), &[])
                    .arg(Arg::Fed(
                        Array::from_vec(&[2, 3], vec![7, -3, 4, 0, 12, 5_i64]).unwrap_or_else(|_| Array::ints(&[1, 2])),
                        DType::I64,
                    ))
                    .ints(&[1])
                    .no_gradient("integers"),
            );
        }
        cases
    }
    fn import(
        &self,
        g: &mut Graph,
        _: i64,
        inputs: &[Option<ValueId>],
        mut attrs: Attrs,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = inputs.to_vec();
        // axes became an input in opset 13 (ReduceSum) or 18
        if inputs.len() == 1
            && let Some(Attr::Ints(axes)) = attrs.take("axes")
        {
            inputs.push(Some(g.ints(&axes)));
        }
        let op = super::find(self.name)?;
        let (Some(Some(x)), Fold::Max | Fold::Min) = (inputs.first().copied(), self.fold) else {
            return g.push_multi(op, &inputs, attrs, wanted);
        };
        if g.dtype(x) != DType::Bool {
            return g.push_multi(op, &inputs, attrs, wanted);
        }
        // of conditions (opset 20): false is less than true, as 0 is less than 1
        let to = |t: DType| Attrs::new().with("to", i64::from(t.onnx()));
        inputs[0] = Some(g.push("Cast", &[x], to(DType::U8))?);
        let y = g.push_some(self.name, &inputs, attrs)?;
        Ok(vec![Some(g.push("Cast", &[y], to(DType::Bool))?)])
    }
    fn stacked(&self, g: &mut Graph, inputs: &[Option<ValueId>], attrs: &Attrs, _: usize) -> Result<Option<ValueId>> {
        let Some(Some(x)) = inputs.first().copied() else {
            return Ok(None);
        };
        let rank = g.shape(x).len() - 1;
        let view = g.view(self, self.name, inputs, attrs, &[true]);
        let axes: Vec<i64> = match view.ints_input(1)?.unwrap_or_default() {
            a if !a.is_empty() => view.axes(&a, rank)?.into_iter().map(|a| a as i64 + 1).collect(),
            _ if view.int("noop_with_empty_axes", 0)? != 0 => return Ok(None),
            _ => (1..=rank as i64).collect(),
        };
        if axes.is_empty() {
            return Ok(None);
        }
        let axes = g.ints(&axes);
        g.push_some(self.name, &[Some(x), Some(axes)], attrs.clone()).map(Some)
    }
}

static REDUCE_SUM: Reduce = Reduce {
    ints: true,
    ..reduce("ReduceSum", 13, Fold::Sum, |b, d| {
        // dx = dy, stretched along axes
        let dy = b.dy()?;
        d.keep(b, dy)
    })
};

static REDUCE_MEAN: Reduce = Reduce {
    ints: true,
    ..reduce("ReduceMean", 18, Fold::Mean, |b, d| {
        // dx = dy / count, stretched along axes
        let dy = b.dy()?;
        let dy = d.keep(b, dy)?;
        b.scale(dy, 1.0 / d.count as f64)
    })
};

/// `dx = dy / k` where `x = y`, 0 elsewhere; `k` elements are equal to `y`.
fn shared(b: &mut Vjp, d: &Dims) -> Result<ValueId> {
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy()?);
    let (y, dy) = (d.keep(b, y)?, d.keep(b, dy)?);
    let (zero, one) = (b.scalar_like(0.0, x), b.scalar_like(1.0, x));
    let mask = b.op("Equal", &[x, y])?;
    let ones = b.choose(mask, one, zero)?;
    let ties = b.reduce_sum(ones, &d.axes, true)?;
    let share = b.div(dy, ties)?;
    b.choose(mask, share, zero)
}

/// No two elements are equal, so that a maximum stays where it is when they are moved a little.
const APART: Sampler = Sampler { low: -2.0, high: 2.0, avoid: &[], distinct: true };

static REDUCE_MAX: Reduce = Reduce { ints: true, sampler: APART, ..reduce("ReduceMax", 20, Fold::Max, shared) };
static REDUCE_MIN: Reduce = Reduce { ints: true, sampler: APART, ..reduce("ReduceMin", 20, Fold::Min, shared) };

static REDUCE_PROD: Reduce = Reduce {
    ints: true,
    // products of many elements stay near 1
    sampler: Sampler::within(0.9, 1.1),
    ..reduce("ReduceProd", 18, Fold::Prod, |b, d| {
        // dx = dy · Π of the other elements: y/x, unless an element is 0; with p the product without zeros
        // dx = dy · p/x where there is none, dy · p at the only one, 0 elsewhere
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dy = d.keep(b, dy)?;
        let (zero, one) = (b.scalar_like(0.0, x), b.scalar_like(1.0, x));
        let is_zero = b.op("Equal", &[x, zero])?;
        let safe = b.choose(is_zero, one, x)?;
        let attrs = b.attrs().clone().with("keepdims", 1);
        let mut inputs = vec![safe];
        inputs.extend((1..b.n_inputs()).filter_map(|i| b.optional_x(i)));
        let p = b.emit("ReduceProd", &inputs, attrs)?;
        let ones = b.choose(is_zero, one, zero)?;
        let zeros = b.reduce_sum(ones, &d.axes, true)?;
        let dp = b.mul(dy, p)?;
        let (none, single) = (b.op("Equal", &[zeros, zero])?, b.op("Equal", &[zeros, one])?);
        let others = b.div(dp, safe)?;
        let at_zero = b.choose(single, dp, zero)?;
        let elsewhere = b.choose(none, others, zero)?;
        b.choose(is_zero, at_zero, elsewhere)
    })
};

static REDUCE_L1: Reduce = Reduce {
    ints: true,
    sampler: Sampler { low: -2.0, high: 2.0, avoid: &[0.0], distinct: false },
    ..reduce("ReduceL1", 18, Fold::L1, |b, d| {
        // dx = dy · sign x
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dy = d.keep(b, dy)?;
        let (zero, minus) = (b.scalar_like(0.0, x), b.neg(dy)?);
        let (above, below) = (b.op("Greater", &[x, zero])?, b.op("Less", &[x, zero])?);
        let negative = b.choose(below, minus, zero)?;
        b.choose(above, dy, negative)
    })
};

static REDUCE_L2: Reduce = Reduce {
    sampler: Sampler::within(0.3, 2.0),
    ..reduce("ReduceL2", 18, Fold::L2, |b, d| {
        // dx = dy · x / y, and 0 where y is
        let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy()?);
        let (y, dy) = (d.keep(b, y)?, d.keep(b, dy)?);
        let (zero, one) = (b.scalar_like(0.0, x), b.scalar_like(1.0, x));
        let flat = b.op("Equal", &[y, zero])?;
        let y = b.choose(flat, one, y)?;
        let slope = b.div(x, y)?;
        b.mul(dy, slope)
    })
};

static REDUCE_SUM_SQUARE: Reduce = Reduce {
    ints: true,
    ..reduce("ReduceSumSquare", 18, Fold::SumSquare, |b, d| {
        // dx = 2 · dy · x
        let (x, dy) = (b.x(0)?, b.dy()?);
        let dy = d.keep(b, dy)?;
        let twice = b.scale(dy, 2.0)?;
        b.mul(twice, x)
    })
};

static REDUCE_LOG_SUM: Reduce = Reduce {
    sampler: Sampler::within(0.3, 2.0),
    ..reduce("ReduceLogSum", 18, Fold::LogSum, |b, d| {
        // dx = dy / Σ x = dy · exp(−y)
        let (y, dy) = (b.y(0)?, b.dy()?);
        let minus = b.neg(y)?;
        let inverse = b.op("Exp", &[minus])?;
        let dx = b.mul(dy, inverse)?;
        d.keep(b, dx)
    })
};

static REDUCE_LOG_SUM_EXP: Reduce = reduce("ReduceLogSumExp", 18, Fold::LogSumExp, |b, d| {
    // dx = dy · exp(x − y)
    let (x, y, dy) = (b.x(0)?, b.y(0)?, b.dy()?);
    let (y, dy) = (d.keep(b, y)?, d.keep(b, dy)?);
    let less = b.sub(x, y)?;
    let share = b.op("Exp", &[less])?;
    b.mul(dy, share)
});

pub(super) static OPS: &[&dyn Op] = &[
    &REDUCE_SUM,
    &REDUCE_MEAN,
    &REDUCE_MAX,
    &REDUCE_MIN,
    &REDUCE_PROD,
    &REDUCE_L1,
    &REDUCE_L2,
    &REDUCE_SUM_SQUARE,
    &REDUCE_LOG_SUM,
    &REDUCE_LOG_SUM_EXP,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::{Samples, backward};
    use crate::engine::{Engine, cpu::Cpu};

    #[test]
    fn axes_were_an_attribute() {
        let mut g = Graph::new(0);
        let x = g.input("x", TensorType::new(DType::F32, [2, 3, 4]), Batch::None);
        let attrs = Attrs::new().with("axes", vec![-1i64, 0]).with("keepdims", 0);
        for (op, opset) in [(&REDUCE_SUM, 11), (&REDUCE_MEAN, 17), (&REDUCE_MAX, 12)] {
            let y = op.import(&mut g, opset, &[Some(x)], attrs.clone(), &[true]).unwrap()[0].unwrap();
            assert_eq!(g.shape(y), [3]);
        }
        let all = REDUCE_SUM.import(&mut g, 7, &[Some(x)], Attrs::new(), &[true]).unwrap()[0].unwrap();
        assert_eq!(g.shape(all), [1, 1, 1]);
        assert!(REDUCE_SUM.import(&mut g, 11, &[Some(x)], attrs.with("axes", vec![3i64]), &[true]).is_err());
    }

    #[test]
    fn samples_are_followed() {
        let mut g = Graph::new(2);
        let x = g.input("x", TensorType::new(DType::F32, [3, 2, 4]), Batch::Axis { axis: 1, rows: 1 });
        let mut batch = |axes: &[i64], keepdims: i64| {
            let axes = g.ints(axes);
            let y = g.push("ReduceSum", &[x, axes], Attrs::new().with("keepdims", keepdims)).unwrap();
            g.value(y).batch
        };
        assert_eq!(batch(&[0], 0), Batch::LEADING);
        assert_eq!(batch(&[0], 1), Batch::Axis { axis: 1, rows: 1 });
        assert_eq!(batch(&[2], 0), Batch::Axis { axis: 1, rows: 1 });
        assert_eq!(batch(&[1], 1), Batch::Lost);
    }

    /// Samples stay apart in the gradient of a weight that is reduced before it meets them.
    #[test]
    fn weights_alone_are_stacked() {
        let mut g = Graph::new(2);
        let x = g.input("x", TensorType::new(DType::F64, [2, 3]), Batch::LEADING);
        let w = g.weight("w", Array::from_vec(&[3, 4], (0..12).map(f64::from).collect()).unwrap());
        let axes = g.ints(&[1]);
        let sums = g.push("ReduceSum", &[w, axes], Attrs::new().with("keepdims", 0)).unwrap();
        let y = g.push("Mul", &[x, sums], Attrs::new()).unwrap();
        let dw = backward(&mut g, &[(y, x)], &[w], Samples::Apart).unwrap()[0].unwrap();
        g.outputs = vec![dw];
        let v = [1.0, -2.0, 3.0, 4.0, 0.5, -1.0];
        let x = Array::from_vec(&[2, 3], v.to_vec()).unwrap();
        let dw = Cpu.prepare(&g).unwrap().run(&[x.into()]).unwrap()[0].to_array().unwrap();
        assert_eq!(dw.shape(), [2, 3, 4]);
        let want: Vec<f64> = v.iter().flat_map(|v| [v * v; 4]).collect();
        assert_eq!(dw.to_f64(), want);
    }
}
