//! Labelled inputs: what the model is shown, and the class each sample belongs to.
//!
//! Mnemonic codes, synthesised codes and real samples are one type, [`Labelled`], and one file format, `.npz`
//! with `x` (batch first) and `y` (integer class ids). [`load`] also reads IDX files as MNIST comes in, and
//! folders with one folder of images per class.

pub(crate) mod bounds;
pub mod codes;
pub mod compose;
mod descent;
pub(crate) mod embedding;
mod folder;
pub mod from_data;
mod idx;
mod load;
mod npy;
pub mod npz;
mod raw;
mod source;
pub mod synthesis;

pub use load::{Expected, Options, Split, are_composite, are_made, load, sample_shapes, split_of};
pub use raw::Scaling;
pub use source::Source;

use crate::each_type;
use crate::error::{Error, Result};
use crate::tensor::{Array, DType, Element, TensorType};
use ndarray::{ArcArray, Axis, IxDyn, Slice};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::Range;

/// No file makes this program hold an array of more bytes than this (8 GiB).
pub const MAX_BYTES: u64 = 8 << 30;

/// Samples and the class of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// The model's first input, `[n, ...]`: float32, float64 where the model is, or integers where it takes integers.
    pub x: Array,
    /// Class id of every sample.
    pub y: Vec<usize>,
    /// The model's other inputs by name, each `[n, ...]`.
    pub extra: BTreeMap<String, Array>,
}

impl Labelled {
    /// Joins samples and classes.
    ///
    /// # Errors
    /// When there are not as many samples as classes.
    pub fn new(x: Array, y: Vec<usize>) -> Result<Self> {
        let all = Self { x, y, extra: BTreeMap::new() };
        all.check_lengths()?;
        Ok(all)
    }
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.y.len()
    }
    /// True when there are no samples.
    pub fn is_empty(&self) -> bool {
        self.y.is_empty()
    }
    /// The classes as an `int64` array `[n]`.
    pub fn labels(&self) -> Array {
        Array::new(
            self.y.iter().map(|&c| i64::try_from(c).unwrap_or(i64::MAX)).collect::<ndarray::Array1<_>>().into_dyn(),
        )
    }
    /// The samples of a range. Shares the elements with `self`.
    ///
    /// # Errors
    /// When the range ends past the last sample.
    pub fn batch(&self, range: Range<usize>) -> Result<Self> {
        let y = self
            .y
            .get(range.clone())
            .ok_or_else(|| Error::invalid(format!("samples {range:?} of {} asked for", self.len())))?
            .to_vec();
        self.map(y, |a| rows(a, &range))
    }
    /// The samples at these positions, in this order; a position may repeat.
    ///
    /// # Errors
    /// When a position lies past the last sample.
    pub fn select(&self, positions: &[usize]) -> Result<Self> {
        let y =
            positions.iter().map(|&i| self.y.get(i).copied()).collect::<Option<_>>().ok_or_else(|| {
                Error::invalid(format!("a position past the last of {} samples asked for", self.len()))
            })?;
        self.map(y, |a| each_type!(a, a => Array::new(a.select(Axis(0), positions))))
    }
    fn map(&self, y: Vec<usize>, f: impl Fn(&Array) -> Array) -> Result<Self> {
        self.check_lengths()?;
        Ok(Self { x: f(&self.x), y, extra: self.extra.iter().map(|(k, a)| (k.clone(), f(a))).collect() })
    }
    /// Least and greatest element of the first input.
    pub fn range(&self) -> (f64, f64) {
        let elements = self.x.to_f64().into_iter();
        elements.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)))
    }
    /// Positions of the samples of every class that occurs.
    pub fn by_class(&self) -> BTreeMap<usize, Vec<usize>> {
        by_class(&self.y)
    }
    /// Splits in samples whose class is among `classes` and all others, each in the old order.
    ///
    /// # Errors
    /// When the samples are inconsistent (see [`Labelled::check`]).
    pub fn split_by(&self, classes: &[usize]) -> Result<(Self, Self)> {
        let (inside, outside): (Vec<_>, Vec<_>) = (0..self.len()).partition(|&i| classes.contains(&self.y[i]));
        Ok((self.select(&inside)?, self.select(&outside)?))
    }
    /// At most `limit` samples, drawn without replacement and kept in the old order. The choice depends on
    /// `seed`, `limit` and the number of samples alone.
    ///
    /// # Errors
    /// When the samples are inconsistent (see [`Labelled::check`]).
    pub fn subset(&self, limit: usize, seed: u64) -> Result<Self> {
        match choose(self.len(), limit, seed) {
            Some(positions) => self.select(&positions),
            None => Ok(self.clone()),
        }
    }
    /// The samples of `self`, then those of `other`.
    ///
    /// # Errors
    /// When shapes, element types or the names of the extra inputs differ.
    pub fn concat(&self, other: &Self) -> Result<Self> {
        fn join<T: Element>(a: &ArcArray<T, IxDyn>, b: &Array) -> Result<Array> {
            ndarray::concatenate(Axis(0), &[a.view(), b.typed::<T>()?.view()])
                .map(Array::new)
                .map_err(|_| Error::invalid(format!("cannot join samples {:?} and {:?}", a.shape(), b.shape())))
        }
        let both = |a: &Array, b: &Array| -> Result<Array> {
            if a.dtype() != b.dtype() {
                return Err(Error::invalid(format!("cannot join {} and {} samples", a.dtype(), b.dtype())));
            }
            each_type!(a, a => join(a, b))
        };
        if !self.extra.keys().eq(other.extra.keys()) {
            return Err(Error::invalid("cannot join samples whose extra inputs differ in name"));
        }
        let extra = self.extra.iter().zip(other.extra.values());
        let extra = extra.map(|((k, a), b)| Ok((k.clone(), both(a, b)?))).collect::<Result<_>>()?;
        Ok(Self { x: both(&self.x, &other.x)?, y: [&self.y[..], &other.y].concat(), extra })
    }
    fn check_lengths(&self) -> Result<()> {
        let extra = self.extra.iter().map(|(k, a)| (k.as_str(), a));
        for (name, a) in [("x", &self.x)].into_iter().chain(extra) {
            let Some(&n) = a.shape().first() else {
                return Err(Error::invalid(format!("{name} is a scalar, its first axis must count the samples")));
            };
            if n != self.len() {
                let labels = self.len();
                return Err(Error::invalid(format!("{name} holds {n} samples but y holds {labels} class ids")));
            }
        }
        Ok(())
    }
    /// Checks that these samples suit a model.
    ///
    /// # Errors
    /// When there are none, when the number of samples and of classes differ, when a shape or an element type is
    /// not the model's, when an element is NaN or infinite, when a class id is not below `expected.classes`, and
    /// when an extra input is missing. The message names the sample.
    pub fn check(&self, expected: &Expected) -> Result<()> {
        if self.is_empty() && self.x.is_empty() {
            return Err(Error::invalid("there are no labelled inputs"));
        }
        self.check_lengths()?;
        check_array("x", &self.x, &expected.sample)?;
        for (name, ty) in &expected.extra {
            let a = self.extra.get(name).ok_or_else(|| {
                Error::invalid(format!("the model's input {name:?} is missing from the labelled inputs: {ty} a sample"))
            })?;
            check_array(name, a, ty)?;
        }
        match self.y.iter().position(|&c| c >= expected.classes) {
            Some(i) => {
                let (c, n) = (self.y[i], expected.classes);
                Err(Error::invalid(format!(
                    "sample {i} is of class {c}, but the model has {n} classes (0 to {})",
                    n - 1
                )))
            }
            None => Ok(()),
        }
    }
}

/// Positions of every class that occurs.
fn by_class(y: &[usize]) -> BTreeMap<usize, Vec<usize>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (i, &c) in y.iter().enumerate() {
        all.entry(c).or_default().push(i);
    }
    all
}

/// Checks shape, type and finiteness of `[n, ...]` against the type of one sample.
fn check_array(name: &str, a: &Array, sample: &TensorType) -> Result<()> {
    let (n, shape) = a.shape().split_first().map_or((0, &[][..]), |(&n, s)| (n, s));
    if shape != sample.shape {
        return Err(Error::invalid(format!(
            "{name} has shape {:?}: {n} samples of {shape:?}, but one sample of the model's input is {:?}",
            a.shape(),
            sample.shape
        )));
    }
    let stored = |t: DType| if t.is_int() { DType::I64 } else { t };
    let floats = a.dtype().is_float() && sample.dtype.is_float();
    if !floats && stored(a.dtype()) != stored(sample.dtype) {
        return Err(Error::invalid(format!("{name} holds {} but the model takes {}", a.dtype(), sample.dtype)));
    }
    let bad = match a {
        Array::F32(a) => a.iter().position(|v| !v.is_finite()),
        Array::F64(a) => a.iter().position(|v| !v.is_finite()),
        _ => None,
    };
    let Some(i) = bad else { return Ok(()) };
    let index = unravel(i, a.shape());
    Err(Error::invalid(format!("{name} is {} at {index:?} (sample {})", a.to_f64()[i], index[0])))
}

/// The index along each axis of a row-major position.
fn unravel(mut i: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &n) in index.iter_mut().zip(shape).rev() {
        *at = i % n;
        i /= n;
    }
    index
}

/// A range of the first axis, without copying. The range must lie inside it.
fn rows(a: &Array, range: &Range<usize>) -> Array {
    fn go<T: Element>(a: &ArcArray<T, IxDyn>, range: &Range<usize>) -> Array {
        let mut a = a.clone();
        a.slice_axis_inplace(Axis(0), Slice::from(range.clone()));
        T::wrap(a)
    }
    each_type!(a, a => go(a, range))
}

/// Positions of a random subset in rising order, or `None` when all `n` are within the limit.
pub(crate) fn choose(n: usize, limit: usize, seed: u64) -> Option<Vec<usize>> {
    if limit >= n {
        return None;
    }
    let mut rng = generator(seed, b"subset");
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..limit {
        // Fisher-Yates; the top half of a 128-bit product is a fair enough draw below n - i
        let below = u128::from(rng.next_u64()) * (n - i) as u128;
        all.swap(i, i + (below >> 64) as usize);
    }
    all.truncate(limit);
    all.sort_unstable();
    Some(all)
}

/// Brings a list into random order (Fisher–Yates).
pub(crate) fn shuffle<T>(list: &mut [T], rng: &mut ChaCha8Rng) {
    for i in (1..list.len()).rev() {
        list.swap(i, rng.random_range(0..=i));
    }
}

/// ChaCha8 whose 32-byte key is the seed (8 bytes, little endian), then `onnx-unlearn `, then `purpose`, then zeros.
/// Spelled out, not left to a library's seeding, so that the numbers never change.
pub(crate) fn generator(seed: u64, purpose: &[u8]) -> ChaCha8Rng {
    let mut key = [0; 32];
    let words = [&seed.to_le_bytes()[..], b"onnx-unlearn ", purpose].concat();
    key[..words.len()].copy_from_slice(&words);
    ChaCha8Rng::from_seed(key)
}
