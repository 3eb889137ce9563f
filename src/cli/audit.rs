//! `audit`: evidence on whether a class is forgotten.

use super::common::{EngineArgs, EngineReport, ModelArgs, ScaleArgs, check_target, named};
use super::{Context, Status, pages};
use crate::audit::{self, Audit, Models, Number, Request, Samples, Verdict};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::inputs::Labelled;
use crate::report::{Align, Table, format, html};
use std::io::Write;
use std::path::PathBuf;

/// Measures whether a model has forgotten classes, and where the change lies.
///
/// Seven measures and the code trigger, each with its 95 % interval, a reference where one is given, one line on what it
/// means, and PASS, WARN or FAIL against bands that docs/audit.md explains. Exits with 1 when one FAILs.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |a| a.index(1).value_name("BEFORE").help("The model that knows the classes, an ONNX file")))]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The model that is to have forgotten them.
    #[arg(index = 2)]
    after: PathBuf,
    /// Samples that no model was trained with, of forgotten and of retained classes: an .npz with x and y, a folder
    /// with IDX files, or a folder with one folder of images per class.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// A forgotten class; may be given several times.
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',', required = true)]
    classes: Vec<usize>,
    /// A model that was trained without the classes; may be given several times.
    #[arg(long = "reference", value_name = "MODEL")]
    references: Vec<PathBuf>,
    /// Samples of the classes that BEFORE was trained with.
    #[arg(long, value_name = "PATH")]
    members: Option<PathBuf>,
    /// Samples of the classes that it was not trained with.
    #[arg(long, value_name = "PATH")]
    non_members: Option<PathBuf>,
    /// Codes that BEFORE was trained with.
    #[arg(long, value_name = "FILE.npz")]
    codes: Option<PathBuf>,
    /// Most steps of relearning; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 50)]
    relearning_steps: usize,
    /// Decides folds, resamples, orders, random teachers, and which samples --limit keeps.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The audit as one HTML page as well.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    #[command(flatten)]
    scaling: ScaleArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(serde::Serialize)]
struct Report {
    before: PathBuf,
    after: PathBuf,
    references: Vec<PathBuf>,
    engine: EngineReport,
    audit: Audit,
}

/// How many things the audit says it is doing.
const STAGES: usize = 9;

impl Args {
    pub(super) fn run(mut self, context: &Context) -> Result<Status> {
        self.classes.sort_unstable();
        self.classes.dedup();
        if let Some(path) = &self.report {
            check_target(path, &self.read().iter().map(|(_, p)| p.as_path()).collect::<Vec<_>>())?;
        }
        let chosen = self.engine.open()?;
        let engine = chosen.engine.as_ref();
        let open = |path: &PathBuf| -> Result<Classifier> {
            let model = ModelArgs { model: path.clone(), ..self.model.clone() };
            model.open_for(&self.data, &self.scaling)?.on(engine).map_err(|e| named(e, path))
        };
        let (before, after) = (open(&self.model.model)?, open(&self.after)?);
        let references = self.references.iter().map(open).collect::<Result<Vec<_>>>()?;
        let models = Models { before: &before, after: &after, references: &references };
        // before the samples are read: they cannot fit models that differ
        models.check()?;
        let load = |path: &PathBuf| self.scaling.load(path, &before, self.seed);
        let data = load(&self.data)?;
        let optional = |path: &Option<PathBuf>| -> Result<Option<Labelled>> { path.as_ref().map(load).transpose() };
        let (members, non_members) = (optional(&self.members)?, optional(&self.non_members)?);
        // codes lie in the model's own range
        let codes = self.codes.as_ref().map(|path| self.scaling.load_unscaled(path, &before)).transpose()?;
        let samples = Samples {
            data: &data,
            members: members.as_ref(),
            non_members: non_members.as_ref(),
            codes: codes.as_ref(),
        };
        let request =
            Request { classes: self.classes.clone(), seed: self.seed, relearning_steps: self.relearning_steps };
        let progress = context.progress("audit", STAGES);
        let audit = audit::audit(models, samples, &request, engine, &mut |_| progress.inc(1))?;
        drop(progress);
        let status = if audit.verdict == Verdict::Fail { Status::CheckFailed } else { Status::Done };
        let report = Report {
            before: self.model.model.clone(),
            after: self.after.clone(),
            references: self.references.clone(),
            engine: EngineReport::new(&chosen),
            audit,
        };
        if let Some(path) = &self.report {
            let page = self.page(&report, models, codes.as_ref())?;
            write_atomically(path, |out| {
                out.write_all(page.as_bytes()).map_err(|e| Error::io(format!("cannot write {}", path.display()), &e))
            })?;
        }
        context.print(&report, || text(&report))?;
        Ok(status)
    }

    /// Everything that is read, and what for.
    fn read(&self) -> Vec<(&'static str, &PathBuf)> {
        let models = [("before", &self.model.model), ("after", &self.after)].into_iter();
        let references = self.references.iter().map(|p| ("reference", p));
        let samples = [("members", &self.members), ("non-members", &self.non_members), ("codes", &self.codes)];
        let samples = samples.into_iter().filter_map(|(role, p)| p.as_ref().map(|p| (role, p)));
        models.chain(references).chain([("data", &self.data)]).chain(samples).collect()
    }

    /// The audit as a page.
    fn page(&self, report: &Report, models: Models<'_>, codes: Option<&Labelled>) -> Result<String> {
        let mut files = Vec::new();
        let classifiers = [models.before, models.after].into_iter().chain(models.references);
        for ((role, _), classifier) in self.read().into_iter().zip(classifiers) {
            let digests = classifier.model().digests().into_iter();
            files.extend(digests.map(|d| html::File { role, name: d.name, sha256: d.sha256 }));
        }
        for (role, path) in self.read().into_iter().skip(2 + models.references.len()) {
            files.extend(pages::hashed(role, path)?);
        }
        let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let run = html::audit::Run {
            command: &pages::command(),
            before: &name(&report.before),
            after: &name(&report.after),
            data: &name(&self.data),
            engine: &report.engine.to_string(),
            audit: &report.audit,
            codes,
            files: &files,
        };
        html::audit::page(&run)?.render()
    }
}

fn text(r: &Report) -> String {
    let a = &r.audit;
    let classes: Vec<String> = a.classes.iter().map(usize::to_string).collect();
    let mut out = format!(
        "engine:     {}\nbefore:     {}\nafter:      {}\nforgotten:  class {}\ndata:       {} samples, {} of forgotten classes\nreferences: {}\nseed:       {}\n",
        r.engine,
        r.before.display(),
        r.after.display(),
        classes.join(", "),
        format::count(a.samples),
        format::count(a.forgotten_samples),
        a.references,
        a.seed
    );
    for (k, m) in a.measures.iter().enumerate() {
        out += &format!("\n{:<5} {}. {}: {}\n", m.verdict.word(), k + 1, m.name, m.meaning);
        if !m.numbers.is_empty() {
            out += &indented(&table(&m.numbers).to_string());
        }
        for detail in &m.details {
            out += &format!("      note: {detail}\n");
        }
    }
    out += &match (&a.depth, &a.no_depth) {
        (Some(depth), _) => {
            let mut layers = Table::new([
                ("tensor", Align::Left),
                ("elements", Align::Right),
                ("changed", Align::Right),
                ("share %", Align::Right),
                ("relative", Align::Right),
            ]);
            for l in depth.layers.iter().filter(|l| l.changed > 0) {
                let name = if l.is_head { format!("{} (last layer)", l.name) } else { l.name.clone() };
                let relative =
                    if l.relative.is_infinite() { "∞".to_owned() } else { format::significant(l.relative, 3) };
                let (elements, changed) = (format::count(l.elements), format::count(l.changed));
                layers.row([name, elements, changed, format::percent(l.share), relative]);
            }
            let table = if layers.is_empty() { String::new() } else { indented(&layers.to_string()) };
            format!("\ndepth: {}\n{table}", depth.sentence)
        }
        (None, why) => format!("\ndepth: not measured: {}\n", why.as_deref().unwrap_or("")),
    };
    let names = |verdict: Verdict| -> Vec<&str> {
        a.measures.iter().filter(|m| m.verdict == verdict).map(|m| m.name).collect()
    };
    out += &format!("\nverdict: {}", a.verdict.word());
    let told = [(Verdict::Fail, "fails"), (Verdict::Warn, "warns"), (Verdict::NotMeasured, "not measured")];
    for (verdict, word) in told {
        let names = names(verdict);
        if !names.is_empty() {
            out += &format!("; {word}: {}", names.join(", "));
        }
    }
    out.push('\n');
    out
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("      {l}\n")).collect()
}

fn table(numbers: &[Number]) -> Table {
    let mut table = Table::new([
        ("", Align::Left),
        ("value", Align::Right),
        ("95 % interval", Align::Right),
        ("before", Align::Right),
        ("reference", Align::Right),
        ("n", Align::Right),
        ("split", Align::Left),
        ("", Align::Left),
    ]);
    for n in numbers {
        let show = |v: f64| n.unit.show(v);
        let unresolved = "too few".to_owned();
        table.row([
            n.name.clone(),
            n.value.map_or(unresolved, show),
            n.interval.map_or_else(String::new, |[lo, hi]| format!("{} to {}", show(lo), show(hi))),
            n.before.map_or_else(String::new, show),
            n.reference.map_or_else(String::new, show),
            format::count(n.n),
            n.split.clone(),
            n.verdict.map_or("", Verdict::word).to_owned(),
        ]);
    }
    table
}
