//! Flags that several subcommands share.

use super::Context;
use crate::classifier::{Classifier, ClassifierOptions};
use crate::engine::choose::{Choice, Chosen, choose, choose_for};
use crate::engine::wgpu::{Kernels, Storage, Wishes};
use crate::error::{Error, Result};
pub(super) use crate::files::same_file;
use crate::graph::cost;
use crate::inputs::{self, Labelled, Scaling, Source, Split};
use crate::report::{self, Progress};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// The model and how its open extents are bound.
#[derive(Clone, Debug, Args)]
pub(super) struct ModelArgs {
    /// The classifier, an ONNX file.
    pub model: PathBuf,
    /// The output that names the class, where the model has several.
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Binds an extent that the model leaves open, by the name the model gives it.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, usize)>,
    /// The axis that holds the samples, where the model does not tell; without INPUT that of the first input.
    #[arg(long = "batch-axis", value_name = "[INPUT=]AXIS", value_parser = parse_axis)]
    pub batch_axes: Vec<(String, usize)>,
    /// Only weights of these names are differentiated and changed; '*' stands for any letters, '?' for one.
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub layers: Vec<String>,
}

fn parse_axis(text: &str) -> Result<(String, usize), String> {
    let (name, axis) = text.rsplit_once('=').unwrap_or(("", text));
    Ok((name.to_owned(), axis.parse().map_err(|_| "AXIS must be a whole number from 0")?))
}

fn parse_dim(text: &str) -> Result<(String, usize), String> {
    let (name, n) = text.split_once('=').ok_or("expected NAME=N")?;
    let n = n.parse().ok().filter(|&n| n > 0).ok_or("N must be a whole number above 0")?;
    Ok((name.to_owned(), n))
}

impl ModelArgs {
    /// Reads the model.
    pub(super) fn open(&self) -> Result<Classifier> {
        Classifier::open(&self.model, self.options()).map_err(|e| named(e, &self.model))
    }
    /// Reads the model; extents that it leaves open are those of the labelled inputs at `path`.
    pub(super) fn open_for(&self, path: &Path, scaling: &ScaleArgs) -> Result<Classifier> {
        let samples = inputs::sample_shapes(path, scaling.split.into()).map_err(|e| named(e, path))?;
        let options = ClassifierOptions { samples, ..self.options() };
        Classifier::open(&self.model, options).map_err(|e| named(e, &self.model))
    }
    /// How the model is read, as the flags say.
    pub(super) fn options(&self) -> ClassifierOptions {
        ClassifierOptions {
            output: self.output.clone(),
            dims: self.dims.iter().cloned().collect(),
            batch_axes: self.batch_axes.iter().cloned().collect(),
            layers: self.layers.clone(),
            ..ClassifierOptions::default()
        }
    }
}

/// The error with the file's name in front, unless it is there already.
pub(super) fn named(e: Error, path: &Path) -> Error {
    let name = path.display().to_string();
    if e.to_string().contains(&name) { e } else { e.at(name) }
}

/// An engine's name on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum EngineName {
    /// A GPU if there is one, else ONNX Runtime if its library is found, else cpu; cpu for little work as well
    #[default]
    Auto,
    /// WGSL kernels on Vulkan, Metal, DX12 or OpenGL; takes software adapters too
    Wgpu,
    /// ONNX Runtime
    Ort,
    /// The embedded engine
    Cpu,
}

/// How much memory the work may take.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct MemoryArgs {
    /// What gradients may take, such as 4G or 500M: on a GPU of its memory, else of the whole process. The batch is made
    /// smaller for it; where one sample does not fit, values are computed twice instead of being kept (cpu, wgpu).
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub memory_limit: Option<u64>,
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    crate::memory::parse(text).map_err(|e| e.to_string())
}

/// Which engine runs the graphs.
#[derive(Debug, Args)]
pub(super) struct EngineArgs {
    /// What runs the graphs.
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    engine: EngineName,
    /// The ONNX Runtime library, for '--engine ort' and 'auto'.
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// How the shaders of '--engine wgpu' multiply.
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    kernels: KernelsName,
    /// How weights lie on the device of '--engine wgpu'.
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    storage: StorageName,
}

/// How weights lie, on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum StorageName {
    /// f16 on a GPU, else f32
    #[default]
    Auto,
    /// Weights that are float16 in the model's file lie so, in half the memory and to the bit; others in 32 bits
    F16,
    /// In 32 bits
    F32,
}

/// How shaders multiply, on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum KernelsName {
    /// As suits the adapter: tiled on a GPU, else subgroups if the adapter has fitting ones, else direct
    #[default]
    Auto,
    /// Straight from memory, without anything shared; runs everywhere
    Direct,
    /// The same, but neighbours tell each other what they loaded
    Subgroups,
    /// Through workgroup memory; runs everywhere
    Tiled,
}

impl KernelsName {
    /// The engine's word for it.
    pub(super) fn kernels(self) -> Kernels {
        match self {
            Self::Auto => Kernels::Auto,
            Self::Direct => Kernels::Direct,
            Self::Subgroups => Kernels::Subgroups,
            Self::Tiled => Kernels::Tiled,
        }
    }
}

impl EngineArgs {
    /// The engine that was asked for.
    pub(super) fn name(&self) -> Option<String> {
        self.engine.to_possible_value().map(|v| v.get_name().to_owned())
    }
    /// The engine that is asked for, where it is not known how much there is to compute.
    pub(super) fn open(&self) -> Result<Chosen> {
        choose(self.choice(), self.ort_library.clone(), self.wishes())
    }
    /// The engine that is asked for, to run so many samples forward; one that goes back as well counts as three.
    pub(super) fn open_for(&self, classifier: &Classifier, samples: usize) -> Result<Chosen> {
        let products = cost::products(&classifier.bind(1)?.graph).saturating_mul(samples as u64);
        choose_for(products, self.choice(), self.ort_library.clone(), self.wishes())
    }
    fn wishes(&self) -> Wishes {
        let storage = match self.storage {
            StorageName::Auto => Storage::Auto,
            StorageName::F16 => Storage::F16,
            StorageName::F32 => Storage::F32,
        };
        Wishes { kernels: self.kernels.kernels(), storage }
    }
    fn choice(&self) -> Choice {
        match self.engine {
            EngineName::Auto => Choice::Auto,
            EngineName::Wgpu => Choice::Wgpu,
            EngineName::Ort => Choice::Ort,
            EngineName::Cpu => Choice::Cpu,
        }
    }
}

/// An engine as reports name it.
#[derive(Debug, serde::Serialize)]
pub(super) struct EngineReport {
    pub(super) name: &'static str,
    pub(super) adapter: String,
    pub(super) why: String,
}

impl EngineReport {
    pub(super) fn new(chosen: &Chosen) -> Self {
        Self { name: chosen.engine.name(), adapter: chosen.engine.describe(), why: chosen.why.clone() }
    }
}

impl std::fmt::Display for EngineReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.adapter, self.why)
    }
}

/// How numbers in a data set become the model's input.
#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// Factor on stored numbers [default: 1/255 for uint8, 1 for all others].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Taken off after scaling; one number, or one per channel.
    #[arg(long, value_name = "M,…", value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f64>,
    /// Divided by at last; one number, or one per channel.
    #[arg(long, value_name = "S,…", value_delimiter = ',')]
    std: Vec<f64>,
    /// Which part of a data set in IDX files.
    #[arg(long, value_enum, default_value_t)]
    split: SplitName,
    /// At most so many samples, drawn by --seed.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SplitName {
    #[default]
    Test,
    Train,
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Test => Self::Test,
            SplitName::Train => Self::Train,
        }
    }
}

impl ScaleArgs {
    /// The flags by name, for records.
    pub(super) fn parameters(&self) -> serde_json::Value {
        serde_json::json!({
            "limit": self.limit,
            "mean": self.mean,
            "scale": self.scale,
            "split": self.split.to_possible_value().map(|v| v.get_name().to_owned()),
            "std": self.std,
        })
    }
    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--scale", self.scale.is_some()),
            ("--mean", !self.mean.is_empty()),
            ("--std", !self.std.is_empty()),
            ("--limit", self.limit.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
    /// Reads inputs that are in the model's own range as they are, such as codes.
    pub(super) fn load_unscaled(&self, path: &Path, classifier: &Classifier) -> Result<Labelled> {
        inputs::load(path, &classifier.expected(), &inputs::Options::default()).map_err(|e| named(e, path))
    }
    /// Reads labelled inputs that fit the model.
    pub(super) fn load(&self, path: &Path, classifier: &Classifier, seed: u64) -> Result<Labelled> {
        inputs::load(path, &classifier.expected(), &self.options(seed)).map_err(|e| named(e, path))
    }
    /// The same, to be read piece by piece.
    pub(super) fn source(&self, path: &Path, classifier: &Classifier, seed: u64) -> Result<Source> {
        Source::open(path, &classifier.expected(), &self.options(seed)).map_err(|e| named(e, path))
    }
    fn options(&self, seed: u64) -> inputs::Options {
        inputs::Options {
            scaling: Scaling { scale: self.scale, mean: self.mean.clone(), std: self.std.clone() },
            split: self.split.into(),
            limit: self.limit,
            seed,
        }
    }
}

impl Context {
    /// Progress of a task, unless told to be quiet.
    pub(super) fn progress(&self, task: &str, len: usize) -> Progress {
        if self.quiet { Progress::hidden() } else { Progress::new(task, len) }
    }
    /// Prints the result: as JSON if asked for, else as text.
    pub(super) fn print(&self, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json { report::write_json(&mut out, value) } else { report::write_text(&mut out, &text()) }
    }
}

/// The folder that a new file goes to must be there before any work is done, and the new file must not replace
/// one that is read.
pub(super) fn check_target(path: &Path, read: &[&Path]) -> Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(Error::invalid(format!(
            "cannot write {}: the folder {} does not exist",
            path.display(),
            folder.display()
        )));
    }
    if path.is_dir() {
        return Err(Error::invalid(format!("cannot write {}: it is a folder", path.display())));
    }
    if read.iter().any(|r| same_file(path, r)) {
        return Err(Error::invalid(format!(
            "cannot write {}: it is read as well; choose another file",
            path.display()
        )));
    }
    Ok(())
}
