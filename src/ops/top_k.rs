//! TopK: <https://onnx.ai/onnx/operators/onnx__TopK.html>.

use super::layout::dims;
use super::support::given;
use super::{Arg, Bind, Case, Kernel, NodeView, Op, Params, Sampler, Spec, Step, Vjp, grid_1d};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, Batch, Graph, ValueId, batch};
use crate::tensor::{Array, DType, Element, TensorType};
use rayon::prelude::*;
use std::cmp::Ordering;

/// The `k` greatest or least elements along an axis, in order, and where they lie; of equal ones the first.
struct TopK;

struct Search {
    axis: usize,
    best: usize,
    largest: bool,
    shape: Vec<usize>,
}

impl TopK {
    fn search(n: &NodeView) -> Result<Search> {
        let x = n.shape(0)?;
        let axis = n.axis(n.int("axis", -1)?, x.len())?;
        let k = n.ints_input(1)?.unwrap_or_default();
        let best = match k[..] {
            [k] => usize::try_from(k).ok().filter(|&k| k <= x[axis]),
            _ => None,
        };
        let best =
            best.ok_or_else(|| Error::format(format!("K = {k:?} does not fit extent {} of axis {axis}", x[axis])))?;
        let mut shape = x.to_vec();
        shape[axis] = best;
        Ok(Search { axis, best, largest: n.int("largest", 1)? != 0, shape })
    }
}

/// As numbers are ordered, with NaN above all of them.
fn order<T: Element>(a: &T, b: &T) -> Ordering {
    // only NaN differs from itself
    let nan = |v: &T| v.partial_cmp(v).is_none();
    a.partial_cmp(b).unwrap_or_else(|| nan(a).cmp(&nan(b)))
}

impl Op for TopK {
    fn spec(&self) -> Spec {
        Spec::new("TopK", 24, (2, 2)).outputs(2, 2)
    }
    fn expand(
        &'static self,
        g: &mut Graph,
        inputs: &[Option<ValueId>],
        attrs: &Attrs,
        wanted: &[bool],
    ) -> Result<Option<Vec<Option<ValueId>>>> {
        // where any order will do, all engines give the same one
        let mut sorted = attrs.clone();
        match sorted.take("sorted") {
            None => Ok(None),
            Some(_) => g.push_multi(self, inputs, sorted, wanted).map(Some),
        }
    }
    fn infer(&self, n: &NodeView) -> Result<Vec<TensorType>> {
        let s = Self::search(n)?;
        if n.dtype(0)? == DType::Bool {
            return Err(Error::format("bool has no order"));
        }
        Ok(vec![TensorType::new(n.dtype(0)?, s.shape.clone()), TensorType::new(DType::I64, s.shape)])
    }
    fn batch(&self, n: &NodeView, from: &[Batch], _: usize, out: &[TensorType]) -> Vec<Batch> {
        vec![Self::search(n).map_or(Batch::Lost, |s| batch::unless_on(from, &[s.axis])); out.len()]
    }
    fn eval(&self, n: &NodeView, x: &[Option<&Array>]) -> Result<Vec<Array>> {
        fn go<T: Element>(s: &Search, x: &Array) -> Result<Vec<Array>> {
            let (count, inner) = (x.shape()[s.axis], x.shape()[s.axis + 1..].iter().product::<usize>());
            let x = x.slice::<T>()?;
            let size: usize = s.shape.iter().product();
            let (mut values, mut places) = (vec![T::default(); size], vec![0i64; size]);
            let slab = s.best * inner;
            if slab > 0 {
                let parts = values.par_chunks_mut(slab).zip(places.par_chunks_mut(slab)).enumerate();
                parts.for_each(|(outer, (values, places))| {
                    for i in 0..inner {
                        let at = |k: usize| (outer * count + k) * inner + i;
                        let mut all: Vec<usize> = (0..count).collect();
                        // stable, so that equal elements stay in their order
                        all.sort_by(|&a, &b| {
                            let ascending = order(&x[at(a)], &x[at(b)]);
                            if s.largest { ascending.reverse() } else { ascending }
                        });
                        for (k, &from) in all[..s.best].iter().enumerate() {
                            values[k * inner + i] = x[at(from)];
                            places[k * inner + i] = from as i64;
                        }
                    }
                });
            }
            Ok(vec![Array::from_vec(&s.shape, values)?, Array::from_vec(&s.shape, places)?])
        }
        let (s, x) = (Self::search(n)?, given(x, 0)?);
        match x {
            Array::F32(_) => go::<f32>(&s, x),
            Array::F64(_) => go::<f64>(&s, x),
            Array::I64(_) => go::<i64>(&s, x),
            Array::Bool(_) => go::<bool>(&s, x),
        }
    }
    fn vjp(&self, b: &mut Vjp) -> Result<()> {
        // dx = dy where it was taken from, 0 elsewhere
        let axis = dims(&[Self::search(&b.view())?.axis])[0];
        let (x, places, dy) = (b.x(0)?, b.y(1)?, b.dy()?);
        let shape = b.shape(x);
        let dtype = b.dtype(dy);
        let zeros = b.graph().constant(Array::full_float(dtype, &shape, 0.0));
        let dx = b.emit("ScatterElements", &[zeros, places, dy], Attrs::new().with("axis", axis))?;
        b.set_exact(0, dx);
        Ok(())
    }
    fn kernel(&self, n: &NodeView) -> Result<Kernel> {
        let (s, x) = (Self::search(n)?, n.ty(0)?);
        if x.is_empty() || s.best == 0 {
            return Ok(Kernel::many(Vec::new()));
        }
        // an output that is not wanted is made all the same
        let size = s.shape.iter().product();
        let mut scratch = Vec::new();
        let mut place = |i: usize| {
            if n.wants(i) {
                return Bind::Output(i);
            }
            scratch.push(size);
            Bind::Scratch(scratch.len() - 1)
        };
        let binds = vec![Bind::Input(0), place(0), place(1)];
        let step = Step {
            shader: crate::shader!("top_k"),
            overrides: vec![("INT", f64::from(u8::from(!x.dtype.is_float())))],
            binds,
            params: Params::new()
                .u("n", x.len())
                .u("count", x.shape[s.axis])
                .u("inner", x.shape[s.axis + 1..].iter().product())
                .u("best", s.best)
                .u("least", usize::from(!s.largest)),
            grid: grid_1d(x.len()),
        };
        Ok(Kernel::Steps { steps: vec![step], scratch })
    }
    fn cases(&self) -> Vec<Case> {
        let apart = Sampler { low: -2.0, high: 2.0, avoid: &[], distinct: true };
        let case = |name: &str, shape: &[usize], k: i64| {
            Case::new(&format!("TopK {name}"), &[shape]).ints(&[k]).sampled(&apart).outputs(&[true, true])
        };
        let ties = Array::from_vec(&[2, 6], (0..12).map(|i: i64| i * 5 % 3 - 1).collect());
        let ties = Arg::Fed(ties.unwrap_or_else(|_| Array::ints(&[])), DType::I64);
        vec![
            case("last", &[3, 7], 3),
            case("first axis", &[6, 2, 3], 4).attr("axis", 0),
            case("least", &[2, 5, 3], 2).attr("axis", -2).attr("largest", 0),
            case("values only", &[4, 5], 1).outputs(&[true]),
            case("places only", &[4, 5], 2).outputs(&[false, true]).no_gradient("integers"),
            case("in any order", &[2, 9], 9).attr("sorted", 0),
            Case::new("TopK equal ones", &[]).arg(ties).ints(&[5]).outputs(&[true; 2]).no_gradient("integers"),
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
        let mut inputs = inputs.to_vec();
        // the attribute of operator sets before 10
        if let (1, Some(Attr::Int(k))) = (inputs.len(), attrs.take("k")) {
            inputs.push(Some(g.ints(&[k])));
        }
        g.push_multi(&Self, &inputs, attrs, wanted)
    }
}

pub(super) static OPS: &[&dyn Op] = &[&TopK];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_the_greatest_and_old_operator_sets_have_an_attribute() {
        let mut g = Graph::new(0);
        let x = g.constant(Array::from_vec(&[4], vec![1.0, f32::NAN, -0.0, f32::INFINITY]).unwrap());
        let y = TopK.import(&mut g, 7, &[Some(x)], Attrs::new().with("k", 3), &[true, true]).unwrap();
        assert_eq!(g.constant_of(y[1].unwrap()), Some(&Array::ints(&[1, 3, 0])));
    }
}
