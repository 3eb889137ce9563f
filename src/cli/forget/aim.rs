//! What is to be forgotten, where it is not named class by class.

use crate::classifier::Classifier;
use crate::cli::common::ScaleArgs;
use crate::error::{Error, Result};
use crate::inputs::Labelled;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A list of classes is never longer than this.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct AimArgs {
    /// A file with a class to forget on each line; what follows a # is a comment.
    #[arg(long, value_name = "FILE")]
    classes_file: Option<PathBuf>,
    /// Samples to forget, in the place of a class: labelled inputs as --inputs takes them. All others are retained, those of
    /// the same class included.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["classes", "classes_file"])]
    pub(super) forget_inputs: Option<PathBuf>,
}

/// What a report says of samples that are to be forgotten.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Samples {
    pub(super) file: PathBuf,
    pub(super) samples: usize,
    /// Retained inputs that were left out because they are to be forgotten.
    pub(super) left_out: usize,
}

impl AimArgs {
    /// Files that are read.
    pub(super) fn read(&self) -> impl Iterator<Item = &Path> {
        self.classes_file.iter().chain(&self.forget_inputs).map(PathBuf::as_path)
    }
    /// The classes that the file lists.
    pub(super) fn classes(&self) -> Result<Vec<usize>> {
        self.classes_file.as_deref().map_or(Ok(Vec::new()), |path| listed(path).map_err(|e| e.at(path.display())))
    }
    /// The inputs to retain with the samples to forget after them, their positions, and what is to be said of them.
    pub(super) fn join(
        &self,
        retained: Labelled,
        classifier: &Classifier,
        scaling: &ScaleArgs,
        seed: u64,
    ) -> Result<(Labelled, Vec<usize>, Option<Samples>)> {
        let Some(path) = &self.forget_inputs else { return Ok((retained, Vec::new(), None)) };
        let forget = scaling.load(path, classifier, seed)?;
        let digest = |data: &Labelled, i: usize| Ok(data.select(&[i])?.digest());
        let known = (0..forget.len()).map(|i| digest(&forget, i)).collect::<Result<BTreeSet<_>>>()?;
        let mut others = Vec::new();
        for i in 0..retained.len() {
            if !known.contains(&digest(&retained, i)?) {
                others.push(i);
            }
        }
        if others.is_empty() {
            return Err(Error::invalid("every input is to be forgotten; at least one has to be retained"));
        }
        let left_out = retained.len() - others.len();
        let data = retained.select(&others)?.concat(&forget).map_err(|e| e.at(path.display()))?;
        let samples = Samples { file: path.clone(), samples: forget.len(), left_out };
        Ok((data, (others.len()..others.len() + forget.len()).collect(), Some(samples)))
    }
}

fn listed(path: &Path) -> Result<Vec<usize>> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| Error::io("cannot be read", &e))?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|e| Error::io("cannot be read as text", &e))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::format("is no list of classes: it is longer than 1 MiB"));
    }
    let mut classes = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if !word.is_empty() {
            let number = word.parse();
            let class = number.map_err(|_| Error::format(format!("line {}: {word:?} is no class id", i + 1)))?;
            classes.push(class);
        }
    }
    if classes.is_empty() { Err(Error::invalid("lists no class")) } else { Ok(classes) }
}
