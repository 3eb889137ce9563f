//! `gradients`: the gradient graph as a standard ONNX model.

use super::common::{ModelArgs, check_target, named};
use super::{Context, Status};
use crate::autodiff::gradient::Mode;
use crate::classifier::{Classifier, ClassifierOptions};
use crate::error::{Error, Result};
use crate::files;
use crate::graph::{Attrs, Graph, ValueId};
use crate::onnx::import::Training;
use crate::onnx::{ExportOptions, to_bytes};
use clap::ValueEnum;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ModeName {
    /// Σ_n u_n ∂ℓ_n/∂w, in each weight's shape
    #[default]
    Sum,
    /// ∂ℓ_n/∂w for every sample: one more axis in front
    PerSample,
    /// Σ_n u_n (∂ℓ_n/∂w)², in each weight's shape
    Fisher,
}

/// Writes the gradients of the cross-entropy on the logits as an ONNX model of standard ops.
///
/// Its inputs are the model's, 'labels' (int64, class ids) and 'sample_weights' (modes sum and fisher); its outputs
/// are 'loss' and one tensor per trainable weight NAME, called NAME.grad or NAME.fisher.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The new model.
    #[arg(short, value_name = "FILE.onnx")]
    o: PathBuf,
    /// What the outputs hold.
    #[arg(long, value_enum, default_value_t)]
    mode: ModeName,
    /// Samples in a batch, where the model leaves it open.
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// BatchNormalization normalises with the statistics of the batch, and Dropout drops: each Dropout node NODE takes
    /// a mask as input NODE.mask (bool, true: kept). Without this both are in their inference form.
    #[arg(long)]
    training_mode: bool,
    /// Draws the masks of Dropout, once and for all, instead of taking them as inputs.
    #[arg(long, value_name = "N", requires = "training_mode")]
    seed: Option<u64>,
}

#[derive(serde::Serialize)]
struct Report {
    file: PathBuf,
    batch: usize,
    nodes: usize,
    inputs: Vec<String>,
    outputs: usize,
    unused: Vec<String>,
    softmax_removed: Option<&'static str>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<Status> {
        check_target(&self.o, &[&self.model.model])?;
        if self.batch == 0 {
            return Err(Error::invalid("--batch must be above 0"));
        }
        let training = self.training_mode.then_some(Training { seed: self.seed });
        let options = ClassifierOptions { training, ..self.model.options() };
        let classifier = Classifier::open(&self.model.model, options).map_err(|e| named(e, &self.model.model))?;
        let mode = match self.mode {
            ModeName::Sum => Mode::Sum,
            ModeName::PerSample => Mode::PerSample,
            ModeName::Fisher => Mode::Fisher { sets: 1 },
        };
        let found = classifier.gradients(self.batch, mode).map_err(|e| {
            if e.kind() == crate::Kind::NeedsSingles {
                Error::unsupported(format!(
                    "{e}; samples cannot be kept apart in a batch of {}: use --batch 1",
                    self.batch
                ))
            } else {
                e
            }
        })?;
        let mut g = found.graph;
        let suffix = if mode == (Mode::Fisher { sets: 1 }) { "fisher" } else { "grad" };
        let mut names = vec!["loss".to_owned()];
        names.extend(found.gradients.iter().map(|(n, _)| format!("{n}.{suffix}")));
        if let (Mode::Fisher { .. }, Some(u)) = (mode, found.sample_weights) {
            g = without_sets(&g, u)?;
        }
        let nodes = g.nodes().len();
        let options = ExportOptions { graph_name: "gradients".to_owned(), output_names: names.clone() };
        files::write_bytes(&self.o, &to_bytes(&g, &options)?)?;
        let report = Report {
            file: self.o.clone(),
            batch: g.batch,
            nodes,
            inputs: g.inputs.iter().map(|&i| format!("{} {}", g.label(i), g.value(i).ty)).collect(),
            outputs: names.len(),
            unused: found.unused,
            softmax_removed: found.head.peeled,
        };
        context.print(&report, || {
            let mut text = format!(
                "wrote {}: loss and {} gradients for a batch of {}\ninputs: {}\n",
                report.file.display(),
                report.outputs - 1,
                report.batch,
                report.inputs.join(", ")
            );
            if let Some(op) = report.softmax_removed {
                text += &format!("the trailing {op} was taken off: the loss is on the logits\n");
            }
            if !report.unused.is_empty() {
                text += &format!("no gradient for {}: the answer does not depend on them\n", report.unused.join(", "));
            }
            text
        })?;
        Ok(Status::Done)
    }
}

/// One set of sample weights needs no axis for sets: `u` becomes `[samples]`, every Fisher its weight's shape.
fn without_sets(from: &Graph, u: ValueId) -> Result<Graph> {
    let mut g = Graph::new(from.batch);
    g.opset = from.opset;
    let mut map = std::collections::HashMap::new();
    for &id in &from.inputs {
        let value = from.value(id);
        let mut ty = value.ty.clone();
        if id == u {
            ty.shape.remove(0);
        }
        let new = g.input(from.label(id), ty, value.batch);
        let new = if id == u { crate::ops::reshape(&mut g, new, &value.ty.shape)? } else { new };
        map.insert(id, new);
    }
    for (id, data) in from.weights() {
        let new = g.weight(from.label(id), data.clone());
        map.insert(id, new);
    }
    crate::graph::passes::replay(from, &mut g, &from.outputs, &mut map)?;
    for (k, id) in from.outputs.iter().enumerate() {
        let new = *map.get(id).ok_or_else(|| Error::internal("an output was lost"))?;
        let shape = g.shape(new).to_vec();
        g.set_scope("squeeze");
        let new = if k == 0 {
            new
        } else {
            let axes = g.ints(&[0]);
            debug_assert_eq!(shape.first(), Some(&1));
            g.push("Squeeze", &[new, axes], Attrs::new())?
        };
        g.outputs.push(new);
    }
    Ok(g)
}
