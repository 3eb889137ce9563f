//! Numbers as a file holds them, and the way from there to what a model takes.

use super::{MAX_BYTES, Options};
use crate::error::{Error, Result};
use crate::tensor::{Array, DType, TensorType};
use half::f16;
use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use std::fmt;
use std::io::{self, Read};

/// Elements read at a time, so that a file that lies about its size never costs more memory than it has bytes.
const CHUNK: usize = 1 << 16;

/// How stored numbers become the model's input: `(x · scale − mean) / std`, computed in f64.
///
/// Use what the model's training used. Integers that the model takes as integers (tokens) are never scaled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scaling {
    /// Factor; when not given 1/255 for unsigned bytes (images, uint8 arrays) and 1 for everything else.
    pub scale: Option<f64>,
    /// Taken off after scaling: nothing, one number, or one number per channel.
    pub mean: Vec<f64>,
    /// Divided by at last: nothing, one number, or one number per channel.
    pub std: Vec<f64>,
}

/// One channel's `(x · scale − mean) / std`.
struct Affine {
    scale: f64,
    mean: f64,
    std: f64,
}

impl Affine {
    fn apply(&self, v: f64) -> f64 {
        (v * self.scale - self.mean) / self.std
    }
}

impl Scaling {
    /// The map of each channel, and how many consecutive elements of a sample share a channel.
    ///
    /// The channel axis of a sample is its first axis when that is as long as the lists, else its last.
    fn per_channel(&self, sample: &[usize], bytes: bool) -> Result<(Vec<Affine>, usize)> {
        let scale = self.scale.unwrap_or(if bytes { 1.0 / 255.0 } else { 1.0 });
        if !scale.is_finite() || self.mean.iter().any(|m| !m.is_finite()) {
            return Err(Error::invalid(format!("scale {scale} and mean {:?} must be finite", self.mean)));
        }
        if self.std.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return Err(Error::invalid(format!("std {:?} must be positive", self.std)));
        }
        let c = self.mean.len().max(self.std.len()).max(1);
        for (name, list) in [("mean", &self.mean), ("std", &self.std)] {
            if list.len() > 1 && list.len() != c {
                return Err(Error::invalid(format!("{name} has {} numbers, but mean or std has {c}", list.len())));
            }
        }
        let run = match sample {
            _ if c == 1 => 1,
            [first, rest @ ..] if *first == c => rest.iter().product(),
            [.., last] if *last == c => 1,
            _ => {
                return Err(Error::invalid(format!(
                    "{c} numbers of mean or std fit no channel axis: a sample is {sample:?}, neither its first nor its last axis has {c}"
                )));
            }
        };
        let nth = |list: &[f64], i: usize, none: f64| match list {
            [] => none,
            [one] => *one,
            many => many[i],
        };
        let map = |i| Affine { scale, mean: nth(&self.mean, i, 0.0), std: nth(&self.std, i, 1.0) };
        Ok(((0..c).map(map).collect(), run))
    }
    /// True when numbers other than unsigned bytes change.
    fn changes(&self) -> bool {
        self.scale.is_some_and(|s| s != 1.0)
            || self.mean.iter().any(|&m| m != 0.0)
            || self.std.iter().any(|&s| s != 1.0)
    }
}

/// The element types that files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elem {
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Elem {
    /// Bytes of one element.
    pub(super) fn size(self) -> u64 {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }
    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
    /// Reads `n` elements.
    fn read(self, r: &mut impl Read, n: usize, big_endian: bool) -> io::Result<Data> {
        macro_rules! number {
            ($t:ty, $wrap:ident, $into:expr) => {
                Data::$wrap(read(r, n, |b| {
                    $into(if big_endian { <$t>::from_be_bytes(b) } else { <$t>::from_le_bytes(b) })
                })?)
            };
        }
        Ok(match self {
            Self::F16 => number!(f16, F32, f16::to_f32),
            Self::F32 => number!(f32, F32, |v| v),
            Self::F64 => number!(f64, F64, |v| v),
            Self::I8 => number!(i8, Int, i64::from),
            Self::I16 => number!(i16, Int, i64::from),
            Self::I32 => number!(i32, Int, i64::from),
            Self::I64 => number!(i64, Int, |v| v),
            Self::U8 => Data::Byte(read(r, n, |[b]| b)?),
            Self::U16 => number!(u16, Int, i64::from),
            Self::U32 => number!(u32, Int, i64::from),
            Self::U64 => {
                let data = number!(u64, Int, |v| i64::try_from(v).unwrap_or(-1));
                if matches!(&data, Data::Int(v) if v.iter().any(|&v| v < 0)) {
                    return Err(io::Error::other("an unsigned number above 2^63 - 1"));
                }
                data
            }
            Self::Bool => Data::Byte(read(r, n, |[b]| u8::from(b != 0))?),
        })
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
        })
    }
}

fn read<T, const N: usize>(r: &mut impl Read, n: usize, f: impl Fn([u8; N]) -> T) -> io::Result<Vec<T>> {
    let mut out = Vec::with_capacity(n.min(CHUNK));
    let mut buffer = vec![0; n.min(CHUNK) * N];
    while out.len() < n {
        let bytes = &mut buffer[..(n - out.len()).min(CHUNK) * N];
        r.read_exact(bytes)?;
        out.extend(bytes.as_chunks::<N>().0.iter().map(|&b| f(b)));
    }
    Ok(out)
}

/// Elements in as few storage types as lose nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Byte(Vec<u8>),
    Int(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// An array as a file holds it, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raw {
    pub(super) shape: Vec<usize>,
    pub(super) elem: Elem,
    pub(super) data: Data,
}

/// Number of elements of a shape that a file states, when such an array may be held at all.
pub(super) fn checked_len(shape: &[usize]) -> Result<usize> {
    // extents of zero must not hide an overflow from what multiplies the others
    let product = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    match product.filter(|&n| n as u64 <= MAX_BYTES) {
        Some(n) => Ok(if shape.contains(&0) { 0 } else { n }),
        None => Err(Error::invalid(format!("an array of shape {shape:?} is too large to be read"))),
    }
}

impl Raw {
    /// Reads the elements of an array whose header is known. `fortran`: first axis fastest.
    pub(super) fn read(
        r: &mut impl Read,
        shape: Vec<usize>,
        elem: Elem,
        big_endian: bool,
        fortran: bool,
    ) -> Result<Self> {
        let n = checked_len(&shape)?;
        let data = elem.read(r, n, big_endian).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::format(format!("ends before the {n} {elem} elements of shape {shape:?}"))
            }
            _ => Error::format(format!("elements cannot be read: {e}")),
        })?;
        let data = if fortran && shape.len() > 1 {
            match data {
                Data::Byte(v) => Data::Byte(row_major(&shape, v)?),
                Data::Int(v) => Data::Int(row_major(&shape, v)?),
                Data::F32(v) => Data::F32(row_major(&shape, v)?),
                Data::F64(v) => Data::F64(row_major(&shape, v)?),
            }
        } else {
            data
        };
        Ok(Self { shape, elem, data })
    }
    /// The array as it is, integers as int64.
    pub(super) fn into_array(self) -> Result<Array> {
        match self.data {
            Data::Byte(v) if self.elem == Elem::Bool => {
                Array::from_vec(&self.shape, v.into_iter().map(|b| b != 0).collect())
            }
            Data::Byte(v) => Array::from_vec(&self.shape, v.into_iter().map(i64::from).collect()),
            Data::Int(v) => Array::from_vec(&self.shape, v),
            Data::F32(v) => Array::from_vec(&self.shape, v),
            Data::F64(v) => Array::from_vec(&self.shape, v),
        }
    }
    /// Class ids: integers, `[n]` or with further axes of extent 1.
    pub(super) fn into_classes(self) -> Result<Vec<usize>> {
        if self.elem.is_float() || self.elem == Elem::Bool {
            return Err(Error::invalid(format!("y must hold integer class ids, it holds {}", self.elem)));
        }
        if self.shape.is_empty() || self.shape[1..].iter().any(|&d| d != 1) {
            return Err(Error::invalid(format!("y must hold one class id a sample, it has shape {:?}", self.shape)));
        }
        let class = |(i, v): (usize, i64)| {
            usize::try_from(v)
                .map_err(|_| Error::invalid(format!("class id of sample {i} is not a number from 0: {v}")))
        };
        match self.data {
            Data::Byte(v) => Ok(v.into_iter().map(usize::from).collect()),
            Data::Int(v) => v.into_iter().enumerate().map(class).collect(),
            Data::F32(_) | Data::F64(_) => Err(Error::internal("y holds floats")),
        }
    }
    /// The same elements as samples of `sample`'s shape where that is only another view of them: extents of 1 come and
    /// go, and with `flat` any shape of as many elements does.
    pub(super) fn fit(mut self, name: &str, sample: &[usize], flat: bool) -> Result<Self> {
        let dense = |s: &[usize]| s.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        let Some((&n, shape)) = self.shape.split_first() else {
            return Err(Error::invalid(format!("{name} is a scalar, its first axis must count the samples")));
        };
        if dense(shape) != dense(sample)
            && !(flat && shape.iter().product::<usize>() == sample.iter().product::<usize>())
        {
            let hint = match (shape, sample) {
                ([a, b, c], [d, e, f]) if [a, b, c] == [e, f, d] => {
                    "; its channels come last, the model wants them first"
                }
                ([a, b, c], [d, e, f]) if [a, b, c] == [f, d, e] => {
                    "; its channels come first, the model wants them last"
                }
                _ => "",
            };
            return Err(Error::invalid(format!(
                "{name} has shape {:?}: {n} samples of {shape:?}, but one sample of the model's input is {sample:?}{hint}",
                self.shape
            )));
        }
        self.shape = [&[n], sample].concat();
        Ok(self)
    }
    /// Number of samples.
    pub(super) fn samples(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }
    /// The given samples (`None`: all) as the model takes them: floats scaled, integers as they are.
    pub(super) fn into_input(
        self,
        name: &str,
        rows: Option<&[usize]>,
        ty: &TensorType,
        scaling: &Scaling,
    ) -> Result<Array> {
        let sample = self.shape.get(1..).unwrap_or_default().to_vec();
        let each: usize = sample.iter().product();
        let n = rows.map_or(self.samples(), <[usize]>::len);
        let shape = [&[n], &sample[..]].concat();
        let Raw { data, elem, .. } = match rows {
            Some(rows) => Raw { data: self.data.gather(rows, each), ..self },
            None => self,
        };
        if !ty.dtype.is_float() {
            if scaling.changes() {
                return Err(Error::invalid(format!(
                    "the model's input {name} takes {}: scale, mean and std do not apply",
                    ty.dtype
                )));
            }
            return data.into_integers(name, elem, ty.dtype, &shape);
        }
        if (n * each) as u64 * if ty.dtype == DType::F64 { 8 } else { 4 } > MAX_BYTES {
            return Err(Error::invalid(format!("{name} of shape {shape:?} is too large; use fewer samples")));
        }
        let (maps, run) = scaling.per_channel(&sample, elem == Elem::U8)?;
        let v: Box<dyn Iterator<Item = f64>> = match data {
            Data::F32(v) if !scaling.changes() && ty.dtype == DType::F32 => return Array::from_vec(&shape, v),
            Data::F32(v) => Box::new(v.into_iter().map(f64::from)),
            Data::F64(v) => Box::new(v.into_iter()),
            Data::Byte(v) => Box::new(v.into_iter().map(f64::from)),
            Data::Int(v) => Box::new(v.into_iter().map(|v| v as f64)),
        };
        let scaled = v.enumerate().map(|(i, v)| maps[i / run.max(1) % maps.len()].apply(v));
        match ty.dtype {
            DType::F64 => Array::from_vec(&shape, scaled.collect::<Vec<f64>>()),
            _ => Array::from_vec(&shape, scaled.map(|v| v as f32).collect()),
        }
    }
}

impl Data {
    fn gather(self, rows: &[usize], each: usize) -> Self {
        fn go<T: Copy>(v: &[T], rows: &[usize], each: usize) -> Vec<T> {
            rows.iter().flat_map(|&r| &v[r * each..(r + 1) * each]).copied().collect()
        }
        match self {
            Self::Byte(v) => Self::Byte(go(&v, rows, each)),
            Self::Int(v) => Self::Int(go(&v, rows, each)),
            Self::F32(v) => Self::F32(go(&v, rows, each)),
            Self::F64(v) => Self::F64(go(&v, rows, each)),
        }
    }
    fn into_integers(self, name: &str, elem: Elem, dtype: DType, shape: &[usize]) -> Result<Array> {
        let v: Vec<i64> = match self {
            Self::Byte(v) => v.into_iter().map(i64::from).collect(),
            Self::Int(v) => v,
            _ => return Err(Error::invalid(format!("the model's input {name} takes {dtype}, the file holds {elem}"))),
        };
        let (lo, hi) = dtype.int_range().unwrap_or((0, 1));
        if let Some(i) = v.iter().position(|x| !(lo..=hi).contains(x)) {
            let index = super::unravel(i, shape);
            return Err(Error::invalid(format!("{name} is {} at {index:?}, which is no {dtype}", v[i])));
        }
        match dtype {
            DType::Bool => Array::from_vec(shape, v.into_iter().map(|b| b != 0).collect()),
            _ => Array::from_vec(shape, v),
        }
    }
}

fn row_major<T: Copy>(shape: &[usize], v: Vec<T>) -> Result<Vec<T>> {
    ArrayD::from_shape_vec(IxDyn(shape).f(), v)
        .map(|a| a.iter().copied().collect())
        .map_err(|e| Error::format(format!("shape {shape:?}: {e}")))
}

/// Joins what a file holds into labelled inputs: the subset asked for, scaled.
pub(super) fn assemble(
    x: Raw,
    y: Vec<usize>,
    extra: Vec<(String, Raw)>,
    expected: &super::Expected,
    options: &Options,
) -> Result<super::Labelled> {
    let n = x.samples();
    if n != y.len() {
        return Err(Error::invalid(format!("x holds {n} samples but y holds {} class ids", y.len())));
    }
    if let Some((name, a)) = extra.iter().find(|(_, a)| a.samples() != n) {
        return Err(Error::invalid(format!("x holds {n} samples but {name} holds {}", a.samples())));
    }
    let rows = options.choose(n)?;
    let rows = rows.as_deref();
    let y = match rows {
        Some(rows) => rows.iter().map(|&i| y[i]).collect(),
        None => y,
    };
    let x = x.into_input("x", rows, &expected.sample, &options.scaling)?;
    // further inputs come as they are; only x may be an image
    let plain = Scaling { scale: Some(1.0), ..Scaling::default() };
    let extra = extra
        .into_iter()
        .filter_map(|(name, a)| {
            let ty = expected.extra.get(&name)?;
            Some(a.into_input(&name, rows, ty, &plain).map(|a| (name, a)))
        })
        .collect::<Result<_>>()?;
    let all = super::Labelled { x, y, extra };
    all.check(expected)?;
    Ok(all)
}
