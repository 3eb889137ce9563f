//! The tests as the Python package `onnx` ships them: a model, inputs and outputs each.

use crate::common::available;
use onnx_unlearn::onnx::proto::{ModelProto, TensorProto, type_proto};
use onnx_unlearn::{Error, Result, ops};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the package says of itself.
#[derive(serde::Deserialize)]
pub struct Package {
    /// The folder of the tests.
    folder: PathBuf,
    /// The operator set versions in which each op of the default domain was made or changed.
    pub history: BTreeMap<String, BTreeSet<i64>>,
    /// The newest operator set.
    pub newest: i64,
}

const SCRIPT: &str = "
import json, os, onnx, onnx.backend.test as t
history = {}
for s in onnx.defs.get_all_schemas_with_history():
    if s.domain == '':
        history.setdefault(s.name, []).append(s.since_version)
folder = os.path.join(list(t.__path__)[0], 'data', 'node')
print(json.dumps({'folder': folder, 'history': history, 'newest': onnx.defs.onnx_opset_version()}))
";

impl Package {
    /// The package of the Python that `$ONNX_UNLEARN_PYTHON` names.
    pub fn find() -> Option<Self> {
        let find = || {
            let python = std::env::var_os("ONNX_UNLEARN_PYTHON")
                .ok_or_else(|| Error::engine("ONNX_UNLEARN_PYTHON names no Python that has the package onnx"))?;
            let out = Command::new(python).args(["-c", SCRIPT]).output().map_err(|e| Error::io("python", &e))?;
            let package: Self = serde_json::from_slice(&out.stdout)
                .map_err(|_| Error::engine(String::from_utf8_lossy(&out.stderr).into_owned()))?;
            if package.folder.is_dir() { Ok(package) } else { Err(Error::engine("the package onnx has no node tests")) }
        };
        available(find())
    }

    /// All tests whose name contains `only`, sorted by name.
    pub fn tests(&self, only: &str) -> Vec<NodeTest> {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(&self.folder).unwrap().flatten().map(|e| e.path()).collect();
        folders.sort();
        let name = |f: &PathBuf| f.file_name().unwrap_or_default().to_string_lossy().into_owned();
        folders.iter().filter(|f| name(f).contains(only)).map(|f| NodeTest::read(f, name(f))).collect()
    }
}

/// One test.
pub struct NodeTest {
    pub name: String,
    pub model: ModelProto,
    /// Its tensors, or why they are none.
    pub data: Result<Data>,
}

/// The tensors of a test.
pub struct Data {
    pub inputs: Vec<TensorProto>,
    pub outputs: Vec<TensorProto>,
}

impl NodeTest {
    fn read(folder: &Path, name: String) -> Self {
        let model = ModelProto::decode(std::fs::read(folder.join("model.onnx")).unwrap().as_slice()).unwrap();
        let data = Data::read(&model, &folder.join("test_data_set_0"));
        Self { name, model, data }
    }

    /// The ops of its model, those of other domains with the domain before them.
    pub fn ops(&self) -> BTreeSet<String> {
        let nodes = self.model.graph.iter().flat_map(|g| &g.node);
        nodes
            .map(|n| match n.domain() {
                "" | "ai.onnx" => n.op_type().to_owned(),
                domain => format!("{domain}.{}", n.op_type()),
            })
            .collect()
    }

    /// The ops that are neither in our table nor settled when a model is read.
    pub fn unclaimed(&self) -> Vec<String> {
        let ours = |name: &String| {
            let (domain, op) = name.rsplit_once('.').unwrap_or(("", name));
            name == "If" || ops::find(op).is_ok_and(|op| op.spec().domain == domain)
        };
        self.ops().into_iter().filter(|name| !ours(name)).collect()
    }
}

impl Data {
    fn read(model: &ModelProto, folder: &Path) -> Result<Self> {
        let graph = model.graph.as_deref().ok_or_else(|| Error::format("the model holds no graph"))?;
        for info in graph.input.iter().chain(&graph.output) {
            let value = info.r#type.as_ref().and_then(|t| t.value.as_ref());
            if !matches!(value, Some(type_proto::Value::TensorType(_))) {
                return Err(Error::unsupported(format!("'{}' is not a tensor", info.name())));
            }
        }
        Ok(Self { inputs: tensors(folder, "input")?, outputs: tensors(folder, "output")? })
    }
}

/// The tensors `input_0.pb`, `input_1.pb`, … of a folder.
fn tensors(folder: &Path, kind: &str) -> Result<Vec<TensorProto>> {
    (0..)
        .map(|k| folder.join(format!("{kind}_{k}.pb")))
        .take_while(|p| p.exists())
        .map(|p| {
            let bytes = std::fs::read(&p).map_err(|e| Error::io(p.display(), &e))?;
            TensorProto::decode(bytes.as_slice()).map_err(|e| Error::format(e.to_string()))
        })
        .collect()
}
