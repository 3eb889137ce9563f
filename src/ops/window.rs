//! Sliding windows: what kernel, stride, dilation, padding and rounding mean, for any number of axes.

use super::NodeView;
use crate::error::{Error, Result};
use crate::tensor::{DType, TensorType};
use std::ops::Range;

/// Kernels, strides, dilations and pads beyond this are refused, so that no product of them overflows.
const LARGEST: i64 = 1 << 24;
/// Outputs of more elements are refused.
const MOST_ELEMENTS: usize = 1 << 47;

/// A window that slides along one axis: tap `k` of position `o` sees input element
/// `o · stride + k · dilation − begin`, or padding where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Extent of the input.
    pub input: usize,
    /// Number of taps.
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    /// Padding in front of the input.
    pub begin: usize,
    /// Padding behind the input that the model declares; windows may reach beyond it (`ceil_mode`).
    pub end: usize,
    /// Number of positions.
    pub output: usize,
}

impl Axis {
    /// Elements from the first tap to the last.
    pub(crate) fn extent(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }
    /// How far the last window reaches beyond the input; negative: how many elements it leaves unseen.
    pub(crate) fn tail(&self) -> i64 {
        let reach = (self.output - 1) * self.stride + self.extent();
        reach as i64 - self.begin as i64 - self.input as i64
    }
    /// The positions at which tap `k` sees an input element.
    pub(crate) fn inside(&self, k: usize) -> Range<usize> {
        let at = k * self.dilation;
        let first = self.begin.saturating_sub(at).div_ceil(self.stride);
        let last = (self.input + self.begin).saturating_sub(at).div_ceil(self.stride);
        first.min(self.output)..last.min(self.output)
    }
    /// The input element that tap `k` sees at position `o`.
    pub(crate) fn at(&self, o: usize, k: usize) -> Option<usize> {
        (o * self.stride + k * self.dilation).checked_sub(self.begin).filter(|&i| i < self.input)
    }
    /// The taps that lie inside the input at position `o`.
    pub(crate) fn seen(&self, o: usize) -> Range<usize> {
        let at = o * self.stride;
        let first = self.begin.saturating_sub(at).div_ceil(self.dilation);
        first..(self.begin + self.input).saturating_sub(at).div_ceil(self.dilation).min(self.kernel).max(first)
    }
    /// How many taps lie inside the input or its declared padding at position `o`.
    pub(crate) fn padded(&self, o: usize) -> usize {
        let most = self.begin + self.input + self.end;
        most.saturating_sub(o * self.stride).div_ceil(self.dilation).min(self.kernel)
    }
}

/// Consecutive positions of a row for which one tap sees the input: positions `out..out + len` of the
/// output plane see input elements `input`, `input + stride`, ….
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub out: usize,
    pub input: usize,
    pub len: usize,
}

/// A window over all spatial axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub axes: Vec<Axis>,
}

/// The attributes that Conv, ConvTranspose and the pools share.
struct Given {
    stride: Vec<usize>,
    dilation: Vec<usize>,
    pad: Pad,
}

enum Pad {
    Explicit(Vec<usize>, Vec<usize>),
    Same { lower: bool },
    Valid,
}

/// An integer list attribute of `len` entries from `least`; all `least` when it is absent and 1 or 0.
fn sizes(n: &NodeView, name: &str, len: usize, least: i64) -> Result<Vec<usize>> {
    let Some(v) = n.ints(name)? else {
        return Ok(vec![least as usize; len]);
    };
    if v.len() != len || v.iter().any(|&d| d < least) {
        return Err(Error::format(format!(
            "attribute {name} = {v:?} does not fit: {len} entries of at least {least} are needed"
        )));
    }
    if v.iter().any(|&d| d > LARGEST) {
        return Err(n.unsupported(name, v));
    }
    Ok(v.iter().map(|&d| d as usize).collect())
}

fn given(n: &NodeView, rank: usize) -> Result<Given> {
    let pads = sizes(n, "pads", 2 * rank, 0)?;
    let pad = match n.string("auto_pad", "NOTSET")? {
        "NOTSET" | "" => Pad::Explicit(pads[..rank].to_vec(), pads[rank..].to_vec()),
        "SAME_UPPER" => Pad::Same { lower: false },
        "SAME_LOWER" => Pad::Same { lower: true },
        "VALID" => Pad::Valid,
        other => return Err(n.unsupported("auto_pad", other)),
    };
    Ok(Given { stride: sizes(n, "strides", rank, 1)?, dilation: sizes(n, "dilations", rank, 1)?, pad })
}

/// Attribute `kernel_shape`, which pools must have.
pub(crate) fn kernel_shape(n: &NodeView, rank: usize) -> Result<Vec<usize>> {
    if n.ints("kernel_shape")?.is_none() {
        return Err(Error::format("attribute kernel_shape is missing"));
    }
    sizes(n, "kernel_shape", rank, 1)
}

/// Refuses kernels that are empty or absurdly large, whatever says how large they are.
fn check_kernel(kernel: &[usize], input: &[usize]) -> Result<()> {
    if kernel.iter().any(|&k| k == 0 || k > LARGEST as usize) {
        return Err(Error::format(format!("a kernel of shape {kernel:?} cannot slide")));
    }
    if input.contains(&0) {
        return Err(Error::unsupported(format!("the spatial axes {input:?} hold no elements")));
    }
    Ok(())
}

impl Window {
    /// The window of a Conv or, with `ceil_mode`, a pool over `input` (spatial extents).
    ///
    /// # Errors
    /// When an attribute does not fit, or no window does.
    pub(crate) fn sliding(n: &NodeView, input: &[usize], kernel: &[usize]) -> Result<Self> {
        check_kernel(kernel, input)?;
        let rank = input.len();
        let a = given(n, rank)?;
        let ceil = n.int("ceil_mode", 0)? != 0;
        let axes = (0..rank).map(|i| {
            let mut axis = Axis {
                input: input[i],
                kernel: kernel[i],
                stride: a.stride[i],
                dilation: a.dilation[i],
                begin: 0,
                end: 0,
                output: 1,
            };
            match &a.pad {
                Pad::Same { lower } => {
                    // as many positions as strides fit; an odd element of padding goes to one side
                    axis.output = axis.input.div_ceil(axis.stride);
                    let total = axis.tail().max(0) as usize;
                    axis.begin = if *lower { total.div_ceil(2) } else { total / 2 };
                    axis.end = total - axis.begin;
                    return Ok(axis);
                }
                Pad::Explicit(begin, end) => (axis.begin, axis.end) = (begin[i], end[i]),
                Pad::Valid => {}
            }
            let Some(room) = (axis.begin + axis.input + axis.end).checked_sub(axis.extent()) else {
                return Err(Error::format(format!(
                    "a window of {} elements does not fit {} with pads {} and {}",
                    axis.extent(),
                    axis.input,
                    axis.begin,
                    axis.end
                )));
            };
            axis.output = if ceil { room.div_ceil(axis.stride) } else { room / axis.stride } + 1;
            // a window that would start in the padding behind the input is left out
            if ceil && (axis.output - 1) * axis.stride >= axis.input + axis.begin {
                axis.output -= 1;
            }
            Ok(axis)
        });
        Ok(Self { axes: axes.collect::<Result<_>>()? })
    }

    /// The window of a ConvTranspose over `small` (spatial extents of its input): that of the Conv whose
    /// gradient it is, so that its `input` is the ConvTranspose's output.
    ///
    /// # Errors
    /// When an attribute does not fit.
    pub(crate) fn transposed(n: &NodeView, small: &[usize], kernel: &[usize]) -> Result<Self> {
        check_kernel(kernel, small)?;
        let rank = small.len();
        let a = given(n, rank)?;
        let extra = sizes(n, "output_padding", rank, 0)?;
        let wanted = n.ints("output_shape")?.map(|_| sizes(n, "output_shape", rank, 1)).transpose()?;
        let axes = (0..rank).map(|i| {
            let (stride, dilation) = (a.stride[i], a.dilation[i]);
            let mut axis = Axis { input: 1, kernel: kernel[i], stride, dilation, begin: 0, end: 0, output: small[i] };
            let full = (axis.output - 1) * stride + axis.extent() + extra[i];
            // output_shape wins over pads; padding that it implies is split, the odd element in front
            // unless auto_pad is SAME_UPPER
            let upper = matches!(a.pad, Pad::Same { lower: false });
            let target = match (&wanted, &a.pad) {
                (Some(w), _) => Some(w[i]),
                (None, Pad::Same { .. }) => Some(axis.output * stride),
                _ => None,
            };
            if let Some(target) = target {
                let total = full.saturating_sub(target);
                axis.input = target;
                axis.begin = if upper { total / 2 } else { total.div_ceil(2) };
                axis.end = total - axis.begin;
            } else {
                if let Pad::Explicit(begin, end) = &a.pad {
                    (axis.begin, axis.end) = (begin[i], end[i]);
                }
                axis.input = full.checked_sub(axis.begin + axis.end).filter(|&d| d > 0).ok_or_else(|| {
                    Error::format(format!(
                        "pads {} and {} leave nothing of {full} output elements",
                        axis.begin, axis.end
                    ))
                })?;
            }
            Ok(axis)
        });
        Ok(Self { axes: axes.collect::<Result<_>>()? })
    }

    /// The window between two known shapes, with explicit attributes `strides`, `dilations` and `pads`
    /// (of which the end counts for nothing here).
    ///
    /// # Errors
    /// When an attribute does not fit.
    pub(crate) fn between(n: &NodeView, input: &[usize], kernel: &[usize], output: &[usize]) -> Result<Self> {
        check_kernel(kernel, input)?;
        let rank = input.len();
        let a = given(n, rank)?;
        let Pad::Explicit(begin, end) = a.pad else {
            return Err(n.unsupported("auto_pad", n.string("auto_pad", "")?));
        };
        if output.len() != rank || output.contains(&0) {
            return Err(Error::format(format!("{output:?} positions do not fit an input of {input:?}")));
        }
        let axes = (0..rank)
            .map(|i| Axis {
                input: input[i],
                kernel: kernel[i],
                stride: a.stride[i],
                dilation: a.dilation[i],
                begin: begin[i],
                end: end[i],
                output: output[i],
            })
            .collect();
        Ok(Self { axes })
    }

    /// One window over the whole input.
    pub(crate) fn global(input: &[usize]) -> Result<Self> {
        check_kernel(input, input)?;
        let axis = |&d: &usize| Axis { input: d, kernel: d, stride: 1, dilation: 1, begin: 0, end: 0, output: 1 };
        Ok(Self { axes: input.iter().map(axis).collect() })
    }

    fn each(&self, f: impl Fn(&Axis) -> usize) -> Vec<usize> {
        self.axes.iter().map(f).collect()
    }
    /// Spatial extents of the input.
    pub(crate) fn input(&self) -> Vec<usize> {
        self.each(|a| a.input)
    }
    /// Spatial extents of the output.
    pub(crate) fn output(&self) -> Vec<usize> {
        self.each(|a| a.output)
    }
    /// Extents of the kernel.
    pub(crate) fn kernel(&self) -> Vec<usize> {
        self.each(|a| a.kernel)
    }
    /// Elements of an input plane.
    pub(crate) fn inputs(&self) -> usize {
        self.axes.iter().map(|a| a.input).product()
    }
    /// Positions of the window.
    pub(crate) fn positions(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }
    /// Taps of the window.
    pub(crate) fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.kernel).product()
    }
    /// Step between the input elements that a tap sees at neighbouring positions of a row.
    pub(crate) fn step(&self) -> usize {
        self.axes.last().map_or(1, |a| a.stride)
    }
    /// Positions in a row, and number of rows.
    pub(crate) fn rows(&self) -> (usize, usize) {
        let row = self.axes.last().map_or(1, |a| a.output);
        (row, self.positions() / row)
    }
    /// True when position `i` has one tap, and it sees element `i`.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.axes.iter().all(|a| a.kernel == 1 && a.stride == 1 && a.begin == 0 && a.output == a.input)
    }
    /// True when some position sees padding only.
    pub(crate) fn has_blind_position(&self) -> bool {
        self.axes.iter().any(|a| (0..a.output).any(|o| a.seen(o).is_empty()))
    }
    /// `strides`, `dilations`, explicit `pads` and `kernel_shape` of a Conv with this window. The Conv
    /// gives this window's number of positions if [`Axis::tail`] is greater than minus the stride.
    pub(crate) fn attrs(&self) -> crate::graph::Attrs {
        let ints = |f: &dyn Fn(&Axis) -> i64| self.axes.iter().map(f).collect::<Vec<i64>>();
        let mut pads = ints(&|a| a.begin as i64);
        pads.extend(ints(&|a| a.tail().max(0)));
        crate::graph::Attrs::new()
            .with("kernel_shape", ints(&|a| a.kernel as i64))
            .with("strides", ints(&|a| a.stride as i64))
            .with("dilations", ints(&|a| a.dilation as i64))
            .with("pads", pads)
    }
    /// The attributes of the ConvTranspose that leads from this window's output back to its input.
    pub(crate) fn transposed_attrs(&self) -> crate::graph::Attrs {
        let unseen: Vec<i64> = self.axes.iter().map(|a| (-a.tail()).max(0)).collect();
        let attrs = self.attrs();
        // what the division by the stride left over
        if unseen.iter().all(|&u| u == 0) { attrs } else { attrs.with("output_padding", unseen) }
    }

    /// Calls `f` for every run of tap `tap` (counted in row-major order) in the output rows `rows`.
    pub(crate) fn runs(&self, tap: usize, rows: Range<usize>, mut f: impl FnMut(Run)) {
        let Some((last, outer)) = self.axes.split_last() else { return };
        let (mut rest, k_last) = (tap / last.kernel, tap % last.kernel);
        let mut ks = vec![0; outer.len()];
        for (k, a) in ks.iter_mut().zip(outer).rev() {
            (rest, *k) = (rest / a.kernel, rest % a.kernel);
        }
        let along = last.inside(k_last);
        if along.is_empty() {
            return;
        }
        let start = along.start * last.stride + k_last * last.dilation - last.begin;
        'rows: for row in rows {
            let (mut rest, mut plane, mut input) = (row, last.input, start);
            for (&k, a) in ks.iter().zip(outer).rev() {
                let Some(i) = a.at(rest % a.output, k) else { continue 'rows };
                rest /= a.output;
                input += i * plane;
                plane *= a.input;
            }
            f(Run { out: row * last.output + along.start, input, len: along.len() });
        }
    }
}

/// A type whose number of elements is sane.
///
/// # Errors
/// When it is not.
pub(crate) fn sized(dtype: DType, shape: Vec<usize>) -> Result<TensorType> {
    match shape.iter().try_fold(1usize, |p, &d| p.checked_mul(d)) {
        Some(len) if len <= MOST_ELEMENTS => Ok(TensorType::new(dtype, shape)),
        _ => Err(Error::unsupported(format!("an output of shape {shape:?} is too large"))),
    }
}
