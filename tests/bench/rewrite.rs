//! Writing a model with every weight changed, against copying its file and flushing the copy: one JSON line.
//!
//!     cargo bench --bench rewrite -- FOLDER [MEBIBYTES]
//!
//! FOLDER should lie on a disk; the files in it are removed again. The two are timed in turn, seven times; medians count.
//! Memory is what the process holds beyond the mapped file and the new values, which the caller brings.

use onnx_unlearn::onnx::proto::{self, DataType};
use onnx_unlearn::onnx::{Model, PatchOptions, patch};
use onnx_unlearn::tensor::Array;
use onnx_unlearn::{Error, Result};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SIDE: usize = 2048;
const RUNS: usize = 7;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let Some(folder) = args.first().map(Path::new) else {
        println!("usage: FOLDER [MEBIBYTES]");
        return Ok(());
    };
    let layers = args.get(1).and_then(|m| m.parse().ok()).unwrap_or(512_usize) * (1 << 20) / (4 * SIDE * SIDE);
    let at = |name: &str| folder.join(name);
    let io = |e: std::io::Error| Error::invalid(e.to_string());
    fs::write(at("model.onnx"), prost::Message::encode_to_vec(&model(layers))).map_err(io)?;
    let model = Model::open(at("model.onnx"))?;
    let new = |w: &onnx_unlearn::onnx::Weight| -> Result<Array> {
        let old = model.read(w)?;
        Array::from_vec(old.shape(), old.slice::<f32>()?.iter().map(|v| v * 0.75).collect::<Vec<_>>())
    };
    let changes = model.weights().iter().enumerate().map(|(i, w)| Ok((i, new(w)?))).collect::<Result<Vec<_>>>()?;
    let (mut ours, mut copies) = (Vec::new(), Vec::new());
    let held = resident();
    let peak = Peak::watch();
    for _ in 0..RUNS {
        let start = Instant::now();
        fs::copy(at("model.onnx"), at("copy.onnx"))
            .and_then(|_| File::open(at("copy.onnx"))?.sync_all())
            .map_err(io)?;
        copies.push(start.elapsed().as_secs_f64());
        fs::remove_file(at("copy.onnx")).map_err(io)?;
        let start = Instant::now();
        let report = patch(&model, &changes, at("new.onnx"), &PatchOptions::default())?;
        ours.push(start.elapsed().as_secs_f64());
        assert!(report.changed() > layers * SIDE * SIDE / 2, "{} changed", report.changed());
        fs::remove_file(at("new.onnx")).map_err(io)?;
    }
    let grown = peak.end().saturating_sub(held) >> 20;
    fs::remove_file(at("model.onnx")).map_err(io)?;
    for times in [&mut ours, &mut copies] {
        times.sort_by(f64::total_cmp);
    }
    let (ours, copy) = (ours[RUNS / 2], copies[RUNS / 2]);
    println!(
        r#"{{"bytes":{},"rewrite_s":{ours:.3},"copy_and_fsync_s":{copy:.3},"ratio":{:.2},"MiB_beyond":{grown}}}"#,
        layers * SIDE * SIDE * 4,
        ours / copy,
    );
    Ok(())
}

/// A chain of square matrix products.
fn model(layers: usize) -> proto::ModelProto {
    let weight = |i: usize| proto::TensorProto {
        name: Some(format!("w{i}")),
        data_type: Some(DataType::Float as i32),
        dims: vec![SIDE as i64; 2],
        raw_data: Some(
            (0..SIDE * SIDE).flat_map(|k| ((k * 7919 % 1009) as f32 - 504.0).to_le_bytes()).collect::<Vec<u8>>().into(),
        ),
        ..Default::default()
    };
    let node = |i: usize| proto::NodeProto {
        op_type: Some("MatMul".into()),
        input: vec![format!("x{i}"), format!("w{i}")],
        output: vec![format!("x{}", i + 1)],
        ..Default::default()
    };
    let graph = proto::GraphProto {
        node: (0..layers).map(node).collect(),
        initializer: (0..layers).map(weight).collect(),
        ..Default::default()
    };
    let opset_import = vec![proto::OperatorSetIdProto { domain: None, version: Some(17) }];
    proto::ModelProto { ir_version: Some(8), opset_import, graph: Some(Box::new(graph)), ..Default::default() }
}

fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

/// Bytes of this process's own memory, files that it maps left out.
fn resident() -> u64 {
    status("RssAnon:")
}

/// The greatest that it was since this was made, looked at every millisecond: the mapped files count in what the system
/// itself remembers.
struct Peak {
    most: Arc<AtomicU64>,
    goes_on: Arc<AtomicBool>,
}

impl Peak {
    fn watch() -> Self {
        let (most, goes_on) = (Arc::new(AtomicU64::new(resident())), Arc::new(AtomicBool::new(true)));
        let (seen, asked) = (most.clone(), goes_on.clone());
        std::thread::spawn(move || {
            while asked.load(Ordering::Relaxed) {
                seen.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { most, goes_on }
    }

    fn end(self) -> u64 {
        self.goes_on.store(false, Ordering::Relaxed);
        self.most.load(Ordering::Relaxed).max(resident())
    }
}
