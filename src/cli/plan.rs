//! `plan`: the work of the GPU engine as files, for another runner of WGSL.

use super::common::{ModelArgs, ScaleArgs, check_target, named};
use super::{Context, Status};
use crate::autodiff::gradient::{GradientGraph, Mode};
use crate::classifier::{Classifier, batch_feeds};
use crate::engine::bundle::{Bundle, Role, Span};
use crate::error::{Error, Result};
use crate::files;
use crate::fisher::store::model_sha256;
use crate::forget::{Rule, rewrite};
use crate::graph::{Graph, Source};
use crate::inputs::Labelled;
use crate::onnx::{Model, Storage};
use crate::ops::Form;
use crate::report::format;
use crate::tensor::{Array, TensorType};
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// More samples than this never share a batch, as in every other run.
const MAX_BATCH: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Purpose {
    /// The logits of a batch of samples
    #[default]
    Forward,
    /// Σ_n u[s,n] (∂ℓ_n/∂w)² of every weight for two sets s of sample weights u
    Fisher,
    /// The rules that change weights, given two Fishers
    Rewrite,
    /// All of these, with the places of the weights in the model file, which brings their elements
    Forget,
}

/// Writes what the GPU engine would do as a plan: shaders, buffers and dispatches.
///
/// The plan is a JSON text and, beside it, a file FILE.bin of 32-bit words with weights, constants and samples. It stays
/// within WebGPU's default limits; docs/web/player.js plays it in a browser.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The plan is for WebGPU; there is no other kind.
    #[arg(long, required = true)]
    webgpu: bool,
    /// The new text, or the folder for 'plan.json'.
    #[arg(short, value_name = "FILE.json|FOLDER")]
    o: PathBuf,
    /// What the plan computes.
    #[arg(long = "for", value_enum, default_value_t, value_name = "WORK")]
    purpose: Purpose,
    /// Samples in a batch [default: as many as there are inputs, at most 32; 1 without inputs].
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Labelled inputs that the plan brings along: an .npz with x and y, a folder with IDX files, or a folder with one
    /// folder of images per class.
    #[arg(long, value_name = "PATH")]
    inputs: Option<PathBuf>,
    /// Decides which samples --limit keeps.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    scaling: ScaleArgs,
    /// How the shaders multiply.
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    kernels: Kernels,
}

/// Forms that stay within WebGPU's default limits.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Kernels {
    /// Through workgroup memory, for GPUs
    #[default]
    Tiled,
    /// Straight from memory, for adapters that compute on a CPU
    Direct,
}

impl Kernels {
    fn form(self) -> Form {
        match self {
            Self::Tiled => Form::Tiled,
            Self::Direct => Form::Direct,
        }
    }
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    data: PathBuf,
    bytes: [usize; 2],
    plans: Vec<String>,
    dispatches: usize,
    batch: usize,
    one_by_one: Option<String>,
}

/// The model file that a plan belongs to.
#[derive(serde::Serialize)]
struct File {
    name: String,
    bytes: usize,
    sha256: String,
}

/// A weight and where its float32 elements lie in the model file.
#[derive(serde::Serialize)]
struct Place {
    name: String,
    shape: Vec<usize>,
    /// Offset of the first element, distance between elements, both in bytes, and number of elements.
    runs: Vec<[usize; 3]>,
}

#[derive(serde::Serialize)]
struct Samples {
    /// Class of every sample.
    classes: Vec<usize>,
    batches: Vec<SampleBatch>,
}

/// Samples `from..to`, filled up to the batch by repeating the last.
#[derive(serde::Serialize)]
struct SampleBatch {
    from: usize,
    to: usize,
    inputs: BTreeMap<String, Span>,
    labels: Span,
}

/// The gradient graph that sums squares.
struct Sums {
    gradients: GradientGraph,
    /// Names and types of the weights that have a sum.
    weights: Vec<(String, TensorType)>,
    /// Why samples run one by one, if they have to.
    one_by_one: Option<String>,
}

/// Assembles the plans for one model.
struct Writer<'a> {
    classifier: &'a Classifier,
    batch: usize,
    /// False where the model file brings the elements of the weights.
    has_weights: bool,
    bundle: Bundle,
    plans: Vec<String>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        debug_assert!(self.webgpu, "clap requires the flag");
        let file = if self.o.is_dir() { self.o.join("plan.json") } else { self.o.clone() };
        if file.extension().is_none_or(|e| e != "json") {
            return Err(Error::invalid(format!(
                "the plan is a FILE.json or goes into a folder, not {}",
                file.display()
            )));
        }
        let data = file.with_extension("bin");
        let read: Vec<&Path> = [&self.model.model].into_iter().chain(&self.inputs).map(PathBuf::as_path).collect();
        check_target(&file, &read)?;
        check_target(&data, &read)?;
        if self.batch == Some(0) {
            return Err(Error::invalid("--batch 0 is no batch"));
        }
        if self.inputs.is_some() && self.purpose == Purpose::Rewrite {
            return Err(Error::invalid("the rules read no samples; --inputs is for the other plans"));
        }
        let classifier = self.classifier()?.in_float32()?;
        let samples = self.inputs.as_ref().map(|path| self.scaling.load(path, &classifier, self.seed)).transpose()?;
        if samples.is_none() && self.purpose == Purpose::Forget {
            return Err(Error::invalid("a plan that forgets needs labelled inputs of every class: --inputs"));
        }
        let many = samples.as_ref().map_or(1, |s| s.len().min(MAX_BATCH));
        let mut writer = Writer {
            classifier: &classifier,
            batch: self.batch.unwrap_or(many),
            has_weights: self.purpose != Purpose::Forget,
            bundle: Bundle::new(self.kernels.form()),
            plans: Vec::new(),
        };
        let one_by_one = writer.write(self.purpose, samples.as_ref()).map_err(|e| named(e, &self.model.model))?;
        let (bundle, batch, plans) = (writer.bundle, writer.batch, writer.plans);
        let text = bundle.json()?;
        files::write_bytes(&data, bundle.data())?;
        files::write_bytes(&file, text.as_bytes())?;
        let bytes = [text.len(), bundle.data().len()];
        let report = Report { file, data, bytes, plans, dispatches: bundle.dispatches(), batch, one_by_one };
        context.print(&report, || report.text())?;
        Ok(Status::Done)
    }

    fn classifier(&self) -> Result<Classifier> {
        match &self.inputs {
            Some(path) => self.model.open_for(path, &self.scaling),
            None => match self.scaling.given()[..] {
                [flag, ..] => {
                    Err(Error::invalid(format!("{flag} is for inputs that are read; give them with --inputs")))
                }
                [] => self.model.open(),
            },
        }
    }
}

impl Writer<'_> {
    /// Why samples run one by one, if they have to.
    fn write(&mut self, purpose: Purpose, samples: Option<&Labelled>) -> Result<Option<String>> {
        let model = self.classifier.model();
        let name = model.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let file = File { name, bytes: model.bytes().len(), sha256: model_sha256(model) };
        let of = |one: Purpose| purpose == one || purpose == Purpose::Forget;
        let mut inputs = None;
        let mut sums = if purpose == Purpose::Forward { None } else { Some(self.sums()?) };
        if of(Purpose::Forward) {
            inputs = Some(self.forward()?);
        }
        if let Some(sums) = &mut sums {
            if of(Purpose::Fisher) {
                self.fisher(sums)?;
                inputs = Some(sums.gradients.graph.clone());
            }
            if of(Purpose::Rewrite) {
                self.rewrite(Rule::Dampen, &sums.weights)?;
                self.rewrite(Rule::Ratio, &sums.weights)?;
            }
        }
        if purpose == Purpose::Forget {
            let names = self.classifier.bind(1)?.weights.into_iter().map(|(name, _)| name);
            let places = names.map(|name| place(model, name)).collect::<Result<Vec<_>>>()?;
            self.bundle.say("weights", &places)?;
        }
        if let (Some(data), Some(graph)) = (samples, inputs) {
            let samples = self.samples(&graph, data)?;
            self.bundle.say("samples", &samples)?;
        }
        self.bundle.say("model", &file)?;
        self.bundle.say("classes", &self.classifier.classes())?;
        self.bundle.say("batch", &self.batch)?;
        Ok(sums.and_then(|s| s.one_by_one))
    }

    /// The logits; its graph has the model's own inputs first.
    fn forward(&mut self) -> Result<Graph> {
        let mut graph = self.classifier.bind(self.batch)?.graph;
        let head = self.classifier.head(&graph)?;
        let logits = head.rows(&mut graph)?;
        graph.outputs = vec![logits];
        self.batch = graph.batch;
        self.add("forward", &mut graph, &["logits".to_owned()], |name| Role::Sample(name.to_owned()))?;
        Ok(graph)
    }

    /// The sums of squared per-sample gradients; settles the batch.
    fn sums(&mut self) -> Result<Sums> {
        let (gradients, one_by_one) = self.classifier.gradients_or_singles(self.batch, Mode::Fisher { sets: 2 })?;
        let of_set = |ty: &TensorType| TensorType::new(ty.dtype, ty.shape.get(1..).unwrap_or_default());
        let graph = &gradients.graph;
        let weights = gradients.gradients.iter().map(|(name, d)| (name.clone(), of_set(&graph.value(*d).ty))).collect();
        self.batch = graph.batch;
        Ok(Sums { gradients, weights, one_by_one })
    }

    fn fisher(&mut self, sums: &mut Sums) -> Result<()> {
        let gradients = &mut sums.gradients;
        let graph = &mut gradients.graph;
        graph.outputs = gradients.gradients.iter().map(|(_, d)| *d).collect();
        let labels = graph.label(gradients.labels);
        let sample_weights = gradients.sample_weights.map(|id| graph.label(id));
        let outputs: Vec<String> = gradients.gradients.iter().map(|(name, _)| name.clone()).collect();
        self.add("fisher", graph, &outputs, |name| match name {
            _ if name == labels => Role::Labels,
            _ if sample_weights.as_deref() == Some(name) => Role::SampleWeights,
            _ => Role::Sample(name.to_owned()),
        })
    }

    fn rewrite(&mut self, rule: Rule, weights: &[(String, TensorType)]) -> Result<()> {
        let named: Vec<_> = weights.iter().map(|(name, ty)| (name.as_str(), ty.clone())).collect();
        let graph = rewrite::graph(rule, &named)?;
        let outputs: Vec<String> = weights.iter().map(|(name, _)| name.clone()).collect();
        let elements = if self.has_weights { self.elements()? } else { BTreeMap::new() };
        self.plans.push(rule.name().to_owned());
        self.bundle.add(rule.name(), &graph, &outputs, |input| {
            let of = |prefix: &str| input.strip_prefix(prefix).map(str::to_owned);
            Ok(if let Some(name) = of("w ") {
                let data = elements.get(&name).cloned();
                (Role::Weight(name), data)
            } else if let Some(name) = of("f_F ") {
                (Role::ForgetFisher(name), None)
            } else if let Some(name) = of("f_R ") {
                (Role::RetainFisher(name), None)
            } else {
                (Role::Strength(input.to_owned()), None)
            })
        })
    }

    /// Adds a graph of the model whose weights become inputs.
    fn add(&mut self, name: &str, graph: &mut Graph, outputs: &[String], role: impl Fn(&str) -> Role) -> Result<()> {
        let own = graph.inputs.len();
        let elements = if self.has_weights { self.elements()? } else { BTreeMap::new() };
        graph.feed_weights();
        let mut at = 0..;
        self.plans.push(name.to_owned());
        self.bundle.add(name, graph, outputs, |input| {
            let is_weight = at.next().is_some_and(|i| i >= own);
            Ok(if is_weight {
                (Role::Weight(input.to_owned()), elements.get(input).cloned())
            } else {
                (role(input), None)
            })
        })
    }

    /// The elements of the weights.
    fn elements(&self) -> Result<BTreeMap<String, Array>> {
        let bound = self.classifier.bind(1)?;
        let elements = bound.weights.iter().filter_map(|(name, id)| match &bound.graph.value(*id).source {
            Source::Weight(a) => Some((name.clone(), a.clone())),
            _ => None,
        });
        Ok(elements.collect())
    }

    fn samples(&mut self, graph: &Graph, data: &Labelled) -> Result<Samples> {
        let mut batches = Vec::new();
        for from in (0..data.len()).step_by(self.batch) {
            let to = (from + self.batch).min(data.len());
            let (feeds, part) = batch_feeds(graph, data, from, to, self.batch)?;
            let put = |(name, a): (String, Array)| Ok((name, self.bundle.put(&a)?));
            let inputs = feeds.into_iter().map(put).collect::<Result<_>>()?;
            batches.push(SampleBatch { from, to, inputs, labels: self.bundle.put(&part.labels())? });
        }
        Ok(Samples { classes: data.y.clone(), batches })
    }
}

/// Where the elements of a weight lie.
fn place(model: &Model, name: String) -> Result<Place> {
    let weight = model.weight_index(&name).and_then(|i| model.weights().get(i));
    let weight = weight.ok_or_else(|| Error::unsupported(format!("the file holds no elements of '{name}'")))?;
    if weight.storage() != Storage::F32 || weight.data_file().is_some() || !weight.is_patchable() {
        let stored = weight.storage().name();
        let file = if weight.data_file().is_some() { "a data file" } else { "the model file" };
        return Err(Error::unsupported(format!(
            "'{name}' is {stored} in {file}; a plan that forgets changes float32 in the model file alone"
        )));
    }
    let runs = weight.runs().iter().map(|r| [r.start, r.step, r.count]).collect();
    Ok(Place { shape: weight.shape().to_vec(), runs, name })
}

impl Report {
    fn text(&self) -> String {
        let mut out = String::new();
        if let Some(why) = &self.one_by_one {
            out += &format!("samples run one by one: {why}\n");
        }
        let [text, data] = self.bytes.map(format::count);
        out + &format!(
            "wrote {} ({text} bytes) and {} ({data} bytes): {} for {} samples at once, {} dispatches\n",
            self.file.display(),
            self.data.display(),
            self.plans.join(", "),
            self.batch,
            format::count(self.dispatches)
        )
    }
}
