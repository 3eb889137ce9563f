//! Resize and its forerunner Upsample: <https://onnx.ai/onnx/operators/onnx__Resize.html>. Along every axis they are
//! linear: a Gather where every element is that of one place, a product with a constant matrix elsewhere.

use super::composite::{Composite, Parts};
use super::layout::dims;
use super::{Arg, Case, Op, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attr, Attrs, ValueId};
use crate::tensor::{Array, DType};

/// A matrix of more elements than this is not made; the taps are gathered one by one instead.
const LARGEST_MATRIX: usize = 1 << 22;

/// What an output element along an axis is made of.
struct Tap {
    /// Consecutive places from `first`; those beyond an end mean the element at that end.
    first: i64,
    weights: Vec<f64>,
    /// True where the region of interest leaves the input.
    outside: bool,
}

impl Tap {
    /// The place whose element this is, if it is that of one place.
    fn single(&self) -> Option<i64> {
        let mut used = (0..).zip(&self.weights).filter(|(_, w)| **w != 0.0);
        match (used.next(), used.next()) {
            (Some((k, 1.0)), None) => Some(self.first + k),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// The attributes, with those of old forms translated.
struct Settings {
    mode: Mode,
    coordinates: String,
    nearest: String,
    cubic_a: f64,
    exclude_outside: bool,
    extrapolation: f64,
    antialias: bool,
}

impl Settings {
    /// `old`: Upsample, and Resize of operator set 10, know one coordinate transformation.
    fn of(p: &Parts, old: bool) -> Result<Self> {
        let n = p.view();
        let mode = match n.string("mode", "nearest")? {
            "nearest" => Mode::Nearest,
            "linear" | "bilinear" => Mode::Linear,
            "cubic" => Mode::Cubic,
            other => return Err(n.unsupported("mode", other)),
        };
        let coordinates = n.string("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })?;
        let nearest = n.string("nearest_mode", if old { "floor" } else { "round_prefer_floor" })?;
        Ok(Self {
            mode,
            coordinates: coordinates.to_owned(),
            nearest: nearest.to_owned(),
            cubic_a: n.float("cubic_coeff_a", -0.75)?,
            exclude_outside: n.int("exclude_outside", 0)? != 0,
            extrapolation: n.float("extrapolation_value", 0.0)?,
            antialias: n.int("antialias", 0)? != 0,
        })
    }

    /// Where output element `x` lies on the input.
    fn place(&self, p: &Parts, a: &Axis, x: f64) -> Result<f64> {
        let (d, out) = (a.extent as f64, a.scale * a.extent as f64);
        Ok(match self.coordinates.as_str() {
            "half_pixel" => (x + 0.5) / a.scale - 0.5,
            "half_pixel_symmetric" => {
                // the middle of the input lies at the middle of the output, whose extent was rounded
                d / 2.0 * (1.0 - a.out as f64 / out) + (x + 0.5) / a.scale - 0.5
            }
            "pytorch_half_pixel" if out == 1.0 => -0.5,
            "pytorch_half_pixel" => (x + 0.5) / a.scale - 0.5,
            "align_corners" if out == 1.0 => 0.0,
            "align_corners" => x * (d - 1.0) / (out - 1.0),
            "asymmetric" => x / a.scale,
            "tf_half_pixel_for_nn" => (x + 0.5) / a.scale,
            "tf_crop_and_resize" => {
                let (start, end) = a.roi;
                let along = if out == 1.0 { 0.5 } else { x / (out - 1.0) };
                (start + along * (end - start)) * (d - 1.0)
            }
            other => return Err(p.view().unsupported("coordinate_transformation_mode", other)),
        })
    }

    fn nearest(&self, p: &Parts, at: f64) -> Result<f64> {
        Ok(match self.nearest.as_str() {
            "round_prefer_floor" => (at - 0.5).ceil(),
            "round_prefer_ceil" => (at + 0.5).floor(),
            "floor" => at.floor(),
            "ceil" => at.ceil(),
            other => return Err(p.view().unsupported("nearest_mode", other)),
        })
    }

    /// The kernel at a distance.
    fn weight(&self, distance: f64) -> f64 {
        let x = distance.abs();
        let a = self.cubic_a;
        match self.mode {
            Mode::Cubic if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Mode::Cubic if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Mode::Cubic => 0.0,
            _ => (1.0 - x).max(0.0),
        }
    }

    fn tap(&self, p: &Parts, a: &Axis, x: usize) -> Result<Tap> {
        let at = self.place(p, a, x as f64)?;
        let d = a.extent as f64;
        let outside = self.coordinates == "tf_crop_and_resize" && !(0.0..=d - 1.0).contains(&at);
        if self.mode == Mode::Nearest {
            return Ok(Tap { first: self.nearest(p, at)? as i64, weights: vec![1.0], outside });
        }
        let reach = if self.mode == Mode::Cubic { 2.0 } else { 1.0 };
        // when it shrinks, an antialiased kernel is as much wider
        let shrink = if self.antialias { a.scale.min(1.0) } else { 1.0 };
        let before = (reach / shrink).ceil() - 1.0;
        // the left neighbour of a whole number is the one before it
        let first = at.ceil() - 1.0 - before;
        let mut weights: Vec<f64> =
            (0..2 * (before as usize + 1)).map(|i| self.weight((first + i as f64 - at) * shrink)).collect();
        if self.exclude_outside {
            for (i, w) in weights.iter_mut().enumerate() {
                if !(0.0..d).contains(&(first + i as f64)) {
                    *w = 0.0;
                }
            }
        }
        if self.exclude_outside || shrink < 1.0 {
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        Ok(Tap { first: first as i64, weights, outside })
    }
}

/// How one axis is resized.
struct Axis {
    axis: usize,
    extent: usize,
    out: usize,
    scale: f64,
    /// Start and end of the region of interest, where 0 and 1 are the ends of the input.
    roi: (f64, f64),
}

/// What is asked for along each axis; `at` are the places of roi, scales and sizes among the inputs.
fn axes(p: &Parts, at: [Option<usize>; 3]) -> Result<Vec<Axis>> {
    let n = p.view();
    let shape = n.shape(0)?;
    let given = |i: Option<usize>| -> Result<Option<Vec<f64>>> {
        match i.filter(|&i| n.optional(i).is_some()) {
            Some(i) => Ok(Some(n.constant(i)?.to_f64()).filter(|v| !v.is_empty())),
            None => Ok(None),
        }
    };
    let every: Vec<i64> = (0..).take(shape.len()).collect();
    let named = n.ints("axes")?.unwrap_or(&every);
    n.axes(named, shape.len())?;
    let named = named.iter().map(|&a| n.axis(a, shape.len())).collect::<Result<Vec<_>>>()?;
    let attr = match n.attrs.get("scales") {
        Some(Attr::Floats(v)) => Some(v.iter().map(|&v| f64::from(v)).collect()),
        _ => None,
    };
    let (roi, scales, sizes) = (given(at[0])?, given(at[1])?.or(attr), given(at[2])?);
    let fits = |v: &Option<Vec<f64>>, each: usize| v.as_ref().is_none_or(|v| v.len() == each * named.len());
    if !fits(&roi, 2) || !fits(&scales, 1) || !fits(&sizes, 1) || scales.is_some() == sizes.is_some() {
        return Err(Error::format(format!(
            "roi = {roi:?}, scales = {scales:?} and sizes = {sizes:?} do not fit axes {named:?}: one of scales and sizes is needed"
        )));
    }
    let policy = n.string("keep_aspect_ratio_policy", "stretch")?;
    let ratios = sizes.iter().flatten().zip(&named).map(|(&size, &a)| size / shape[a] as f64);
    let common = match policy {
        "stretch" => None,
        "not_larger" => ratios.reduce(f64::min),
        "not_smaller" => ratios.reduce(f64::max),
        other => return Err(n.unsupported("keep_aspect_ratio_policy", other)),
    };
    let mut out = Vec::with_capacity(named.len());
    for (i, &axis) in named.iter().enumerate() {
        let d = shape[axis] as f64;
        let (extent, scale) = match (&scales, &sizes, common) {
            // the product is rounded as in single precision, which the scales are given in
            (Some(s), _, _) => (f64::from(shape[axis] as f32 * s[i] as f32).floor(), s[i]),
            (_, _, Some(scale)) => ((scale * d + 0.5).floor(), scale),
            (_, Some(s), None) => (s[i], s[i] / d),
            _ => (d, 1.0),
        };
        if !(extent >= 0.0 && extent <= f64::from(1 << 30) && scale > 0.0) {
            return Err(Error::format(format!("axis {axis} of extent {d} cannot be resized to {extent}")));
        }
        let roi = roi.as_ref().map_or((0.0, 1.0), |r| (r[i], r[named.len() + i]));
        out.push(Axis { axis, extent: shape[axis], out: extent as usize, scale, roi });
    }
    Ok(out)
}

/// The value resized along one axis.
fn along(p: &mut Parts, x: ValueId, s: &Settings, a: &Axis) -> Result<ValueId> {
    if a.extent == 0 {
        return Err(Error::unsupported(format!("axis {} has no elements to resize", a.axis)));
    }
    let taps = (0..a.out).map(|i| s.tap(p, a, i)).collect::<Result<Vec<_>>>()?;
    let single = |t: &Tap| t.single().map(|place| place.clamp(0, dims(&[a.extent])[0] - 1));
    let kept = |(i, t): (i64, &Tap)| !t.outside && single(t) == Some(i);
    if a.out == a.extent && (0..).zip(&taps).all(kept) {
        return Ok(x);
    }
    let end = dims(&[a.extent])[0] - 1;
    let width = taps.first().map_or(1, |t| t.weights.len());
    let place = |t: &Tap, k: usize| (t.first + dims(&[k])[0]).clamp(0, end);
    let y = if let Some(places) = taps.iter().map(single).collect::<Option<Vec<_>>>() {
        let k = p.graph().ints(&places);
        p.gather(x, k, a.axis)?
    } else if !p.dtype(x).is_float() {
        return Err(Error::unsupported(format!("interpolation of {} is not supported", p.dtype(x))));
    } else if a.out * a.extent <= LARGEST_MATRIX {
        let mut m = vec![0.0; a.out * a.extent];
        for (i, t) in taps.iter().enumerate() {
            for (k, &w) in t.weights.iter().enumerate() {
                m[i * a.extent + place(t, k) as usize] += w;
            }
        }
        product(p, x, a, m)?
    } else {
        let mut weights = vec![1; p.shape(x).len()];
        weights[a.axis] = a.out;
        let mut sum = None;
        for tap in 0..width {
            let k = p.graph().ints(&taps.iter().map(|t| place(t, tap)).collect::<Vec<_>>());
            let part = p.gather(x, k, a.axis)?;
            let dtype = p.dtype(x);
            let w = p.float_constant(&weights, taps.iter().map(|t| t.weights[tap]).collect(), dtype)?;
            let part = p.mul(part, w)?;
            sum = Some(match sum {
                None => part,
                Some(s) => p.add(s, part)?,
            });
        }
        sum.unwrap_or(x)
    };
    if !taps.iter().any(|t| t.outside) {
        return Ok(y);
    }
    let mut shape = vec![1; p.shape(y).len()];
    shape[a.axis] = a.out;
    let outside = Array::from_vec(&shape, taps.iter().map(|t| t.outside).collect::<Vec<_>>())?;
    let outside = p.graph().constant(outside);
    let value = match p.dtype(y) {
        t if t.is_float() => p.graph().scalar(s.extrapolation, t),
        _ => p.number_like(s.extrapolation as i64, y),
    };
    p.choose(outside, value, y)
}

/// `m · x` along an axis, for a matrix of `[out, extent]`.
fn product(p: &mut Parts, x: ValueId, a: &Axis, m: Vec<f64>) -> Result<ValueId> {
    let (shape, dtype) = (p.shape(x), p.dtype(x));
    let outer: usize = shape[..a.axis].iter().product();
    let inner: usize = shape[a.axis + 1..].iter().product();
    let mut to = shape;
    to[a.axis] = a.out;
    let y = if inner == 1 {
        let transposed = (0..a.out * a.extent).map(|i| m[i % a.out * a.extent + i / a.out]).collect();
        let m = p.float_constant(&[a.extent, a.out], transposed, dtype)?;
        let x = p.reshape(x, &[outer, a.extent])?;
        p.op("MatMul", &[x, m])?
    } else {
        let m = p.float_constant(&[a.out, a.extent], m, dtype)?;
        let x = p.reshape(x, &[outer, a.extent, inner])?;
        p.op("MatMul", &[m, x])?
    };
    p.reshape(y, &to)
}

fn resized(p: &mut Parts, old: bool, at: [Option<usize>; 3]) -> Result<Vec<Option<ValueId>>> {
    let (s, axes) = (Settings::of(p, old)?, axes(p, at)?);
    let mut y = p.x(0)?;
    for a in &axes {
        y = along(p, y, &s, a)?;
    }
    if y == p.x(0)? {
        y = p.emit("Identity", &[y], Attrs::new())?;
    }
    Ok(vec![Some(y)])
}

static RESIZE: Composite = Composite {
    spec: Spec::new("Resize", 19, (1, 4)).frozen(&[1, 2]),
    write: |p| {
        // operator set 10 has scales as the second of two inputs
        if p.n_inputs() == 2 {
            resized(p, true, [None, Some(1), None])
        } else {
            resized(p, false, [Some(1), Some(2), Some(3)])
        }
    },
    cases,
};

/// <https://onnx.ai/onnx/operators/onnx__Upsample.html>: scales are an attribute in operator set 7, an input in 9.
static UPSAMPLE: Composite = Composite {
    spec: Spec::new("Upsample", 10, (1, 2)).frozen(&[1]),
    write: |p| resized(p, true, [None, Some(1), None]),
    cases: || {
        vec![
            Case::new("Upsample nearest", &[&[2, 3, 2, 3]]).attr("scales", vec![1.0f32, 1.0, 2.0, 3.0]),
            Case::new("Upsample linear", &[&[1, 2, 3, 2]]).arg(floats(&[1.0, 1.0, 2.0, 1.5])).attr("mode", "linear"),
        ]
    },
};

fn floats(v: &[f32]) -> Arg {
    Arg::Const(Array::from_vec(&[v.len()], v.to_vec()).unwrap_or_else(|_| Array::ints(&[])), DType::F32)
}

fn cases() -> Vec<Case> {
    let case = |name: &str, shape: &[usize]| Case::new(&format!("Resize {name}"), &[shape]);
    let scales = |c: Case, v: &[f32]| c.arg(Arg::Absent).arg(floats(v));
    let sizes = |c: Case, v: &[i64]| c.arg(Arg::Absent).arg(Arg::Absent).ints(v);
    let mode = |c: Case, mode: &str, coordinates: &str| {
        c.attr("mode", mode).attr("coordinate_transformation_mode", coordinates)
    };
    let mut all = vec![
        scales(case("default", &[2, 3, 2, 3]), &[1.0, 1.0, 2.0, 3.0]),
        sizes(case("sizes", &[1, 2, 4, 5]), &[1, 2, 7, 3]),
        sizes(case("linear sizes", &[2, 2, 4, 5]), &[2, 2, 7, 3]).attr("mode", "linear"),
        sizes(case("one axis", &[2, 3, 4]), &[7]).attr("axes", vec![-2i64]).attr("mode", "cubic"),
        sizes(case("axes in another order", &[2, 3, 4]), &[7, 2]).attr("axes", vec![2i64, 1]).attr("mode", "linear"),
        sizes(case("volume", &[1, 2, 2, 3, 4]), &[1, 2, 3, 2, 6]).attr("mode", "linear"),
        sizes(case("not larger", &[1, 1, 4, 6]), &[7, 8])
            .attr("axes", vec![2i64, 3])
            .attr("keep_aspect_ratio_policy", "not_larger"),
        sizes(case("not smaller", &[1, 1, 4, 6]), &[7, 8])
            .attr("axes", vec![2i64, 3])
            .attr("keep_aspect_ratio_policy", "not_smaller")
            .attr("mode", "linear"),
        sizes(case("nothing to do", &[1, 2, 3, 4]), &[1, 2, 3, 4]),
        scales(case("cubic outside", &[1, 2, 5, 4]), &[1.0, 1.0, 1.7, 0.6])
            .attr("mode", "cubic")
            .attr("cubic_coeff_a", -0.5f32)
            .attr("exclude_outside", 1),
        sizes(case("linear antialias", &[1, 2, 9, 4]), &[1, 2, 4, 6]).attr("mode", "linear").attr("antialias", 1),
        sizes(case("cubic antialias", &[2, 1, 9, 7]), &[2, 1, 3, 5]).attr("mode", "cubic").attr("antialias", 1),
        // 2050 × 2050 elements are more than the largest matrix
        sizes(case("long", &[1, 2050]), &[1, 2049]).attr("mode", "linear"),
        case("of operator set 10", &[1, 2, 3, 4]).arg(floats(&[1.0, 1.0, 2.0, 0.5])).attr("mode", "linear"),
    ];
    for coordinates in
        ["asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", "tf_half_pixel_for_nn"]
    {
        for kind in ["nearest", "linear", "cubic"] {
            let c = scales(case(&format!("{kind} {coordinates}"), &[1, 2, 4, 5]), &[1.0, 1.0, 0.6, 1.7]);
            all.push(mode(c, kind, coordinates));
        }
    }
    for rounding in ["round_prefer_ceil", "floor", "ceil"] {
        all.push(scales(case(rounding, &[1, 1, 4, 6]), &[1.0, 1.0, 1.5, 0.5]).attr("nearest_mode", rounding));
    }
    for kind in ["nearest", "linear"] {
        let c = case(&format!("{kind} region"), &[1, 2, 4, 5]).arg(floats(&[0.0, 0.0, 0.25, -0.2, 1.0, 1.0, 0.8, 0.7]));
        let c = c.arg(Arg::Absent).ints(&[1, 2, 3, 4]).attr("extrapolation_value", 5.0f32);
        all.push(mode(c, kind, "tf_crop_and_resize").sampled_at(0, &Sampler::within(-2.0, 2.0)));
    }
    all
}

pub(super) static OPS: &[&dyn Op] = &[&RESIZE, &UPSAMPLE];
