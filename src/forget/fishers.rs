//! The Fishers of both sides, estimated from the labelled inputs or taken from a file that keeps them.

use super::rewrite::Basis;
use super::{Method, Request};
use crate::classifier::{Classifier, Weights};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Result};
use crate::fisher::store::Kept;
use crate::fisher::{self, Counting, Fisher};
use crate::inputs::Labelled;
use crate::tensor::{Array, TensorType};

/// Both Fishers, and how they came about.
pub(super) struct Fishers {
    pub(super) basis: Basis,
    /// Why samples ran one by one, if they had to.
    pub(super) one_by_one: Option<String>,
    /// Classes whose Fisher was estimated.
    pub(super) estimated: Vec<usize>,
}

/// Both Fishers for a request; `progress` is told how many samples are done.
pub(super) fn fishers(
    classifier: &Classifier,
    engine: &dyn Engine,
    old: &Weights,
    data: &Labelled,
    retained: &[usize],
    request: &Request,
    progress: &mut dyn FnMut(usize),
) -> Result<Fishers> {
    if let Some(kept) = &request.fisher {
        return from_file(kept, classifier, engine, old, data, request, progress)
            .map_err(|e| e.at(kept.path.display()));
    }
    let groups = [request.classes.clone(), retained.to_vec()];
    // a search lets every class count the same; given strengths belong to the Fisher as the papers define it
    let fisher = match request.method {
        Method::Search(_) => fisher::estimate_equalised(classifier, engine, old, data, &groups, progress)?,
        Method::Fixed(_) => {
            let sets = groups.iter().map(|c| fisher::class_weights(data, c)).collect::<Result<Vec<_>>>()?;
            fisher::estimate(classifier, engine, old, data, &sets, progress)?
        }
    };
    fisher.check_finite()?;
    let basis = basis(&fisher, engine)?;
    Ok(Fishers { basis, one_by_one: fisher.one_by_one, estimated: groups.concat() })
}

fn basis(fisher: &Fisher, engine: &dyn Engine) -> Result<Basis> {
    let mut parts = fisher.split(engine)?.into_iter();
    let (Some(f_f), Some(f_r)) = (parts.next(), parts.next()) else {
        return Err(Error::internal("the Fisher lacks a set"));
    };
    Ok(Basis { names: fisher.names.clone(), f_f, f_r })
}

/// Only classes that the file lacks are estimated, from the inputs that it was made from.
fn from_file(
    kept: &Kept,
    classifier: &Classifier,
    engine: &dyn Engine,
    old: &Weights,
    data: &Labelled,
    request: &Request,
    progress: &mut dyn FnMut(usize),
) -> Result<Fishers> {
    let held = kept.classes();
    let missing: Vec<usize> = data.by_class().into_keys().filter(|c| !held.contains(c)).collect();
    let mut all = [&held[..], &missing].concat();
    all.sort_unstable();
    let retained = all.into_iter().filter(|c| !request.classes.contains(c)).collect();
    let groups = [request.classes.clone(), retained];
    let (mut names, mut types) = (Vec::new(), Vec::new());
    for (name, tensor) in old.names.iter().zip(&old.tensors) {
        if kept.origin.unused.contains(name) {
            continue;
        }
        let ty = tensor.ty();
        match kept.weights().find(|(n, _)| n == name) {
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
    let counting = match request.method {
        Method::Search(_) => Counting::Equalised,
        Method::Fixed(_) => Counting::Samples,
    };
    let completed = kept.complete(classifier, engine, old, data, &missing, progress)?;
    let mut means = kept.means_with(&completed.classes, &names, &groups, counting)?.into_iter();
    let mut side = || means.next().map_or(Ok(Vec::new()), |mean| upload(engine, &names, &types, mean));
    let (f_f, f_r) = (side()?, side()?);
    Ok(Fishers { basis: Basis { names, f_f, f_r }, one_by_one: completed.one_by_one, estimated: missing })
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
