//! Every case of every op, and its gradient.

use crate::common::{build, close, run, text, with_gradients};
use crate::{common, play};
use onnx_unlearn::engine::bundle::{Bundle, Role};
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::graph::Graph;
use onnx_unlearn::ops::{self, Gradient};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use std::collections::HashMap;

/// One plan and what it has to give.
struct Expected {
    name: String,
    types: Vec<TensorType>,
    want: Vec<Array>,
    tolerance: f64,
}

/// Adds a graph that is given these feeds.
pub fn add(bundle: &mut Bundle, name: &str, graph: &Graph, feeds: &[Array]) -> onnx_unlearn::Result<()> {
    let mut feeds = feeds.iter().cloned();
    bundle.add(name, graph, &[], |_| Ok((Role::None, feeds.next())))
}

/// The types of a graph's outputs.
pub fn types(graph: &Graph) -> Vec<TensorType> {
    graph.outputs.iter().map(|&id| graph.value(id).ty.clone()).collect()
}

/// The outputs in the words that a page sent.
pub fn decode(bytes: &[u8], types: &[TensorType]) -> Result<Vec<Array>, String> {
    let mut words = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
    let wanted: usize = types.iter().map(TensorType::len).sum();
    if bytes.len() != 4 * wanted {
        return Err(format!("{} bytes instead of {wanted} words", bytes.len()));
    }
    let array = |ty: &TensorType| {
        let own = words.by_ref().take(ty.len());
        match ty.dtype {
            DType::F32 => Array::from_vec(&ty.shape, own.map(f32::from_bits).collect()),
            DType::Bool => Array::from_vec(&ty.shape, own.map(|w| w != 0).collect()),
            DType::U32 => Array::from_vec(&ty.shape, own.map(i64::from).collect()),
            _ => Array::from_vec(&ty.shape, own.map(|w| i64::from(w.cast_signed())).collect()),
        }
        .map_err(text)
    };
    types.iter().map(array).collect()
}

fn expected(bundle: &mut Bundle) -> Result<Vec<Expected>, String> {
    let only = std::env::var("ONNX_UNLEARN_CASE").unwrap_or_default();
    let mut all = Vec::new();
    for op in ops::table() {
        for case in op.cases().iter().filter(|c| c.name.contains(&only)) {
            let mut expect = |name: String, narrow: &common::Built, wide: &common::Built, tolerance: f64| {
                add(bundle, &all.len().to_string(), &narrow.graph, &narrow.feeds).map_err(text)?;
                let want = run(&Cpu, &wide.graph, &wide.feeds).map_err(text)?;
                all.push(Expected { name, types: types(&narrow.graph), want, tolerance });
                Ok::<(), String>(())
            };
            let (narrow, wide) = (build(op, case, DType::F32), build(op, case, DType::F64));
            let (narrow, wide) = (narrow.map_err(text)?, wide.map_err(text)?);
            expect(case.name.clone(), &narrow, &wide, case.tolerance)?;
            if !matches!(case.gradient, Gradient::None(_)) {
                let narrow = with_gradients(narrow, case, DType::F32).map_err(text)?;
                let wide = with_gradients(wide, case, DType::F64).map_err(text)?;
                // a gradient chains several ops
                expect(format!("{}: gradient", case.name), &narrow, &wide, 10.0 * case.tolerance)?;
            }
        }
    }
    Ok(all)
}

#[test]
fn every_case_agrees_in_a_browser() {
    let mut bundle = Bundle::default();
    let all = expected(&mut bundle).unwrap();
    let files = HashMap::from([
        ("/cases.json".to_owned(), bundle.json().unwrap().into_bytes()),
        ("/cases.bin".to_owned(), bundle.data().to_vec()),
    ]);
    let Some(results) = play("cases", files) else { return };
    let mut failures = Vec::new();
    let mut seen = vec![false; all.len()];
    for result in &results {
        let (kind, id) = result.path.rsplit_once('/').unwrap();
        let (id, body) = (id.parse::<usize>().unwrap(), &result.body);
        let case = &all[id];
        seen[id] = true;
        let checked = match kind {
            "/result" => decode(body, &case.types).and_then(|got| close(&got, &case.want, case.tolerance)),
            _ => Err(String::from_utf8_lossy(body).into_owned()),
        };
        failures.extend(checked.err().map(|e| format!("{}: {e}", case.name)));
    }
    let missing = all.iter().zip(seen).filter(|(_, seen)| !seen);
    failures.extend(missing.map(|(case, _)| format!("{}: no answer", case.name)));
    println!("{} plans, {} dispatches", all.len(), bundle.dispatches());
    assert!(failures.is_empty(), "{} of {} plans fail:\n{}", failures.len(), all.len(), failures.join("\n"));
}
