//! `forget`: the main job.

use super::codes::{Made, SynthesisArgs};
use super::common::{EngineArgs, EngineReport, ModelArgs, ScaleArgs, check_target, named, same_file};
use super::{Context, Status};
use crate::classifier::Classifier;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forget::answers::Answers;
use crate::forget::search::Candidate;
use crate::forget::{self, Change, Depth, Method, Outcome, Request, Rule, Scope, Stage, Strength};
use crate::inputs::Labelled;
use crate::onnx::{Model, PatchOptions, Rounding, Storage, patch, recover};
use crate::report::{Align, Table, format};
use crate::tensor::Array;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum RuleName {
    /// Both rules, strength searched on the inputs
    #[default]
    Auto,
    /// w ± α η with η = f_F / f_R; needs --lambda1 and --lambda2, or searches them
    Ratio,
    /// w · min(λ f_R / f_F, 1) where f_F > α f_R; needs --alpha and --lambda, or searches them
    Dampen,
    /// w + σ ε, least where f_R is great; needs --sigma, or searches it; no (ε, δ) promise
    Noise,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum DepthName {
    /// As deep as inputs made from the model allow at next to no cost; as head where inputs are given
    #[default]
    Auto,
    /// The answers are all that counts
    Head,
    /// The old head on the changed body should lose the forget inputs too, at some cost to the others
    Body,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    /// Every weight
    #[default]
    All,
    /// The last layer
    Head,
    /// All but the last layer
    Body,
}

impl From<DepthName> for Depth {
    fn from(name: DepthName) -> Self {
        match name {
            DepthName::Auto => Self::Auto,
            DepthName::Head => Self::Head,
            DepthName::Body => Self::Body,
        }
    }
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::All => Self::All,
            ScopeName::Head => Self::Head,
            ScopeName::Body => Self::Body,
        }
    }
}

/// Makes a classifier forget one or more classes and writes the changed model.
///
/// Only the bytes of weights change. Without strengths the strength is searched on the labelled inputs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A class to forget; may be given several times.
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',', required = true)]
    classes: Vec<usize>,
    /// Labelled inputs: an .npz with x and y (codes, or real samples), a folder with IDX files, or a folder with one
    /// folder of images per class. Without them inputs are made from the model alone.
    #[arg(long, value_name = "PATH")]
    inputs: Option<PathBuf>,
    /// The new model.
    #[arg(short, value_name = "FILE.onnx", required_unless_present = "in_place", conflicts_with = "in_place")]
    o: Option<PathBuf>,
    /// Change the model file itself.
    #[arg(long)]
    in_place: bool,
    /// How weights are changed.
    #[arg(long, value_enum, default_value_t)]
    rule: RuleName,
    /// Ratio rule: cap on the step per unit of η.
    #[arg(long, value_name = "V", requires = "lambda2")]
    lambda1: Option<f64>,
    /// Ratio rule: cap on the greatest step in an initializer.
    #[arg(long, value_name = "V", requires = "lambda1")]
    lambda2: Option<f64>,
    /// Dampening: how many times f_R a weight's f_F must exceed.
    #[arg(long, value_name = "V", requires = "lambda")]
    alpha: Option<f64>,
    /// Dampening: scale of what is left of a weight.
    #[arg(long, value_name = "V", requires = "alpha")]
    lambda: Option<f64>,
    /// Noise: deviation of a weight of mean f_R, as a part of the root mean square of its initializer.
    #[arg(long, value_name = "V")]
    sigma: Option<f64>,
    /// How deep a searched strength goes.
    #[arg(long, value_enum, default_value_t)]
    depth: DepthName,
    /// Which weights may change.
    #[arg(long, value_enum, default_value_t)]
    scope: ScopeName,
    /// Weights that may not change, by name; * and ? stand for characters. May be given several times.
    #[arg(long, value_name = "GLOB")]
    protect: Vec<String>,
    /// Exit with 1 when the inputs leave doubts about the result; it is written all the same.
    #[arg(long)]
    strict: bool,
    /// Decides the inputs that are made, the noise of that rule, and which samples --limit keeps.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    synthesis: SynthesisArgs,
    #[command(flatten)]
    scaling: ScaleArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(serde::Serialize)]
struct InputReport {
    retained_samples: usize,
    forgotten_samples: usize,
    retained_right_before: usize,
    retained_right_after: usize,
    forgotten_answered_before: usize,
    forgotten_answered_after: usize,
    old_head_answered_after: Option<usize>,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    engine: EngineReport,
    /// Inputs that were made, where none were given.
    made: Option<Made>,
    classes: Vec<usize>,
    rule: &'static str,
    strength: Vec<(&'static str, f64)>,
    candidates: usize,
    tried: Vec<Candidate>,
    inputs: InputReport,
    changes: Vec<Change>,
    head_share: f64,
    weights_changed: usize,
    elements_changed: usize,
    /// By stored type, where it is narrower than what was computed in.
    rounding: BTreeMap<&'static str, Rounding>,
    one_by_one: Option<String>,
    /// Reasons to doubt that what the inputs say holds for data.
    doubts: Vec<String>,
    seed: u64,
    seconds: f64,
}

impl Args {
    pub(super) fn run(mut self, context: &Context) -> Result<Status> {
        let start = Instant::now();
        self.classes.sort_unstable();
        self.classes.dedup();
        let method = self.method()?;
        let target = self.o.clone().unwrap_or_else(|| self.model.model.clone());
        let read: Vec<&Path> = self.inputs.iter().map(PathBuf::as_path).collect();
        check_target(&target, &read)?;
        if !self.in_place && same_file(&self.model.model, &target) {
            return Err(Error::invalid("the output is the model itself; use --in-place to change it"));
        }
        for written in [&self.model.model, &target] {
            if recover(written)? && !context.quiet {
                eprintln!("note: completed the change of {} that a stopped run had begun", written.display());
            }
        }
        let classifier = self.classifier()?;
        if self.in_place {
            classifier.model().lock()?;
        }
        classifier.check_rewritable().map_err(|e| named(e, &self.model.model))?;
        forget::check_range(&self.classes, classifier.classes())?;
        let chosen = self.engine.open()?;
        let classifier = classifier.on(chosen.engine.as_ref())?;
        let (data, made) = self.labelled(&classifier, chosen.engine.as_ref(), context)?;
        let engine = EngineReport::new(&chosen);
        let request = Request {
            depth: self.depth.into(),
            scope: self.scope.into(),
            protect: self.protect.clone(),
            made: made.is_some(),
            seed: self.seed,
            ..Request::new(self.classes.clone(), method)
        };
        let fisher = context.progress("fisher", data.len());
        let search = context.progress("search", 0);
        let outcome = forget::forget(&classifier, chosen.engine.as_ref(), &data, &request, &mut |stage| match stage {
            Stage::Fisher(n, _) => fisher.inc(n.saturating_sub(fisher.position())),
            Stage::Search(n) => {
                search.set_len(n);
                search.inc(1);
            }
        })?;
        drop((fisher, search));
        let model = classifier.model();
        let changes = outcome
            .new
            .iter()
            .map(|(name, data)| match model.weight_index(name) {
                Some(i) => Ok((i, data.clone())),
                None => Err(Error::internal(format!("weight '{name}' is not in the file"))),
            })
            .collect::<Result<Vec<_>>>()?;
        let options = PatchOptions { in_place: self.in_place, ..PatchOptions::default() };
        let rounding = rounding(model, &changes)?;
        patch(model, &changes, &target, &options)?;
        let mut report = self.report(target, engine, made, outcome, &data.y, start.elapsed().as_secs_f64());
        report.rounding = rounding;
        context.print(&report, || text(&report))?;
        Ok(if self.strict && !report.doubts.is_empty() { Status::CheckFailed } else { Status::Done })
    }

    /// The model, from its embedding on where inputs are to be made and it takes integers.
    fn classifier(&self) -> Result<Classifier> {
        match &self.inputs {
            Some(path) => self.model.open_for(path, &self.scaling),
            None => {
                let classifier = self.model.open()?;
                let of_integers = classifier.input().dtype.is_int();
                if of_integers { classifier.from_embedding() } else { Ok(classifier) }
            }
        }
    }

    /// The labelled inputs that are given, or made, and what is to be said of the latter.
    fn labelled(
        &self,
        classifier: &Classifier,
        engine: &dyn Engine,
        context: &Context,
    ) -> Result<(Labelled, Option<Made>)> {
        match &self.inputs {
            Some(path) => {
                if let [flag, ..] = self.synthesis.given()[..] {
                    return Err(Error::invalid(format!(
                        "{flag} is for inputs that are made from the model; --inputs gives them"
                    )));
                }
                Ok((self.scaling.load(path, classifier, self.seed)?, None))
            }
            None => {
                if let [flag, ..] = self.scaling.given()[..] {
                    return Err(Error::invalid(format!("{flag} is for inputs that are read; give them with --inputs")));
                }
                let (made, report) = self.synthesis.make(classifier, engine, self.seed, context)?;
                Ok((made.inputs, Some(report)))
            }
        }
    }

    fn method(&self) -> Result<Method> {
        let ratio = self.lambda1.zip(self.lambda2);
        let dampen = self.alpha.zip(self.lambda);
        for (name, v) in [
            ("lambda1", self.lambda1),
            ("lambda2", self.lambda2),
            ("alpha", self.alpha),
            ("lambda", self.lambda),
            ("sigma", self.sigma),
        ] {
            if let Some(v) = v.filter(|v| !v.is_finite() || *v < 0.0) {
                return Err(Error::invalid(format!("--{name} {v} must be a number of at least 0")));
            }
        }
        match (self.rule, ratio, dampen, self.sigma) {
            (RuleName::Ratio, Some((lambda1, lambda2)), None, None) => {
                Ok(Method::Fixed(Strength::Ratio { lambda1, lambda2, sign: 1.0 }))
            }
            (RuleName::Dampen, None, Some((alpha, lambda)), None) => {
                Ok(Method::Fixed(Strength::Dampen { alpha, lambda }))
            }
            (RuleName::Auto, None, None, None) => Ok(Method::Search(vec![Rule::Dampen, Rule::Ratio])),
            (RuleName::Ratio, None, None, None) => Ok(Method::Search(vec![Rule::Ratio])),
            (RuleName::Noise, None, None, Some(sigma)) => Ok(Method::Fixed(Strength::Noise { sigma, seed: self.seed })),
            (RuleName::Noise, None, None, None) => Ok(Method::Search(vec![Rule::Noise])),
            (RuleName::Dampen, None, None, None) => Ok(Method::Search(vec![Rule::Dampen])),
            _ => Err(Error::invalid(
                "strengths belong to a rule: --rule ratio takes --lambda1 and --lambda2, --rule dampen takes --alpha and --lambda, --rule noise takes --sigma",
            )),
        }
    }

    fn report(
        &self,
        file: PathBuf,
        engine: EngineReport,
        made: Option<Made>,
        o: Outcome,
        truth: &[usize],
        seconds: f64,
    ) -> Report {
        let names = o.strength.rule().strengths();
        Report {
            file,
            engine,
            made,
            classes: self.classes.clone(),
            rule: o.strength.rule().name(),
            doubts: o.doubts,
            strength: names.iter().copied().zip(o.strength.values()).collect(),
            candidates: o.tried.len(),
            inputs: inputs(&self.classes, truth, &o.before, &o.after),
            head_share: o.changes.iter().filter(|c| o.head.contains(&c.name)).map(|c| c.share).sum(),
            weights_changed: o.changes.iter().filter(|c| c.changed > 0).count(),
            elements_changed: o.changes.iter().map(|c| c.changed).sum(),
            changes: o.changes,
            tried: o.tried,
            rounding: BTreeMap::new(),
            one_by_one: o.one_by_one,
            seed: self.seed,
            seconds,
        }
    }
}

/// What the file's own types make of the new elements, by type.
fn rounding(model: &Model, changes: &[(usize, Array)]) -> Result<BTreeMap<&'static str, Rounding>> {
    let mut all: BTreeMap<&'static str, Rounding> = BTreeMap::new();
    for (i, new) in changes {
        let Some(weight) = model.weights().get(*i).filter(|w| matches!(w.storage(), Storage::F16 | Storage::Bf16))
        else {
            continue;
        };
        let one = weight.storage().rounding(&model.read(weight)?, new)?;
        let sum = all.entry(weight.storage().name()).or_default();
        sum.changed += one.changed;
        sum.rounded += one.rounded;
        sum.lost += one.lost;
    }
    Ok(all)
}

fn inputs(forgotten: &[usize], truth: &[usize], before: &Answers, after: &Answers) -> InputReport {
    let count = |logits: &[f64], keep: &dyn Fn(usize, usize) -> bool| {
        let answers = Answers::classes_of(logits, before.classes);
        truth.iter().zip(answers).filter(|(y, a)| keep(**y, *a)).count()
    };
    let right = |y: usize, a: usize| !forgotten.contains(&y) && y == a;
    let answered = |y: usize, a: usize| forgotten.contains(&y) && forgotten.contains(&a);
    let forgotten_samples = truth.iter().filter(|y| forgotten.contains(y)).count();
    InputReport {
        retained_samples: truth.len() - forgotten_samples,
        forgotten_samples,
        retained_right_before: count(&before.logits, &right),
        retained_right_after: count(&after.logits, &right),
        forgotten_answered_before: count(&before.logits, &answered),
        forgotten_answered_after: count(&after.logits, &answered),
        old_head_answered_after: after.old_head.as_ref().map(|z| count(z, &answered)),
    }
}

fn text(r: &Report) -> String {
    let classes: Vec<String> = r.classes.iter().map(usize::to_string).collect();
    let strengths: Vec<String> =
        r.strength.iter().map(|(n, v)| format!("{n} {}", format::significant(*v, 4))).collect();
    let mut out = format!(
        "engine:   {}\nforget:   class {}\nrule:     {} with {} ({} tried, seed {})\n",
        r.engine,
        classes.join(", "),
        r.rule,
        strengths.join(", "),
        r.candidates,
        r.seed
    );
    if let Some(made) = &r.made {
        out += &format!("inputs:   {made}\n");
    }
    if let Some(why) = &r.one_by_one {
        out += &format!("samples ran one by one: {why}\n");
    }
    let i = &r.inputs;
    let mut answers = Table::new([("labelled inputs", Align::Left), ("before", Align::Right), ("after", Align::Right)]);
    let of = |n: usize, all: usize| format!("{n} of {all}");
    answers.row([
        "retained, answered rightly".to_owned(),
        of(i.retained_right_before, i.retained_samples),
        of(i.retained_right_after, i.retained_samples),
    ]);
    answers.row([
        "forgotten, still answered".to_owned(),
        of(i.forgotten_answered_before, i.forgotten_samples),
        of(i.forgotten_answered_after, i.forgotten_samples),
    ]);
    if let Some(n) = i.old_head_answered_after {
        let before = of(i.forgotten_answered_before, i.forgotten_samples);
        answers.row(["forgotten, under the old head".to_owned(), before, of(n, i.forgotten_samples)]);
    }
    let columns = [
        ("weight", Align::Left),
        ("elements", Align::Right),
        ("changed", Align::Right),
        ("share %", Align::Right),
        ("relative", Align::Right),
    ];
    let mut layers = Table::new(columns);
    for c in r.changes.iter().filter(|c| c.changed > 0) {
        let relative = format::significant(c.relative, 3);
        layers.row([
            c.name.clone(),
            format::count(c.elements),
            format::count(c.changed),
            format::percent(c.share),
            relative,
        ]);
    }
    out += &format!("\n{answers}\n{layers}\n");
    for doubt in &r.doubts {
        out += &format!("unsure: {doubt}\n");
    }
    out += &format!("{} % of the change lies in the last layer\n", format::percent(r.head_share));
    for (name, n) in &r.rounding {
        out += &format!(
            "{name}: of {} new elements {} were rounded to nearest even, {} of them back to the old element\n",
            format::count(n.changed),
            format::count(n.rounded),
            format::count(n.lost)
        );
    }
    out += &format!(
        "wrote {}: {} elements of {} weights changed, {:.2} s\n",
        r.file.display(),
        format::count(r.elements_changed),
        r.weights_changed,
        r.seconds
    );
    out
}
