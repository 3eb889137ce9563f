//! What a graph computes, counted from shapes.

use super::Graph;

/// Products that one run of the graph sums, at most those of its matrix products and convolutions; other ops count with an
/// element each.
pub fn products(g: &Graph) -> u64 {
    g.nodes().iter().map(|node| of_node(g, node)).fold(0, u64::saturating_add)
}

fn of_node(g: &Graph, node: &super::Node) -> u64 {
    let shape = |id: Option<&Option<super::ValueId>>| id.copied().flatten().map_or(&[][..], |id| g.shape(id));
    let [a, b] = [0, 1].map(|i| shape(node.inputs.get(i)));
    let y = shape(node.outputs.first());
    let count = |s: &[usize]| s.iter().fold(1_usize, |n, d| n.saturating_mul(*d));
    let filter = || count(b.get(1..).unwrap_or(&[]));
    let products = match node.op.spec().name {
        "MatMul" => count(y).saturating_mul(a.last().copied().unwrap_or(1)),
        "Gemm" => count(a).saturating_mul(y.last().copied().unwrap_or(1)),
        "Conv" => count(y).saturating_mul(filter()),
        "ConvTranspose" => count(a).saturating_mul(filter()),
        _ => count(y),
    };
    u64::try_from(products).unwrap_or(u64::MAX)
}
