//! The sums of [`super::correlate`] as GPU work.
//!
//! The shaders mask nothing: a first step pads their x where windows reach beyond it. Blocks are tiles, or 1 by 8 for
//! the few channels of depthwise groups.

use super::block::TILE;
use super::correlate::Layout;
use super::product::{Product, flag};
use super::support::strides;
use super::window::{Axis, Window};
use super::{Bind, Kernel, Params, Step, grid_1d};
use crate::error::{Error, Result};

/// Channels per group below which blocks of 8 would idle.
const FEW: usize = 4;
/// Words of all partial sums.
const MOST_PARTS: usize = 1 << 24;
/// Invocations that keep a GPU busy, and workgroups where they make whole tiles.
const BUSY: usize = 1 << 14;
const BUSY_GROUPS: usize = 128;
/// ConvTransposes of strides that leave more remainders than this are not split by them.
const MOST_REMAINDERS: usize = 16;

impl Window {
    /// As a window over three axes, for shaders.
    ///
    /// # Errors
    /// When it has more.
    pub(crate) fn three(&self) -> Result<[Axis; 3]> {
        let unit = Axis { input: 1, kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0, output: 1 };
        let mut axes = [unit; 3];
        let lead = axes.len().checked_sub(self.axes.len());
        let lead =
            lead.ok_or_else(|| Error::unsupported(format!("{} spatial axes have no kernel", self.axes.len())))?;
        axes[lead..].copy_from_slice(&self.axes);
        Ok(axes)
    }
}

/// The members `input`, `output`, `kernel`, `stride`, `dilation`, `begin` that shaders read windows from.
pub(crate) fn window_params(p: Params, axes: &[Axis; 3]) -> Params {
    p.list::<3>("input", &axes.map(|a| a.input), 1)
        .list::<3>("output", &axes.map(|a| a.output), 1)
        .list::<3>("kernel", &axes.map(|a| a.kernel), 1)
        .list::<3>("stride", &axes.map(|a| a.stride), 1)
        .list::<3>("dilation", &axes.map(|a| a.dilation), 1)
        .list::<3>("begin", &axes.map(|a| a.begin), 0)
}

/// Workgroups for `blocks` of them, folded as [`grid_1d`] does.
fn grid_of(blocks: usize) -> [u32; 3] {
    grid_1d(blocks * 64)
}

/// A wrapping 32-bit step, which may go backwards.
fn word(v: i64) -> usize {
    v as u32 as usize
}

/// Along one axis, position `q` and tap `t` read element `x_first + q · x_step + t · x_tap`, use weight
/// `w_first + t · w_tap` and write element `y_first + q · y_step`.
#[derive(Clone, Copy, Debug)]
struct Line {
    positions: usize,
    taps: usize,
    x_first: i64,
    x_step: i64,
    x_tap: i64,
    w_first: i64,
    w_tap: i64,
    y_first: i64,
    y_step: i64,
}

impl Line {
    fn conv(a: &Axis) -> Self {
        Self {
            positions: a.output,
            taps: a.kernel,
            x_first: -(a.begin as i64),
            x_step: a.stride as i64,
            x_tap: a.dilation as i64,
            w_first: 0,
            w_tap: 1,
            y_first: 0,
            y_step: 1,
        }
    }
    /// The elements of a ConvTranspose's output whose place leaves this remainder: from them, every
    /// `stride / gcd(stride, dilation)`-th tap hits an element of the small side.
    fn transposed(a: &Axis, remainder: usize) -> Self {
        let hits = |k: usize| (remainder + a.begin) as i64 - (k * a.dilation) as i64;
        let stride = a.stride as i64;
        let mut taps = (0..a.kernel.min(a.stride)).filter(|&k| hits(k) % stride == 0);
        let (first, every) = match (taps.next(), taps.next()) {
            (Some(first), Some(next)) => (Some(first), next - first),
            (first, _) => (first, a.stride),
        };
        Self {
            positions: a.input.saturating_sub(remainder).div_ceil(a.stride),
            taps: first.map_or(0, |f| (a.kernel - f).div_ceil(every)),
            x_first: first.map_or(0, |f| hits(f) / stride),
            x_step: 1,
            x_tap: -((every * a.dilation) as i64 / stride),
            w_first: first.map_or(0, |f| f as i64),
            w_tap: every as i64,
            y_first: remainder as i64,
            y_step: stride,
        }
    }
    /// The least and the greatest element that is read.
    fn reach(&self) -> Option<(i64, i64)> {
        let (q, t) = (self.positions.checked_sub(1)? as i64, self.taps.checked_sub(1)? as i64);
        let ends = [0, t * self.x_tap].map(|d| self.x_first + d);
        Some((ends[0].min(ends[1]), ends[0].max(ends[1]) + q * self.x_step))
    }
}

/// x with enough zeros around it that no line leaves it.
struct Padded {
    extents: [usize; 3],
    begin: [usize; 3],
    /// Where it lies, and the step that makes it.
    bind: Bind,
    step: Option<Step>,
    scratch: Vec<usize>,
}

impl Padded {
    fn new(planes: usize, input: [usize; 3], lines: &[[Line; 3]]) -> Result<Self> {
        let (mut extents, mut begin) = (input, [0; 3]);
        for i in 0..3 {
            let (mut least, mut most) = (0, input[i] as i64 - 1);
            for (a, b) in lines.iter().filter_map(|l| l[i].reach()) {
                (least, most) = (least.min(a), most.max(b));
            }
            begin[i] = least.unsigned_abs() as usize;
            extents[i] = (most - least + 1) as usize;
        }
        if extents == input {
            return Ok(Self { extents, begin, bind: Bind::Input(0), step: None, scratch: Vec::new() });
        }
        // the engine says what its adapter can bind; places have to fit 32 bits in any case
        let words = extents.iter().try_fold(planes, |p, &d| p.checked_mul(d)).filter(|&w| u32::try_from(w).is_ok());
        let words = words.ok_or_else(|| {
            Error::engine(format!(
                "{planes} planes of {input:?} padded to {extents:?} are too large; try a smaller batch"
            ))
        })?;
        let blocks = extents.iter().product::<usize>().div_ceil(64);
        let step = Step {
            shader: crate::shader!("conv_pad"),
            overrides: Vec::new(),
            binds: vec![Bind::Input(0), Bind::Scratch(0)],
            params: Params::new()
                .u("planes", planes)
                .u("blocks", blocks)
                .list::<3>("input", &input, 1)
                .list::<3>("padded", &extents, 1)
                .list::<3>("begin", &begin, 0),
            grid: grid_of(blocks * planes.div_ceil(16)),
        };
        Ok(Self { extents, begin, bind: Bind::Filled(0), step: Some(step), scratch: vec![words] })
    }
    /// Words of a plane.
    fn plane(&self) -> usize {
        self.extents.iter().product()
    }
}

/// Weights 1 times input 0, and perhaps bias 2 along the rows.
fn product_kernel(product: &Product, bias: bool) -> Result<Kernel> {
    let c = bias.then_some((Bind::Input(2), [1, 0]));
    Ok(Kernel::one(product.step([Bind::Input(1), Bind::Input(0)], c, 1.0, 1.0)?))
}

/// What is summed into what: `c` channels per group for each of `m`, weights with steps of group, m and
/// c, and the spatial extents of the result.
struct Target {
    c: usize,
    m: usize,
    weight: [usize; 3],
    y: [usize; 3],
}

/// `Σ_i index[i] · stride[i]`
fn dot(index: [i64; 3], strides: &[usize]) -> i64 {
    index.iter().zip(strides).map(|(i, &s)| i * s as i64).sum()
}

/// Fills a scratch buffer with the places of all k of these extents in two buffers.
fn places_step(extents: &[usize; 4], places: [[usize; 4]; 2], to: Bind) -> Step {
    let k: usize = extents.iter().product();
    Step {
        shader: crate::shader!("places"),
        overrides: Vec::new(),
        binds: vec![to],
        params: Params::new()
            .u("k", k)
            .u("fours", k.div_ceil(4))
            .list::<4>("extents", extents, 1)
            .list::<4>("first", &places[0], 0)
            .list::<4>("second", &places[1], 0),
        grid: grid_1d(k.next_multiple_of(4)),
    }
}

/// Rows `[groups, m, k]` of weights from their first element and the steps of group and row, one after the other in whole
/// fours.
fn pack_step([groups, m, k]: [usize; 3], [first, of_g, of_m]: [usize; 3], places: Bind, to: Bind) -> Step {
    let fours = k.div_ceil(4);
    Step {
        shader: crate::shader!("pack"),
        overrides: Vec::new(),
        binds: vec![Bind::Input(1), places, to],
        params: Params::new()
            .u("rows", groups * m)
            .u("m", m)
            .u("k", k)
            .u("fours", fours)
            .u("w_first", first)
            .u("w_g", of_g)
            .u("w_m", of_m),
        grid: grid_1d(groups * m * fours),
    }
}

/// Which positions an invocation of the shader for few channels takes: neighbours read neighbouring elements where there
/// is work for all of them.
fn lanes(p: Params, positions: usize) -> Params {
    let (lane, next) = if positions >= 512 { (1, 64) } else { (8, 1) };
    p.u("lane_step", lane).u("position_step", next)
}

/// Steps along three axes as words.
fn steps(step: [i64; 3], strides: &[usize]) -> [usize; 3] {
    [0, 1, 2].map(|i| word(step[i] * strides[i] as i64))
}

/// Which of the sums over W a kernel makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// Over the samples.
    Samples,
    /// Samples apart.
    Apart,
    /// Squares, weighted in so many ways.
    Squares(usize),
}

impl Layout {
    /// Conv of input 0 with weights 1 and perhaps bias 2.
    pub(crate) fn conv_kernel(&self, bias: bool) -> Result<Kernel> {
        if let Some(product) = self.pointwise(&[self.groups, self.m, self.c], self.c, bias)? {
            return product_kernel(&product, bias);
        }
        let axes = self.window.three()?;
        let lines = [axes.each_ref().map(Line::conv)];
        let x = Padded::new(self.n * self.groups * self.c, axes.map(|a| a.input), &lines)?;
        let weight = [self.m * self.c, self.c, 1].map(|d| d * self.window.taps());
        Ok(self.sums(x, &lines, &Target { c: self.c, m: self.m, weight, y: axes.map(|a| a.output) }, bias))
    }

    /// ConvTranspose of input 0 with weights 1 and perhaps bias 2.
    pub(crate) fn conv_transpose_kernel(&self, bias: bool) -> Result<Kernel> {
        if let Some(mut product) = self.pointwise(&[self.groups, self.c, self.m], self.m, bias)? {
            product.a = [1, self.c];
            return product_kernel(&product, bias);
        }
        let axes = self.window.three()?;
        let remainders = axes.map(|a| a.stride.min(a.input));
        let count = remainders.iter().fold(1usize, |p, &r| p.saturating_mul(r));
        if count > MOST_REMAINDERS {
            return Ok(self.sparse(&axes, bias));
        }
        let lines: Vec<[Line; 3]> = (0..count)
            .map(|i| {
                let (r2, rest) = (i % remainders[2], i / remainders[2]);
                let at = [rest / remainders[1], rest % remainders[1], r2];
                [0, 1, 2].map(|k| Line::transposed(&axes[k], at[k]))
            })
            .collect();
        let x = Padded::new(self.n * self.groups * self.m, axes.map(|a| a.output), &lines)?;
        let weight = [self.m * self.c, 1, self.c].map(|d| d * self.window.taps());
        Ok(self.sums(x, &lines, &Target { c: self.m, m: self.c, weight, y: axes.map(|a| a.input) }, bias))
    }

    /// The product that a window of one element is, of weights of this shape with every sample of so many channels;
    /// `None` where a sample has too few positions for it, or the bias differs between products.
    fn pointwise(&self, weights: &[usize; 3], channels: usize, bias: bool) -> Result<Option<Product>> {
        let one = |a: &Axis| a.kernel == 1 && a.stride == 1 && a.begin == 0 && a.output == a.input;
        let positions = self.window.positions();
        let enough = positions.is_multiple_of(4) && (positions >= TILE[1] || self.n == 1);
        if !enough || (bias && self.groups > 1) || !self.window.axes.iter().all(one) || channels < FEW {
            return Ok(None);
        }
        Product::new(weights, &[self.n, self.groups, channels, positions]).map(Some)
    }

    /// ConvTranspose element by element, for strides that most taps miss.
    fn sparse(&self, axes: &[Axis; 3], bias: bool) -> Kernel {
        let len = self.n * self.groups * self.c * self.window.inputs();
        let params = Params::new()
            .u("elements", len)
            .u("groups", self.groups)
            .u("m", self.m)
            .u("c", self.c)
            .list::<3>("small", &axes.map(|a| a.output), 1)
            .list::<3>("large", &axes.map(|a| a.input), 1)
            .list::<3>("kernel", &axes.map(|a| a.kernel), 1)
            .list::<3>("stride", &axes.map(|a| a.stride), 1)
            .list::<3>("dilation", &axes.map(|a| a.dilation), 1)
            .list::<3>("begin", &axes.map(|a| a.begin), 0)
            .list::<3>("every", &axes.map(|a| a.stride / gcd(a.stride, a.dilation)), 1);
        Kernel::one(Step {
            shader: crate::shader!("conv_transpose"),
            overrides: vec![("HAS_BIAS", flag(bias))],
            binds: vec![Bind::Input(0), Bind::Input(1), Bind::Input(if bias { 2 } else { 1 }), Bind::Output(0)],
            params,
            grid: grid_1d(len),
        })
    }

    /// One step for each of `lines`.
    fn sums(&self, x: Padded, lines: &[[Line; 3]], to: &Target, bias: bool) -> Kernel {
        let Target { c, m, weight, y } = *to;
        let few = m < FEW;
        let (x_strides, y_strides) = (strides(&x.extents), strides(&y));
        let kernel: Vec<usize> = [vec![1; 3 - self.window.axes.len()], self.window.kernel()].concat();
        let w_strides = strides(&kernel);
        let (x_plane, y_plane) = (x.plane(), y.iter().product::<usize>());
        let begin = x.begin.map(|b| b as i64);
        let m_blocks = if few { m } else { m.div_ceil(TILE[1]) };
        let mut scratch = x.scratch;
        let mut all: Vec<Step> = x.step.into_iter().collect();
        for l in lines.iter().filter(|l| l.iter().all(|a| a.positions > 0)) {
            let positions = self.n * l.iter().map(|a| a.positions).product::<usize>();
            let blocks = positions.div_ceil(if few { 512 } else { TILE[0] });
            let first = [0, 1, 2].map(|i| l[i].x_first + begin[i]);
            let taps = l.map(|a| a.taps);
            let k = c * taps.iter().product::<usize>();
            let (x_tap, w_tap) = (steps(l.map(|a| a.x_tap), &x_strides), steps(l.map(|a| a.w_tap), &w_strides));
            let w_first = word(dot(l.map(|a| a.w_first), &w_strides));
            let params = Params::new()
                .u("positions", positions)
                .u(if few { "c" } else { "k" }, if few { c } else { k })
                .u("m", m)
                .u("position_blocks", blocks)
                .u("m_blocks", m_blocks)
                .u("blocks", blocks * m_blocks * self.groups);
            let params = if few { lanes(params, positions) } else { params };
            let params = params.list::<3>("q", &l.map(|a| a.positions), 1);
            let params = if few { params.list::<3>("taps", &taps, 1) } else { params };
            let params = params
                .u("x_first", word(dot(first, &x_strides)))
                .u("x_n", self.groups * c * x_plane)
                .u("x_g", c * x_plane);
            let params = if few { params.u("x_c", x_plane) } else { params };
            let params = params.list::<3>("x_step", &steps(l.map(|a| a.x_step), &x_strides), 0);
            let params = if few { params.list::<3>("x_tap", &x_tap, 0) } else { params };
            let params = params
                .u("y_first", word(dot(l.map(|a| a.y_first), &y_strides)))
                .u("y_n", self.groups * m * y_plane)
                .u("y_g", m * y_plane)
                .u("y_m", y_plane)
                .list::<3>("y_step", &steps(l.map(|a| a.y_step), &y_strides), 0);
            let mut binds = vec![x.bind];
            let params = if few {
                binds.push(Bind::Input(1));
                params
                    .u("w_first", w_first)
                    .u("w_g", weight[0])
                    .u("w_m", weight[1])
                    .u("w_c", weight[2])
                    .list::<3>("w_tap", &w_tap, 0)
            } else {
                let places = scratch.len();
                scratch.push(2 * k.next_multiple_of(4));
                let of_k = [(x_plane, x_tap), (weight[2], w_tap)].map(|(of_c, [t0, t1, t2])| [of_c, t0, t1, t2]);
                all.push(places_step(&[c, taps[0], taps[1], taps[2]], of_k, Bind::Scratch(places)));
                // the shader reads rows of w that lie one after the other and have whole fours
                let dense =
                    k % 4 == 0 && weight == [m * k, k, k / c.max(1)] && w_tap == [taps[1] * taps[2], taps[2], 1];
                let w = if dense {
                    Bind::Input(1)
                } else {
                    let packed = scratch.len();
                    scratch.push(self.groups * m * k.next_multiple_of(4));
                    let from = [w_first, weight[0], weight[1]];
                    all.push(pack_step([self.groups, m, k], from, Bind::Filled(places), Bind::Scratch(packed)));
                    Bind::Filled(packed)
                };
                binds.extend([w, w, Bind::Filled(places)]);
                params.u("w_m", k.next_multiple_of(4))
            };
            binds.push(Bind::Input(if bias { 2 } else { 1 }));
            if !few {
                // nothing is added; an engine may bind what is
                binds.push(Bind::Input(1));
            }
            binds.push(Bind::Output(0));
            all.push(Step {
                shader: if few { crate::shader!("conv_few") } else { crate::shader!("conv") },
                overrides: vec![("HAS_BIAS", flag(bias))],
                binds,
                params,
                grid: grid_of(blocks * m_blocks * self.groups),
            });
        }
        Kernel::Steps { steps: all, scratch }
    }

    /// The weight gradient of inputs 0 (large) and 1 (small), with weights of the samples in input 2 for
    /// squares.
    pub(crate) fn weight_gradient_kernel(&self, sum: Sum) -> Result<Kernel> {
        let axes = self.window.three()?;
        let sets = if let Sum::Squares(sets) = sum { sets } else { 1 };
        let width = sets * self.weights();
        let lines = [axes.each_ref().map(Line::conv)];
        let x = Padded::new(self.n * self.groups * self.c, axes.map(|a| a.input), &lines)?;
        let few = self.m < FEW;
        let columns = self.c * self.window.taps();
        let [across, high] = if few { [8, 1] } else { TILE };
        let (m_blocks, column_blocks) = (self.m.div_ceil(high), columns.div_ceil(across));
        let work = self.groups * m_blocks * column_blocks * sets.div_ceil(2);
        // samples are spread over invocations, or workgroups, until these are many
        let busy = if few { BUSY } else { BUSY_GROUPS };
        let parts = match sum {
            Sum::Apart => self.n,
            _ => (busy / work.max(1)).min(MOST_PARTS / width.max(1)).clamp(1, self.n.max(1)),
        };
        let split = parts > 1 && sum != Sum::Apart;
        let squared = matches!(sum, Sum::Squares(_));
        let (x_strides, plane, positions) = (strides(&x.extents), x.plane(), self.window.positions());
        let mut scratch = x.scratch;
        let (target, filled) = (Bind::Scratch(scratch.len()), Bind::Filled(scratch.len()));
        if split {
            scratch.push(parts * width);
        }
        let params = Params::new()
            .u("samples", self.n)
            .u("parts", parts)
            .u("sets", sets)
            .u("m", self.m)
            .u("columns", columns)
            .u("taps", self.window.taps())
            .u("m_blocks", m_blocks)
            .u(if few { "column_blocks" } else { "tap_blocks" }, column_blocks)
            .u("groups", self.groups)
            .u(if few { "invocations" } else { "blocks" }, work * parts);
        let outputs = axes.map(|a| a.output);
        let x_step = steps(axes.map(|a| a.stride as i64), &x_strides);
        let params = if few { params.list::<3>("positions", &outputs, 1) } else { params };
        let params = params
            .list::<3>("kernel", &axes.map(|a| a.kernel), 1)
            .u("x_n", self.groups * self.c * plane)
            .u("x_g", self.c * plane)
            .u("x_c", plane);
        let params = if few { params.list::<3>("x_step", &x_step, 0) } else { params };
        let params = params
            .list::<3>("x_tap", &steps(axes.map(|a| a.dilation as i64), &x_strides), 0)
            .u("dy_n", self.groups * self.m * positions)
            .u("dy_g", self.m * positions)
            .u("dy_m", positions);
        let mut steps: Vec<Step> = x.step.into_iter().collect();
        let mut overrides = vec![("SQUARED", flag(squared))];
        let mut binds = vec![x.bind, Bind::Input(1)];
        if !few {
            overrides.push(("FOURS", flag(positions % 4 == 0)));
            let (extents, [q0, q1, q2]) = ([1, outputs[0], outputs[1], outputs[2]], x_step);
            let dense = [0, outputs[1] * outputs[2], outputs[2], 1];
            steps.push(places_step(&extents, [[0, q0, q1, q2], dense], Bind::Scratch(scratch.len())));
            binds.extend([Bind::Input(1), Bind::Filled(scratch.len())]);
            scratch.push(2 * positions.next_multiple_of(4));
        }
        binds.push(Bind::Input(if squared { 2 } else { 1 }));
        binds.push(if split { target } else { Bind::Output(0) });
        steps.push(Step {
            shader: if few { crate::shader!("conv_grad_few") } else { crate::shader!("conv_grad") },
            overrides,
            binds,
            params,
            grid: if few { grid_1d(work * parts) } else { grid_of(work * parts) },
        });
        if split {
            steps.push(Step {
                shader: crate::shader!("sum_parts"),
                overrides: Vec::new(),
                binds: vec![filled, Bind::Output(0)],
                params: Params::new().u("elements", width).u("parts", parts),
                grid: grid_1d(width),
            });
        }
        Ok(Kernel::Steps { steps, scratch })
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
