//! Sampling at the points of a grid, and grids: <https://onnx.ai/onnx/operators/>.

use super::composite::{Composite, Parts};
use super::layout::dims;
use super::support::strides;
use super::{Arg, Case, Op, Sampler, Spec};
use crate::error::{Error, Result};
use crate::graph::{Attrs, ValueId};
use crate::tensor::DType;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// One neighbour along an axis: its integer place, inside the axis, and its weight.
struct Neighbour {
    place: ValueId,
    weight: Option<ValueId>,
}

/// How the coordinates of one spatial axis are read.
struct Axis {
    extent: usize,
    align: bool,
    padding: Padding,
}

/// `⌊x⌋`, which is flat.
fn floor(p: &mut Parts, x: ValueId) -> Result<ValueId> {
    let dtype = p.dtype(x);
    let whole = p.cast(x, DType::I64)?;
    let whole = p.cast(whole, dtype)?;
    // a cast cuts towards zero
    let above = p.op("Less", &[x, whole])?;
    let less = p.shift(whole, -1.0)?;
    p.choose(above, less, whole)
}

/// The nearest whole number, the even one of two.
fn round(p: &mut Parts, x: ValueId) -> Result<ValueId> {
    let up = p.shift(x, 0.5)?;
    let up = floor(p, up)?;
    let over = p.sub(up, x)?;
    let half = p.scalar_like(0.5, x);
    let tie = p.op("Equal", &[over, half])?;
    let halved = p.scale(up, 0.5)?;
    let even = floor(p, halved)?;
    let even = p.op("Equal", &[even, halved])?;
    let down = p.shift(up, -1.0)?;
    let to_even = p.choose(even, up, down)?;
    p.choose(tie, to_even, up)
}

impl Axis {
    fn clamp(&self, p: &mut Parts, x: ValueId) -> Result<ValueId> {
        let (low, high) = (p.scalar_like(0.0, x), p.scalar_like(self.extent as f64 - 1.0, x));
        p.op("Clip", &[x, low, high])
    }
    /// `x` mirrored at the borders until it lies between them.
    fn reflect(&self, p: &mut Parts, x: ValueId) -> Result<ValueId> {
        let d = self.extent as f64;
        let (low, range) = if self.align { (0.0, d - 1.0) } else { (-0.5, d) };
        if range == 0.0 {
            return p.scale(x, 0.0);
        }
        let from = p.shift(x, -low)?;
        let (zero, back) = (p.scalar_like(0.0, x), p.neg(from)?);
        let negative = p.op("Less", &[from, zero])?;
        let distance = p.choose(negative, back, from)?;
        // the pattern repeats after two ranges, and the second runs backwards
        let rounds = p.scale(distance, 0.5 / range)?;
        let rounds = floor(p, rounds)?;
        let whole = p.scale(rounds, 2.0 * range)?;
        let rest = p.sub(distance, whole)?;
        let minus = p.neg(rest)?;
        let back = p.shift(minus, 2.0 * range)?;
        let edge = p.scalar_like(range, x);
        let second = p.op("Less", &[edge, rest])?;
        let inside = p.choose(second, back, rest)?;
        p.shift(inside, low)
    }
    /// The place of a coordinate from −1 to 1 of the grid.
    fn place(&self, p: &mut Parts, g: ValueId, mode: Mode) -> Result<ValueId> {
        let d = self.extent as f64;
        let (scale, shift) = if self.align { (d - 1.0, d - 1.0) } else { (d, d - 1.0) };
        let x = p.scale(g, scale / 2.0)?;
        let x = p.shift(x, shift / 2.0)?;
        let x = if mode == Mode::Nearest { round(p, x)? } else { x };
        match self.padding {
            Padding::Zeros => Ok(x),
            Padding::Border => self.clamp(p, x),
            Padding::Reflection => self.reflect(p, x),
        }
    }
    /// The neighbour at a whole place, which may lie outside.
    fn neighbour(&self, p: &mut Parts, at: ValueId, weight: Option<ValueId>) -> Result<Neighbour> {
        let within = if self.padding == Padding::Reflection { self.reflect(p, at)? } else { at };
        let within = self.clamp(p, within)?;
        let place = p.cast(within, DType::I64)?;
        if self.padding != Padding::Zeros {
            return Ok(Neighbour { place, weight });
        }
        // what lies outside counts nothing
        let inside = p.op("Equal", &[within, at])?;
        let (zero, one) = (p.scalar_like(0.0, at), p.scalar_like(1.0, at));
        let weight = p.choose(inside, weight.unwrap_or(one), zero)?;
        Ok(Neighbour { place, weight: Some(weight) })
    }
    fn neighbours(&self, p: &mut Parts, g: ValueId, mode: Mode) -> Result<Vec<Neighbour>> {
        let x = self.place(p, g, mode)?;
        if mode == Mode::Nearest {
            return Ok(vec![self.neighbour(p, x, None)?]);
        }
        let first = floor(p, x)?;
        let t = p.sub(x, first)?;
        let minus = p.neg(t)?;
        let rest = p.shift(minus, 1.0)?;
        if mode == Mode::Linear {
            let next = p.shift(first, 1.0)?;
            return Ok(vec![self.neighbour(p, first, Some(rest))?, self.neighbour(p, next, Some(t))?]);
        }
        let mut out = Vec::with_capacity(4);
        for (step, distance, near) in [(-1.0, t, false), (0.0, t, true), (1.0, rest, true), (2.0, rest, false)] {
            let at = p.shift(first, step)?;
            let weight = cubic(p, distance, near)?;
            out.push(self.neighbour(p, at, Some(weight))?);
        }
        Ok(out)
    }
}

/// Keys' kernel with a = −0.75 at distance `t` (near) or `1 + t`, for t from 0 to 1.
fn cubic(p: &mut Parts, t: ValueId, near: bool) -> Result<ValueId> {
    const A: f64 = -0.75;
    // in powers of t, highest first
    let powers = if near { [A + 2.0, -(A + 3.0), 0.0, 1.0] } else { [A, -2.0 * A, A, 0.0] };
    let mut y = p.scalar_like(powers[0], t);
    for c in &powers[1..] {
        y = p.mul(y, t)?;
        y = p.shift(y, *c)?;
    }
    Ok(y)
}

/// <https://onnx.ai/onnx/operators/onnx__GridSample.html>
static GRID_SAMPLE: Composite = Composite {
    spec: Spec::new("GridSample", 22, (2, 2)),
    write: |p| {
        let (x, grid) = (p.x(0)?, p.x(1)?);
        let (xs, gs) = (p.shape(x), p.shape(grid));
        let spatial = xs.get(2..).unwrap_or_default().to_vec();
        let rank = spatial.len();
        if rank == 0 || gs.len() != rank + 2 || gs[0] != xs[0] || gs[rank + 1] != rank || spatial.contains(&0) {
            return Err(Error::format(format!("a grid of shape {gs:?} does not fit shape {xs:?}")));
        }
        let mode = match p.view().string("mode", "linear")? {
            "nearest" => Mode::Nearest,
            "linear" | "bilinear" => Mode::Linear,
            "cubic" | "bicubic" => Mode::Cubic,
            other => return Err(p.view().unsupported("mode", other)),
        };
        let padding = match p.view().string("padding_mode", "zeros")? {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => return Err(p.view().unsupported("padding_mode", other)),
        };
        let align = p.view().int("align_corners", 0)? != 0;
        let points: usize = gs[1..=rank].iter().product();
        let (n, c) = (xs[0], xs[1]);
        let flat = p.reshape(grid, &[n, points, rank])?;
        // the place in the joined spatial axes, and the weight, of every combination of neighbours
        let mut found: Vec<Neighbour> = Vec::new();
        for (a, step) in strides(&spatial).into_iter().enumerate() {
            // a grid names the last axis first
            let g = p.slice(flat, 2, [rank - 1 - a, rank - a, 1])?;
            let g = p.reshape(g, &[n, 1, points])?;
            let axis = Axis { extent: spatial[a], align, padding };
            let mut next = Vec::new();
            for neighbour in axis.neighbours(p, g, mode)? {
                let step = p.number_like(dims(&[step])[0], neighbour.place);
                let place = p.mul(neighbour.place, step)?;
                if a == 0 {
                    next.push(Neighbour { place, weight: neighbour.weight });
                }
                for outer in &found {
                    let weight = match (outer.weight, neighbour.weight) {
                        (Some(u), Some(v)) => Some(p.mul(u, v)?),
                        (u, v) => u.or(v),
                    };
                    next.push(Neighbour { place: p.add(outer.place, place)?, weight });
                }
            }
            found = next;
        }
        let x = p.reshape(x, &[n, c, spatial.iter().product()])?;
        let mut y = None;
        for Neighbour { place, weight } in found {
            let place = p.expand(place, &[n, c, points])?;
            let mut part = p.emit("GatherElements", &[x, place], Attrs::new().with("axis", 2))?;
            if let Some(w) = weight {
                part = p.mul(part, w)?;
            }
            y = Some(match y {
                None => part,
                Some(sum) => p.add(sum, part)?,
            });
        }
        let y = y.ok_or_else(|| Error::internal("no neighbours"))?;
        Ok(vec![Some(p.reshape(y, &[&[n, c], &gs[1..=rank]].concat())?)])
    },
    cases: grid_cases,
};

fn grid_cases() -> Vec<Case> {
    // Points at which no coordinate falls on a whole or half place, where the rules have kinks. An input of 4 × 5
    // read at 2.17 times its size, and beyond its borders.
    let points = |n: usize, count: usize, rank: usize| {
        let coordinate = |i: usize| ((i * 37 + 11) % 97) as f32 / 97.0 * 2.9 - 1.43;
        (0..n * count * rank).map(coordinate).collect::<Vec<f32>>()
    };
    let fed = |shape: &[usize]| {
        let rank = shape[shape.len() - 1];
        let v = points(shape[0], shape[1..shape.len() - 1].iter().product(), rank);
        let v = crate::tensor::Array::from_vec(shape, v).unwrap_or_else(|_| crate::tensor::Array::ints(&[]));
        Arg::Fed(v, DType::F32)
    };
    let mut all = Vec::new();
    for mode in ["nearest", "linear", "cubic"] {
        for padding in ["zeros", "border", "reflection"] {
            for align in [0, 1] {
                let c = Case::new(&format!("GridSample {mode} {padding} {align}"), &[&[2, 3, 4, 5]]);
                let c = c.arg(fed(&[2, 3, 2, 2])).attr("mode", mode).attr("padding_mode", padding);
                all.push(c.attr("align_corners", align));
            }
        }
    }
    // places 0.3 to 0.45 of an extent of 4 lie between 1 and 2 without a kink, those of 5 between 1.2 and 2
    let quiet = Sampler::within(-0.35, -0.12);
    for mode in ["linear", "cubic"] {
        let c = Case::new(&format!("GridSample {mode} moved"), &[&[2, 2, 4, 5], &[2, 2, 3, 2]]);
        all.push(c.sampled_at(1, &quiet).attr("mode", mode));
    }
    all.push(Case::new("GridSample volume", &[&[1, 2, 3, 4, 2]]).arg(fed(&[1, 2, 2, 3, 3])));
    all
}

/// <https://onnx.ai/onnx/operators/onnx__AffineGrid.html>: `[x y 1] · thetaᵀ` at the places of an image or volume.
static AFFINE_GRID: Composite = Composite {
    spec: Spec::new("AffineGrid", 20, (2, 2)),
    write: |p| {
        let theta = p.x(0)?;
        let (shape, dtype) = (p.shape(theta), p.dtype(theta));
        let size = p.view().ints_input(1)?.unwrap_or_default();
        let wrong = || Error::format(format!("theta of shape {shape:?} does not fit size {size:?}"));
        let size = size.iter().map(|&d| usize::try_from(d).map_err(|_| wrong())).collect::<Result<Vec<_>>>()?;
        let spatial = size.get(2..).unwrap_or_default();
        let rank = spatial.len();
        if !matches!(rank, 2 | 3) || shape != [size[0], rank, rank + 1] {
            return Err(wrong());
        }
        let align = p.view().int("align_corners", 0)? != 0;
        let coordinate = |i: usize, d: usize| {
            if align { 2.0 * i as f64 / (d as f64 - 1.0) - 1.0 } else { (2.0 * i as f64 + 1.0) / d as f64 - 1.0 }
        };
        let (steps, points) = (strides(spatial), spatial.iter().product::<usize>());
        // the last axis is named first
        let point = |i: usize| (0..rank).rev().map(move |a| (i, a));
        let base = (0..points)
            .flat_map(|i| {
                let c = point(i).map(|(i, a)| coordinate(i / steps[a] % spatial[a], spatial[a]));
                c.chain([1.0]).collect::<Vec<_>>()
            })
            .collect();
        let base = p.float_constant(&[points, rank + 1], base, dtype)?;
        let turned = p.transpose(theta, &[0, 2, 1])?;
        let grid = p.op("MatMul", &[base, turned])?;
        Ok(vec![Some(p.reshape(grid, &[&size[..1], spatial, &[rank]].concat())?)])
    },
    cases: || {
        vec![
            Case::new("AffineGrid image", &[&[2, 2, 3]]).ints(&[2, 1, 3, 4]),
            Case::new("AffineGrid corners", &[&[1, 2, 3]]).ints(&[1, 2, 2, 5]).attr("align_corners", 1),
            Case::new("AffineGrid volume", &[&[2, 3, 4]]).ints(&[2, 1, 2, 3, 4]),
        ]
    },
};

pub(super) static OPS: &[&dyn Op] = &[&GRID_SAMPLE, &AFFINE_GRID];
