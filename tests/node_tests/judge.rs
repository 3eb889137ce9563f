//! Runs one test on one engine and compares what comes out with what the package says.

use crate::common;
use crate::package::{Data, NodeTest};
use onnx_unlearn::engine::Engine;
use onnx_unlearn::graph::passes;
use onnx_unlearn::onnx::proto::{
    Dimension, ModelProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use onnx_unlearn::onnx::{ImportOptions, Imported, import, tensor_to_array};
use onnx_unlearn::tensor::{Array, DType};
use onnx_unlearn::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// ONNX's codes of the two half precisions, which are computed in float32.
const HALF: [i32; 2] = [10, 16];

/// How a test went that was run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// The engine computed the outputs.
    Computed,
    /// They were constant once the inputs that have to be constants were.
    Folded,
}

/// Runs a test.
///
/// # Errors
/// When it is refused, fails, or gives other outputs than it should.
pub fn run(engine: &dyn Engine, test: &NodeTest) -> Result<Passed> {
    catch_unwind(AssertUnwindSafe(|| try_run(engine, test)))
        .unwrap_or_else(|_| Err(Error::internal(format!("{} panicked", test.name))))
}

fn try_run(engine: &dyn Engine, test: &NodeTest) -> Result<Passed> {
    let data = test.data.as_ref().map_err(|e| Error::new(e.kind(), e.to_string()))?;
    // only the embedded engine is asked for double precision: a GPU has none
    let wide = engine.name() == "cpu" && tensors(data).any(|t| t.data_type() == DType::F64.onnx());
    let (imported, feeds) = bind(&test.model, &data.inputs, if wide { DType::F64 } else { DType::F32 })?;
    let got = common::run(engine, &imported.graph, &feeds)?;
    if got.len() != data.outputs.len() {
        return Err(Error::internal(format!("{} outputs instead of {}", got.len(), data.outputs.len())));
    }
    let tolerance = Tolerance::of(data);
    let ids = &imported.graph.outputs;
    for (k, ((got, &id), want)) in got.iter().zip(ids).zip(&data.outputs).enumerate() {
        let (want, dtype) = tensor_to_array(want)?;
        let ty = imported.graph.value(id).ty.dtype;
        if ty != dtype && !(ty.is_float() && dtype.is_float()) {
            return Err(Error::internal(format!("output {k} is of type {ty} instead of {dtype}")));
        }
        if got.shape() != want.shape() || !tolerance.holds(got, &want) {
            return Err(Error::internal(format!("output {k} is {got:?} instead of {want:?}")));
        }
    }
    let mut left = imported.graph;
    passes::prune(&mut left);
    Ok(if left.nodes().is_empty() { Passed::Folded } else { Passed::Computed })
}

fn tensors(data: &Data) -> impl Iterator<Item = &TensorProto> {
    data.inputs.iter().chain(&data.outputs)
}

/// The greatest difference between floats: `relative · |want| + absolute`. Integers and conditions are equal.
struct Tolerance {
    relative: f64,
    absolute: f64,
}

impl Tolerance {
    /// 1e-3 relative is what the package itself allows. Half precision has eleven or eight bits, which the
    /// reference rounds to after every step and we do not. In single precision, sums that cancel and a GPU's
    /// functions err by some 1e-6 of their terms.
    fn of(data: &Data) -> Self {
        let half = tensors(data).any(|t| HALF.contains(&t.data_type()));
        let (relative, absolute) = if half { (1e-2, 1e-2) } else { (1e-3, 1e-5) };
        Self { relative, absolute }
    }
    fn holds(&self, got: &Array, want: &Array) -> bool {
        let exact = !got.dtype().is_float() && !want.dtype().is_float();
        got.to_f64().iter().zip(&want.to_f64()).all(|(g, w)| {
            let close = (g - w).abs() <= self.relative * w.abs() + self.absolute;
            g == w || g.is_nan() && w.is_nan() || !exact && close
        })
    }
}

/// The graph, and what it is fed. Inputs that an op needs constant (shapes, axes) become constants, and no
/// more of them than need be.
fn bind(model: &ModelProto, inputs: &[TensorProto], float: DType) -> Result<(Imported, Vec<Array>)> {
    let mut sets: Vec<u32> = (0..1u32 << inputs.len().min(10)).collect();
    sets.sort_by_key(|set| set.count_ones());
    let mut first: Option<Error> = None;
    for set in sets {
        match bind_with(model, inputs, float, |i| set >> i & 1 == 1) {
            Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Invalid) => {
                let telling = !e.to_string().contains("constant");
                if first.as_ref().is_none_or(|f| telling && f.to_string().contains("constant")) {
                    first = Some(e);
                }
            }
            done => return done,
        }
    }
    Err(first.unwrap_or_else(|| Error::internal("nothing was tried")))
}

fn bind_with(
    model: &ModelProto,
    inputs: &[TensorProto],
    float: DType,
    constant: impl Fn(usize) -> bool,
) -> Result<(Imported, Vec<Array>)> {
    let mut model = model.clone();
    let graph = model.graph.as_deref_mut().ok_or_else(|| Error::format("the model holds no graph"))?;
    let mut options = ImportOptions { float, ..ImportOptions::default() };
    let (mut feeds, mut left) = (Vec::new(), Vec::new());
    for (i, mut info) in std::mem::take(&mut graph.input).into_iter().enumerate() {
        let Some(tensor) = inputs.get(i) else {
            left.push(info);
            continue;
        };
        if constant(i) {
            graph.initializer.push(TensorProto { name: info.name.clone(), ..tensor.clone() });
            continue;
        }
        let (array, _) = tensor_to_array(tensor)?;
        if feeds.is_empty() {
            options.batch = array.shape().first().copied().unwrap_or(1);
        }
        // some declare another shape than they are fed
        let ty = type_of(tensor.data_type(), array.shape(), info.name(), &mut options.dims);
        info.r#type = Some(ty);
        feeds.push(array.to_float(float));
        left.push(info);
    }
    // a model without any input would be refused
    if left.is_empty() {
        feeds.push(Array::full_float(float, &[1], 0.0));
        let name = "unused by the test";
        let ty = type_of(DType::F32.onnx(), &[1], name, &mut options.dims);
        left.push(ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() });
    }
    graph.input = left;
    Ok((import(&model, &tensor_to_array, &options)?, feeds))
}

/// The type of a tensor. An extent of 0 would be an open one: it gets a name, which `dims` binds.
fn type_of(elem_type: i32, shape: &[usize], input: &str, dims: &mut BTreeMap<String, usize>) -> TypeProto {
    let mut extent = |(axis, &d): (usize, &usize)| match d {
        0 => {
            let name = format!("{input} {axis}");
            dims.insert(name.clone(), 0);
            dimension::Value::DimParam(name)
        }
        _ => dimension::Value::DimValue(i64::try_from(d).unwrap()),
    };
    let dim = shape.iter().enumerate().map(|d| Dimension { value: Some(extent(d)), ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(elem_type), shape: Some(TensorShapeProto { dim }) };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }
}
