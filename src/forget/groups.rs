//! Several classes: all at once, one after another, or what similar ones share first and then each one's own.

use super::answers::Answerer;
use super::fishers::{Fishers, fishers};
use super::rewrite::Basis;
use super::search;
use super::trials::Trials;
use super::{Aim, Calibration, Case, Depth, Method, Outcome, Passes, Reached, Rule, Scope, Stage, Strength, scope};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Kind, Result};
use crate::graph::{Attrs, Batch, Graph};
use crate::inputs::Labelled;
use crate::ops::{reduce_sum, reshape};

/// Two classes are similar when their Fishers overlap by this part of what they have in common with the mean of the
/// retained classes.
const SIMILAR: f64 = 0.8;

/// Fishers of so many elements are held at once.
const MAX_ELEMENTS: usize = 1 << 28;

/// How several classes are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Jointly; where that leaves doubts the others are tried as well, and the best by what the inputs say is taken.
    #[default]
    Auto,
    /// All at once, with one strength.
    Joint,
    /// Class by class, each with its own strength.
    OneByOne,
    /// In the body first what similar classes share, with one strength for each group of them, then class by class.
    Hierarchical,
}

impl Strategy {
    /// The name that the command line has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Joint => "joint",
            Self::OneByOne => "one-by-one",
            Self::Hierarchical => "hierarchical",
        }
    }
}

/// A stage of forgetting.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Step {
    /// The classes that it is for.
    pub classes: Vec<usize>,
    /// What these classes share, in the body alone.
    pub shared: bool,
    /// Name of the rule.
    pub rule: &'static str,
    /// Its strengths.
    pub strength: Vec<(&'static str, f64)>,
}

impl Step {
    pub(super) fn new(classes: &[usize], shared: bool, strength: &Strength) -> Self {
        let rule = strength.rule();
        let strengths = rule.strengths().iter().copied().zip(strength.values()).collect();
        Self { classes: classes.to_vec(), shared, rule: rule.name(), strength: strengths }
    }
}

/// How several classes were forgotten, and why so.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Grouping {
    /// What was asked for.
    pub asked: Strategy,
    /// What was taken.
    pub taken: Strategy,
    /// Every strategy that was tried, with the number of doubts that the inputs left.
    pub tried: Vec<(Strategy, usize)>,
    /// Groups of similar classes; empty where only the joint strategy was tried.
    pub similar: Vec<Vec<usize>>,
    /// Overlap of the Fishers of every two classes, 0 to 1; empty likewise.
    pub overlaps: Vec<(usize, usize, f64)>,
    /// Overlap of the Fisher of each class with that of the retained ones; empty likewise.
    pub retained: Vec<(usize, f64)>,
    /// Stages in their order.
    pub steps: Vec<Step>,
}

/// Forgets several classes.
pub(super) fn forget(case: &Case<'_>, data: &Labelled, aim: &Aim, progress: &mut dyn FnMut(Stage)) -> Result<Outcome> {
    let asked = case.request.strategy;
    let mut apart = None;
    let mut best: Option<Outcome> = None;
    let mut tried = Vec::new();
    let mut passes = Passes::default();
    let strategies = match (asked, &case.request.method) {
        // given strengths leave nothing to choose by
        (Strategy::Auto, Method::Fixed(_)) => vec![Strategy::Joint],
        (Strategy::Auto, Method::Search(_)) => vec![Strategy::Joint, Strategy::Hierarchical, Strategy::OneByOne],
        (one, _) => vec![one],
    };
    for strategy in strategies {
        let found = if strategy == Strategy::Joint {
            super::jointly(case, data, aim, progress)?
        } else {
            if apart.is_none() {
                match Apart::new(case, data, aim, progress) {
                    Ok(found) => apart = Some(found),
                    // a first result is there
                    Err(e) if e.kind() == Kind::Unsupported && best.is_some() => break,
                    Err(e) => return Err(e),
                }
            }
            let parts = apart.as_ref().ok_or_else(|| Error::internal("no Fishers of single classes"))?;
            parts.follow(case, strategy, data, aim, progress)?
        };
        tried.push((strategy, found.doubts.len()));
        passes += found.passes;
        let is_sure = found.doubts.is_empty();
        let rank = |o: &Outcome| (o.doubts.len(), -o.value);
        if best.as_ref().is_none_or(|b| rank(&found) < rank(b)) {
            best = Some(Outcome { grouping: Some(taken(asked, strategy, apart.as_ref(), &found)), ..found });
        }
        if is_sure {
            break;
        }
    }
    let mut best = best.ok_or_else(|| Error::internal("no strategy was tried"))?;
    best.passes = passes;
    if let Some(grouping) = &mut best.grouping {
        grouping.tried = tried;
    }
    Ok(best)
}

fn taken(asked: Strategy, taken: Strategy, apart: Option<&Apart>, found: &Outcome) -> Grouping {
    Grouping {
        asked,
        taken,
        tried: Vec::new(),
        similar: apart.map(|a| a.similar.clone()).unwrap_or_default(),
        overlaps: apart.map(|a| a.overlaps.clone()).unwrap_or_default(),
        retained: apart.map(|a| a.retained.clone()).unwrap_or_default(),
        steps: found.steps.clone(),
    }
}

/// The Fisher of each class to forget by itself, under the weights as they came; it serves every stage.
struct Apart {
    classes: Vec<usize>,
    fishers: Fishers,
    overlaps: Vec<(usize, usize, f64)>,
    retained: Vec<(usize, f64)>,
    similar: Vec<Vec<usize>>,
    passes: usize,
}

impl Apart {
    fn new(case: &Case<'_>, data: &Labelled, aim: &Aim, progress: &mut dyn FnMut(Stage)) -> Result<Self> {
        let classes = aim.classes().to_vec();
        let elements: usize = case.old.tensors.iter().map(|t| t.ty().len()).sum();
        if elements.saturating_mul(classes.len() + 1) > MAX_ELEMENTS {
            return Err(Error::unsupported(format!(
                "the Fishers of {} classes by themselves are too large to be held at once; --strategy joint needs one",
                classes.len()
            )));
        }
        let (calibration, request) = (&case.request.calibration, case.request);
        let joined =
            calibration.as_ref().filter(|_| request.calibration_in_fisher).map(|c| data.concat(c)).transpose()?;
        let (data, aim) = match &joined {
            Some(all) => (all, &aim.on(all)),
            None => (data, aim),
        };
        let total = data.len();
        let mut passes = 0;
        let fishers = fishers(case, data, aim, true, &mut |n| {
            passes = n;
            progress(Stage::Fisher(n, total));
        })?;
        let mut overlaps = Vec::new();
        let mut retained = Vec::new();
        for (i, &c) in classes.iter().enumerate() {
            for (j, &other) in classes.iter().enumerate().skip(i + 1) {
                let of = fishers.to_forget();
                overlaps.push((c, other, overlap(case.engine, &of[i], &of[j])?));
            }
            retained.push((c, overlap(case.engine, &fishers.to_forget()[i], fishers.retained())?));
        }
        let similar = similar(&overlaps, &retained);
        Ok(Self { classes, fishers, overlaps, retained, similar, passes })
    }

    /// The stages of a strategy, one after another.
    fn follow(
        &self,
        case: &Case<'_>,
        strategy: Strategy,
        data: &Labelled,
        aim: &Aim,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Outcome> {
        let mut reached = Reached::start(case);
        reached.passes.fisher = self.passes;
        reached.estimated.clone_from(&self.fishers.estimated);
        reached.one_by_one.clone_from(&self.fishers.one_by_one);
        let groups: Vec<Vec<usize>> = match strategy {
            Strategy::Hierarchical => self.similar.clone(),
            _ => self.classes.iter().map(|&c| vec![c]).collect(),
        };
        let goes_deep = case.request.scope != Scope::Head && case.request.depth != Depth::Head;
        for group in groups {
            if group.len() > 1 && goes_deep {
                let f_f = self.shared(case.engine, &group)?;
                self.stage(case, &mut reached, &group, Some(f_f), data, aim, progress)?;
            }
            for class in group {
                self.stage(case, &mut reached, &[class], None, data, aim, progress)?;
            }
        }
        super::conclude(case, reached, data, aim)
    }

    fn at(&self, class: usize) -> Result<&Vec<Tensor>> {
        let at = self.classes.iter().position(|&c| c == class).and_then(|i| self.fishers.to_forget().get(i));
        at.ok_or_else(|| Error::internal(format!("no Fisher of class {class}")))
    }

    /// The least of these classes' Fishers, weight by weight: what is great there is great for all of them.
    fn shared(&self, engine: &dyn Engine, group: &[usize]) -> Result<Vec<Tensor>> {
        let fishers = group.iter().map(|&c| self.at(c)).collect::<Result<Vec<_>>>()?;
        let mut g = Graph::new(0);
        let mut feeds = Vec::new();
        for k in 0..fishers.first().map_or(0, |f| f.len()) {
            let mut least = None;
            for (of, f) in fishers.iter().enumerate() {
                let one = g.input(format!("f.{of}.{k}"), f[k].ty(), Batch::None);
                feeds.push(f[k].clone());
                least = Some(match least {
                    None => one,
                    Some(l) => g.push("Min", &[l, one], Attrs::new())?,
                });
            }
            g.outputs.extend(least);
        }
        engine.prepare(&g)?.run(&feeds)
    }

    /// One stage; with `shared` only the body changes, as far as it may, by the first rule.
    #[allow(clippy::too_many_arguments, reason = "what a stage needs")]
    fn stage(
        &self,
        case: &Case<'_>,
        reached: &mut Reached,
        classes: &[usize],
        shared: Option<Vec<Tensor>>,
        data: &Labelled,
        aim: &Aim,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<()> {
        let Case { classifier, engine, request, old, guide } = *case;
        let takes_part = |y: &usize| classes.contains(y) || !aim.classes().contains(y);
        let guide = guide.among(data, takes_part);
        let (own, data) = aim.stage(data, classes)?;
        let samples = request.calibration.as_ref().map(|c| aim.stage(c, classes)).transpose()?;
        let samples = samples.map(|(_, c)| c).filter(|c| !c.is_empty());
        let calibration = samples.map(|c| Calibration::new(&data, &c, &own)).transpose()?;
        let shown = calibration.as_ref().map_or(data.len(), |c| c.shown.len());
        let answerer = Answerer::of_search(classifier, engine, shown.min(256), shown)?;
        let is_shared = shared.is_some();
        let f_f = match shared {
            Some(f_f) => f_f,
            None => classes.first().map_or(Ok(Vec::new()), |&c| self.at(c).cloned())?,
        };
        let basis: Basis = self.fishers.basis(f_f);
        let head = answerer.head.clone();
        let basis = scope::narrow(basis, request.scope, &head, &request.protect)?;
        let basis = if is_shared { scope::narrow(basis, Scope::Body, &head, &[])? } else { basis };
        let start = reached.weights.clone();
        let trials = Trials::new(classifier, engine, answerer, &start, basis, &data, &own).guided(guide);
        let mut trials = trials.since(old).calibrated(calibration);
        let mut count = reached.tried.len();
        let mut tick = || {
            count += 1;
            progress(Stage::Search(count));
        };
        let found = match &request.method {
            Method::Fixed(s) => search::fixed(&mut trials, *s),
            Method::Search(rules) => {
                let rules: &[Rule] = if is_shared { rules.get(..1).unwrap_or_default() } else { rules };
                search::search(&mut trials, rules, request, &mut tick)
            }
        };
        let found = match found {
            // nothing that they share can be taken: each class's own stage is still to come
            Err(e) if is_shared && e.kind() == Kind::Invalid => None,
            other => Some(other?),
        };
        if let Some((strength, tried)) = found {
            let (weights, _) = trials.at(&strength)?;
            reached.weights = weights;
            reached.tried.extend(tried);
            reached.steps.push(Step::new(classes, is_shared, &strength));
            reached.strengths.push(strength);
        }
        reached.passes.search += trials.passes();
        reached.passes.steps += trials.stepped();
        Ok(())
    }
}

/// `Σ_i min(p_i, q_i)` of two Fishers, each divided by its trace: 1 where they are equal, 0 where they have no weight in
/// common.
fn overlap(engine: &dyn Engine, a: &[Tensor], b: &[Tensor]) -> Result<f64> {
    let mut g = Graph::new(0);
    let mut feeds = Vec::new();
    let (mut p, mut q) = (Vec::new(), Vec::new());
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        for (of, f, flat) in [("p", a, &mut p), ("q", b, &mut q)] {
            let one = g.input(format!("{of}.{k}"), f.ty(), Batch::None);
            feeds.push(f.clone());
            flat.push(reshape(&mut g, one, &[f.ty().len()])?);
        }
    }
    let (of_p, of_q) = (total(&mut g, &p)?, total(&mut g, &q)?);
    let mut least = Vec::new();
    for (a, b) in p.into_iter().zip(q) {
        let (a, b) = (g.push("Div", &[a, of_p], Attrs::new())?, g.push("Div", &[b, of_q], Attrs::new())?);
        least.push(g.push("Min", &[a, b], Attrs::new())?);
    }
    g.outputs = vec![total(&mut g, &least)?];
    let out = engine.prepare(&g)?.run(&feeds)?;
    let sum = out.first().ok_or_else(|| Error::internal("a session gave no sum"))?.to_array()?.to_f64();
    // a class without a Fisher is like no other
    Ok(sum.first().copied().filter(|v| v.is_finite()).unwrap_or(0.0))
}

/// The sum of all elements of these values.
fn total(g: &mut Graph, values: &[crate::graph::ValueId]) -> Result<crate::graph::ValueId> {
    let mut sum = None;
    for &v in values {
        let one = reduce_sum(g, v, &[0], false)?;
        sum = Some(match sum {
            None => one,
            Some(s) => g.push("Add", &[s, one], Attrs::new())?,
        });
    }
    sum.ok_or_else(|| Error::internal("a sum of nothing"))
}

/// Groups of similar classes: the two groups that are most alike are joined while they are [`SIMILAR`]. Likeness is the mean
/// overlap of their classes over the mean of what these have in common with the retained ones.
fn similar(overlaps: &[(usize, usize, f64)], retained: &[(usize, f64)]) -> Vec<Vec<usize>> {
    let of = |a: usize, b: usize| {
        let found = overlaps.iter().find(|(i, j, _)| (*i, *j) == (a.min(b), a.max(b)));
        found.map_or(0.0, |(_, _, v)| *v)
    };
    let common = |a: usize| retained.iter().find(|(c, _)| *c == a).map_or(0.0, |(_, v)| *v);
    let alike = |a: &[usize], b: &[usize]| {
        let pairs = || a.iter().flat_map(|&i| b.iter().map(move |&j| (i, j)));
        let each: f64 = pairs().map(|(i, j)| of(i, j)).sum();
        let general: f64 = pairs().map(|(i, j)| f64::midpoint(common(i), common(j))).sum();
        if general > 0.0 { each / general } else { 0.0 }
    };
    let mut groups: Vec<Vec<usize>> = retained.iter().map(|(c, _)| vec![*c]).collect();
    loop {
        let pairs = (0..groups.len()).flat_map(|i| (i + 1..groups.len()).map(move |j| (i, j)));
        let nearest = pairs.map(|(i, j)| (i, j, alike(&groups[i], &groups[j])));
        let nearest = nearest.fold(None, |best: Option<(usize, usize, f64)>, p| match best {
            Some(b) if b.2 >= p.2 => Some(b),
            _ => Some(p),
        });
        let Some((i, j, _)) = nearest.filter(|(_, _, v)| *v >= SIMILAR) else { return groups };
        let other = groups.remove(j);
        groups[i].extend(other);
        groups[i].sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::Cpu;
    use crate::tensor::Array;

    #[test]
    fn fishers_overlap_where_both_are_great() {
        let tensors = |a: [f32; 2], b: [f32; 2]| -> Vec<Tensor> {
            vec![
                Array::from_vec(&[2], a.to_vec()).unwrap().into(),
                Array::from_vec(&[1, 2], b.to_vec()).unwrap().into(),
            ]
        };
        let (one, two) = (tensors([1.0, 0.0], [0.0, 1.0]), tensors([3.0, 0.0], [0.0, 1.0]));
        // by hand: min(1/2, 3/4) + min(1/2, 1/4)
        assert_eq!(overlap(&Cpu, &one, &two).unwrap(), 0.75);
        assert_eq!(overlap(&Cpu, &one, &tensors([0.0, 1.0], [5.0, 0.0])).unwrap(), 0.0);
        assert_eq!(overlap(&Cpu, &one, &tensors([0.0; 2], [0.0; 2])).unwrap(), 0.0);
    }

    #[test]
    fn groups_join_by_their_mean() {
        let o = [(0, 1, 0.45), (0, 2, 0.42), (0, 3, 0.05), (1, 2, 0.15), (1, 3, 0.05), (2, 3, 0.41)];
        let half = |classes: &[usize]| classes.iter().map(|&c| (c, 0.5)).collect::<Vec<_>>();
        // 0 and 1 first; 2 is then 0.57 as near to them, and 0.82 to 3
        assert_eq!(similar(&o, &half(&[0, 1, 2, 3])), [vec![0, 1], vec![2, 3]]);
        assert_eq!(similar(&o, &half(&[0, 3])), [vec![0], vec![3]]);
        // what has less in common with the others is alike sooner
        assert_eq!(similar(&o, &[(0, 0.3), (1, 0.3), (2, 0.3)]), [vec![0, 1, 2]]);
        assert_eq!(similar(&o, &[(0, 0.0), (1, 0.0)]), [vec![0], vec![1]]);
    }
}
