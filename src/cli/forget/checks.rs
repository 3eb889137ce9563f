//! The list at the end of a run: what was checked, and what came of it.

use super::report::Report;
use crate::engine::Engine;
use crate::onnx::{Companion, Model};
use crate::report::format;
use std::fmt;

/// Something that was checked, or could not be.
#[derive(Debug, serde::Serialize)]
pub(super) struct Check {
    /// Absent where it could not be checked.
    passed: Option<bool>,
    what: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.passed {
            Some(true) => "[ok]",
            Some(false) => "[no]",
            None => "[--]",
        };
        write!(f, "{mark} {}", self.what)
    }
}

/// The list for a model that has its name, and in which so many entries of the metadata changed.
pub(super) fn of(
    report: &Report,
    model: &Model,
    engine: &dyn Engine,
    entries: usize,
    beside: &[Companion],
) -> Vec<Check> {
    let is = |passed: bool, what: String| Check { passed: Some(passed), what };
    let i = &report.inputs;
    // writing has compared both files byte by byte, and would have failed otherwise
    let scrubbed = if entries > 0 { format!(" and {entries} values of metadata_props") } else { String::new() };
    let differs = format!("nothing but elements of weights{scrubbed} differs from the original, compared byte by byte");
    let mut all = vec![is(true, differs)];
    all.push(opens(report, model, engine));
    let answered = i.forgotten_answered_after;
    all.push(is(answered == 0, format!("{answered} of {} forgotten inputs are still answered", i.forgotten_samples)));
    let lost = i.retained_right_before.saturating_sub(i.retained_right_after);
    all.push(is(lost == 0, format!("{lost} of {} retained inputs are lost", i.retained_right_before)));
    let doubts = report.doubts.len();
    all.push(is(doubts == 0, format!("{doubts} doubts in what the inputs' answers say")));
    all.extend(beside.iter().map(|c| is(true, format!("wrote {} together with the model", c.path.display()))));
    all
}

fn opens(report: &Report, model: &Model, engine: &dyn Engine) -> Check {
    let data = model.data_files().iter().map(|d| d.bytes().len());
    let bytes = data.fold(model.bytes().len(), usize::saturating_add);
    match engine.opens(&report.file, u64::try_from(bytes).unwrap_or(u64::MAX)) {
        Some(Ok(())) => Check { passed: Some(true), what: "ONNX Runtime opens the new file".to_owned() },
        Some(Err(e)) => Check {
            passed: None,
            what: format!("ONNX Runtime was not able to open the new file: {}", format::name(&e.to_string())),
        },
        None => {
            Check { passed: None, what: format!("not opened in ONNX Runtime, since the engine is {}", engine.name()) }
        }
    }
}
