//! Changing weights where they lie: the output is the input's bytes with nothing but weight elements changed.
//!
//! Every output file is written beside its final name under a temporary one, compared with its source
//! byte by byte, flushed to disk and only then renamed, data files before the model. What this promises:
//!
//! * Until the first rename nothing but temporary files (`.onnx-unlearn-*`) exists; an error or an interruption
//!   removes them, and after a kill the next run that writes there does.
//! * When one file changes, which is every model without external data, the rename makes the change atomic:
//!   at any crash the old or the new file is there, complete.
//! * When several files change, a journal decides the change before the first rename: after a crash between two
//!   renames the model does not open here until [`recover`](super::recover) has carried out the rest.
//! * In place, the model is locked, and files that another program replaced meanwhile are left alone.

use super::edit::{Edit, edited, moved};
use super::files;
use super::journal;
use super::load::{ExternalSpan, Model};
use super::run::Run;
use super::staged::Staged;
use super::target::{self, Output};
use super::weights::{Place, Storage, Weight};
use crate::error::{Error, Result};
use crate::files::Temporary;
use crate::tensor::{Array, DType};
use splice::splice_all;
use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// What [`patch`] may replace.
#[derive(Clone, Debug, Default)]
pub struct PatchOptions {
    /// The target is the model itself. Without this, a target that is the input under any name is refused.
    pub in_place: bool,
    /// Data files that already exist beside the target may be replaced.
    pub overwrite_data: bool,
    /// Other files are to appear together with the model: [`Staged::commit`] is given some.
    pub companions: bool,
    /// Bytes of the model file that are no weights and change as well; sorted.
    pub edits: Vec<Edit>,
}

/// What [`patch`] did.
#[derive(Clone, Debug, Default)]
pub struct PatchReport {
    /// One entry per changed weight, in the order they were given.
    pub weights: Vec<PatchedWeight>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

impl PatchReport {
    /// Number of elements whose bytes changed.
    pub fn changed(&self) -> usize {
        self.weights.iter().map(|w| w.changed).sum()
    }
}

/// One weight of a [`PatchReport`].
#[derive(Clone, Debug)]
pub struct PatchedWeight {
    /// Index in [`Model::weights`].
    pub index: usize,
    /// Name of the weight.
    pub name: String,
    /// Number of its elements.
    pub elements: usize,
    /// Elements whose bytes changed.
    pub changed: usize,
    /// Bytes that its elements take in the file.
    pub bytes: usize,
}

/// New values for weights, asked for one weight at a time, so that they need not all be in memory.
pub trait NewValues {
    /// Indices in [`Model::weights`] of the weights that change, each once.
    fn indices(&self) -> Vec<usize>;
    /// The new values of the weight with this index, in its shape.
    ///
    /// # Errors
    /// When they cannot be had.
    fn values(&self, index: usize) -> Result<Array>;
}

impl<T: AsRef<[(usize, Array)]> + ?Sized> NewValues for T {
    fn indices(&self) -> Vec<usize> {
        self.as_ref().iter().map(|(i, _)| *i).collect()
    }
    fn values(&self, index: usize) -> Result<Array> {
        let found = self.as_ref().iter().find(|(i, _)| *i == index);
        found.map(|(_, a)| a.clone()).ok_or_else(|| Error::internal(format!("no values for weight number {index}")))
    }
}

/// Writes the model with new values for some weights, given by their index in [`Model::weights`].
///
/// # Errors
/// As [`stage`] and [`Staged::commit`].
pub fn patch<V: NewValues + ?Sized>(
    model: &Model,
    changes: &V,
    target: impl AsRef<Path>,
    options: &PatchOptions,
) -> Result<PatchReport> {
    stage(model, changes, target, options)?.commit(&[])
}

/// Writes the model with new values for some weights under temporary names, from which [`Staged::commit`] takes them to
/// their own.
///
/// Values are rounded to the stored type, to nearest even. An element whose new value equals the old one
/// as that value was read keeps its bytes. Without `in_place`, data files are written below the target's
/// directory under the names that the model gives them, changed or not; in the model's own directory that would
/// replace the original's data, so changing external weights there is refused.
///
/// # Errors
/// `Invalid` for values of another shape, values too large for the stored type, weights named twice, and targets
/// as above; `Unsupported` for weights that are not patchable, overlap another tensor, or lie in a file with
/// a checksum; `Io` when writing fails. After an error every file is as it was.
pub fn stage<'m, V: NewValues + ?Sized>(
    model: &'m Model,
    changes: &V,
    target: impl AsRef<Path>,
    options: &PatchOptions,
) -> Result<Staged<'m>> {
    let jobs = plan(model, changes)?;
    let mut touched: BTreeSet<_> = jobs.iter().map(|j| j.weight.data_file()).collect();
    if !options.edits.is_empty() {
        touched.insert(None);
    }
    let target = target.as_ref();
    let outputs = target::outputs(model, &touched, target, options)?;
    if options.in_place {
        model.lock()?;
    }
    journal::check(target).map_err(|e| e.at(target.display()))?;
    outputs.sweep();
    let mut report = report_of(&jobs);
    let mut temps = Vec::with_capacity(outputs.list.len());
    for output in &outputs.list {
        let here: Vec<_> =
            jobs.iter().zip(&mut report.weights).filter(|(j, _)| j.weight.data_file() == output.file).collect();
        let temp = outputs.temporary(output).map_err(|e| unwritable(&output.path, &e))?;
        let edits = if output.file.is_none() { &options.edits[..] } else { &[] };
        temps.push(write(model.source(output.file)?, edits, output, temp, changes, here)?);
    }
    Ok(Staged::new(model, target, outputs, temps, report, options.edits.clone()))
}

/// The model's bytes with new values for some weights, none of which may lie in a data file.
///
/// # Errors
/// As [`patch`], and `Invalid` for a weight in a data file.
pub fn patch_to_bytes<V: NewValues + ?Sized>(model: &Model, changes: &V) -> Result<(Vec<u8>, PatchReport)> {
    let jobs = plan(model, changes)?;
    if let Some(job) = jobs.iter().find(|j| j.weight.data_file().is_some()) {
        return Err(Error::invalid(format!("weight '{}' lies in a data file, not in the model", job.weight.name)));
    }
    let mut report = report_of(&jobs);
    let source = model.source(None)?;
    let mut bytes = Vec::with_capacity(source.len());
    let mut here: Vec<_> = jobs.iter().zip(&mut report.weights).collect();
    splice_all(&mut Cursor::new(&mut bytes), source, &[], changes, &mut here, model.path())?;
    verify(&bytes, source, &[], &here)?;
    Ok((bytes, report))
}

fn report_of(jobs: &[Job<'_>]) -> PatchReport {
    let mut report = PatchReport::default();
    for job in jobs {
        let (name, elements) = (job.weight.name.clone(), job.weight.elements());
        let bytes = elements.saturating_mul(job.weight.storage.width());
        report.weights.push(PatchedWeight { index: job.index, name, elements, changed: 0, bytes });
    }
    report
}

/// One weight that changes.
struct Job<'a> {
    index: usize,
    weight: &'a Weight,
}

fn plan<'a, V: NewValues + ?Sized>(model: &'a Model, changes: &V) -> Result<Vec<Job<'a>>> {
    let indices = changes.indices();
    let mut jobs = Vec::with_capacity(indices.len());
    let mut seen = BTreeSet::new();
    for index in indices {
        let weight = model.weights().get(index);
        let weight = weight.ok_or_else(|| Error::invalid(format!("the model has no weight number {index}")))?;
        if !weight.is_patchable() {
            let why = "half-precision elements in int32_data have varying length; save the model with raw_data";
            return Err(Error::unsupported(why).at(format!("weight '{}'", weight.name)));
        }
        if !seen.insert(index) {
            return Err(Error::invalid(format!("weight '{}' is changed twice", weight.name)));
        }
        jobs.push(Job { index, weight });
    }
    check_external(model, &jobs)?;
    Ok(jobs)
}

impl Job<'_> {
    /// The new values, as floats that the stored type can be rounded from.
    fn values<V: NewValues + ?Sized>(&self, changes: &V) -> Result<Array> {
        let values = changes.values(self.index)?;
        if values.shape() != self.weight.shape {
            let shape = &self.weight.shape;
            return Err(Error::invalid(format!("new values have shape {:?}, not {shape:?}", values.shape())));
        }
        match (&values, self.weight.storage) {
            (Array::F32(_), _) | (Array::F64(_), Storage::F64) => Ok(values),
            (Array::F64(wide), storage) => {
                let narrow = values.to_float(DType::F32);
                let lost = wide.iter().zip(narrow.slice::<f32>()?).find(|(w, n)| w.is_finite() && !n.is_finite());
                match lost {
                    Some((w, _)) => Err(Error::invalid(format!("the value {w} does not fit {storage:?}"))),
                    None => Ok(narrow),
                }
            }
            _ => Err(Error::invalid(format!("new values are {}, not floats", values.dtype()))),
        }
    }
}

/// Refuses changes that would reach other tensors, or make a checksum in the model wrong.
fn check_external(model: &Model, jobs: &[Job<'_>]) -> Result<()> {
    let mut changed = BTreeSet::new();
    for job in jobs {
        if let Place::File { span, .. } = job.weight.place {
            changed.insert(span);
        }
    }
    let group = |file: usize| model.data_files().get(file).map_or(file, |f| f.group);
    let groups: BTreeSet<usize> = changed.iter().filter_map(|&s| model.spans.get(s)).map(|s| group(s.file)).collect();
    let mut sorted: Vec<_> = model.spans.iter().enumerate().filter(|(_, s)| groups.contains(&group(s.file))).collect();
    if let Some((_, s)) = sorted.iter().find(|(_, s)| s.checksum) {
        let why = "its model entry holds a checksum of the data file, which a change would make wrong";
        return Err(Error::unsupported(format!("{}: {why}", s.path)));
    }
    sorted.retain(|(_, s)| !s.range.is_empty());
    sorted.sort_by_key(|(_, s)| (group(s.file), s.range.start));
    // of the tensors so far in this file, and of the changed ones among them, the one that reaches furthest
    let (mut any, mut moved): (Option<&ExternalSpan>, Option<&ExternalSpan>) = (None, None);
    let mut current = None;
    for (i, s) in sorted {
        if current.replace(group(s.file)) != Some(group(s.file)) {
            (any, moved) = (None, None);
        }
        let is_changed = changed.contains(&i);
        let before = if is_changed { any } else { moved };
        if let Some(other) = before.filter(|o| o.range.end > s.range.start) {
            let both = format!("{} and {} share bytes of their data file", other.path, s.path);
            return Err(Error::unsupported(format!("{both}, so that changing one would change the other")));
        }
        any = any.filter(|o| o.range.end >= s.range.end).or(Some(s));
        if is_changed {
            moved = moved.filter(|o| o.range.end >= s.range.end).or(Some(s));
        }
    }
    Ok(())
}

/// Writes one output file under a temporary name and proves it right.
fn write<V: NewValues + ?Sized>(
    source: &[u8],
    edits: &[Edit],
    output: &Output,
    mut temp: Temporary,
    changes: &V,
    mut jobs: Vec<(&Job<'_>, &mut PatchedWeight)>,
) -> Result<Temporary> {
    let failed = |e| unwritable(&output.path, &e);
    splice_all(temp.file_mut(), source, edits, changes, &mut jobs, &output.path)?;
    if let Some(permissions) = &output.permissions {
        temp.file().set_permissions(permissions.clone()).map_err(failed)?;
    }
    let read_back = |e| Error::io(format!("cannot read back {}", output.path.display()), &e);
    let written = files::map(temp.file()).map_err(read_back)?;
    // the disk is waited for while the copy in memory is read
    let (proved, flushed) =
        rayon::join(|| verify(&written, source, edits, &jobs), || temp.file().sync_all().map_err(failed));
    proved.and(flushed)?;
    Ok(temp)
}

fn unwritable(path: &Path, cause: &std::io::Error) -> Error {
    Error::io(format!("cannot write {}", path.display()), cause)
}

/// Compares what was written with its source: as many elements differ as were changed, and nothing else.
fn verify(written: &[u8], source: &[u8], edits: &[Edit], jobs: &[(&Job<'_>, &mut PatchedWeight)]) -> Result<()> {
    let mut runs: Vec<(Run, usize)> = Vec::new();
    for (job, _) in jobs {
        runs.extend(job.weight.runs().iter().map(|r| (moved(*r, edits), job.weight.storage.width())));
    }
    let changed;
    let source = if edits.is_empty() {
        source
    } else {
        changed = edited(source, edits)?;
        &changed[..]
    };
    runs.sort_by_key(|(r, _)| r.start);
    let expected: usize = jobs.iter().map(|(_, done)| done.changed).sum();
    match differing(source, written, &runs) {
        Some(n) if n == expected => Ok(()),
        Some(n) => Err(Error::internal(format!("{n} elements differ in the written file, not {expected}"))),
        None => Err(Error::internal("the written file differs outside of the changed weights")),
    }
}

/// Number of elements that differ in the runs, which are sorted; `None` when anything else differs.
fn differing(old: &[u8], new: &[u8], runs: &[(Run, usize)]) -> Option<usize> {
    let (mut at, mut n) = (0_usize, 0_usize);
    for (run, width) in runs {
        let span = run.span(*width)?;
        if old.get(at..span.start)? != new.get(at..span.start)? {
            return None;
        }
        at = span.end;
        let (old, new) = (old.get(span.clone())?, new.get(span)?);
        n = n.checked_add(match width {
            2 => differing_elements::<2>(old, new, run.step),
            4 => differing_elements::<4>(old, new, run.step),
            8 => differing_elements::<8>(old, new, run.step),
            _ => None,
        }?)?;
    }
    (old.get(at..)? == new.get(at..)?).then_some(n)
}

/// Number of elements that differ; `None` when the bytes between them do.
fn differing_elements<const N: usize>(old: &[u8], new: &[u8], step: usize) -> Option<usize> {
    if step == N {
        let pairs = old.as_chunks::<N>().0.iter().zip(new.as_chunks::<N>().0);
        return Some(pairs.filter(|(a, b)| a != b).count());
    }
    let mut n = 0_usize;
    for (old, new) in old.chunks(step.max(1)).zip(new.chunks(step.max(1))) {
        let ((a, between), (b, same)) = (old.split_first_chunk::<N>()?, new.split_first_chunk::<N>()?);
        if between != same {
            return None;
        }
        n = n.saturating_add(usize::from(a != b));
    }
    Some(n)
}

mod encode;
mod splice;
#[cfg(test)]
mod tests;
