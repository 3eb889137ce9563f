//! `codes embed`: codes for a model that was trained without any.

use crate::classifier::{Classifier, Weights};
use crate::cli::common::{EngineArgs, EngineReport, ModelArgs, ScaleArgs, check_target, named, same_file};
use crate::cli::{Context, Status};
use crate::error::{Error, Result};
use crate::files;
use crate::fisher::store::model_sha256;
use crate::forget::as_stored;
use crate::inputs::{Labelled, npz};
use crate::onnx::{Companion, PatchOptions, stage};
use crate::report::{Align, Table, format};
use crate::training::checkpoint::{self, Run};
use crate::training::{Ended, Look, Material, Options, Trainer};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Fine-tunes a model on real samples with codes mixed in, so that the codes stand for its classes.
///
/// For a model that was trained without codes, where its training data are at hand. Descent with momentum on the mean
/// cross-entropy, the rate falling to 0 along half a cosine; it comes to its end once every code is known, so that codes
/// are not learned harder than data. BatchNormalization keeps its statistics and Dropout drops nothing: both are in their
/// inference form. Only the bytes of weights change. Exits with 1 if the codes are not all answered at the end.
#[derive(Debug, clap::Args)]
#[command(mut_arg("split", |a| a.default_value("train")))]
pub(in crate::cli) struct Embed {
    #[command(flatten)]
    model: ModelArgs,
    /// Labelled samples to learn from: an .npz with x and y, a folder with IDX files, or a folder with one folder of images
    /// per class.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// The new model.
    #[arg(short, value_name = "OUT.onnx")]
    o: PathBuf,
    /// The codes, written together with the model.
    #[arg(long, value_name = "FILE.npz", required_unless_present = "codes", conflicts_with = "codes")]
    codes_out: Option<PathBuf>,
    /// Codes that are there already, in the place of new ones.
    #[arg(long, value_name = "FILE.npz")]
    codes: Option<PathBuf>,
    #[command(flatten)]
    new: super::DrawArgs,
    #[command(flatten)]
    how: HowArgs,
    /// Keeps the way so far in this file at every look, and goes on from it where it is there; removed at the end.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Decides new codes, order, mixing, and what is held out.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    scaling: ScaleArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// How descent goes.
#[derive(Debug, clap::Args)]
struct HowArgs {
    /// Steps at most.
    #[arg(long, value_name = "N", default_value_t = Options::default().steps)]
    steps: usize,
    /// Samples of a step.
    #[arg(long, value_name = "N", default_value_t = Options::default().batch)]
    batch: usize,
    /// Rate of the first step.
    #[arg(long, value_name = "V", default_value_t = Options::default().rate)]
    rate: f64,
    /// Part of the last step's direction that the next one keeps.
    #[arg(long, value_name = "V", default_value_t = Options::default().momentum)]
    momentum: f64,
    /// Part of a weight that is added to its slope.
    #[arg(long, value_name = "V", default_value_t = Options::default().decay)]
    weight_decay: f64,
    /// Probability that a sample gives way to a code of its class.
    #[arg(long, value_name = "P", default_value_t = Options::default().t_mix)]
    t_mix: f64,
    /// Goes to its end, over a fifth of the steps, when the class of every code has this probability on it.
    #[arg(long, value_name = "P", default_value_t = Options::default().until)]
    until: f64,
    /// Steps between two looks at codes and held-out samples.
    #[arg(long, value_name = "N", default_value_t = Options::default().look_every)]
    look_every: usize,
    /// Samples that are not learned from but looked at; never more than a tenth, unless given.
    #[arg(long, value_name = "N")]
    hold_out: Option<usize>,
}

impl HowArgs {
    fn options(&self, samples: usize, seed: u64) -> Options {
        let usual = Options::default().hold_out.min(samples / 10);
        Options {
            steps: self.steps,
            batch: self.batch,
            rate: self.rate,
            momentum: self.momentum,
            decay: self.weight_decay,
            t_mix: self.t_mix,
            until: self.until,
            look_every: self.look_every,
            hold_out: self.hold_out.unwrap_or(usual),
            seed,
        }
    }
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    codes_file: PathBuf,
    engine: EngineReport,
    codes: usize,
    samples: usize,
    held_out: usize,
    /// Classes of the model that have no sample, and so no code.
    missing: Vec<usize>,
    options: Options,
    /// The step that a kept run was at.
    resumed_at: Option<usize>,
    steps: usize,
    ended: Ended,
    looks: Vec<Look>,
    weights_changed: usize,
    elements_changed: usize,
    /// Weights that the answer does not depend on.
    unused: Vec<String>,
    seconds: f64,
}

impl Embed {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        let start = Instant::now();
        self.check_files()?;
        let chosen = self.engine.open()?;
        let engine = chosen.engine.as_ref();
        let classifier = self.model.open_for(&self.data, &self.scaling)?.on(engine)?;
        classifier.check_rewritable().map_err(|e| named(e, &self.model.model))?;
        let data = self.scaling.source(&self.data, &classifier, self.seed)?;
        let options = self.how.options(data.classes().len(), self.seed);
        options.check()?;
        let present: Vec<usize> = data.by_class().into_keys().collect();
        let missing: Vec<usize> = (0..classifier.classes()).filter(|c| !present.contains(c)).collect();
        let codes = self.codes(&classifier, &present)?;
        let material = Material::new(&data, &codes, &options).map_err(|e| named(e, &self.data))?;
        let mut trainer = Trainer::new(&classifier, engine, &material, options)?;
        let mut place = trainer.start(&classifier)?;
        let run = Run {
            model_sha256: model_sha256(classifier.model()),
            data_sha256: data.listing_sha256().to_owned(),
            codes_sha256: files::hex(&Sha256::digest(npz::to_bytes(&codes)?)),
            engine: engine.name().to_owned(),
            layers: self.model.layers.clone(),
            options,
        };
        let mut resumed_at = None;
        if let Some(path) = &self.checkpoint
            && let Some(kept) = checkpoint::load(path, &run, &place.state.weights)?
        {
            place = trainer.resume(kept).map_err(|e| named(e, path))?;
            resumed_at = place.looks.last().map(|l| l.step);
        }
        let bar = context.progress("steps", options.steps);
        let made = trainer.run(place, &mut |done| bar.inc(done.saturating_sub(bar.position())), &mut |place| {
            self.checkpoint.as_ref().map_or(Ok(()), |path| checkpoint::save(path, &run, place))
        })?;
        drop(bar);
        let mut looks = made.looks;
        if let (Some(stored), Some(last)) = (as_stored(&classifier, engine, &made.weights)?, looks.last_mut()) {
            *last = trainer.look(&stored, last.step, last.loss)?;
        }
        let changed = self.write(&classifier, &made.weights, &codes)?;
        let last = looks.last().ok_or_else(|| Error::internal("a run without a look"))?;
        let status = if last.codes_answered == codes.len() { Status::Done } else { Status::CheckFailed };
        let report = Report {
            file: self.o.clone(),
            codes_file: self.codes_out.clone().or(self.codes.clone()).unwrap_or_default(),
            engine: EngineReport::new(&chosen),
            codes: codes.len(),
            samples: material.learned.len(),
            held_out: material.held_out.len(),
            missing,
            options,
            resumed_at,
            steps: last.step,
            ended: made.ended,
            weights_changed: changed.0,
            elements_changed: changed.1,
            unused: made.unused,
            looks,
            seconds: start.elapsed().as_secs_f64(),
        };
        context.print(&report, || text(&report))?;
        Ok(status)
    }

    /// Places that can be written, none of which is read.
    fn check_files(&self) -> Result<()> {
        let read: Vec<&Path> = [&self.model.model, &self.data].into_iter().chain(&self.codes).map(|p| &**p).collect();
        let written: Vec<&Path> =
            std::iter::once(&self.o).chain(&self.codes_out).chain(&self.checkpoint).map(|p| &**p).collect();
        for (i, path) in written.iter().enumerate() {
            check_target(path, &read)?;
            files::existing(path)?;
            if written[..i].iter().any(|other| same_file(path, other)) {
                return Err(Error::invalid(format!("{} is to be written twice", path.display())));
            }
        }
        Ok(())
    }

    /// Codes of every class that has samples: those that are given, or new ones.
    fn codes(&self, classifier: &Classifier, present: &[usize]) -> Result<Labelled> {
        if let Some(path) = &self.codes {
            if let [flag, ..] = self.new.given()[..] {
                return Err(Error::invalid(format!("{flag} is for new codes; --codes gives them")));
            }
            return self.scaling.load_unscaled(path, classifier);
        }
        if let Some(name) = classifier.extra_inputs().keys().next() {
            return Err(Error::unsupported(format!(
                "the model takes '{name}' as well, which no code is drawn for: give whole codes with --codes"
            )));
        }
        let made = self.new.draw(classifier, self.seed)?;
        let of_present: Vec<usize> = (0..made.len()).filter(|&i| present.contains(&made.y[i])).collect();
        made.select(&of_present)
    }

    /// Writes the model and new codes together, then takes the checkpoint away; how many weights and elements changed.
    fn write(&self, classifier: &Classifier, weights: &Weights, codes: &Labelled) -> Result<(usize, usize)> {
        let model = classifier.model();
        let old = classifier.bind(1)?;
        let mut changes = Vec::new();
        for (name, id) in &old.weights {
            let (Some(new), crate::graph::Source::Weight(before)) = (weights.get(name), &old.graph.value(*id).source)
            else {
                continue;
            };
            let new = new.to_array()?;
            if !new.is_finite() {
                return Err(Error::invalid(format!(
                    "the new elements of '{name}' are not all finite; start with a lesser rate"
                )));
            }
            if new != *before {
                let index = model.weight_index(name);
                let index = index.ok_or_else(|| Error::internal(format!("weight '{name}' is not in the file")))?;
                changes.push((index, new));
            }
        }
        let beside = match &self.codes_out {
            Some(path) => vec![Companion { path: path.clone(), bytes: npz::to_bytes(codes)? }],
            None => Vec::new(),
        };
        let options = PatchOptions { companions: !beside.is_empty(), ..PatchOptions::default() };
        let report = stage(model, &changes, &self.o, &options)?.commit(&beside)?;
        if let Some(path) = self.checkpoint.as_ref().filter(|p| p.exists()) {
            std::fs::remove_file(path)
                .map_err(|e| Error::io(format!("the model is written, but {} stays", path.display()), &e))?;
        }
        Ok((report.weights.iter().filter(|w| w.changed > 0).count(), report.changed()))
    }
}

fn text(r: &Report) -> String {
    let mut table = Table::new([
        ("step", Align::Right),
        ("loss", Align::Right),
        ("codes answered", Align::Right),
        ("least certain", Align::Right),
        ("held out, right %", Align::Right),
    ]);
    for l in &r.looks {
        table.row([
            format::count(l.step),
            l.loss.map_or("-".to_owned(), |v| format::significant(v, 3)),
            format!("{} of {}", l.codes_answered, r.codes),
            format!("{:.3}", l.least_code),
            l.held_out.map_or("-".to_owned(), format::percent),
        ]);
    }
    let list = |all: &[usize]| all.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut out = format!(
        "engine: {}\n{} samples to learn from, {} held out, {} codes, t_mix {}, seed {}\n",
        r.engine,
        format::count(r.samples),
        format::count(r.held_out),
        format::count(r.codes),
        r.options.t_mix,
        r.options.seed
    );
    if let Some(step) = r.resumed_at {
        out += &format!("went on from step {}\n", format::count(step));
    }
    if !r.missing.is_empty() {
        out += &format!("note: no samples, and no codes, of class {}\n", list(&r.missing));
    }
    out += &format!("\n{table}\n");
    let known = r.looks.last().map_or(0, |l| l.codes_answered);
    let (steps, all) = (format::count(r.steps), format::count(r.options.steps));
    out += &match r.ended {
        Ended::CodesKnown => format!("ended after {steps} of {all} steps: every code is known\n"),
        Ended::AllSteps if known == r.codes => format!("ended after all {all} steps: every code is answered\n"),
        Ended::AllSteps => format!(
            "not learned: {known} of {} codes are answered after all {all} steps; give more --steps or a greater --rate\n",
            r.codes
        ),
    };
    out + &format!(
        "wrote {}: {} elements of {} weights changed, {:.2} s\ncodes: {}\n",
        r.file.display(),
        format::count(r.elements_changed),
        r.weights_changed,
        r.seconds,
        r.codes_file.display()
    )
}
