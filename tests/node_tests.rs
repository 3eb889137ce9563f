//! The backend node tests of the package `onnx`: models of one op with inputs and outputs that its own
//! reference computed. Those of ops we have run through import and the reference engine.

mod common;

use common::{available, run};
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::onnx::proto::{
    Dimension, ModelProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use onnx_unlearn::onnx::{ImportOptions, import, import::obstacles, tensor_to_array};
use onnx_unlearn::tensor::{Array, DType};
use onnx_unlearn::{Error, Kind};
use prost::Message;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tests that we fail knowingly, by the start of their names, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("test_reshape_allowzero_reordered", "an input's extent 0 is taken for an open one"),
    ("test_split_zero_size_splits", "as above"),
    ("test_identity_opt", "its input is not a tensor"),
];

/// The folder of the tests, found by the Python that has the package.
fn folder() -> Option<PathBuf> {
    let find = || {
        let python = std::env::var_os("ONNX_UNLEARN_PYTHON")
            .ok_or_else(|| Error::engine("ONNX_UNLEARN_PYTHON names no Python that has the package onnx"))?;
        let script = "import onnx.backend.test as t; print(list(t.__path__)[0])";
        let out = Command::new(python).args(["-c", script]).output().map_err(|e| Error::io("python", &e))?;
        let path = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()).join("data").join("node");
        if path.is_dir() { Ok(path) } else { Err(Error::engine("the package onnx has no node tests")) }
    };
    available(find())
}

/// The tensors `input_0.pb`, `input_1.pb`, … of a folder.
fn tensors(folder: &Path, kind: &str) -> Result<Vec<TensorProto>, Error> {
    (0..)
        .map(|k| folder.join(format!("{kind}_{k}.pb")))
        .take_while(|p| p.exists())
        .map(|p| {
            let bytes = std::fs::read(&p).map_err(|e| Error::io(p.display(), &e))?;
            TensorProto::decode(bytes.as_slice()).map_err(|_| Error::unsupported("not a tensor"))
        })
        .collect()
}

/// A graph input of one float.
fn one_float(name: &str) -> ValueInfoProto {
    let extent = dimension::Value::DimValue(1);
    let shape = TensorShapeProto { dim: vec![Dimension { value: Some(extent), ..Dimension::default() }] };
    let tensor = type_proto::Tensor { elem_type: Some(DType::F32.onnx()), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// The model with these of its inputs turned into constants, and what is left to feed.
fn bound(model: &ModelProto, inputs: &[TensorProto], constant: impl Fn(DType) -> bool) -> (ModelProto, Vec<Array>) {
    let mut model = model.clone();
    let mut feeds = Vec::new();
    if let Some(graph) = &mut model.graph {
        let mut given = inputs.iter();
        graph.input = std::mem::take(&mut graph.input)
            .into_iter()
            .filter(|info| {
                let Some(tensor) = given.next() else { return true };
                match tensor_to_array(tensor) {
                    Ok((array, dtype)) if !constant(dtype) => {
                        feeds.push(array.to_float(DType::F32));
                        true
                    }
                    _ => {
                        graph.initializer.push(TensorProto { name: info.name.clone(), ..tensor.clone() });
                        false
                    }
                }
            })
            .collect();
        // a model without any input would be refused
        if let (true, Some(info)) = (graph.input.is_empty(), inputs.first()) {
            feeds.push(Array::full(&[1], 0.0f32));
            graph.input.push(one_float(&format!("unused_{}", info.name())));
        }
    }
    (model, feeds)
}

fn outputs(model: &ModelProto, inputs: &[TensorProto]) -> Result<Vec<Array>, Error> {
    // shapes and axes are inputs here, which we want constant
    let mut result = Err(Error::unsupported("not tried"));
    for constant in [(|_| false) as fn(DType) -> bool, |t| !t.is_float(), |_| true] {
        let (model, feeds) = bound(model, inputs, constant);
        let ran = import(&model, &tensor_to_array, &ImportOptions::default())
            .and_then(|imported| run(&Cpu, &imported.graph, &feeds));
        match ran {
            Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Invalid) => result = Err(e),
            done => return done,
        }
    }
    result
}

fn check(folder: &Path) -> Result<(), Error> {
    let bytes = std::fs::read(folder.join("model.onnx")).map_err(|e| Error::io(folder.display(), &e))?;
    let model = ModelProto::decode(bytes.as_slice()).map_err(|e| Error::unsupported(e.to_string()))?;
    if !obstacles(&model).is_empty() {
        return Err(Error::unsupported(obstacles(&model).join("; ")));
    }
    let data = folder.join("test_data_set_0");
    let (inputs, want) = (tensors(&data, "input")?, tensors(&data, "output")?);
    let got = outputs(&model, &inputs)?;
    for (k, (got, want)) in got.iter().zip(&want).enumerate() {
        let (want, dtype) = tensor_to_array(want)?;
        // half precision has eleven or eight bits, and the package compares to 1e-3
        let tolerance = if dtype.is_float() { 1e-2 } else { 0.0 };
        let (g, w) = (got.to_f64(), want.to_f64());
        let close = |(g, w): (&f64, &f64)| {
            g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance * w.abs() + 1e-5 * tolerance.signum()
        };
        if got.shape() != want.shape() || !g.iter().zip(&w).all(close) {
            return Err(Error::internal(format!("output {k} is {got:?} instead of {want:?}")));
        }
    }
    if got.len() == want.len() { Ok(()) } else { Err(Error::internal("another number of outputs")) }
}

#[test]
fn node_tests_of_the_package_onnx() {
    let Some(folder) = folder() else { return };
    let only = std::env::var("ONNX_UNLEARN_CASE").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().flatten().map(|e| e.path()).collect();
    folders.sort();
    let (mut passed, mut refused, mut failures) = (0, 0, Vec::new());
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.contains(&only) || LEFT_OUT.iter().any(|(start, _)| name.starts_with(start)) {
            continue;
        }
        match check(&folder) {
            Ok(()) => passed += 1,
            // weights that hold NaN are invalid
            Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Invalid) => {
                println!("not supported: {name}: {e}");
                refused += 1;
            }
            Err(e) => failures.push(format!("{name}: {e:?}")),
        }
    }
    println!("{passed} pass, {refused} need what is not supported, {} fail", failures.len());
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    assert!(passed >= 650 || !only.is_empty(), "only {passed} node tests were run");
}
