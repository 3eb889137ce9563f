//! `forget`: the main job.

mod aim;
mod artefacts;
mod checks;
mod emit;
mod options;
mod page;
mod record;
mod report;
mod requests;

use super::codes::{Beside, Made, SynthesisArgs};
use super::common::{EngineArgs, EngineReport, MemoryArgs, ModelArgs, ScaleArgs, check_target, named, same_file};
use super::{Context, Status};
use crate::classifier::Classifier;
use crate::engine::Engine;
use crate::engine::choose::Chosen;
use crate::error::{Error, Result};
use crate::fisher::store::{Kept, load};
use crate::forget::{self, Method, Request, Rule, Stage, Strength};
use crate::inputs::compose::stands_for;
use crate::inputs::{self, Labelled};
use crate::onnx::{Model, PatchOptions, Rounding, Storage, recover, stage};
use crate::tensor::Array;
use aim::AimArgs;
use artefacts::{ArtefactArgs, Finished};
use options::{DepthName, ScopeName, StrategyName, StrengthArgs};
pub(super) use record::read_pem;
use report::{Report, Run};
pub(super) use requests::Invocation;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Inputs are made beside others that are given, without being asked for, with at most so many multiplications: about a
/// minute or two on two cores.
const MOST_PRODUCTS: u64 = 5_000_000_000_000;

/// Times that a given strength runs each input forward: three for its Fisher, which goes back as well, one before, one for each
/// sign and one for what is reported.
const SAMPLES_FIXED: usize = 7;

/// Makes a classifier forget one or more classes and writes the changed model.
///
/// Only the bytes of weights change. Without strengths the strength is searched on the labelled inputs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A class to forget; may be given several times.
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',', required_unless_present_any = ["classes_file", "forget_inputs"])]
    classes: Vec<usize>,
    /// A class that was forgotten before: its inputs are left out. May be given several times.
    #[arg(long, value_name = "CLASS", value_delimiter = ',', conflicts_with = "fisher")]
    forgotten: Vec<usize>,
    #[command(flatten)]
    aim: AimArgs,
    /// Labelled inputs: an .npz with x and y (codes, or real samples), a folder with IDX files, or a folder with one
    /// folder of images per class. Without them inputs are made from the model alone.
    #[arg(long, value_name = "PATH")]
    inputs: Option<PathBuf>,
    /// A Fisher of this model that 'fisher' wrote. Classes that it holds are not estimated again; the inputs are still
    /// what the strength is searched on.
    #[arg(long, value_name = "FILE.safetensors")]
    fisher: Option<PathBuf>,
    /// A few real samples that the search listens to beside the inputs, as --inputs takes them; no part of the Fisher. With
    /// it, --scale, --mean, --std, --split and --limit are for these samples, and --inputs are taken as they are.
    #[arg(long, value_name = "PATH")]
    calibration: Option<PathBuf>,
    /// The calibration samples are part of the Fisher as well.
    #[arg(long, requires = "calibration", conflicts_with = "fisher")]
    calibration_in_fisher: bool,
    /// The new model.
    #[arg(value_name = "OUT.onnx", required_unless_present_any = ["o", "in_place"], conflicts_with_all = ["o", "in_place"])]
    out: Option<PathBuf>,
    /// The new model, as a flag.
    #[arg(short, value_name = "OUT.onnx", conflicts_with = "in_place")]
    o: Option<PathBuf>,
    /// Change the model file itself.
    #[arg(long)]
    in_place: bool,
    #[command(flatten)]
    strength: StrengthArgs,
    /// How several classes are forgotten.
    #[arg(long, value_enum, default_value_t)]
    strategy: StrategyName,
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
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    artefacts: ArtefactArgs,
}

impl Args {
    fn run(self, context: &Context) -> Result<Status> {
        let strict = self.strict;
        let report = self.execute(context)?;
        context.print(&report, || report.text())?;
        Ok(if strict && !report.doubts.is_empty() { Status::CheckFailed } else { Status::Done })
    }

    /// Does the work; the files are written, and nothing is printed but notes.
    fn execute(mut self, context: &Context) -> Result<Report> {
        let start = Instant::now();
        self.classes.extend(self.aim.classes()?);
        self.classes.sort_unstable();
        self.classes.dedup();
        let method = self.strength.method(self.seed)?;
        let target = self.out.as_ref().or(self.o.as_ref()).unwrap_or(&self.model.model).clone();
        let read: Vec<&Path> = self
            .inputs
            .iter()
            .chain(&self.fisher)
            .chain(&self.calibration)
            .map(PathBuf::as_path)
            .chain(self.aim.read())
            .collect();
        check_target(&target, &read)?;
        if self.aim.forget_inputs.is_some() && !self.artefacts.targets().is_empty() {
            return Err(Error::unsupported(
                "what is written beside the model speaks of classes; with --forget-inputs only the model is written",
            ));
        }
        if !self.in_place && same_file(&self.model.model, &target) {
            return Err(Error::invalid("the output is the model itself; use --in-place to change it"));
        }
        self.artefacts.check(&self.model.model, &target, &read)?;
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
        if self.aim.forget_inputs.is_none() {
            forget::check_range(&self.classes, classifier.classes())?;
        }
        if let Some(c) = self.classes.iter().find(|c| self.forgotten.contains(c)) {
            return Err(Error::invalid(format!(
                "class {c} is to be forgotten, and --forgotten says that it was before"
            )));
        }
        let keys = self.artefacts.record.keys(classifier.model(), &self.classes, classifier.classes())?;
        let kept = self.fisher.as_deref().map(|path| self.kept(path, &classifier)).transpose()?;
        let chosen = self.open_engine(&classifier, &method)?;
        let classifier = classifier.on(chosen.engine.as_ref())?.within(self.memory.memory_limit);
        let (data, made) = self.labelled(&classifier, chosen.engine.as_ref(), context)?;
        let data = self.without_forgotten(data)?;
        let calibration = self.calibration(&classifier)?;
        let (data, positions, samples) = self.aim.join(data, &classifier, &self.scaling, self.seed)?;
        let beside = self.beside(&classifier, chosen.engine.as_ref(), &method, &data, context)?;
        let engine = EngineReport::new(&chosen);
        let request = Request {
            strategy: self.strategy.into(),
            depth: self.depth.into(),
            scope: self.scope.into(),
            protect: self.protect.clone(),
            calibration,
            calibration_in_fisher: self.calibration_in_fisher,
            made: made.is_some() || self.inputs.as_deref().map_or(Ok(false), inputs::are_made)?,
            beside: beside.as_ref().map(|(inputs, _)| inputs.clone()),
            seed: self.seed,
            fisher: kept,
            positions,
            ..Request::new(self.classes.clone(), method)
        };
        let fisher = context.progress("fisher", data.len() + request.beside.as_ref().map_or(0, Labelled::len));
        let search = context.progress("search", 0);
        let made = made.or(beside.map(|(_, report)| report));
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
        let companions = !self.artefacts.targets().is_empty();
        let (edits, metadata) = self.artefacts.record.edits(model, &self.classes, classifier.classes())?;
        let options = PatchOptions { in_place: self.in_place, companions, edits, ..PatchOptions::default() };
        let rounding = rounding(model, &changes)?;
        let staged = stage(model, &changes, &target, &options)?;
        let run = Run {
            classes: &self.classes,
            samples,
            fisher: self.fisher.as_deref(),
            seed: self.seed,
            truth: &data.y,
            seconds: start.elapsed().as_secs_f64(),
        };
        let mut report = Report::new(target, engine, made, &outcome, rounding, &run);
        let finished = Finished {
            classifier: &classifier,
            engine: chosen.engine.as_ref(),
            request: &request,
            inputs: self.inputs.as_deref(),
            calibration: self.calibration.as_deref(),
            sources: &self.sources(),
            data: &data,
            outcome: &outcome,
            report: &report,
            staged: &staged,
            parameters: &self.parameters(classifier.classes()),
            keys: &keys,
            metadata: &metadata,
            known: Default::default(),
        };
        let beside = self.artefacts.prepare(&finished)?;
        staged.commit(&beside)?;
        report.checks = checks::of(&report, model, chosen.engine.as_ref(), metadata.len(), &beside);
        Ok(report)
    }

    /// The model, from its embedding on where inputs are to be made and it takes integers.
    fn classifier(&self) -> Result<Classifier> {
        match self.inputs.as_ref().or(self.aim.forget_inputs.as_ref()) {
            Some(path) => self.model.open_for(path, &self.scaling),
            None => {
                let classifier = self.model.open()?;
                let of_integers = classifier.input().dtype.is_int();
                if of_integers { classifier.from_embedding() } else { Ok(classifier) }
            }
        }
    }

    /// The engine; what there is to compute is known where the strength is given as well as the inputs.
    fn open_engine(&self, classifier: &Classifier, method: &Method) -> Result<Chosen> {
        match (method, &self.inputs) {
            (Method::Fixed(strength), Some(path)) if strength.rule() != Rule::Ascent => {
                let samples = self.scaling.source(path, classifier, self.seed)?.classes().len();
                self.engine.open_for(classifier, SAMPLES_FIXED * samples)
            }
            _ => self.engine.open(),
        }
    }

    /// The labelled inputs of all classes but those that were forgotten before.
    fn without_forgotten(&self, data: Labelled) -> Result<Labelled> {
        if self.forgotten.is_empty() {
            return Ok(data);
        }
        let kept: Vec<usize> = (0..data.len()).filter(|&i| !self.forgotten.contains(&data.y[i])).collect();
        data.select(&kept)
    }

    /// A code that stands for several classes can be forgotten for all of them alone.
    fn check_composite(&self, path: &Path, data: &Labelled) -> Result<()> {
        if !inputs::are_composite(path)? {
            return Ok(());
        }
        let torn = |classes: &Vec<usize>| {
            let lost = classes.iter().filter(|c| self.classes.contains(c)).count();
            lost > 0 && lost < classes.len()
        };
        match stands_for(data)?.into_iter().find(torn) {
            Some(classes) => Err(Error::invalid(format!(
                "{}: classes {classes:?} share one code: they can be forgotten together, not one without the others",
                path.display()
            ))),
            None => Ok(()),
        }
    }

    /// The samples that the search listens to, but for those of classes that were forgotten before.
    fn calibration(&self, classifier: &Classifier) -> Result<Option<Labelled>> {
        let Some(path) = &self.calibration else { return Ok(None) };
        let samples = self.without_forgotten(self.scaling.load(path, classifier, self.seed)?)?;
        if samples.is_empty() {
            return Err(Error::invalid(format!("{}: holds samples of forgotten classes alone", path.display())));
        }
        Ok(Some(samples))
    }

    /// The Fisher that is kept, which has to be of this model and of the same answer.
    fn kept(&self, path: &Path, classifier: &Classifier) -> Result<Arc<Kept>> {
        let kept = load(path, classifier.model())?;
        if kept.origin.output != self.model.output {
            let of = kept.origin.output.as_deref().unwrap_or("the only answer");
            return Err(Error::invalid(format!("{}: is the Fisher of another output: {of}", path.display())));
        }
        Ok(Arc::new(kept))
    }

    /// Inputs made from the model beside few that are given, which tell how deep the body may change; none where it may not,
    /// where a Fisher is kept, or where the model takes no floats or more than one input. Unless depth is asked for they are
    /// few, and none where other samples tell, or where that takes too long.
    fn beside(
        &self,
        classifier: &Classifier,
        engine: &dyn Engine,
        method: &Method,
        data: &Labelled,
        context: &Context,
    ) -> Result<Option<(Labelled, Made)>> {
        let ascends = match method {
            Method::Search(rules) => rules.contains(&Rule::Ascent),
            Method::Fixed(strength) => matches!(strength, Strength::Ascent { body: 1.., .. }),
        };
        let deepens = self.depth != DepthName::Head && self.scope != ScopeName::Head;
        let takes_made = classifier.input().dtype.is_float() && classifier.extra_inputs().is_empty();
        let Some(path) = self.inputs.as_deref().filter(|_| ascends && deepens && takes_made && self.fisher.is_none())
        else {
            return Ok(None);
        };
        if forget::are_telling(data) || inputs::are_made(path)? {
            return Ok(None);
        }
        let number = match self.depth {
            DepthName::Body => Beside::Many,
            _ if self.classes.is_empty() || self.calibration.is_some() || inputs::are_composite(path)? => {
                return Ok(None);
            }
            _ => Beside::Few(&self.classes),
        };
        let products = number.products(classifier)?;
        if self.depth != DepthName::Body && products > MOST_PRODUCTS {
            if !context.quiet {
                eprintln!(
                    "note: the layers before the last change with caution: to tell how far they may, inputs would have to be made \
                     from the model, in {:.0} trillion multiplications; --depth body does that",
                    products as f64 / 1e12
                );
            }
            return Ok(None);
        }
        let (made, report) = SynthesisArgs::beside(data, &number, classifier, engine, self.seed, context)?;
        let made = self.without_forgotten(made.inputs)?;
        Ok(report.is_good().then_some((made, report)))
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
                let data = match &self.calibration {
                    Some(_) => self.scaling.load_unscaled(path, classifier)?,
                    None => self.scaling.load(path, classifier, self.seed)?,
                };
                self.check_composite(path, &data)?;
                Ok((data, None))
            }
            None => {
                let read = self.aim.forget_inputs.as_ref().or(self.calibration.as_ref());
                if let ([flag, ..], None) = (&self.scaling.given()[..], read) {
                    return Err(Error::invalid(format!("{flag} is for inputs that are read; give them with --inputs")));
                }
                let (made, report) = self.synthesis.make(classifier, engine, self.seed, context)?;
                Ok((made.inputs, Some(report)))
            }
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
