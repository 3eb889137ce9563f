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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::graph::{Attrs, Batch};
    use crate::tensor::{Array, DType, TensorType};

    #[test]
    fn products_of_layers() {
        let mut g = Graph::new(2);
        let of = |shape: &[usize]| TensorType { dtype: DType::F32, shape: shape.to_vec() };
        let zeros =
            |shape: &[usize]| Array::from_vec(shape, vec![0.0; shape.iter().product()]).unwrap().to_float(DType::F32);
        let x = g.input("x", of(&[2, 4, 5, 6]), Batch::LEADING);
        let w = g.weight("w", zeros(&[8, 2, 3, 3]));
        let attrs = Attrs::new().with("group", 2_i64);
        let y = g.push("Conv", &[x, w], attrs).unwrap();
        // 8 channels of 3×4, each a sum of 2×3×3 products
        assert_eq!(products(&g), 2 * 8 * 3 * 4 * 18);
        let flat = g.push("Flatten", &[y], Attrs::new()).unwrap();
        let v = g.weight("v", zeros(&[96, 7]));
        let before = products(&g);
        g.push("MatMul", &[flat, v], Attrs::new()).unwrap();
        assert_eq!(products(&g), before + 2 * 96 * 7);
    }
}
