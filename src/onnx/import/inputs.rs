//! The inputs of a model: which axis holds the samples, and how long every other axis is.

use super::super::proto::{Dimension, GraphProto, ModelProto, ValueInfoProto, dimension, type_proto};
use super::needed::Needed;
use super::{Import, ImportOptions, Wanted};
use crate::error::{Error, Result};
use crate::graph::Batch;
use crate::tensor::{DType, TensorType};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What a model says of one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent<'m> {
    Fixed(usize),
    Named(&'m str),
    Open,
}

impl<'m> Extent<'m> {
    fn of(dim: &'m Dimension) -> Result<Self> {
        Ok(match &dim.value {
            Some(dimension::Value::DimValue(n)) if *n < 0 => return Err(Error::format(format!("it has extent {n}"))),
            Some(dimension::Value::DimValue(n)) if *n > 0 => Self::Fixed(usize::try_from(*n).unwrap_or(usize::MAX)),
            Some(dimension::Value::DimParam(p)) if !p.is_empty() => Self::Named(p),
            _ => Self::Open,
        })
    }
}

/// Element type and extents of a tensor, where the model states them.
fn tensor(info: &ValueInfoProto) -> Result<Option<(i32, Vec<Extent<'_>>)>> {
    let Some(type_proto::Value::TensorType(t)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Ok(None);
    };
    let Some(shape) = &t.shape else { return Ok(None) };
    let extents = shape.dim.iter().map(Extent::of).collect::<Result<_>>();
    Ok(Some((t.elem_type.unwrap_or_default(), extents.map_err(|e| e.at(format!("'{}'", info.name())))?)))
}

/// An input of the model.
struct Input<'m> {
    name: &'m str,
    dtype: DType,
    extents: Vec<Extent<'m>>,
    /// The axis that holds the samples.
    batch: Option<usize>,
}

impl<'m> Input<'m> {
    fn of(info: &'m ValueInfoProto) -> Result<Self> {
        let name = info.name();
        let (code, extents) =
            tensor(info)?.ok_or_else(|| Error::unsupported(format!("input '{name}' is not a tensor of known rank")))?;
        let dtype = DType::from_onnx(code)
            .ok_or_else(|| Error::unsupported(format!("input '{name}' has element type {code}")))?;
        Ok(Self { name, dtype, extents, batch: None })
    }
    fn extent(&self, axis: usize) -> Option<Extent<'m>> {
        self.extents.get(axis).copied()
    }
    /// The name by which an open extent is bound: the model's own, or `input.axis` where it has none.
    fn label(&self, axis: usize) -> Option<String> {
        match self.extent(axis)? {
            Extent::Fixed(_) => None,
            Extent::Named(p) => Some(p.to_owned()),
            Extent::Open => Some(format!("{}.{axis}", self.name)),
        }
    }
    /// What a sample's shape, if one is known, says of an axis.
    fn hint(&self, axis: usize, options: &ImportOptions) -> Option<usize> {
        let lead = usize::from(self.batch.is_some());
        let sample =
            options.samples.get(self.name).filter(|s| s.len().checked_add(lead) == Some(self.extents.len()))?;
        let behind = self.batch.is_some_and(|b| b < axis);
        sample.get(if behind { axis.checked_sub(1)? } else { axis }).copied()
    }
}

impl Import<'_> {
    /// Adds the graph's inputs; true when they fix the number of samples.
    pub(super) fn inputs(&mut self, graph: &GraphProto, needed: &Needed, options: &ImportOptions) -> Result<bool> {
        let (inputs, fixed) = placed(graph, needed, options)?;
        let samples = fixed.unwrap_or(options.batch);
        self.g.batch = samples;
        let (shapes, missing) = bind(&inputs, samples, options)?;
        if !missing.is_empty() {
            return Err(Error::invalid(format!(
                "the model leaves extents open: {}; labelled inputs bind them, or --dim NAME=N does",
                missing.join(", ")
            )));
        }
        for (input, shape) in inputs.iter().zip(shapes) {
            let at = input.batch.map_or(Batch::None, |axis| Batch::Axis { axis, rows: 1 });
            let ty = TensorType::new(self.precision(input.dtype), shape);
            let id = self.g.input(input.name, ty, at);
            self.define(input.name, id)?;
        }
        Ok(fixed.is_some())
    }
}

/// Extents that stay open, by the names that [`ImportOptions::dims`] takes.
///
/// # Errors
/// When the inputs are no tensors, or an option does not fit them.
pub fn open_extents(model: &ModelProto, options: &ImportOptions) -> Result<Vec<String>> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::format("the model holds no graph"))?;
    let needed = Needed::of(graph, &options.outputs)?;
    let (inputs, fixed) = placed(graph, &needed, options)?;
    Ok(bind(&inputs, fixed.unwrap_or(options.batch), options)?.1)
}

/// Names of the inputs that are imported, in the model's order.
///
/// # Errors
/// When the model has no output as it is asked for.
pub fn input_names(model: &ModelProto, options: &ImportOptions) -> Result<Vec<String>> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::format("the model holds no graph"))?;
    let needed = Needed::of(graph, &options.outputs)?;
    Ok(own(graph, &needed, options).map(|i| i.name().to_owned()).collect())
}

/// The inputs that are no initializers, as before IR 4 all of those are listed among the inputs as well; where only an
/// answer is wanted, those that it reads.
fn own<'m>(
    graph: &'m GraphProto,
    needed: &Needed,
    options: &ImportOptions,
) -> impl Iterator<Item = &'m ValueInfoProto> {
    let given: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let mut inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|i| !given.contains(i.name())).collect();
    // an answer that reads none of them has a broken link on its way, which is the better reason
    if options.outputs != Wanted::All && inputs.iter().any(|i| needed.reads(i.name())) {
        inputs.retain(|i| needed.reads(i.name()));
    }
    inputs.into_iter()
}

/// The model's inputs with the axes of their samples, and the number of samples where the model fixes it.
fn placed<'m>(
    graph: &'m GraphProto,
    needed: &Needed<'m>,
    options: &ImportOptions,
) -> Result<(Vec<Input<'m>>, Option<usize>)> {
    let mut inputs = own(graph, needed, options).map(Input::of).collect::<Result<Vec<_>>>()?;
    if inputs.is_empty() {
        // what would have been read from one is the better reason
        if let Some(name) = needed.missing(graph) {
            return Err(Error::format(format!("value '{name}' is used before any node or initializer gives it")));
        }
        return Err(Error::unsupported("the model has no input"));
    }
    check_names(&inputs, options)?;
    let answers = answers(graph, needed)?;
    let fixed = place_samples(&mut inputs, &answers, options)?;
    Ok((inputs, fixed))
}

/// The first extents of the outputs that are imported.
fn answers<'m>(graph: &'m GraphProto, needed: &Needed) -> Result<Vec<Extent<'m>>> {
    let mut out = Vec::new();
    for info in graph.output.iter().filter(|o| needed.outputs.iter().any(|(name, _)| *name == o.name())) {
        out.extend(tensor(info)?.and_then(|(_, extents)| extents.first().copied()));
    }
    Ok(out)
}

/// Finds the axis of every input that holds the samples; gives their number where the model fixes it.
///
/// It is the axis that was given; else the one that shares its name with the first axis of the answer; else the
/// first. A fixed first axis that the answer does not share gives way to the only axis that the answer does share.
fn place_samples(inputs: &mut [Input], answers: &[Extent], options: &ImportOptions) -> Result<Option<usize>> {
    let first = inputs.first().map_or("", |i| i.name).to_owned();
    for name in options.batch_axes.keys().filter(|n| !n.is_empty()) {
        if !inputs.iter().any(|i| i.name == name) {
            return Err(Error::invalid(format!("--batch-axis: the model has no input '{name}'")));
        }
    }
    let shared = answers.iter().copied().find(|a| matches!(a, Extent::Named(_)));
    let named = shared.filter(|s| inputs.iter().any(|i| i.extents.contains(s)));
    let mut samples: Option<usize> = None;
    for (k, input) in inputs.iter_mut().enumerate() {
        let asked = options.batch_axes.get(input.name);
        let asked = asked.or_else(|| options.batch_axes.get("").filter(|_| input.name == first));
        let by_name = named.and_then(|s| input.extents.iter().position(|e| *e == s));
        let axis = match (asked, by_name) {
            (Some(&axis), _) if axis >= input.extents.len() => {
                let rank = input.extents.len();
                return Err(Error::invalid(format!("--batch-axis {axis}: input '{}' has rank {rank}", input.name)));
            }
            (Some(&axis), _) => Some(axis),
            (None, Some(axis)) => Some(axis),
            (None, None) => unnamed(input, answers, samples, k == 0),
        };
        input.batch = axis;
        if k == 0 {
            samples = match axis.and_then(|a| input.extent(a)) {
                Some(Extent::Fixed(n)) => Some(n),
                _ => None,
            };
        }
    }
    Ok(samples)
}

/// The axis of samples of an input that shares no name with the answer. `samples`: their fixed number.
fn unnamed(input: &Input, answers: &[Extent], samples: Option<usize>, first: bool) -> Option<usize> {
    match (input.extent(0)?, first) {
        // exporters name an open first extent as they like
        (Extent::Named(_) | Extent::Open, _) => Some(0),
        (Extent::Fixed(n), true) => {
            let unlike = |a: &Extent| matches!(a, Extent::Fixed(m) if *m != n);
            let other = answers.iter().find(|a| unlike(a)).copied();
            let mut found = input.extents.iter().enumerate().filter(|(_, e)| Some(**e) == other).map(|(axis, _)| axis);
            match (found.next(), found.next()) {
                (Some(axis), None) if answers.iter().all(unlike) => Some(axis),
                _ => Some(0),
            }
        }
        (Extent::Fixed(n), false) => (samples == Some(n)).then_some(0),
    }
}

/// Every bound name must be that of an open extent: the model's own, or `input.axis` where it has none.
fn check_names(inputs: &[Input], options: &ImportOptions) -> Result<()> {
    let known: BTreeSet<String> =
        inputs.iter().flat_map(|i| (0..i.extents.len()).filter_map(|axis| i.label(axis))).collect();
    let Some(name) = options.dims.keys().find(|name| !known.contains(*name)) else { return Ok(()) };
    let known = if known.is_empty() { "none".to_owned() } else { known.into_iter().collect::<Vec<_>>().join(", ") };
    Err(Error::invalid(format!("--dim {name}: the model's inputs have no open extent of that name; they have {known}")))
}

/// The static shape of every input, and the names of extents that stay open.
fn bind(inputs: &[Input], samples: usize, options: &ImportOptions) -> Result<(Vec<Vec<usize>>, Vec<String>)> {
    let of_batch = |e: Extent| inputs.iter().any(|i| i.batch.and_then(|b| i.extent(b)) == Some(e));
    let by_sample = by_sample(inputs, options)?;
    let mut missing = BTreeSet::new();
    let mut shapes = Vec::with_capacity(inputs.len());
    for input in inputs {
        let mut shape = Vec::with_capacity(input.extents.len());
        for (axis, &extent) in input.extents.iter().enumerate() {
            let label = input.label(axis).unwrap_or_default();
            shape.push(match extent {
                _ if input.batch == Some(axis) => samples,
                Extent::Fixed(n) => n,
                Extent::Named(_) if of_batch(extent) => samples,
                _ => match options.dims.get(&label).or_else(|| by_sample.get(&label)) {
                    Some(&n) => n,
                    None => {
                        missing.insert(label);
                        1
                    }
                },
            });
        }
        shapes.push(shape);
    }
    for input in inputs {
        if let Some(Extent::Named(p)) = input.batch.and_then(|b| input.extent(b))
            && let Some(n) = options.dims.get(p).filter(|&&n| n != samples)
        {
            return Err(Error::invalid(format!("--dim {p}={n} names the batch; use --batch")));
        }
    }
    Ok((shapes, missing.into_iter().collect()))
}

/// Open extents as the samples at hand have them.
fn by_sample(inputs: &[Input], options: &ImportOptions) -> Result<BTreeMap<String, usize>> {
    let mut found: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for input in inputs {
        for axis in (0..input.extents.len()).filter(|a| input.batch != Some(*a)) {
            let (Some(label), Some(n)) = (input.label(axis), input.hint(axis, options)) else { continue };
            if options.dims.contains_key(&label) {
                continue;
            }
            match found.insert(label.clone(), (n, input.name)) {
                Some((m, other)) if m != n => {
                    return Err(Error::invalid(format!(
                        "extent '{label}' is {m} in the labelled inputs' '{other}' and {n} in '{}'",
                        input.name
                    )));
                }
                _ => {}
            }
        }
    }
    Ok(found.into_iter().map(|(label, (n, _))| (label, n)).collect())
}
