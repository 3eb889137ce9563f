//! The page of a run of `forget`.

use super::classes::{self, ClassAnswers};
use super::matrix::matrices;
use super::{
    Axis, Block, Cell, Chart, Column, Counts, Dot, Fact, Figure, File, Kind, Level, Marker, Page, Row, Scale, Section,
    Series, Table, capital, class_list, clipped, counted, origin, pictures, sentence, shown, weights,
};
use crate::error::Result;
use crate::forget::Outcome;
use crate::forget::answers::Answers;
use crate::forget::calibration::Seen;
use crate::forget::search::Candidate;
use crate::inputs::Labelled;
use crate::report::format;

/// Most candidates of the search that are listed.
const CANDIDATES: usize = 200;
/// Most points in the chart of the search.
const DOTS: usize = 1_000;
/// Most doubts and notes.
const NOTES: usize = 40;

/// A run that is done.
pub struct Run<'a> {
    /// The command, word by word.
    pub command: &'a [String],
    /// Name of the model.
    pub model: &'a str,
    /// Engine and adapter, and why they were taken.
    pub engine: &'a str,
    /// Classes to forget.
    pub classes: &'a [usize],
    /// The labelled inputs.
    pub data: &'a Labelled,
    /// Where they were read, or how they were made.
    pub inputs: &'a str,
    /// True when they were made from the model.
    pub made: bool,
    /// The seed of all that was drawn.
    pub seed: u64,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// Hashes of the files, in order.
    pub files: &'a [File],
    /// What else is to be said of how it was computed.
    pub notes: &'a [String],
}

/// Counts over the labelled inputs.
struct Numbers {
    lost: usize,
    kept: usize,
    answered: [usize; 2],
    right: [usize; 2],
    hidden: Option<Hidden>,
}

/// What the old head answers on the changed body. Inputs that were made beside others tell it where there are some: codes may
/// be known by heart, and are then answered long after their class is gone.
#[derive(Clone, Copy)]
struct Hidden {
    answered: usize,
    of: usize,
    what: &'static str,
}

/// The page of a run.
///
/// # Errors
/// `Internal` when a picture cannot be encoded.
pub fn page(run: &Run<'_>) -> Result<Page> {
    let numbers = Numbers::of(run);
    let (headline, level) = verdict(run, &numbers);
    let outcome = run.outcome;
    let mut sections = vec![answers_section(run), change_section(outcome), search_section(outcome)];
    sections.push(inputs_section(run)?);
    sections.push(origin_section(run));
    sections.push(limits_section(run));
    Ok(Page {
        origin: "onnx-unlearn forget",
        headline,
        level,
        summary: summary(run, &numbers),
        figures: figures(&numbers),
        doubts_title: "Doubts",
        doubts: doubts(run, &numbers),
        no_doubt: "The answers to the inputs give no reason to doubt. That is no proof: see the limits below.",
        sections,
    })
}

impl Numbers {
    fn of(run: &Run<'_>) -> Self {
        let (before, after) = (&run.outcome.before, &run.outcome.after);
        let (truth, aim) = (&run.data.y, &run.outcome.aim);
        let given = aim.still(0..truth.len(), truth, before, after);
        let (telling, what) =
            run.outcome.beside.map_or((given, "inputs to forget"), |made| (made, "made inputs of the class"));
        Self {
            lost: given.samples,
            kept: truth.len() - given.samples,
            answered: [given.before, given.after],
            right: [before, after].map(|answers| aim.right(truth, answers)),
            hidden: telling.old_head.map(|answered| Hidden { answered, of: telling.samples, what }),
        }
    }
}

fn verdict(run: &Run<'_>, n: &Numbers) -> (String, Level) {
    let what = capital(&class_list(run.classes));
    if n.answered[1] > 0 {
        (format!("{what}: not forgotten, the labelled inputs are still answered"), Level::Bad)
    } else if !run.outcome.doubts.is_empty() {
        (format!("{what}: forgotten on the labelled inputs, with doubts"), Level::Unsure)
    } else if n.hidden.is_some_and(|h| h.answered > 0) {
        (format!("{what}: no longer answered, but hidden more than forgotten"), Level::Unsure)
    } else {
        (format!("{what}: forgotten, as far as the labelled inputs tell"), Level::Good)
    }
}

fn summary(run: &Run<'_>, n: &Numbers) -> Vec<Fact> {
    let o = run.outcome;
    let classes = format::count(o.before.classes);
    let changed: usize = o.changes.iter().map(|c| c.changed).sum();
    let weights = o.changes.iter().filter(|c| c.changed > 0).count();
    let elements: usize = o.changes.iter().map(|c| c.elements).sum();
    let mut all = vec![
        Fact::new("Asked", format!("make {} forget {} of {classes}", shown(run.model), class_list(run.classes))),
        Fact::new(
            "Judged on",
            format!("{} of classes to forget and {} of others", counted(n.lost, "input"), format::count(n.kept)),
        ),
        Fact::new("Done by", o.strength.to_string()),
        Fact::new(
            "Changed",
            format!(
                "{} of {} elements, in {} of {} weights; nothing else in the file",
                format::count(changed),
                format::count(elements),
                format::count(weights),
                format::count(o.changes.len())
            ),
        ),
        Fact::new("Where", weights::where_it_lies(&o.changes, &o.head)),
    ];
    all.extend(o.calibration.as_ref().map(|seen| Fact::new("Calibration samples", calibration(seen))));
    all
}

/// What calibration samples said before and after.
fn calibration([before, after]: &[Seen; 2]) -> String {
    let of = |now: usize, was: usize, all: usize| {
        format!("{} of {} ({} before)", format::count(now), format::count(all), format::count(was))
    };
    format!(
        "still answered: {}{}; others answered rightly: {}",
        of(after.forgotten_answered, before.forgotten_answered, before.forgotten_samples),
        after
            .old_head_answered
            .map_or_else(String::new, |n| format!(", under the old last layer {}", format::count(n))),
        of(after.retained_right, before.retained_right, before.retained_samples)
    )
}

fn figures(n: &Numbers) -> Vec<Figure> {
    let of = |k: usize, all: usize| format!("{} of {}", format::count(k), format::count(all));
    let level = |good: bool, otherwise: Level| if good { Level::Good } else { otherwise };
    let mut all = vec![
        Figure {
            value: of(n.answered[1], n.lost),
            text: "inputs to forget still answered".to_owned(),
            note: format!("{} before", format::count(n.answered[0])),
            level: level(n.answered[1] == 0, Level::Bad),
        },
        Figure {
            value: of(n.right[1], n.kept),
            text: "other inputs answered rightly".to_owned(),
            note: format!("{} before", format::count(n.right[0])),
            level: level(n.right[1] >= n.right[0], Level::Unsure),
        },
    ];
    all.extend(n.hidden.map(|h| Figure {
        value: of(h.answered, h.of),
        text: format!("{} answered under the old last layer", h.what),
        note: "the original head on the changed body".to_owned(),
        level: level(h.answered == 0, Level::Unsure),
    }));
    all
}

fn doubts(run: &Run<'_>, n: &Numbers) -> Vec<String> {
    let mut all: Vec<String> = run.outcome.doubts.iter().take(NOTES).map(|d| sentence(d)).collect();
    if let Some(h) = n.hidden.filter(|h| h.answered > 0) {
        all.push(format!(
            "Under the old last layer {} of {} {} are still answered: the body still tells the class from others. It is \
             hidden more than forgotten.",
            format::count(h.answered),
            format::count(h.of),
            h.what
        ));
    }
    all
}

fn answers_section(run: &Run<'_>) -> Section {
    let (before, after) = (&run.outcome.before, &run.outcome.after);
    let truth = &run.data.y;
    let classes = before.classes;
    let answers = [before, after].map(|a| Answers::classes_of(&a.logits, classes));
    let probabilities = [before, after].map(|a| Answers::log_probabilities(&a.logits, classes));
    let of_class = |(class, at): (usize, Vec<usize>)| {
        let right = |k: usize| at.iter().filter(|i| answers[k][**i] == class).count();
        let mean = |k: usize| at.iter().map(|i| probabilities[k][i * classes + class].exp()).sum::<f64>();
        let n = at.len();
        ClassAnswers {
            class,
            samples: n,
            right_before: right(0),
            right_after: right(1),
            before: mean(0) / n as f64,
            after: mean(1) / n as f64,
            interval: None,
        }
    };
    let all: Vec<ClassAnswers> = run.data.by_class().into_iter().map(of_class).collect();
    let caption = "Answers to the labelled inputs, class by class".to_owned();
    let table = classes::table(&all, run.classes, caption, "probability of the class", None);
    let counts = answers.map(|a| Counts::new(truth, &a, classes));
    let (both, note) = matrices(&counts[0], &counts[1], run.classes, "inputs");
    let mut blocks = vec![
        Block::Text(
            "Right means answered with the class of the input. The track runs from 0 to 100 %: a ring for the mean \
             probability before, a disc for that after."
                .to_owned(),
        ),
        Block::Table(table),
        Block::Matrices(both),
    ];
    blocks.extend(note.map(Block::Text));
    Section { id: "answers", title: "Before and after, class by class".to_owned(), blocks }
}

fn change_section(outcome: &Outcome) -> Section {
    let (head, changes) = (&outcome.head, &outcome.changes);
    let lines = vec![Block::Text(weights::where_it_lies(changes, head)), Block::Table(weights::table(changes, head))];
    Section { id: "change", title: "Where the change lies".to_owned(), blocks: lines }
}

/// The rule of a candidate, as its text begins with it.
fn rule_of(candidate: &Candidate) -> &str {
    candidate.strength.split(',').next().unwrap_or_default()
}

fn search_section(outcome: &Outcome) -> Section {
    let tried = &outcome.tried;
    let taken = outcome.strength.to_string();
    let chosen = tried.iter().rposition(|c| c.strength == taken);
    let mut rules: Vec<&str> = tried.iter().map(rule_of).collect();
    rules.sort_unstable();
    rules.dedup();
    let marker = |c: &Candidate| Marker::of(rules.iter().position(|r| *r == rule_of(c)).unwrap_or(0));
    let dot = |c: &Candidate| Dot { x: c.retained_probability, y: c.forget_probability, marker: marker(c) };
    let finite: Vec<&Candidate> = tried.iter().filter(|c| c.finite).collect();
    let rule = |(i, r): (usize, &&str)| Series { name: (*r).to_owned(), marker: Marker::of(i), is_line: false };
    let at = chosen.and_then(|i| tried.get(i));
    let percent = |v: f64| format!("{} %", format::percent(v));
    let alt = match at {
        Some(c) => format!(
            "{} by the probability that the retained inputs keep and the inputs to forget still have. The chosen one \
             keeps {} and leaves {}.",
            counted(finite.len(), "candidate"),
            percent(c.retained_probability),
            percent(c.forget_probability)
        ),
        None => format!("{}, none of which was taken as it is.", counted(finite.len(), "candidate")),
    };
    let chart = Chart {
        id: "search-chart",
        title: "Strengths that were tried".to_owned(),
        alt,
        x: Axis {
            label: "retained inputs: mean probability of their class, %".to_owned(),
            scale: Scale::Linear(0.0, 1.0),
        },
        y: Axis { label: "inputs to forget: mean probability left, %".to_owned(), scale: Scale::Linear(0.0, 1.0) },
        dots: finite.iter().take(DOTS).map(|c| dot(c)).collect(),
        chosen: at.map(|c| ([c.retained_probability, c.forget_probability], "chosen")),
        lines: vec![],
        guide: None,
        series: rules.iter().enumerate().map(rule).collect(),
    };
    let blocks = vec![
        Block::Text(format!(
            "{} tried. Good strengths lie at the lower right: the retained inputs keep their probability, the inputs to \
             forget lose theirs. Taken: {taken}.",
            if tried.len() == 1 { "1 strength was".to_owned() } else { format!("{} strengths were", tried.len()) },
        )),
        Block::Chart(Box::new(chart)),
        Block::Folded(format!("All {} in the order in which they were tried", tried.len()), tried_table(tried, chosen)),
    ];
    Section { id: "search", title: "The search for the strength".to_owned(), blocks }
}

fn tried_table(tried: &[Candidate], chosen: Option<usize>) -> Table {
    let percent = format::percent;
    let row = |(i, c): (usize, &Candidate)| {
        let cell = |(probability, answered)| {
            let note = if c.finite { format!("{} answered", percent(answered)) } else { String::new() };
            Cell::Noted(if c.finite { percent(probability) } else { "not finite".to_owned() }, note)
        };
        let cells = [(c.retained_probability, c.retained_answered), (c.forget_probability, c.forget_answered)];
        let cells = cells.map(cell);
        let name = Cell::text(shown(&c.strength));
        let tag = if chosen == Some(i) { "chosen" } else { "" };
        Row::new(std::iter::once(name).chain(cells)).tagged(tag)
    };
    // the one that was taken stands near the end
    let skip = tried.len().saturating_sub(CANDIDATES);
    let mut rows: Vec<Row> = tried.iter().enumerate().skip(skip).map(row).collect();
    if skip > 0 {
        let name = Cell::text(format!("{} that were tried before are not listed", format::count(skip)));
        rows.insert(0, Row::new(std::iter::once(name).chain([(); 2].map(|()| Cell::text("")))).rest());
    }
    let column = |text, kind| Column { text, kind };
    Table {
        caption: "Candidates: mean probability and inputs answered with their class, in %".to_owned(),
        columns: vec![
            column("strength", Kind::Words),
            column("retained", Kind::Number),
            column("to forget", Kind::Number),
        ],
        rows,
    }
}

fn inputs_section(run: &Run<'_>) -> Result<Section> {
    let name = if run.made { "made input" } else { "input" };
    let (all, note) = pictures(run.data, run.classes, name)?;
    let mut blocks = vec![Block::Text(format!("Inputs: {}", clipped(run.inputs, 600))), Block::Text(note)];
    if !all.is_empty() {
        blocks.push(Block::Pictures(all));
    }
    Ok(Section { id: "inputs", title: "The labelled inputs".to_owned(), blocks })
}

fn origin_section(run: &Run<'_>) -> Section {
    let again = "Typed again with the same files on the same engine, this command gives the same model.";
    let mut section = origin::section(again, run.command, run.files, run.engine, run.seed);
    if !run.notes.is_empty() {
        section.blocks.push(Block::List(run.notes.iter().take(NOTES).map(|n| clipped(n, 400)).collect()));
    }
    section
}

fn limits_section(run: &Run<'_>) -> Section {
    let inputs = if run.made {
        "The inputs were made from the model alone. They lie where the model answers with their class, which need not be \
         where data lies."
    } else {
        "The verdict rests on the labelled inputs alone. Codes are learned harder than data, so that data may suffer more, \
         or be forgotten earlier, than they show."
    };
    let all = [
        inputs,
        "What an attacker could still find out (membership, traces in the features, how soon the class is learned again) is \
         not measured here; the command audit measures it on data.",
        "The weights were changed, not trained anew. No guarantee follows that the result cannot be told from a model that \
         never saw the class.",
        "Copies of the original model, and models made from it, still know the class.",
    ];
    let blocks = vec![Block::List(all.map(str::to_owned).into())];
    Section { id: "limits", title: "Limits".to_owned(), blocks }
}
