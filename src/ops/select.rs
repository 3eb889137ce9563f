//! Ops that choose elements by where they stand: <https://onnx.ai/onnx/operators/>. All but OneHot know the
//! places beforehand.

use super::composite::{Composite, Parts};
use super::layout::dims;
use super::{Arg, Case, Op, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::tensor::{Array, DType};

/// <https://onnx.ai/onnx/operators/onnx__Trilu.html>: `x` above (or below) a diagonal of the last two axes, 0
/// elsewhere.
static TRILU: Composite = Composite {
    spec: Spec::new("Trilu", 14, (1, 2)),
    write: |p| {
        let x = p.x(0)?;
        let shape = p.shape(x);
        let [.., h, w] = shape[..] else {
            return Err(Error::format(format!("shape {shape:?} holds no matrices")));
        };
        let k = p.view().ints_input(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
        let upper = p.view().int("upper", 1)? != 0;
        let (rows, columns) = (dims(&[h])[0], dims(&[w])[0]);
        let kept = |r: i64, c: i64| if upper { c - r >= k } else { c - r <= k };
        let mask = (0..rows).flat_map(|r| (0..columns).map(move |c| kept(r, c))).collect::<Vec<_>>();
        let mask = p.graph().constant(Array::from_vec(&[h, w], mask)?);
        let zero = p.number_like(0, x);
        Ok(vec![Some(p.choose(mask, x, zero)?)])
    },
    cases: || {
        let k = |c: Case, k: i64| c.arg(Arg::Const(Array::full(&[], k), DType::I64));
        let ints = Array::from_vec(&[3, 3], (1i64..10).collect()).unwrap_or_else(|_| Array::ints(&[]));
        vec![
            Case::new("Trilu upper", &[&[3, 4]]),
            Case::new("Trilu lower", &[&[2, 4, 3]]).attr("upper", 0),
            k(Case::new("Trilu above", &[&[4, 5]]), 2),
            k(Case::new("Trilu below", &[&[2, 2, 5, 3]]), -1).attr("upper", 0),
            k(Case::new("Trilu nothing", &[&[3, 2]]), 5),
            Case::new("Trilu integers", &[]).arg(Arg::Fed(ints, DType::I64)).no_gradient("integers"),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__OneHot.html>: `y = on` where an index is that of the new axis, `off`
/// elsewhere.
static ONE_HOT: Composite = Composite {
    spec: Spec::new("OneHot", 11, (3, 3)).frozen(&[2]),
    write: |p| {
        let (k, values) = (p.x(0)?, p.x(2)?);
        let depth = p.view().scalar_input(1)?.unwrap_or(0.0);
        if !(1.0..=f64::from(1 << 24)).contains(&depth) {
            return Err(Error::format(format!("depth = {depth} is no number of classes")));
        }
        let depth = depth as i64;
        if p.shape(values) != [2] {
            return Err(Error::format(format!("values have shape {:?}, off and on are needed", p.shape(values))));
        }
        let rank = p.shape(k).len();
        let axis = p.view().axis(p.view().int("axis", -1)?, rank + 1)?;
        // an index from the end, or beyond both ends: then no entry is on
        let k = p.cast(k, DType::I64)?;
        let (zero, size) = (p.number_like(0, k), p.number_like(depth, k));
        let negative = p.op("Less", &[k, zero])?;
        let from_end = p.add(k, size)?;
        let k = p.choose(negative, from_end, k)?;
        let k = p.unsqueeze(k, &[axis])?;
        let places: Vec<i64> = (0..depth).collect();
        let along = [&[places.len()], &vec![1; rank - axis][..]].concat();
        let places = p.int_constant(&along, places, DType::I64)?;
        let hot = p.op("Equal", &[k, places])?;
        let (off, on) = (p.slice(values, 0, [0, 1, 1])?, p.slice(values, 0, [1, 2, 1])?);
        let (off, on) = (p.reshape(off, &[])?, p.reshape(on, &[])?);
        Ok(vec![Some(p.choose(hot, on, off)?)])
    },
    cases: || {
        let depth = |c: Case, n: i64| c.arg(Arg::Const(Array::full(&[1], n), DType::I64));
        let fed = |shape: &[usize], v: &[i64]| {
            Arg::Fed(Array::from_vec(shape, v.to_vec()).unwrap_or_else(|_| Array::ints(&[])), DType::I64)
        };
        let values = |c: Case| c.arg(Arg::Float(vec![2], Sampler::within(-2.0, 2.0)));
        let numbers = Array::from_vec(&[2], vec![2.0f32, -1.0]).unwrap_or_else(|_| Array::ints(&[]));
        let ints = |c: Case| c.arg(Arg::Const(Array::ints(&[2, 7]), DType::I64));
        vec![
            values(depth(Case::new("OneHot last", &[]).arg(fed(&[4], &[0, 2, -1, 1])), 3)),
            values(depth(Case::new("OneHot first", &[]).arg(fed(&[2, 3], &[0, 3, -4, 1, -5, 4])), 4)).attr("axis", 0),
            values(depth(Case::new("OneHot middle", &[]).arg(fed(&[2, 3], &[0, 3, -4, 1, 9, 2])), 4)).attr("axis", -2),
            values(depth(Case::new("OneHot scalar", &[]).arg(fed(&[], &[1])), 3)),
            ints(depth(Case::new("OneHot floats", &[]).arg(Arg::Fed(numbers, DType::F32)), 3)).no_gradient("integers"),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__EyeLike.html>: ones on a diagonal, 0 elsewhere.
static EYE_LIKE: Composite = Composite {
    spec: Spec::new("EyeLike", 22, (1, 1)),
    write: |p| {
        let x = p.x(0)?;
        let shape = p.shape(x);
        let &[h, w] = &shape[..] else {
            return Err(Error::format(format!("shape {shape:?} is no matrix")));
        };
        let k = p.view().int("k", 0)?;
        let code = p.view().int("dtype", p.dtype(x).onnx().into())?;
        let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
        let dtype = dtype.ok_or_else(|| p.view().unsupported("dtype", code))?;
        let (rows, columns) = (dims(&[h])[0], dims(&[w])[0]);
        let on = (0..rows).flat_map(|r| (0..columns).map(move |c| c - r == k));
        let eye = match dtype {
            DType::Bool => Array::from_vec(&[h, w], on.collect::<Vec<_>>())?,
            t if t.is_float() => Array::from_vec(&[h, w], on.map(|v| f64::from(u8::from(v))).collect::<Vec<_>>())?,
            _ => Array::from_vec(&[h, w], on.map(i64::from).collect::<Vec<_>>())?,
        };
        Ok(vec![Some(p.graph().constant_as(eye.to_float(dtype), dtype))])
    },
    cases: || {
        let case = |name: &str| Case::new(&format!("EyeLike {name}"), &[&[3, 4]]).no_gradient("constant");
        vec![
            case("int64").attr("dtype", 7),
            case("bool below").attr("dtype", 9).attr("k", -1),
            case("of integers").attr("dtype", 6).attr("k", 2),
        ]
    },
};

/// The positions of the constant input `i` that are not 0, in row-major order.
fn non_zero(p: &Parts, i: usize) -> Result<Vec<usize>> {
    let v = p.view().constant(i)?.to_f64();
    Ok((0..v.len()).filter(|&k| v[k] != 0.0).collect())
}

/// <https://onnx.ai/onnx/operators/onnx__NonZero.html>: the indices of the elements that are not 0, one row for
/// each axis. How many there are has to be known: the input has to be constant.
static NON_ZERO: Composite = Composite {
    spec: Spec::new("NonZero", 13, (1, 1)),
    write: |p| {
        let places = non_zero(p, 0)?;
        let shape = p.view().shape(0)?.to_vec();
        let steps = super::support::strides(&shape);
        let rows = shape.iter().zip(steps).flat_map(|(&d, s)| places.iter().map(move |&k| k / s % d));
        let rows = dims(&rows.collect::<Vec<_>>());
        let y = p.int_constant(&[shape.len(), places.len()], rows, DType::I64)?;
        Ok(vec![Some(y)])
    },
    cases: || {
        let x = Array::from_vec(&[2, 3], vec![0.0f32, 1.5, -2.0, 0.0, 0.0, 4.0]).unwrap_or_else(|_| Array::ints(&[]));
        let b = Array::from_vec(&[3], vec![true, false, true]).unwrap_or_else(|_| Array::ints(&[]));
        vec![
            Case::new("NonZero", &[]).arg(Arg::Const(x, DType::F32)).no_gradient("constant"),
            Case::new("NonZero bool", &[]).arg(Arg::Const(b, DType::Bool)).no_gradient("constant"),
        ]
    },
};

/// <https://onnx.ai/onnx/operators/onnx__Compress.html>: the entries along an axis, or of the flat tensor, where a
/// constant condition holds.
static COMPRESS: Composite = Composite {
    spec: Spec::new("Compress", 11, (2, 2)),
    write: |p| {
        let mut x = p.x(0)?;
        let places = dims(&non_zero(p, 1)?);
        let mut axis = 0;
        if p.view().attrs.get("axis").is_some() {
            axis = p.view().axis(p.view().int("axis", 0)?, p.shape(x).len())?;
        } else {
            let len = p.shape(x).iter().product();
            x = p.reshape(x, &[len])?;
        }
        let places = p.graph().ints(&places);
        let y: ValueId = p.gather(x, places, axis)?;
        Ok(vec![Some(y)])
    },
    cases: || {
        let when = |c: Case, v: &[bool]| {
            let v = Array::from_vec(&[v.len()], v.to_vec()).unwrap_or_else(|_| Array::ints(&[]));
            c.arg(Arg::Const(v, DType::Bool))
        };
        vec![
            when(Case::new("Compress rows", &[&[3, 4]]), &[true, false, true]).attr("axis", 0),
            when(Case::new("Compress columns", &[&[2, 3, 2]]), &[false, true, true]).attr("axis", -2),
            when(Case::new("Compress flat", &[&[2, 3]]), &[false, true, false, false, true]),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&TRILU, &ONE_HOT, &EYE_LIKE, &NON_ZERO, &COMPRESS];
