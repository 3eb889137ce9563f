//! `forget --requests`: the requests of a file, one after the other, with one record each.

use super::Args;
use super::record::read_file;
use super::report::Report;
use crate::cli::{Context, Status};
use crate::error::{Error, Result};
use crate::files::existing;
use crate::onnx::Model;
use crate::record::{self, Against, Role};
use crate::report::{Align, Table};
use clap::builder::ValueParser;
use clap::{ArgMatches, Command, FromArgMatches, parser::ValueSource};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// A longer file is no list of requests.
const MAX_BYTES: u64 = 1 << 20;

/// Flags that say which requests.
#[derive(Debug, Default, clap::Args)]
struct ManyArgs {
    /// Runs all requests of this file in order, each on the output of the one before, with one record each; requests that
    /// are done already are left alone. MODEL stands in the place of the file's own.
    #[arg(long, value_name = "FILE.toml")]
    requests: Option<PathBuf>,
    /// Where the records of --requests go, named by the request [default: beside each output].
    #[arg(long, value_name = "FOLDER", requires = "requests")]
    record_dir: Option<PathBuf>,
}

/// One run, or a file of them.
#[derive(Debug)]
pub(in crate::cli) enum Invocation {
    One(Box<Args>),
    Many(Many),
}

impl clap::Args for Invocation {
    fn augment_args(command: Command) -> Command {
        // the last to augment has the last word on what the command is about
        let command = Args::augment_args(ManyArgs::augment_args(command));
        command
            .mut_arg("model", |a| a.required(false).required_unless_present("requests"))
            .mut_arg("classes", |a| a.required(false).required_unless_present("requests"))
            .mut_arg("out", |a| a.required_unless_present("requests"))
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Invocation {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let many = ManyArgs::from_arg_matches(matches)?;
        let Some(requests) = many.requests else {
            return Args::from_arg_matches(matches).map(|a| Self::One(Box::new(a)));
        };
        let own = <Args as clap::Args>::augment_args(Command::new("forget"));
        let typed = |a: &&clap::Arg| matches.value_source(a.get_id().as_str()) == Some(ValueSource::CommandLine);
        let mut other = own.get_arguments().filter(typed).map(|a| a.get_id().as_str());
        if let Some(flag) = other.find(|id| *id != "model") {
            let why = format!("'{flag}' cannot be used with --requests: its file says it for each request\n");
            return Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, why));
        }
        let model = matches.get_one::<PathBuf>("model").cloned();
        Ok(Self::Many(Many { requests, record_dir: many.record_dir, model }))
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Invocation {
    pub(in crate::cli) fn run(self, context: &Context) -> Result<Status> {
        match self {
            Self::One(args) => args.run(context),
            Self::Many(many) => many.run(context),
        }
    }
}

/// A file of requests.
#[derive(Debug)]
pub(in crate::cli) struct Many {
    requests: PathBuf,
    record_dir: Option<PathBuf>,
    model: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The model of the first request that names none.
    model: Option<PathBuf>,
    request: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    id: String,
    classes: Vec<usize>,
    /// The model, where it is not the output of the request before.
    model: Option<PathBuf>,
    output: PathBuf,
    record: Option<PathBuf>,
    legal_basis: Option<String>,
    /// Further flags of `forget` by name.
    #[serde(flatten)]
    flags: BTreeMap<String, toml::Value>,
}

/// Flags that the entries' own members stand for, or that make no sense there.
const RESERVED: [&str; 8] =
    ["class", "in-place", "request-id", "forgotten", "requests", "record-dir", "help", "strict"];

/// A request made ready.
struct Job {
    id: String,
    args: Args,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Ended {
    Done,
    /// Its files were there already.
    Kept,
    Failed,
    NotRun,
}

#[derive(serde::Serialize)]
struct Line {
    id: String,
    classes: Vec<usize>,
    ended: Ended,
    output: PathBuf,
    record: Option<PathBuf>,
    report: Option<Report>,
}

impl Many {
    fn run(self, context: &Context) -> Result<Status> {
        let jobs = self.jobs().map_err(|e| e.at(self.requests.display()))?;
        let mut lines: Vec<Line> = Vec::new();
        let mut failed = None;
        for job in jobs {
            let mut line = Line {
                classes: job.args.classes.clone(),
                output: job.args.o.clone().unwrap_or_default(),
                record: job.args.artefacts.record.record.clone(),
                ended: Ended::NotRun,
                report: None,
                id: job.id,
            };
            if failed.is_none() {
                line.ended = if job.args.is_done() {
                    Ended::Kept
                } else {
                    match job.args.execute(context) {
                        Ok(report) => {
                            line.report = Some(report);
                            Ended::Done
                        }
                        Err(e) => {
                            failed = Some(e.at(format!("request {}", line.id)));
                            Ended::Failed
                        }
                    }
                };
            }
            lines.push(line);
        }
        context.print(&lines, || text(&lines))?;
        match failed {
            Some(e) => Err(e),
            None => Ok(Status::Done),
        }
    }

    /// All requests as runs of `forget`; nothing is run unless every one of them can be read.
    fn jobs(&self) -> Result<Vec<Job>> {
        let file = self.read()?;
        let base = crate::files::parent(&self.requests);
        let first = self.model.clone().or_else(|| file.model.as_ref().map(|m| base.join(m)));
        let mut jobs: Vec<Job> = Vec::new();
        let mut ids = BTreeSet::new();
        // the chain so far: where it ends and what it has forgotten
        let (mut last, mut forgotten) = (first, Vec::new());
        for entry in &file.request {
            if !ids.insert(&entry.id) {
                return Err(Error::invalid(format!("two requests have the id '{}'", entry.id)));
            }
            if entry.classes.is_empty() {
                return Err(Error::invalid(format!("request '{}' names no class to forget", entry.id)));
            }
            if let Some(own) = &entry.model {
                (last, forgotten) = (Some(base.join(own)), Vec::new());
            }
            let model = last.clone().ok_or_else(|| {
                Error::invalid(format!("request '{}' has no model: name one there, at the top, or as MODEL", entry.id))
            })?;
            let output = base.join(&entry.output);
            let record = self.record(entry, base)?;
            let args = entry.args(base, &model, &output, &record, &forgotten);
            let args = args.map_err(|e| e.at(format!("request '{}'", entry.id)))?;
            for other in &jobs {
                let theirs = [other.args.o.as_ref(), other.args.artefacts.record.record.as_ref()];
                if theirs.into_iter().flatten().any(|t| *t == output || *t == record) {
                    return Err(Error::invalid(format!("requests '{}' and '{}' write one file", other.id, entry.id)));
                }
            }
            jobs.push(Job { id: entry.id.clone(), args });
            forgotten.extend(&entry.classes);
            last = Some(output);
        }
        Ok(jobs)
    }

    fn read(&self) -> Result<File> {
        let path = &self.requests;
        let failed = |e: std::io::Error| Error::io("cannot be read", &e);
        let found = std::fs::metadata(path).map_err(failed)?;
        if !found.is_file() || found.len() > MAX_BYTES {
            return Err(Error::invalid(format!("is no file of requests of up to {} MiB", MAX_BYTES >> 20)));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let file: File = toml::from_str(&text).map_err(|e| Error::format(e.to_string().trim().replace('\n', " ")))?;
        if file.request.is_empty() { Err(Error::invalid("holds no [[request]]")) } else { Ok(file) }
    }

    /// Where the record of a request goes.
    fn record(&self, entry: &Entry, base: &Path) -> Result<PathBuf> {
        match (&self.record_dir, &entry.record) {
            (None, Some(path)) => Ok(base.join(path)),
            (None, None) => {
                let mut name = base.join(&entry.output).into_os_string();
                name.push(".record.json");
                Ok(name.into())
            }
            (Some(folder), _) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if entry.id.is_empty() || entry.id.starts_with('.') || !entry.id.chars().all(plain) {
                    return Err(Error::invalid(format!(
                        "the id '{}' names no file: --record-dir takes letters, digits, '.', '_' and '-'",
                        entry.id.escape_debug()
                    )));
                }
                Ok(folder.join(format!("{}.json", entry.id)))
            }
        }
    }
}

impl Entry {
    /// The run that the request stands for, read as a command line is.
    fn args(&self, base: &Path, model: &Path, output: &Path, record: &Path, forgotten: &[usize]) -> Result<Args> {
        let command = <Args as clap::Args>::augment_args(Command::new("forget"));
        let mut words = Words(vec!["forget".into(), model.as_os_str().to_owned()]);
        self.classes.iter().for_each(|c| words.say("class", c.to_string()));
        forgotten.iter().for_each(|c| words.say("forgotten", c.to_string()));
        words.say("record", record);
        words.say("request-id", &self.id);
        self.legal_basis.iter().for_each(|t| words.say("legal-basis", t));
        for (flag, value) in &self.flags {
            let known = command.get_arguments().find(|a| a.get_long() == Some(flag));
            let known = known.filter(|_| !RESERVED.contains(&flag.as_str()));
            let known = known.ok_or_else(|| Error::invalid(format!("'{flag}' is no flag of a request")))?;
            let is_path = known.get_value_parser().type_id() == ValueParser::path_buf().type_id();
            match (value, known.get_action().takes_values()) {
                (toml::Value::Boolean(true), false) => words.0.push(format!("--{flag}").into()),
                (toml::Value::Boolean(false), false) => {}
                (toml::Value::Array(all), true) => {
                    for one in all {
                        words.say(flag, scalar(flag, one)?);
                    }
                }
                (one, true) if is_path => words.say(flag, base.join(scalar(flag, one)?)),
                (one, true) => words.say(flag, scalar(flag, one)?),
                (_, false) => return Err(Error::invalid(format!("'{flag}' is true or false"))),
            }
        }
        words.0.extend(["-o".into(), output.as_os_str().to_owned()]);
        let parsed = command.try_get_matches_from(words.0).and_then(|m| Args::from_arg_matches(&m));
        let mut args = parsed.map_err(|e| {
            let text = e.render().to_string();
            // what follows the first paragraph is advice for a command line
            let said = text.lines().map(str::trim).take_while(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
            Error::invalid(said.strip_prefix("error: ").unwrap_or(&said).to_owned())
        })?;
        // as a run does, so that parameters can be compared before it
        args.classes.sort_unstable();
        args.classes.dedup();
        Ok(args)
    }
}

/// A command line.
struct Words(Vec<OsString>);

impl Words {
    fn say(&mut self, flag: &str, value: impl AsRef<OsStr>) {
        let mut word = OsString::from(format!("--{flag}="));
        word.push(value);
        self.0.push(word);
    }
}

/// A value as it would be typed.
fn scalar(flag: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(s) => Ok(s.clone()),
        toml::Value::Integer(n) => Ok(n.to_string()),
        toml::Value::Float(v) => Ok(v.to_string()),
        _ => Err(Error::invalid(format!("'{flag}' takes text or a number"))),
    }
}

impl Args {
    /// Whether output and record of just this run are there: they agree, and the record tells of these parameters, this
    /// model and these inputs.
    fn is_done(&self) -> bool {
        self.agrees().unwrap_or(false)
    }

    fn agrees(&self) -> Result<bool> {
        let (Some(output), Some(path)) = (&self.o, &self.artefacts.record.record) else { return Ok(false) };
        if existing(output)?.is_none() || existing(path)?.is_none_or(|f| f.len() > record::MAX_BYTES) {
            return Ok(false);
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io(path.display(), &e))?;
        let parsed = record::parse(&bytes)?;
        let (model, original) = (Model::open(output)?, Model::open(&self.model.model)?);
        let against = Against { model: &model, original: Some(&original), key: None };
        if !record::verify(&parsed, &against)?.is_empty() {
            return Ok(false);
        }
        let predicate = &parsed.statement.predicate;
        let said = &predicate.build_definition;
        let classes = said.external_parameters.get("modelClasses").and_then(serde_json::Value::as_u64);
        let classes = classes.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let read =
            said.resolved_dependencies.iter().filter(|d| !matches!(d.annotations.role, Role::Model | Role::Data));
        let read: Vec<_> = read.map(|d| (d.annotations.role, d.digest.clone())).collect();
        let now = self.sources().into_iter().map(|(path, role)| Ok((role, read_file(path, role)?.digest)));
        let now = now.collect::<Result<Vec<_>>>()?;
        Ok(said.external_parameters == self.parameters(classes)
            && predicate.request == self.artefacts.record.request()
            && read == now)
    }
}

fn text(lines: &[Line]) -> String {
    let mut table = Table::new([
        ("request", Align::Left),
        ("classes", Align::Left),
        ("ended", Align::Left),
        ("forgotten, still answered", Align::Right),
        ("output", Align::Left),
    ]);
    for l in lines {
        let ended = match l.ended {
            Ended::Done => "done",
            Ended::Kept => "was done",
            Ended::Failed => "failed",
            Ended::NotRun => "not run",
        };
        let classes: Vec<String> = l.classes.iter().map(usize::to_string).collect();
        let answered = l.report.as_ref().map_or(String::new(), |r| {
            format!("{} of {}", r.inputs.forgotten_answered_after, r.inputs.forgotten_samples)
        });
        let output = l.output.display().to_string();
        table.row([l.id.clone(), classes.join(", "), ended.to_owned(), answered, output]);
    }
    let mut out = format!("{table}\n");
    for (line, doubt) in
        lines.iter().flat_map(|l| l.report.iter().flat_map(move |r| r.doubts.iter().map(move |d| (l, d))))
    {
        out += &format!("unsure: request {}: {doubt}\n", line.id);
    }
    out
}
