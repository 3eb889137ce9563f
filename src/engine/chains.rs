//! Element-wise nodes in a row, joined into one dispatch each.

use super::fuse::{maker, readers};
use crate::graph::{Graph, Node, ValueId};
use crate::ops::chain::{Link, Other, step};
use crate::ops::{Bind, Kernel, Step};
use crate::tensor::DType;
use std::collections::HashSet;

/// Nodes that one dispatch stands for, at most; a shader is compiled for every row of them.
const MOST_LINKS: usize = 8;

/// Buffers that a row reads at most: with its output and its parameters there are the eight that WebGPU grants.
const MOST_OPERANDS: usize = 6;

/// Different shaders for the rows of a graph, at most: each is kept as long as the process runs, and a stranger's model may
/// have as many as it has nodes.
const MOST_SHADERS: usize = 64;

/// A row of nodes, the last first while it is found.
struct Row {
    nodes: Vec<usize>,
    links: Vec<Link>,
    /// What the links read beside the value that is handed on; operand 0 is where the row begins.
    operands: Vec<ValueId>,
}

/// A node that a row may hold.
struct Piece {
    /// The value that it takes on.
    carried: ValueId,
    links: Vec<Link>,
    operands: Vec<ValueId>,
}

/// Joins rows of element-wise nodes: every value in between has one reader and as many elements as the result. The last
/// node takes the dispatch, and the others become views that nobody looks at.
pub(crate) fn join(g: &mut Graph, kernels: &mut [Kernel]) {
    let readers = readers(g);
    let mut taken = vec![false; g.nodes().len()];
    let mut shaders = HashSet::new();
    for last in (0..g.nodes().len()).rev() {
        if shaders.len() == MOST_SHADERS {
            break;
        }
        if taken[last] {
            continue;
        }
        let Some(row) = Row::ending_at(g, kernels, &readers, last) else { continue };
        row.nodes.iter().for_each(|&i| taken[i] = true);
        for &i in &row.nodes[1..] {
            kernels[i] = Kernel::Alias;
            if let Some(inputs) = g.inputs_mut(i) {
                *inputs = vec![row.operands.first().copied()];
            }
        }
        let n = g.nodes()[last].outputs.first().copied().flatten().map_or(0, |y| g.value(y).ty.len());
        let step = step(&row.links, row.operands.len(), n);
        shaders.insert(step.shader.name);
        kernels[last] = Kernel::one(step);
        if let Some(inputs) = g.inputs_mut(last) {
            *inputs = row.operands.into_iter().map(Some).collect();
        }
    }
}

impl Row {
    fn ending_at(g: &Graph, kernels: &[Kernel], readers: &[usize], last: usize) -> Option<Self> {
        let mut row = Self { nodes: Vec::new(), links: Vec::new(), operands: vec![] };
        let (mut at, mut start) = (Some(last), None);
        while let Some(i) = at {
            let previous = |id: ValueId| maker(g, kernels, readers, id).filter(|&m| only_step(kernels, m).is_some());
            let Some(piece) = piece(g, &g.nodes()[i], only_step(kernels, i)?, &previous) else { break };
            let operands = piece.operands.iter().filter(|id| !row.operands.contains(id)).count();
            // one more is where the row begins
            if row.links.len() + piece.links.len() > MOST_LINKS || row.operands.len() + operands + 1 > MOST_OPERANDS {
                break;
            }
            row.nodes.push(i);
            row.add(piece.links, &piece.operands);
            start = Some(piece.carried);
            at = previous(piece.carried);
        }
        row.finish(start?)
    }

    /// Adds what a node does, before what is there.
    fn add(&mut self, links: Vec<Link>, operands: &[ValueId]) {
        let places: Vec<usize> = operands.iter().map(|&id| self.place(id)).collect();
        self.links.splice(0..0, links.into_iter().map(|l| l.with_operands(|o| places[o])));
    }

    fn place(&mut self, id: ValueId) -> usize {
        let known = self.operands.iter().position(|&o| o == id);
        known.unwrap_or_else(|| {
            self.operands.push(id);
            self.operands.len() - 1
        })
    }

    /// With the value where the row begins as operand 0; `None` where there is nothing to join.
    fn finish(mut self, start: ValueId) -> Option<Self> {
        if self.nodes.len() < 2 {
            return None;
        }
        let at = self.place(start);
        self.operands.swap(0, at);
        let swapped = |o| match o {
            0 => at,
            o if o == at => 0,
            o => o,
        };
        self.links.iter_mut().for_each(|l| *l = l.with_operands(swapped));
        Some(self)
    }
}

/// The step of a node that has one.
fn only_step(kernels: &[Kernel], node: usize) -> Option<&Step> {
    match kernels.get(node)? {
        Kernel::Steps { steps, scratch } if scratch.is_empty() => match &steps[..] {
            [one] => Some(one),
            _ => None,
        },
        _ => None,
    }
}

/// What a node does, if it is element-wise on floats; of two operands it takes on the one that a node before makes.
fn piece(g: &Graph, node: &Node, step: &Step, previous: &dyn Fn(ValueId) -> Option<usize>) -> Option<Piece> {
    let y = node.outputs.first().copied()??;
    let is_float = |id: ValueId| g.dtype(id) == DType::F32;
    let whole = |id: ValueId| is_float(id) && g.value(id).ty.len() == g.value(y).ty.len();
    if !is_float(y) || g.value(y).ty.is_empty() {
        return None;
    }
    let input = |k: usize| match step.binds.get(k)? {
        Bind::Input(i) => node.inputs.get(*i).copied().flatten(),
        _ => None,
    };
    let mut operands = Vec::new();
    let mut other = |id: ValueId| place(g, id, y, &mut operands);
    // the later one, so that what was made before is there
    let carry = |a: ValueId, b: ValueId| match (whole(a), whole(b)) {
        (true, true) => Some((b, a)).filter(|_| previous(b) > previous(a)).or(Some((a, b))),
        (true, false) => Some((a, b)),
        (false, true) => Some((b, a)),
        (false, false) => None,
    };
    let code = step.overridden("OP").map(|v| v as u32);
    let (carried, link) = match step.shader.name {
        "unary" => {
            let parameters = [step.params.word("a")?, step.params.word("b")?];
            (input(0).filter(|&x| whole(x))?, Link::Function { code: code?, parameters })
        }
        "binary" => {
            let (a, b) = (input(0)?, input(1)?);
            let (v, o) = carry(a, b)?;
            (v, Link::Operation { code: code?, is_left: v == a, other: other(o)? })
        }
        "where" => {
            let (c, a, b) = (input(0)?, input(1)?, input(2)?);
            let (v, o) = carry(a, b)?;
            let other = other(o)?;
            if g.shape(c) != g.shape(y) || a == b {
                return None;
            }
            operands.push(c);
            (v, Link::Choice { condition: operands.len() - 1, is_float: is_float(c), keeps: v == a, other })
        }
        _ => return None,
    };
    let mut links = vec![link];
    if step.overridden("RELU") == Some(1.0) {
        links.push(Link::Function { code: 0, parameters: [0, 0] });
    }
    Some(Piece { carried, links, operands })
}

/// How element `i` of `y` finds its element of an operand that is broadcast, if axes that lie side by side decide.
fn place(g: &Graph, id: ValueId, y: ValueId, operands: &mut Vec<ValueId>) -> Option<Other> {
    let (own, all) = (g.shape(id), g.shape(y));
    let len = g.value(id).ty.len();
    if let (1, Some(known)) = (len, g.constant_of(id)) {
        return Some(Other::Known((known.to_f64()[0] as f32).to_bits()));
    }
    let missing = all.len().checked_sub(own.len())?;
    let extents: Vec<usize> = std::iter::repeat_n(1, missing).chain(own.iter().copied()).collect();
    let varies = |a: &usize| extents[*a] != 1;
    let first = (0..all.len()).find(varies).unwrap_or(all.len());
    let end = (0..all.len()).rev().find(varies).map_or(first, |a| a + 1);
    if extents[first..end] != all[first..end] {
        return None;
    }
    operands.push(id);
    let operand = operands.len() - 1;
    let per = all[end..].iter().product();
    Some(if len == g.value(y).ty.len() { Other::Same(operand) } else { Other::Repeated { operand, per, of: len } })
}
