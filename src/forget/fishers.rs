//! The Fishers of both sides, estimated from the labelled inputs or taken from a file that keeps them.

use super::rewrite::Basis;
use super::{Aim, Case, Method, Request};
use crate::classifier::{Classifier, Weights};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Result};
use crate::fisher::store::Kept;
use crate::fisher::{self, Counting, estimate_classes};
use crate::inputs::Labelled;
use crate::tensor::{Array, TensorType};

/// The Fishers of both sides, and how they came about.
pub(super) struct Fishers {
    names: Vec<String>,
    /// That of what is to be forgotten, or one for each class to forget; then that of the retained classes.
    parts: Vec<Vec<Tensor>>,
    /// Why samples ran one by one, if they had to.
    pub(super) one_by_one: Option<String>,
    /// Classes whose Fisher was estimated.
    pub(super) estimated: Vec<usize>,
}

impl Fishers {
    /// How many Fishers there are of what is to be forgotten.
    pub(super) fn to_forget(&self) -> &[Vec<Tensor>] {
        self.parts.split_last().map_or(&[], |(_, first)| first)
    }
    /// That of the retained classes.
    pub(super) fn retained(&self) -> &[Tensor] {
        self.parts.last().map_or(&[], |f| f)
    }
    /// What the rules read, with this Fisher of what is to be forgotten.
    pub(super) fn basis(&self, f_f: Vec<Tensor>) -> Basis {
        Basis { names: self.names.clone(), f_f, f_r: self.retained().to_vec() }
    }
    /// The same with the first of them, which is the only one where they are not apart.
    pub(super) fn first(&self) -> Basis {
        self.basis(self.parts.first().cloned().unwrap_or_default())
    }
}

/// The Fishers for a request, that of each class to forget `apart` or one of all; `progress` is told how many samples are
/// done.
pub(super) fn fishers(
    case: &Case<'_>,
    data: &Labelled,
    aim: &Aim,
    apart: bool,
    progress: &mut dyn FnMut(usize),
) -> Result<Fishers> {
    let Case { classifier, engine, request, old, .. } = *case;
    if let Some(kept) = &request.fisher {
        let source = FromFile { kept, classifier, engine, old, data };
        return source.fishers(aim, apart, request, progress).map_err(|e| e.at(kept.path.display()));
    }
    let sides = aim.sides(data);
    let estimated = if aim.is_of_samples() {
        data.by_class().into_keys().collect()
    } else {
        sides.iter().flat_map(|side| side.keys().copied()).collect()
    };
    let [forget, retained] = sides.map(|side| side.into_values().collect::<Vec<_>>());
    let mut groups: Vec<Vec<Vec<usize>>> =
        if apart { forget.into_iter().map(|class| vec![class]).collect() } else { vec![forget] };
    groups.push(retained);
    // a search lets every class count the same; given strengths belong to the Fisher as the papers define it
    let fisher = match request.method {
        Method::Search(_) => fisher::estimate_members(classifier, engine, old, data, &groups, progress)?,
        Method::Fixed(_) => {
            let sets: Vec<Vec<f64>> = groups.iter().map(|group| member_weights(group, data.len())).collect();
            fisher::estimate(classifier, engine, old, data, &sets, progress)?
        }
    };
    fisher.check_finite()?;
    let parts = fisher.split(engine)?;
    Ok(Fishers { names: fisher.names, parts, one_by_one: fisher.one_by_one, estimated })
}

/// Weights of the samples so that the weighted sum is the mean over each member's samples, then over the members.
fn member_weights(members: &[Vec<usize>], samples: usize) -> Vec<f64> {
    let mut u = vec![0.0; samples];
    for member in members {
        member.iter().for_each(|&i| u[i] = 1.0 / (member.len() * members.len()) as f64);
    }
    u
}

/// A Fisher file, and what it takes to add to it.
struct FromFile<'a> {
    kept: &'a Kept,
    classifier: &'a Classifier,
    engine: &'a dyn Engine,
    old: &'a Weights,
    data: &'a Labelled,
}

impl FromFile<'_> {
    /// Only what the file lacks is estimated: classes, from the inputs that it was made from, and samples to forget.
    fn fishers(&self, aim: &Aim, apart: bool, request: &Request, progress: &mut dyn FnMut(usize)) -> Result<Fishers> {
        let (names, types) = self.weights()?;
        let counting = match request.method {
            Method::Search(_) => Counting::Equalised,
            Method::Fixed(_) => Counting::Samples,
        };
        let held = self.kept.classes();
        let [to_forget, others] = aim.sides(self.data);
        let (data, retained_inputs) = if aim.is_of_samples() {
            let positions: Vec<usize> = others.values().flatten().copied().collect();
            (&self.data.select(&positions)?, others)
        } else {
            (self.data, self.data.by_class())
        };
        let missing: Vec<usize> = retained_inputs.into_keys().filter(|c| !held.contains(c)).collect();
        let Self { kept, classifier, engine, old, .. } = *self;
        let mut completed = kept.complete(classifier, engine, old, data, &missing, progress)?;
        let mut all = [&held[..], &missing].concat();
        all.sort_unstable();
        let (means, estimated) = if aim.is_of_samples() {
            let f_r = kept.means_with(&completed.classes, &names, &[all], counting)?;
            let classes: Vec<usize> = to_forget.keys().copied().collect();
            let positions: Vec<usize> = to_forget.into_values().flatten().collect();
            let of_samples =
                estimate_classes(classifier, engine, old, &self.data.select(&positions)?, &classes, progress)?;
            let f_f = kept.means_with(&of_samples.classes, &names, std::slice::from_ref(&classes), counting)?;
            completed.one_by_one = completed.one_by_one.or(of_samples.one_by_one);
            ([f_f, f_r].concat(), [classes, missing].concat())
        } else {
            let retained = all.into_iter().filter(|c| !request.classes.contains(c)).collect();
            let mut groups: Vec<Vec<usize>> = match apart {
                true => request.classes.iter().map(|&c| vec![c]).collect(),
                false => vec![request.classes.clone()],
            };
            groups.push(retained);
            (kept.means_with(&completed.classes, &names, &groups, counting)?, missing)
        };
        let parts = means.into_iter().map(|mean| upload(engine, &names, &types, mean)).collect::<Result<_>>()?;
        Ok(Fishers { names, parts, one_by_one: completed.one_by_one, estimated })
    }

    /// The weights that have a gradient, each of which the file has to hold.
    fn weights(&self) -> Result<(Vec<String>, Vec<TensorType>)> {
        let (mut names, mut types) = (Vec::new(), Vec::new());
        for (name, tensor) in self.old.names.iter().zip(&self.old.tensors) {
            if self.kept.origin.unused.contains(name) {
                continue;
            }
            let ty = tensor.ty();
            match self.kept.weights().find(|(n, _)| n == name) {
                Some((_, shape)) if shape == ty.shape => {}
                Some((_, shape)) => {
                    return Err(Error::invalid(format!("'{name}' has shape {shape:?}, the model's {:?}", ty.shape)));
                }
                None => {
                    return Err(Error::invalid(format!(
                        "holds no Fisher of '{name}'; make it anew without --layers, or give the same --layers"
                    )));
                }
            }
            names.push(name.clone());
            types.push(ty);
        }
        Ok((names, types))
    }
}

fn upload(engine: &dyn Engine, names: &[String], types: &[TensorType], mean: Vec<Vec<f64>>) -> Result<Vec<Tensor>> {
    let of_weight = |((name, ty), elements): ((&String, &TensorType), Vec<f64>)| {
        let a = Array::from_vec(&ty.shape, elements)?.to_float(ty.dtype);
        if !a.is_finite() {
            return Err(Error::format(format!("the sums of '{name}' are too great for {}", ty.dtype)));
        }
        engine.upload(&a)
    };
    names.iter().zip(types).zip(mean).map(of_weight).collect()
}
