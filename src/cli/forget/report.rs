//! What `forget` prints.

use super::aim::Samples;
use super::checks::Check;
use crate::cli::codes::Made;
use crate::cli::common::EngineReport;
use crate::forget::answers::Answers;
use crate::forget::calibration::Seen;
use crate::forget::groups::Grouping;
use crate::forget::search::Candidate;
use crate::forget::{Aim, Change, Outcome, Passes, Still};
use crate::onnx::Rounding;
use crate::report::emit::Answer;
use crate::report::{Align, Table, format};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was asked for, and how long it took.
pub(super) struct Run<'a> {
    /// Classes to forget.
    pub(super) classes: &'a [usize],
    /// Samples to forget, in the place of classes.
    pub(super) samples: Option<Samples>,
    /// The Fisher that was kept, if one was given.
    pub(super) fisher: Option<&'a Path>,
    /// Seed of all that is drawn.
    pub(super) seed: u64,
    /// Class of every labelled input.
    pub(super) truth: &'a [usize],
    /// Seconds from start to end.
    pub(super) seconds: f64,
}

/// Counts of labelled inputs.
#[derive(serde::Serialize)]
pub(super) struct InputReport {
    pub(super) retained_samples: usize,
    pub(super) forgotten_samples: usize,
    pub(super) retained_right_before: usize,
    pub(super) retained_right_after: usize,
    pub(super) forgotten_answered_before: usize,
    pub(super) forgotten_answered_after: usize,
    pub(super) old_head_answered_after: Option<usize>,
    /// What has become of the inputs that were made beside these, where some were.
    pub(super) made_beside: Option<Still>,
    /// What the calibration samples said before and after, where there are some.
    pub(super) calibration: Option<[Seen; 2]>,
}

impl InputReport {
    /// As rows of a table.
    pub(super) fn answers(&self) -> Vec<Answer> {
        let (retained, forgotten) = (self.retained_samples, self.forgotten_samples);
        let answer = |what, before, after, all| Answer { what, before: (before, all), after: (after, all) };
        let still = self.forgotten_answered_before;
        let mut all = vec![
            answer("retained, answered rightly", self.retained_right_before, self.retained_right_after, retained),
            answer("forgotten, still answered", still, self.forgotten_answered_after, forgotten),
        ];
        all.extend(self.old_head_answered_after.map(|n| answer("forgotten, under the old head", still, n, forgotten)));
        if let Some(made) = &self.made_beside {
            all.push(answer("made beside, still answered", made.before, made.after, made.samples));
            let hidden = made.old_head.map(|n| answer("made beside, under the old head", made.before, n, made.samples));
            all.extend(hidden);
        }
        if let Some([b, a]) = &self.calibration {
            let (others, lost) = (b.retained_samples, b.forgotten_samples);
            let rows = [
                Some(answer("calibration, answered rightly", b.retained_right, a.retained_right, others)),
                Some(answer("calibration, still answered", b.forgotten_answered, a.forgotten_answered, lost)),
                a.old_head_answered.map(|n| answer("calibration, under the old head", b.forgotten_answered, n, lost)),
            ];
            all.extend(rows.into_iter().flatten().filter(|r| r.before.1 > 0));
        }
        all
    }
}

/// What a run did, as it is told on a terminal and as JSON.
#[derive(serde::Serialize)]
pub(super) struct Report {
    pub(super) file: PathBuf,
    pub(super) engine: EngineReport,
    /// Inputs that were made, where none were given.
    pub(super) made: Option<Made>,
    pub(super) classes: Vec<usize>,
    /// Samples to forget, in the place of classes.
    pub(super) samples: Option<Samples>,
    /// The Fisher that was kept, if one was given.
    pub(super) fisher: Option<PathBuf>,
    /// Classes whose Fisher was estimated.
    pub(super) estimated: Vec<usize>,
    /// Samples that were run, the making of inputs aside.
    pub(super) passes: Passes,
    pub(super) rule: &'static str,
    pub(super) strength: Vec<(&'static str, f64)>,
    /// Where several classes were forgotten: how, stage by stage.
    pub(super) grouping: Option<Grouping>,
    pub(super) candidates: usize,
    pub(super) tried: Vec<Candidate>,
    pub(super) inputs: InputReport,
    pub(super) changes: Vec<Change>,
    pub(super) head_share: f64,
    pub(super) weights_changed: usize,
    pub(super) elements_changed: usize,
    /// By stored type, where it is narrower than what was computed in.
    pub(super) rounding: BTreeMap<&'static str, Rounding>,
    pub(super) one_by_one: Option<String>,
    /// Reasons to doubt that what the inputs say holds for data.
    pub(super) doubts: Vec<String>,
    /// What was checked at last.
    pub(super) checks: Vec<Check>,
    pub(super) seed: u64,
    pub(super) seconds: f64,
}

impl Report {
    pub(super) fn new(
        file: PathBuf,
        engine: EngineReport,
        made: Option<Made>,
        o: &Outcome,
        rounding: BTreeMap<&'static str, Rounding>,
        run: &Run<'_>,
    ) -> Self {
        let names = o.strength.rule().strengths();
        Self {
            file,
            engine,
            made,
            classes: run.classes.to_vec(),
            samples: run.samples.clone(),
            fisher: run.fisher.map(Path::to_path_buf),
            estimated: o.estimated.clone(),
            passes: o.passes,
            rule: o.strength.rule().name(),
            doubts: o.doubts.clone(),
            checks: Vec::new(),
            strength: names.iter().copied().zip(o.strength.values()).collect(),
            grouping: o.grouping.clone(),
            candidates: o.tried.len(),
            inputs: InputReport {
                calibration: o.calibration.clone(),
                made_beside: o.beside,
                ..inputs(&o.aim, run.truth, &o.before, &o.after)
            },
            head_share: o.changes.iter().filter(|c| o.head.contains(&c.name)).map(|c| c.share).sum(),
            weights_changed: o.changes.iter().filter(|c| c.changed > 0).count(),
            elements_changed: o.changes.iter().map(|c| c.changed).sum(),
            changes: o.changes.clone(),
            tried: o.tried.clone(),
            rounding,
            one_by_one: o.one_by_one.clone(),
            seed: run.seed,
            seconds: run.seconds,
        }
    }

    /// What rounding to the file's types did, a line for each type.
    pub(super) fn rounded(&self) -> Vec<String> {
        let line = |(name, n): (&&str, &Rounding)| {
            format!(
                "{name}: of {} new elements {} were rounded to nearest even, {} of them back to the old element",
                format::count(n.changed),
                format::count(n.rounded),
                format::count(n.lost)
            )
        };
        self.rounding.iter().map(line).collect()
    }

    /// As a terminal shows it.
    pub(super) fn text(&self) -> String {
        let r = self;
        let classes: Vec<String> = r.classes.iter().map(usize::to_string).collect();
        let strengths: Vec<String> = r.strength.iter().map(|(n, v)| format::strength(n, *v)).collect();
        let forget = match &r.samples {
            None => format!("class {}", classes.join(", ")),
            Some(s) => {
                let (n, file) = (format::count(s.samples), s.file.display());
                let left = format!(" ({} of them were among the inputs to retain)", format::count(s.left_out));
                format!("{n} samples of {file}{}", if s.left_out > 0 { &left } else { "" })
            }
        };
        let mut out = format!(
            "engine:   {}\nforget:   {forget}\nrule:     {} with {} ({} tried, seed {})\n",
            r.engine,
            r.rule,
            strengths.join(", "),
            r.candidates,
            r.seed
        );
        if let Some(grouping) = &r.grouping {
            out += &grouped(grouping);
        }
        if let Some(file) = &r.fisher {
            let estimated: Vec<String> = r.estimated.iter().map(|c| format!(", class {c} estimated")).collect();
            out += &format!("fisher:   {}{}\n", file.display(), estimated.concat());
        }
        if let Some(made) = &r.made {
            out += &format!("inputs:   {made}\n");
        }
        if let Some(why) = &r.one_by_one {
            out += &format!("samples ran one by one: {why}\n");
        }
        let mut answers =
            Table::new([("labelled inputs", Align::Left), ("before", Align::Right), ("after", Align::Right)]);
        for a in r.inputs.answers() {
            let [before, after] = a.cells();
            answers.row([a.what.to_owned(), before, after]);
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
        for line in r.rounded() {
            out += &format!("{line}\n");
        }
        out += &format!(
            "wrote {}: {} elements of {} weights changed, {:.2} s\n",
            r.file.display(),
            format::count(r.elements_changed),
            r.weights_changed,
            r.seconds
        );
        r.checks.iter().for_each(|check| out += &format!("{check}\n"));
        out
    }
}

/// How several classes were forgotten.
fn grouped(g: &Grouping) -> String {
    let list = |classes: &[usize]| classes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut out = format!("strategy: {}", g.taken.name());
    if g.tried.len() > 1 {
        let tried = g.tried.iter().map(|(s, doubts)| format!("{} ({doubts} doubts)", s.name()));
        out += &format!(", of {}", tried.collect::<Vec<_>>().join(", "));
    }
    out.push('\n');
    if !g.similar.is_empty() {
        let groups: Vec<String> = g.similar.iter().map(|c| format!("{{{}}}", list(c))).collect();
        let overlaps: Vec<String> = g.overlaps.iter().take(15).map(|(a, b, v)| format!("{a}-{b} {v:.2}")).collect();
        let more = if g.overlaps.len() > 15 { ", …" } else { "" };
        out += &format!("similar:  {} (overlap {}{more})\n", groups.join(" "), overlaps.join(", "));
    }
    if g.steps.len() > 1 {
        for s in &g.steps {
            let what = if s.shared { "what is shared by" } else { "class" };
            let strengths: Vec<String> = s.strength.iter().map(|(n, v)| format::strength(n, *v)).collect();
            out += &format!("  {what} {}: {} with {}\n", list(&s.classes), s.rule, strengths.join(", "));
        }
    }
    out
}

fn inputs(aim: &Aim, truth: &[usize], before: &Answers, after: &Answers) -> InputReport {
    let forgotten = aim.still(0..truth.len(), truth, before, after);
    InputReport {
        retained_samples: truth.len() - forgotten.samples,
        forgotten_samples: forgotten.samples,
        retained_right_before: aim.right(truth, before),
        retained_right_after: aim.right(truth, after),
        forgotten_answered_before: forgotten.before,
        forgotten_answered_after: forgotten.after,
        old_head_answered_after: forgotten.old_head,
        made_beside: None,
        calibration: None,
    }
}
