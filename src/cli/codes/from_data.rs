//! `codes from-data`: codes from real samples.

use crate::cli::common::{ModelArgs, ScaleArgs, check_target};
use crate::cli::{Context, Status};
use crate::error::Result;
use crate::inputs::from_data::{By, from_data};
use crate::inputs::npz;
use crate::report::format;
use clap::ValueEnum;
use std::path::PathBuf;

/// Makes codes from real samples of each class.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct FromData {
    #[command(flatten)]
    model: ModelArgs,
    /// Labelled samples: an .npz with x and y, a folder with IDX files, or a folder with one folder of images per class.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// The new file.
    #[arg(short, value_name = "FILE.npz", default_value = "codes.npz")]
    o: PathBuf,
    /// How a class's samples become codes.
    #[arg(long, value_enum, default_value_t)]
    by: ByName,
    /// Codes per class.
    #[arg(long, value_name = "K", default_value_t = 1)]
    per_class: usize,
    /// Decides what is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    scaling: ScaleArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum ByName {
    /// Centres of K clusters
    #[default]
    Kmeans,
    /// The mean of all samples
    Mean,
    /// Samples as they are
    Samples,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    by: ByName,
    classes: usize,
    per_class: usize,
    from_samples: usize,
    sample_shape: Vec<usize>,
    /// Classes of the model of which there were no samples.
    missing: Vec<usize>,
    seed: u64,
}

impl FromData {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        check_target(&self.o, &[&self.model.model, &self.data])?;
        let classifier = self.model.open_for(&self.data, &self.scaling)?;
        let data = self.scaling.load(&self.data, &classifier, self.seed)?;
        let by = match self.by {
            ByName::Kmeans => By::KMeans,
            ByName::Mean => By::Mean,
            ByName::Samples => By::Samples,
        };
        let codes = from_data(&data, by, self.per_class, self.seed)?;
        npz::save(&self.o, &codes)?;
        let present = codes.by_class();
        let report = Report {
            file: self.o,
            by: self.by,
            classes: present.len(),
            per_class: self.per_class,
            from_samples: data.len(),
            sample_shape: classifier.sample_shape().to_vec(),
            missing: (0..classifier.classes()).filter(|c| !present.contains_key(c)).collect(),
            seed: self.seed,
        };
        context.print(&report, || {
            let missing: Vec<String> = report.missing.iter().map(usize::to_string).collect();
            let note = format!("note: no samples, and no codes, of class {}\n", missing.join(", "));
            format!(
                "wrote {}: {} codes of shape {:?}, {} for each of {} classes, from {} samples, seed {}\n{}",
                report.file.display(),
                format::count(codes.len()),
                report.sample_shape,
                report.per_class,
                report.classes,
                format::count(report.from_samples),
                report.seed,
                if missing.is_empty() { "" } else { &note }
            )
        })?;
        Ok(Status::Done)
    }
}
