//! `fisher compare`: how far two Fishers are from each other.

use crate::cli::{Context, Status};
use crate::error::Result;
use crate::fisher::compare::{Difference, compare};
use crate::fisher::store::Kept;
use crate::report::{Align, Table, format};
use std::path::PathBuf;

/// Compares two Fishers of the same weights, such as one from codes with one from all data.
///
/// For each weight and for all of them: the error ‖f_A − f_B‖₂ over the number of elements, the same over ‖f_B‖₂, and
/// Spearman's rank correlation of the elements.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// What is compared.
    #[arg(value_name = "A.safetensors")]
    a: PathBuf,
    /// What it is compared with.
    #[arg(value_name = "B.safetensors")]
    b: PathBuf,
    /// Only this class; may be given several times.
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',')]
    classes: Vec<usize>,
}

#[derive(serde::Serialize)]
struct Layer {
    name: String,
    #[serde(flatten)]
    difference: Difference,
}

#[derive(serde::Serialize)]
struct Report {
    a: PathBuf,
    b: PathBuf,
    classes: Vec<usize>,
    samples: [usize; 2],
    same_model: bool,
    layers: Vec<Layer>,
    all: Difference,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        let (a, b) = (Kept::open(&self.a)?, Kept::open(&self.b)?);
        let (layers, all) = compare(&a, &b, &self.classes)?;
        let classes = if self.classes.is_empty() { a.classes() } else { self.classes };
        let samples =
            |kept: &Kept| kept.origin.samples.iter().filter(|(c, _)| classes.contains(c)).map(|(_, n)| n).sum();
        let report = Report {
            samples: [samples(&a), samples(&b)],
            same_model: a.origin.model_sha256 == b.origin.model_sha256,
            a: self.a,
            b: self.b,
            classes,
            layers: layers.into_iter().map(|(name, difference)| Layer { name, difference }).collect(),
            all,
        };
        context.print(&report, || text(&report))?;
        Ok(Status::Done)
    }
}

fn text(r: &Report) -> String {
    let mut table = Table::new([
        ("weight", Align::Left),
        ("elements", Align::Right),
        ("error", Align::Right),
        ("relative", Align::Right),
        ("rank correlation", Align::Right),
    ]);
    let all = ("all", &r.all);
    for (name, d) in r.layers.iter().map(|l| (l.name.as_str(), &l.difference)).chain([all]) {
        table.row([
            name.to_owned(),
            format::count(d.elements),
            format::significant(d.error, 3),
            d.relative.map_or("-".to_owned(), |v| format::significant(v, 3)),
            d.rank_correlation.map_or("-".to_owned(), |v| format!("{v:.3}")),
        ]);
    }
    let models = if r.same_model { "" } else { "the Fishers are of different model files\n" };
    format!(
        "A: {}, {} samples\nB: {}, {} samples\n{models}\n{table}\n",
        r.a.display(),
        format::count(r.samples[0]),
        r.b.display(),
        format::count(r.samples[1])
    )
}
