//! Weights that are float16 in their file lie so on a device: in half the memory, two to a word, and to the bit what they are.
//!
//! Products and convolutions of the tiled form, and Gather, read the halves themselves, which halves what they load. For
//! every other reader one more dispatch writes the floats to memory that is used again right after.

use crate::graph::Graph;
use crate::ops::{Bind, Kernel, Params, Shader, Step, grid_1d};
use crate::tensor::Array;
use half::f16;

/// Fewer elements are not worth a second way of reading them.
pub(crate) const FEWEST: usize = 1 << 12;

/// The words of an array of floats each of which is a finite half; `None` for any other array.
pub(crate) fn pack(a: &Array) -> Option<Vec<u32>> {
    let floats = a.slice::<f32>().ok()?;
    let half = |v: f32| {
        let half = f16::from_f32(v);
        (half.is_finite() && half.to_f32().to_bits() == v.to_bits()).then(|| u32::from(half.to_bits()))
    };
    floats.chunks(2).map(|pair| Some(half(pair[0])? | pair.get(1).map_or(Some(0), |&v| half(v))? << 16)).collect()
}

/// So many elements that [`pack`] made words of.
///
/// # Panics
/// When there are fewer words.
pub(crate) fn unpack(words: &[u32], elements: usize) -> Vec<f32> {
    (0..elements).map(|i| f16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16).to_f32()).collect()
}

/// Words that so many elements take.
pub(crate) fn words(elements: usize) -> usize {
    elements.div_ceil(2)
}

/// Which values of a graph lie in halves, where `fed[i]` says that input `i` does and is nothing that the graph returns.
pub(crate) fn values(g: &Graph, root: &[usize], fed: &[bool]) -> Vec<bool> {
    let mut is_packed = vec![false; g.values().len()];
    g.inputs.iter().zip(fed).for_each(|(id, &fed)| is_packed[id.index()] = fed);
    g.outputs.iter().for_each(|id| is_packed[root[id.index()]] = false);
    is_packed
}

/// The override that tells a step of this shader that its binding is of halves; `None` where the step cannot read them.
fn override_of(step: &Step, binding: usize) -> Option<&'static str> {
    match (step.shader.name, binding) {
        ("matmul", 0 | 2) => Some("HALVES_A"),
        ("matmul", 1 | 3) => Some("HALVES_B"),
        ("conv", 1 | 2) => Some("HALVES"),
        ("gather", 0) => Some("HALVES"),
        _ => None,
    }
}

/// True where a step binds something only because a binding needs a buffer.
fn is_idle(step: &Step, binding: usize) -> bool {
    let off = |name: &str| step.overridden(name).is_none_or(|v| v == 0.0);
    match (step.shader.name, binding) {
        ("matmul", 4) => off("HAS_C"),
        ("conv", 4) => off("HAS_BIAS"),
        ("matmul" | "conv", 5) => off("HAS_R"),
        _ => false,
    }
}

/// Lets every step read what lies in halves; `is_tiled` says that products and convolutions are of the tiled form.
pub(crate) fn read(g: &Graph, kernels: &mut [Kernel], root: &[usize], is_packed: &[bool], is_tiled: bool) {
    for (node, kernel) in g.nodes().iter().zip(kernels) {
        let Kernel::Steps { steps, scratch } = kernel else { continue };
        // the same weight under several names has its floats once
        let mut floats: Vec<(usize, usize)> = Vec::new();
        for (k, id) in node.inputs.iter().enumerate() {
            let Some(id) = id.filter(|id| is_packed[root[id.index()]]) else { continue };
            let value = root[id.index()];
            let known = floats.iter().find(|(v, _)| *v == value).map(|(_, at)| *at);
            let at = known.unwrap_or(scratch.len());
            let mut needs_floats = false;
            for step in steps.iter_mut() {
                needs_floats |= !reads_halves(step, k, is_tiled) && reads_floats(step, k, at);
            }
            if needs_floats && known.is_none() {
                let n = g.value(id).ty.len();
                steps.insert(0, floats_of(k, at, n));
                scratch.push(n);
                floats.push((value, at));
            }
        }
    }
}

/// Tells a step that input `k` is halves, if it can read them.
fn reads_halves(step: &mut Step, k: usize, is_tiled: bool) -> bool {
    let bound = (0..step.binds.len()).filter(|&b| step.binds[b] == Bind::Input(k) && !is_idle(step, b));
    let Some(mut names) = bound.map(|b| override_of(step, b)).collect::<Option<Vec<_>>>() else { return false };
    if !is_tiled && step.shader.name != "gather" {
        return false;
    }
    names.dedup();
    step.overrides.extend(names.into_iter().map(|name| (name, 1.0)));
    true
}

/// Gives a step the floats in scratch memory `at` where it binds input `k`; false where it does not.
fn reads_floats(step: &mut Step, k: usize, at: usize) -> bool {
    let mut found = step.binds.iter_mut().filter(|b| **b == Bind::Input(k)).peekable();
    let any = found.peek().is_some();
    found.for_each(|b| *b = Bind::Filled(at));
    any
}

/// Writes the floats of input `k` to scratch memory.
fn floats_of(k: usize, scratch: usize, n: usize) -> Step {
    Step {
        shader: SHADER,
        overrides: Vec::new(),
        binds: vec![Bind::Input(k), Bind::Scratch(scratch)],
        params: Params::new().u("n", n),
        grid: grid_1d(n),
    }
}

/// What turns halves to floats.
pub(crate) const SHADER: Shader = crate::shader!("halves");
