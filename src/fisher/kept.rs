//! A Fisher file that is read again.

use super::plan::{CHUNK, chunks};
use super::store::{FORMAT, Layout, Origin, model_sha256};
use crate::error::{Error, Result};
use crate::onnx::{Model, open_mapped};
use bytes::Bytes;
use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A Fisher file, mapped; sums are read when they are asked for.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What it was made from.
    pub origin: Origin,
    /// Where it was read from; empty for bytes.
    pub path: PathBuf,
    pub(super) layout: Layout,
    bytes: Bytes,
    /// Where the elements of each weight lie.
    pub(super) places: Vec<Range<usize>>,
}

/// Reads a Fisher file and checks that it is whole and belongs to this model.
///
/// # Errors
/// `Io` when it cannot be read, `Format` as [`Kept::read`], `Invalid` when it is a part, was made from another model
/// file, names a weight that the model does not have, or has another shape.
pub fn load(path: &Path, model: &Model) -> Result<Kept> {
    let kept = Kept::open(path)?;
    kept.check(model).and_then(|()| kept.check_whole()).map_err(|e| e.at(path.display()))?;
    Ok(kept)
}

/// The sum of one class, as numbers or as a file has them.
#[derive(Clone, Copy)]
enum Sum<'a> {
    F32(&'a [[u8; 4]]),
    F64(&'a [[u8; 8]]),
    Held(&'a [f64]),
}

/// Elements that are summed side by side, so that a sum does not wait for its own last addition.
const LANES: usize = 8;

impl Sum<'_> {
    /// Sum of the elements, and one that no sum of squares can be.
    fn total(self) -> (f64, Option<f64>) {
        fn go<T: Copy>(v: &[T], number: impl Fn(T) -> f64) -> (f64, Option<f64>) {
            let (mut lanes, mut least) = ([0.0; LANES], [0.0_f64; LANES]);
            let mut add = |part: &[T]| {
                for ((lane, least), x) in lanes.iter_mut().zip(&mut least).zip(part) {
                    // a NaN and an infinity spoil the total, which is looked at once; a negative number has to be met
                    let x = number(*x);
                    *lane += x;
                    *least = if x < *least { x } else { *least };
                }
            };
            let (whole, rest) = v.as_chunks::<LANES>();
            whole.iter().for_each(|eight| add(eight));
            add(rest);
            let total: f64 = lanes.iter().sum();
            let wrong = |x: f64| !x.is_finite() || x < 0.0;
            let is_wrong = wrong(total) || least.iter().any(|x| *x < 0.0);
            let found = if is_wrong { v.iter().map(|x| number(*x)).find(|x| wrong(*x)) } else { None };
            (total, found)
        }
        match self {
            Self::F32(v) => go(v, |b| f64::from(f32::from_le_bytes(b))),
            Self::F64(v) => go(v, f64::from_le_bytes),
            Self::Held(v) => go(v, |x| x),
        }
    }
    /// Adds `scale` times some of the elements.
    fn add_to(self, scale: f64, range: Range<usize>, into: &mut [f64]) {
        match self {
            Self::F32(v) => {
                into.iter_mut().zip(&v[range]).for_each(|(x, b)| *x += scale * f64::from(f32::from_le_bytes(*b)));
            }
            Self::F64(v) => into.iter_mut().zip(&v[range]).for_each(|(x, b)| *x += scale * f64::from_le_bytes(*b)),
            Self::Held(v) => into.iter_mut().zip(&v[range]).for_each(|(x, y)| *x += scale * y),
        }
    }
    fn to_vec(self) -> Vec<f64> {
        match self {
            Self::F32(v) => v.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Self::F64(v) => v.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Self::Held(v) => v.to_vec(),
        }
    }
}

/// What a class counts in the mean over a group of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// The mean over its samples: the Fisher as the papers define it.
    Samples,
    /// The same divided by its trace over all weights, as [`estimate_equalised`](super::estimate_equalised) has it.
    Equalised,
}

/// Sums of one class that no file holds: its samples and the sum of every weight by name.
pub(crate) struct Computed {
    pub(crate) samples: usize,
    pub(crate) sums: BTreeMap<String, Vec<f64>>,
}

impl Kept {
    /// Maps and reads a file, which may be a part.
    ///
    /// # Errors
    /// `Io` when it cannot be read, `Format` as [`Kept::read`].
    pub fn open(path: &Path) -> Result<Self> {
        let read = || Ok(Self { path: path.to_path_buf(), ..Self::read(open_mapped(path)?.bytes)? });
        read().map_err(
            |e: Error| if e.to_string().contains(&path.display().to_string()) { e } else { e.at(path.display()) },
        )
    }

    /// Reads the bytes of a Fisher file; the sums are looked at when they are used.
    ///
    /// # Errors
    /// `Format` when they are not what this program writes: no safetensors file, a header that lies about its tensors or
    /// contradicts itself, another element type, or no word on its origin.
    pub fn read(bytes: Bytes) -> Result<Self> {
        let bad = |e: safetensors::SafeTensorError| Error::format(format!("is no safetensors file: {e}"));
        let (length, header) = SafeTensors::read_metadata(&bytes).map_err(bad)?;
        let about = header.metadata().as_ref().filter(|m| m.get("format").is_some_and(|f| f == FORMAT));
        let about = about.ok_or_else(|| Error::format("is no Fisher file of this program and version"))?;
        let text = about.get("origin").ok_or_else(|| Error::format("its header does not give 'origin'"))?;
        let origin: Origin = serde_json::from_str(text)
            .map_err(|e| Error::format(format!("its header's origin cannot be read: {e}")))?;
        origin.check()?;
        let tensors: BTreeMap<_, _> = header.tensors().into_iter().collect();
        let wide = tensors.values().any(|t| t.dtype == Dtype::F64);
        let mut layout = Layout { names: Vec::new(), shapes: Vec::new(), wide };
        let mut places = Vec::new();
        for (name, t) in tensors {
            if t.dtype != if wide { Dtype::F64 } else { Dtype::F32 } {
                let other = t.dtype;
                return Err(Error::format(format!(
                    "'{name}' holds {other:?}; a Fisher is float32 or float64 throughout"
                )));
            }
            match t.shape.split_first() {
                Some((&rows, shape)) if rows == origin.rows.len() => layout.shapes.push(shape.to_vec()),
                _ => {
                    let rows = origin.rows.len();
                    return Err(Error::format(format!("'{name}' has shape {:?} for {rows} sums", t.shape)));
                }
            }
            layout.names.push(name);
            // what was read checked that offsets lie inside the file
            places.push(8 + length + t.data_offsets.0..8 + length + t.data_offsets.1);
        }
        if layout.names.is_empty() {
            return Err(Error::format("holds the Fisher of no weight"));
        }
        Ok(Self { origin, path: PathBuf::new(), layout, bytes, places })
    }

    /// Names of the weights, sorted, and the shape of each.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.layout.names.iter().map(String::as_str).zip(self.layout.shapes.iter().map(Vec::as_slice))
    }

    /// The classes of the whole Fisher.
    pub fn classes(&self) -> Vec<usize> {
        self.origin.samples.iter().map(|(c, _)| *c).collect()
    }

    /// Elements of one row of one weight, checked to be sums of squares.
    ///
    /// # Errors
    /// `Format` when one is NaN, infinite or negative, naming the weight.
    pub fn row(&self, weight: usize, row: usize) -> Result<Vec<f64>> {
        let sum = self.sum(weight, row)?;
        match sum.total() {
            (_, Some(wrong)) => Err(self.wrong(weight, wrong)),
            _ => Ok(sum.to_vec()),
        }
    }

    fn wrong(&self, weight: usize, wrong: f64) -> Error {
        Error::format(format!("'{}' holds {wrong}, which no sum of squares is", self.layout.names[weight]))
    }

    fn sum(&self, weight: usize, row: usize) -> Result<Sum<'_>> {
        let lost = || Error::internal("a row that the file does not have");
        let data = self.places.get(weight).and_then(|r| self.bytes.get(r.clone())).ok_or_else(lost)?;
        let each = data.len().checked_div(self.origin.rows.len()).ok_or_else(lost)?;
        let data = data.get(row * each..(row + 1) * each).ok_or_else(lost)?;
        Ok(if self.layout.wide { Sum::F64(data.as_chunks().0) } else { Sum::F32(data.as_chunks().0) })
    }

    /// Checks that this was made from that model.
    ///
    /// # Errors
    /// `Invalid` with what does not fit.
    pub fn check(&self, model: &Model) -> Result<()> {
        for (name, shape) in self.weights() {
            let found = model.weight_index(name).and_then(|i| model.weights().get(i));
            let w = found.ok_or_else(|| Error::invalid(format!("the model has no weight '{name}'")))?;
            if shape != w.shape() {
                return Err(Error::invalid(format!("'{name}' has shape {shape:?}, the model's {:?}", w.shape())));
            }
        }
        if model_sha256(model) != self.origin.model_sha256 {
            return Err(Error::invalid("the Fisher was made from another model file"));
        }
        Ok(())
    }

    /// Checks that this is no part.
    ///
    /// # Errors
    /// `Invalid` with the first class that is not whole.
    pub fn check_whole(&self) -> Result<()> {
        match gap(&self.origin) {
            Some(what) => Err(Error::invalid(format!(
                "is a part of a Fisher, which lacks {what}; 'fisher merge' joins all parts"
            ))),
            None if !self.origin.is_whole() => Err(Error::format("holds a class in several sums")),
            None => Ok(()),
        }
    }

    /// The Fisher of groups of classes: `[group][weight]`, weights in the order of `names`. Only these weights count
    /// for the trace.
    ///
    /// # Errors
    /// `Format` when a sum is NaN, infinite or negative; `Invalid` when a class or a weight is not held.
    pub fn means(&self, names: &[String], groups: &[Vec<usize>], counting: Counting) -> Result<Vec<Vec<Vec<f64>>>> {
        self.means_with(&BTreeMap::new(), names, groups, counting)
    }

    /// The same, with classes that were computed besides.
    pub(crate) fn means_with(
        &self,
        computed: &BTreeMap<usize, Computed>,
        names: &[String],
        groups: &[Vec<usize>],
        counting: Counting,
    ) -> Result<Vec<Vec<Vec<f64>>>> {
        let index: BTreeMap<&str, usize> = self.weights().enumerate().map(|(i, (n, _))| (n, i)).collect();
        let find = |n: &String| {
            index.get(n.as_str()).copied().ok_or_else(|| Error::invalid(format!("the Fisher does not hold '{n}'")))
        };
        let weights = names.iter().map(find).collect::<Result<Vec<usize>>>()?;
        let mut classes = groups.concat();
        classes.sort_unstable();
        classes.dedup();
        let sums = classes
            .par_iter()
            .map(|&c| self.class(c, computed, &weights, counting))
            .collect::<Result<Vec<(f64, Vec<Sum<'_>>)>>>()?;
        let mean = |group: &Vec<usize>| {
            let members: Vec<&(f64, Vec<Sum<'_>>)> =
                classes.iter().zip(&sums).filter(|(c, _)| group.contains(c)).map(|(_, s)| s).collect();
            let of_weight = |(k, &w): (usize, &usize)| {
                let mut mean = vec![0.0; self.layout.shapes[w].iter().product()];
                mean.par_chunks_mut(1 << 14).enumerate().for_each(|(i, part)| {
                    let from = i << 14;
                    for (scale, sums) in &members {
                        sums[k].add_to(scale / group.len() as f64, from..from + part.len(), part);
                    }
                });
                mean
            };
            weights.iter().enumerate().map(of_weight).collect()
        };
        Ok(groups.iter().map(mean).collect())
    }

    /// What the sums of a class are multiplied with, and the sum of each weight.
    fn class<'a>(
        &'a self,
        class: usize,
        computed: &'a BTreeMap<usize, Computed>,
        weights: &[usize],
        counting: Counting,
    ) -> Result<(f64, Vec<Sum<'a>>)> {
        let held = |of: &'a Computed| {
            let get = |&w: &usize| of.sums.get(&self.layout.names[w]).map(|v| Sum::Held(v));
            let all: Option<Vec<_>> = weights.iter().map(get).collect();
            all.ok_or_else(|| Error::internal("a computed class lacks a weight")).map(|all| (of.samples, all))
        };
        let (samples, sums) = match (computed.get(&class), self.origin.rows.iter().position(|r| r.class == class)) {
            (Some(of), _) => held(of)?,
            (None, Some(row)) => {
                let samples = self.origin.samples.iter().find(|(c, _)| *c == class).map_or(1, |(_, n)| *n);
                (samples, weights.iter().map(|&w| self.sum(w, row)).collect::<Result<_>>()?)
            }
            (None, None) => return Err(Error::invalid(format!("the Fisher does not hold class {class}"))),
        };
        let mut trace = 0.0;
        for (sum, &w) in sums.iter().zip(weights) {
            let (total, wrong) = sum.total();
            if let Some(wrong) = wrong {
                return Err(self.wrong(w, wrong));
            }
            trace += total;
        }
        if !trace.is_finite() {
            return Err(Error::format(format!("the sums of class {class} are too great to be added")));
        }
        let scale = match counting {
            Counting::Samples => 1.0 / samples as f64,
            // a class without gradient adds nothing
            Counting::Equalised if trace > 0.0 => 1.0 / trace,
            Counting::Equalised => 0.0,
        };
        Ok((scale, sums))
    }
}

/// The first samples of a class that no row is of.
pub(super) fn gap(origin: &Origin) -> Option<String> {
    for &(class, n) in &origin.samples {
        let rows = origin.rows.iter().filter(|r| r.class == class);
        let at = rows.clone().fold(0, |at, r| if r.from == at { r.to } else { at });
        if at < chunks(n) {
            let next = rows.clone().find(|r| r.from > at).map_or(chunks(n), |r| r.from);
            let (from, to) = (at * CHUNK, next.saturating_mul(CHUNK).min(n));
            let all = to - from == n;
            let part = format!("samples {from} to {} of class {class}", to - 1);
            return Some(if all { format!("class {class}") } else { part });
        }
    }
    None
}
