//! ONNX Runtime, loaded at run time from a library the user has: it runs our graphs exported as ONNX.

use super::cpu::check_feeds;
use super::ort_library::{Candidate, Search, search};
use super::{Engine, Session, Tensor, plan};
use crate::error::{Error, Result};
use crate::graph::{Graph, order};
use crate::memory;
use crate::onnx::{self, ExportOptions, lowered, narrowed};
use crate::tensor::{Array, DType, Element, TensorType};
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::ep::{CPU, ExecutionProvider};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session as Runtime, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorRef};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The oldest ONNX Runtime whose library the bindings take and the exported operator set 18 runs on.
const OLDEST: &str = "1.17";

/// A graph whose values take more than so many bytes at once runs without ONNX Runtime's arena. The arena grows by doubling,
/// returns nothing to the system between runs, and cannot lend what it has freed to the copies of the outputs: it is
/// quicker for small tensors and takes up to half as much memory again for large ones.
const ARENA: u64 = 512 << 20;

/// What the library takes by itself, and what its own choice and order of nodes cost beyond the graph's: up to 240 MB were
/// measured.
const LIBRARY: u64 = 256 << 20;

/// What to do about a library that was not found.
const ADVICE: &str = "install one with `pip install onnxruntime`, or name the library with --ort-library or \
                      ORT_DYLIB_PATH (libonnxruntime.so, libonnxruntime.dylib or onnxruntime.dll)";

/// The library of this process, which can be neither unloaded nor exchanged.
static LOADED: Mutex<Option<OrtEngine>> = Mutex::new(None);

/// Runs graphs on ONNX Runtime. Cheap to clone: one library and one thread pool serve the process.
#[derive(Clone)]
pub struct OrtEngine {
    environment: Environment,
    library: PathBuf,
    threads: usize,
}

impl OrtEngine {
    /// Loads the ONNX Runtime library: `library` (the file or its folder), else what `ORT_DYLIB_PATH`
    /// names, else the first that loads of the PyPI package `onnxruntime` in the active Python and the
    /// system's own. Later calls give the same engine.
    ///
    /// # Errors
    /// [`Kind::Engine`](crate::Kind::Engine) when there is none or it is too old, saying where it was
    /// looked for; or when `library` is another than the one this process has loaded.
    pub fn new(library: Option<&Path>) -> Result<Self> {
        let mut loaded = LOADED.lock().map_err(|_| Error::internal("loading ONNX Runtime panicked before"))?;
        let wanted = search(library, |name| std::env::var_os(name));
        if let Some(engine) = &*loaded {
            return match wanted {
                Search::Named(c) if !crate::files::same_file(&c.path, &engine.library) => Err(Error::engine(format!(
                    "ONNX Runtime is already loaded from {}; a process cannot load {} as well",
                    engine.library.display(),
                    c.path.display()
                ))),
                _ => Ok(engine.clone()),
            };
        }
        let engine = match wanted {
            Search::Named(c) => load(&c).map_err(|why| {
                Error::engine(format!("ONNX Runtime cannot be loaded from {} ({}): {why}", c.path.display(), c.origin))
            })?,
            Search::Found(candidates) => first_that_loads(&candidates)?,
        };
        Ok(loaded.insert(engine).clone())
    }
    /// The library in use.
    pub fn library(&self) -> &Path {
        &self.library
    }
}

fn first_that_loads(candidates: &[Candidate]) -> Result<OrtEngine> {
    let mut tried = Vec::new();
    for c in candidates {
        match load(c) {
            Ok(engine) => return Ok(engine),
            Err(why) => tried.push(format!("{} ({}): {why}", c.path.display(), c.origin)),
        }
    }
    Err(Error::engine(format!(
        "no ONNX Runtime library of version {OLDEST} or newer: {ADVICE}; tried {}",
        tried.join("; ")
    )))
}

fn load(candidate: &Candidate) -> Result<OrtEngine, String> {
    let path = &candidate.path;
    if path.components().count() > 1 && !path.is_file() {
        return Err("no such file".into());
    }
    // this must be the first call into `ort`: any other would load a library by itself, and panic without one
    let builder = ort::init_from(path).map_err(|e| reason(&e))?;
    let threads = rayon::current_num_threads();
    let pool = GlobalThreadPoolOptions::default().with_intra_threads(threads).map_err(|e| e.to_string())?;
    let environment = builder
        .with_name(env!("CARGO_PKG_NAME"))
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .build()
        .map_err(|e| e.to_string())?;
    Ok(OrtEngine { environment, library: path.clone(), threads })
}

fn reason(e: &ort::LoadDynamicError) -> String {
    use ort::LoadDynamicError as E;
    match e {
        E::BadVersion { version_str, .. } => format!("its version {version_str} is older than {OLDEST}"),
        E::MissingApi { .. } => "it is not an ONNX Runtime library".into(),
        // the loader's own words stand in the source of the error
        E::Dlopen { error, .. } => {
            std::error::Error::source(error).map_or_else(|| error.to_string(), |e| e.to_string())
        }
        e => e.to_string(),
    }
}

fn failed(what: &str) -> impl Fn(ort::Error) -> Error {
    move |e| Error::engine(format!("ONNX Runtime {what}: {}", e.to_string().replace('\n', " ")))
}

impl Engine for OrtEngine {
    fn name(&self) -> &'static str {
        "ort"
    }
    fn describe(&self) -> String {
        format!("ONNX Runtime ({}), {} threads", self.library.display(), self.threads)
    }
    fn device(&self) -> BTreeMap<&'static str, String> {
        let name = self.library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // a library that the system's loader found by its name alone cannot be read here
        let sha256 = crate::files::sha256(&self.library).unwrap_or_default();
        let all = [("library", name), ("librarySha256", sha256), ("threads", self.threads.to_string())];
        all.into_iter().filter(|(_, v)| !v.is_empty()).collect()
    }
    fn opens(&self, file: &Path, bytes: u64) -> Option<Result<()>> {
        let open = || {
            // the file as it is read, and the weights in the runtime's own memory
            memory::check(bytes.saturating_mul(2), "opening the model in ONNX Runtime")?;
            let builder = Runtime::builder(&self.environment).map_err(failed("has no session"))?;
            let mut builder = builder
                .with_optimization_level(GraphOptimizationLevel::Disable)
                .map_err(|e| failed("has no session")(e.into()))?;
            builder.commit_from_file(file).map(drop).map_err(failed("refuses the model"))
        };
        Some(open())
    }
    fn forecast(&self, graph: &Graph) -> Result<u64> {
        // it runs other nodes in another order: whatever ends in an output early, as far as can be seen from outside
        let mut graph = lowered(graph)?;
        order::end_early(&mut graph);
        Ok([LIBRARY, plan::given_bytes(&graph), plan::host_bytes(&graph)].into_iter().fold(0, u64::saturating_add))
    }
    fn keeps_order(&self) -> bool {
        false
    }
    fn prepare(&self, graph: &Graph) -> Result<Box<dyn Session>> {
        // the runtime itself would die, or make the system kill something
        let between = plan::host_bytes(graph);
        memory::check(between, "running the graph")?;
        let bytes = onnx::to_bytes(graph, &ExportOptions::default())?;
        let arena = between <= ARENA;
        let build = |level| -> ort::Result<Runtime> {
            let mut builder = Runtime::builder(&self.environment)?
                .with_optimization_level(level)?
                .with_deterministic_compute(true)?
                .with_memory_pattern(arena)?;
            CPU::default().with_arena_allocator(arena).register(&mut builder)?;
            builder.commit_from_memory(&bytes)
        };
        // the optimiser of some versions fails on graphs that the kernels run well
        let runtime = build(GraphOptimizationLevel::All)
            .or_else(|first| build(GraphOptimizationLevel::Disable).map_err(|_| first))
            .map_err(failed("does not take the graph"))?;
        let outputs = graph.outputs.iter().map(|&id| graph.value(id).ty.clone()).collect();
        let mut types = Graph::new(graph.batch);
        for &id in &graph.inputs {
            types.input(graph.label(id), graph.value(id).ty.clone(), graph.value(id).batch);
        }
        Ok(Box::new(OrtSession { runtime, inputs: types, outputs }))
    }
}

struct OrtSession {
    runtime: Runtime,
    /// A graph of the inputs alone.
    inputs: Graph,
    outputs: Vec<TensorType>,
}

impl Session for OrtSession {
    fn run(&mut self, feeds: &[Tensor]) -> Result<Vec<Tensor>> {
        check_feeds(&self.inputs, feeds)?;
        let arrays = feeds.iter().map(Tensor::to_array).collect::<Result<Vec<_>>>()?;
        let ids = self.inputs.inputs.iter();
        let values = ids
            .zip(&arrays)
            .map(|(&id, a)| value(a, self.inputs.dtype(id)).map_err(|e| e.at(self.inputs.label(id))))
            .collect::<Result<Vec<_>>>()?;
        let made = self.runtime.run(&values[..]).map_err(failed("fails"))?;
        // each is freed as soon as it is copied
        let made: Vec<DynValue> = made.into_iter().map(|(_, v)| v).collect();
        made.into_par_iter().zip(&self.outputs).map(|(v, ty)| array(&v, ty).map(Tensor::Host)).collect()
    }
}

/// The array as ONNX Runtime sees it: the same memory for the types that we store as they are.
fn value<'a>(array: &'a Array, dtype: DType) -> Result<SessionInputValue<'a>> {
    fn view<'a, T: Element + PrimitiveTensorElementType>(array: &'a Array) -> Result<SessionInputValue<'a>> {
        let view =
            TensorRef::from_array_view((array.shape(), array.slice::<T>()?)).map_err(failed("refuses a feed"))?;
        Ok(view.into())
    }
    fn copy<'a, T>(array: &Array, dtype: DType) -> Result<SessionInputValue<'a>>
    where
        T: TryFrom<i64> + PrimitiveTensorElementType + Clone + Debug + 'static,
    {
        let data = narrowed::<T>(array.slice()?, dtype)?;
        Ok(OrtTensor::from_array((array.shape(), data)).map_err(failed("refuses a feed"))?.into())
    }
    match dtype {
        DType::F32 => view::<f32>(array),
        DType::F64 => view::<f64>(array),
        DType::I64 => view::<i64>(array),
        DType::Bool => view::<bool>(array),
        DType::I8 => copy::<i8>(array, dtype),
        DType::I16 => copy::<i16>(array, dtype),
        DType::I32 => copy::<i32>(array, dtype),
        DType::U8 => copy::<u8>(array, dtype),
        DType::U16 => copy::<u16>(array, dtype),
        DType::U32 => copy::<u32>(array, dtype),
        DType::U64 => copy::<u64>(array, dtype),
    }
}

/// What ONNX Runtime computed, checked against the type that the graph promises.
fn array(value: &DynValue, ty: &TensorType) -> Result<Array> {
    fn data<'a, T: PrimitiveTensorElementType>(value: &'a DynValue, ty: &TensorType) -> Result<&'a [T]> {
        let (shape, data) = value.try_extract_tensor::<T>().map_err(failed("gives another type"))?;
        let same =
            shape.len() == ty.shape.len() && shape.iter().zip(&ty.shape).all(|(&a, &b)| usize::try_from(a) == Ok(b));
        same.then_some(data)
            .ok_or_else(|| Error::internal(format!("ONNX Runtime gives the shape {shape:?} where {ty} is inferred")))
    }
    fn plain<T: Element + PrimitiveTensorElementType>(value: &DynValue, ty: &TensorType) -> Result<Array> {
        Array::from_vec(&ty.shape, data::<T>(value, ty)?.to_vec())
    }
    fn wide<T: TryInto<i64> + PrimitiveTensorElementType + Copy>(value: &DynValue, ty: &TensorType) -> Result<Array> {
        let too_large = |_| Error::engine(format!("ONNX Runtime gives an integer of {} beyond int64", ty.dtype));
        let v = data::<T>(value, ty)?.iter().map(|&i| i.try_into().map_err(too_large)).collect::<Result<Vec<i64>>>()?;
        Array::from_vec(&ty.shape, v)
    }
    match ty.dtype {
        DType::F32 => plain::<f32>(value, ty),
        DType::F64 => plain::<f64>(value, ty),
        DType::I64 => plain::<i64>(value, ty),
        DType::Bool => plain::<bool>(value, ty),
        DType::I8 => wide::<i8>(value, ty),
        DType::I16 => wide::<i16>(value, ty),
        DType::I32 => wide::<i32>(value, ty),
        DType::U8 => wide::<u8>(value, ty),
        DType::U16 => wide::<u16>(value, ty),
        DType::U32 => wide::<u32>(value, ty),
        DType::U64 => wide::<u64>(value, ty),
    }
}
