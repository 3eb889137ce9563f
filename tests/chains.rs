//! Element-wise nodes that one dispatch stands for.

mod common;

use common::{close, run};
use onnx_unlearn::engine::bundle;
use onnx_unlearn::engine::cpu::Cpu;
use onnx_unlearn::graph::{Attrs, Batch, Graph, ValueId};
use onnx_unlearn::tensor::{Array, DType, TensorType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

const SHAPE: [usize; 4] = [2, 3, 4, 5];

fn input(g: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    g.input(name, TensorType::new(DType::F32, shape), Batch::None)
}

fn push(g: &mut Graph, op: &str, inputs: &[ValueId]) -> ValueId {
    g.push(op, inputs, Attrs::new()).unwrap()
}

/// Names of the shaders that a graph runs.
fn shaders(g: &Graph) -> Vec<&'static str> {
    bundle::steps(g).unwrap().iter().map(|s| s.shader.name).collect()
}

fn feeds(g: &Graph, rng: &mut ChaCha8Rng) -> Vec<Array> {
    let one = |id: &ValueId| {
        let v: Vec<f32> = (0..g.value(*id).ty.len()).map(|_| rng.random_range(-2.0..2.0)).collect();
        Array::from_vec(g.shape(*id), v).unwrap()
    };
    g.inputs.iter().map(one).collect()
}

/// Checks a graph on the adapter against the reference.
fn check(g: &Graph, rng: &mut ChaCha8Rng) {
    let Some(engine) = common::wgpu() else { return };
    let feeds = feeds(g, rng);
    let (got, want) = (run(&engine, g, &feeds).unwrap(), run(&Cpu, g, &feeds).unwrap());
    close(&got, &want, 1e-4).unwrap_or_else(|e| panic!("{:?}: {e}", shaders(g)));
}

/// Functions that stay small and smooth wherever a row may lead.
const FUNCTIONS: [&str; 8] = ["Tanh", "Sigmoid", "Erf", "Abs", "Neg", "HardSigmoid", "Relu", "Atan"];

/// Every way in which an operand is broadcast; the last but one is not, and the last is no matter of neighbouring axes.
const OPERANDS: [&[usize]; 9] =
    [&[], &[1], &[5], &[4, 5], &[3, 1, 1], &[1, 3, 4, 1], &[2, 1, 1, 1], &SHAPE, &[2, 1, 4, 1]];

/// A row of nodes on one value, with operands of all kinds.
fn random_row(rng: &mut ChaCha8Rng) -> Graph {
    let mut g = Graph::new(0);
    let mut v = input(&mut g, "x", &SHAPE);
    for k in 0..rng.random_range(2..12) {
        let shape = OPERANDS[rng.random_range(0..OPERANDS.len())];
        let mut operand = |g: &mut Graph| match rng.random_range(0..4) {
            0 => g.constant(Array::full(&[], 0.75f32)),
            _ => input(g, &format!("x{k}"), shape),
        };
        v = match k % 4 {
            0 | 2 => {
                let other = operand(&mut g);
                let inputs = if rng.random_range(0..2) == 0 { [v, other] } else { [other, v] };
                push(&mut g, ["Add", "Sub", "Mul"][rng.random_range(0..3)], &inputs)
            }
            1 => push(&mut g, FUNCTIONS[rng.random_range(0..FUNCTIONS.len())], &[v]),
            _ => {
                let (other, sign) = (operand(&mut g), input(&mut g, &format!("c{k}"), &SHAPE));
                let zero = g.constant(Array::full(&[], 0f32));
                let condition = push(&mut g, ["Greater", "Less"][rng.random_range(0..2)], &[sign, zero]);
                let inputs = if rng.random_range(0..2) == 0 { [v, other] } else { [other, v] };
                push(&mut g, "Where", &[condition, inputs[0], inputs[1]])
            }
        };
        if rng.random_range(0..5) == 0 {
            let shape = g.ints(&[6, 20]);
            let wide = push(&mut g, "Reshape", &[v, shape]);
            let mid = push(&mut g, "Tanh", &[wide]);
            let shape = g.ints(&SHAPE.map(|d| d as i64));
            v = push(&mut g, "Reshape", &[mid, shape]);
        }
    }
    g.outputs = vec![v];
    g
}

#[test]
fn rows_are_joined_and_give_the_same() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut nodes, mut dispatches) = (0, 0);
    for _ in 0..60 {
        let g = random_row(&mut rng);
        nodes += g.nodes().iter().filter(|n| n.op.spec().name != "Reshape").count();
        dispatches += shaders(&g).len();
        check(&g, &mut rng);
    }
    assert!(2 * dispatches < nodes, "{dispatches} dispatches for {nodes} nodes");
}

#[test]
fn gelu_is_one_dispatch() {
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", &[7, 9]);
    let [root, one, half] = [2f32.sqrt(), 1.0, 0.5].map(|v| g.constant(Array::full(&[], v)));
    let scaled = push(&mut g, "Div", &[x, root]);
    let erf = push(&mut g, "Erf", &[scaled]);
    let above = push(&mut g, "Add", &[erf, one]);
    let product = push(&mut g, "Mul", &[x, above]);
    g.outputs = vec![push(&mut g, "Mul", &[product, half])];
    let [name] = shaders(&g)[..] else { panic!("{:?}", shaders(&g)) };
    assert!(name.starts_with("chain_"), "{name}");
    check(&g, &mut ChaCha8Rng::seed_from_u64(1));
}

#[test]
fn what_somebody_else_reads_is_made() {
    let mut g = Graph::new(0);
    let x = input(&mut g, "x", &[7]);
    let a = push(&mut g, "Tanh", &[x]);
    let b = push(&mut g, "Sigmoid", &[a]);
    let c = push(&mut g, "Neg", &[b]);
    // the first is read twice, the second is an output
    let d = push(&mut g, "Mul", &[c, a]);
    let total = g.ints(&[0]);
    let total = push(&mut g, "ReduceSum", &[d, total]);
    g.outputs = vec![b, total];
    let names = shaders(&g);
    assert_eq!(names.iter().filter(|n| n.starts_with("chain_")).count(), 1, "{names:?}");
    assert_eq!(&names[..2], ["unary", "unary"]);
    check(&g, &mut ChaCha8Rng::seed_from_u64(2));
}

#[test]
fn equal_rows_share_a_shader_and_sizes_do_not_matter() {
    let of = |shape: &[usize], factor: f32| {
        let mut g = Graph::new(0);
        let x = input(&mut g, "x", shape);
        let factor = g.constant(Array::full(&[], factor));
        let y = push(&mut g, "Mul", &[x, factor]);
        g.outputs = vec![push(&mut g, "Exp", &[y])];
        shaders(&g)
    };
    assert_eq!(of(&[3], 0.5), of(&[70_000], 2.0));
}

#[test]
fn no_row_reads_more_buffers_than_webgpu_grants() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut g = Graph::new(0);
    let mut v = input(&mut g, "x", &[11]);
    for k in 0..20 {
        let other = input(&mut g, &format!("x{k}"), &[11]);
        v = push(&mut g, "Add", &[v, other]);
        v = push(&mut g, "Tanh", &[v]);
    }
    g.outputs = vec![v];
    let steps = bundle::steps(&g).unwrap();
    assert!(steps.iter().all(|s| s.binds.len() < 8), "{:?}", steps.iter().map(|s| s.binds.len()).collect::<Vec<_>>());
    assert!(steps.len() <= 10, "{} dispatches for 40 nodes", steps.len());
    check(&g, &mut rng);
}

#[test]
fn a_graph_of_many_different_rows_makes_few_shaders() {
    let mut g = Graph::new(0);
    for k in 0..300 {
        let mut v = input(&mut g, &format!("x{k}"), &[3]);
        for bit in 0..7 {
            // no two rows have the same functions
            v = push(&mut g, FUNCTIONS[((k + 1) >> bit) % 2], &[v]);
        }
        v = push(&mut g, FUNCTIONS[2 + k / 127], &[v]);
        g.outputs.push(v);
    }
    let steps = bundle::steps(&g).unwrap();
    let chains: BTreeSet<&str> = steps.iter().map(|s| s.shader.name).filter(|n| n.starts_with("chain_")).collect();
    assert_eq!(chains.len(), 64);
    check(&g, &mut ChaCha8Rng::seed_from_u64(4));
}
