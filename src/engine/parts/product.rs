//! Products of matrices in pieces: tiles of the output, each a sum over parts of the inner extent.

use super::blocks::Block;
use super::{Held, Splitter, cut};
use crate::error::{Error, Result};
use crate::graph::{Attrs, Node, ValueId};
use crate::tensor::TensorType;
use std::ops::Range;

/// Where the rows and the columns of a matrix are cut.
struct Cuts {
    rows: Vec<Range<usize>>,
    columns: Vec<Range<usize>>,
}

fn all(extent: usize) -> Vec<Range<usize>> {
    std::iter::once(0..extent).collect()
}

fn singles(extent: usize) -> Vec<Range<usize>> {
    (0..extent).map(|i| i..i + 1).collect()
}

impl Cuts {
    /// So that every tile lies in one piece of each row.
    fn of(shape: [usize; 2], ranges: &[Range<usize>]) -> Option<Self> {
        let [m, n] = shape;
        if ranges.len() == 1 {
            return Some(Self { rows: all(m), columns: all(n) });
        }
        let blocks = ranges.iter().map(|r| Block::of(&shape, r)).collect::<Option<Vec<_>>>()?;
        if blocks.iter().all(|b| b.axis == 0) {
            return Some(Self { rows: blocks.into_iter().map(|b| b.rows).collect(), columns: all(n) });
        }
        let columns = blocks.iter().filter(|b| b.axis == 1).map(|b| b.rows.clone()).collect();
        Some(Self { rows: singles(m), columns: refined(&all(n), columns) })
    }
    fn swapped(self, swap: bool) -> Self {
        if swap { Self { rows: self.columns, columns: self.rows } } else { self }
    }
}

/// Cuts wherever one of the two cuts.
fn refined(a: &[Range<usize>], b: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut ends: Vec<usize> = a.iter().map(|r| r.end).chain(b.into_iter().map(|r| r.end)).collect();
    ends.sort_unstable();
    ends.dedup();
    let mut from = 0;
    ends.into_iter().map(|end| (std::mem::replace(&mut from, end), end)).map(|(a, b)| a..b).collect()
}

/// `alpha · A' · B' + beta · C`, where `'` transposes if asked to.
struct Product<'a> {
    a: &'a Held,
    b: &'a Held,
    c: Option<&'a Held>,
    alpha: f64,
    beta: f64,
    transposed: [bool; 2],
}

/// A Gemm, or a MatMul by one matrix.
pub(super) fn of_matrices(
    s: &mut Splitter<'_>,
    node: &Node,
    inputs: &[Option<Held>],
    out: &TensorType,
) -> Result<Option<Held>> {
    let [Some(a), Some(b), rest @ ..] = inputs else { return Ok(None) };
    let c = rest.first().and_then(Option::as_ref);
    let view = s.from.view_of(node);
    if node.op.spec().name == "Gemm" {
        let transposed = [view.int("transA", 0)? != 0, view.int("transB", 0)? != 0];
        let (alpha, beta) = (view.float("alpha", 1.0)?, view.float("beta", 1.0)?);
        return Product { a, b, c, alpha, beta, transposed }.push(s, out);
    }
    let &[.., k] = a.shape() else { return Ok(None) };
    if b.shape().len() != 2 || k == 0 {
        return Ok(None);
    }
    // the rows of all matrices of a are rows of one
    let shape = [a.ty.len() / k, k];
    let a = s.settle(Held { ty: TensorType::new(a.ty.dtype, shape), ..a.clone() })?;
    let flat = TensorType::new(out.dtype, [shape[0], b.shape()[1]]);
    let product = Product { a: &a, b, c: None, alpha: 1.0, beta: 1.0, transposed: [false; 2] };
    let Some(found) = product.push(s, &flat)? else { return Ok(None) };
    s.settle(Held { ty: out.clone(), ..found }).map(Some)
}

impl Product<'_> {
    fn push(&self, s: &mut Splitter<'_>, out: &TensorType) -> Result<Option<Held>> {
        let (&[a0, a1], &[b0, b1], &[m, n]) = (self.a.shape(), self.b.shape(), &out.shape[..]) else { return Ok(None) };
        if self.c.is_some_and(|c| !c.is_whole() && c.shape() != out.shape) {
            return Ok(None);
        }
        let of_a = Cuts::of([a0, a1], &self.a.ranges).map(|c| c.swapped(self.transposed[0]));
        let of_b = Cuts::of([b0, b1], &self.b.ranges).map(|c| c.swapped(self.transposed[1]));
        let (Some(of_a), Some(of_b), Some(of_y)) = (of_a, of_b, Cuts::of([m, n], &cut(&out.shape, s.most))) else {
            return Ok(None);
        };
        let (rows, columns) = (refined(&of_y.rows, of_a.rows), refined(&of_y.columns, of_b.columns));
        let inner = refined(&of_a.columns, of_b.rows);
        let mut held = Held { ty: out.clone(), ranges: Vec::new(), ids: Vec::new() };
        for i in &rows {
            let mut tiles = Vec::with_capacity(columns.len());
            for j in &columns {
                tiles.push(self.tile(s, i, j, &inner)?);
            }
            if i.len() * n <= s.most {
                held.ids.push(s.join(&tiles, 1)?);
                held.ranges.push(i.start * n..i.end * n);
            } else if i.len() == 1 {
                held.ids.extend(tiles);
                held.ranges.extend(columns.iter().map(|j| i.start * n + j.start..i.start * n + j.end));
            } else {
                return Ok(None);
            }
        }
        s.settle(held).map(Some)
    }

    /// The rows `i` and columns `j` of the product.
    fn tile(
        &self,
        s: &mut Splitter<'_>,
        i: &Range<usize>,
        j: &Range<usize>,
        inner: &[Range<usize>],
    ) -> Result<ValueId> {
        let mut sum = None;
        for k in inner {
            let (a, b) = (turned(i, k, self.transposed[0]), turned(k, j, self.transposed[1]));
            let a = matrix(s, self.a, a.0, a.1)?;
            let b = matrix(s, self.b, b.0, b.1)?;
            let flag = |attrs: Attrs, name, on: bool| if on { attrs.with(name, 1) } else { attrs };
            let attrs = flag(flag(Attrs::new(), "transA", self.transposed[0]), "transB", self.transposed[1]);
            let attrs = attrs.with("alpha", self.alpha as f32).with("beta", self.beta as f32);
            // C belongs to the first part; sums beside it are added apart, so that long ones may be cut further
            let c = if sum.is_none() { self.c_of(s, i, j)? } else { None };
            let part = s.to.push_some("Gemm", &[Some(a), Some(b), c], attrs)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => s.op("Add", &[sum, part])?,
            });
        }
        sum.ok_or_else(|| Error::internal("a product without an inner extent"))
    }

    /// What the rows `i` and columns `j` read of `C`.
    fn c_of(&self, s: &mut Splitter<'_>, i: &Range<usize>, j: &Range<usize>) -> Result<Option<ValueId>> {
        match self.c.filter(|_| self.beta != 0.0) {
            None => Ok(None),
            Some(c) if c.is_whole() => {
                let lead = 2 - c.shape().len();
                let wanted: Vec<Range<usize>> = (c.shape().iter().enumerate())
                    .map(|(a, &d)| if d == 1 { 0..1 } else { [i, j][a + lead].clone() })
                    .collect();
                s.slice(c.ids[0], &wanted).map(Some)
            }
            Some(c) => matrix(s, c, i, j).map(Some),
        }
    }
}

fn turned<'r>(rows: &'r Range<usize>, columns: &'r Range<usize>, turn: bool) -> (&'r Range<usize>, &'r Range<usize>) {
    if turn { (columns, rows) } else { (rows, columns) }
}

/// Rows and columns of a matrix.
fn matrix(s: &mut Splitter<'_>, of: &Held, rows: &Range<usize>, columns: &Range<usize>) -> Result<ValueId> {
    let n = of.shape()[1];
    let shape = [rows.len(), columns.len()];
    let of_rows = |r: &Range<usize>| r.start.is_multiple_of(n) && r.end.is_multiple_of(n);
    let holds = |r: &Range<usize>| of_rows(r) && r.start <= rows.start * n && rows.end * n <= r.end;
    if let Some(p) = of.ranges.iter().position(holds) {
        let (first, many) = (of.ranges[p].start / n, of.ranges[p].len() / n);
        let piece = s.reshape(of.ids[p], &[many, n])?;
        return s.slice(piece, &[rows.start - first..rows.end - first, columns.clone()]);
    }
    let lines = rows.clone().map(|i| s.range(of, &(i * n + columns.start..i * n + columns.end), &[1, columns.len()]));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let joined = s.join(&lines, 0)?;
    s.reshape(joined, &shape)
}

/// `Σ_n u[s,n] (a[n] · b[n])²` of whole operands.
pub(super) fn squared(s: &mut Splitter<'_>, node: &Node, inputs: &[&Held], out: &TensorType) -> Result<Option<Held>> {
    let &[a, b, u] = inputs else { return Ok(None) };
    if ![a, b, u].iter().all(|h| h.is_whole()) {
        return Ok(None);
    }
    let ranges = cut(&out.shape, s.most);
    let mut ids = Vec::with_capacity(ranges.len());
    for range in &ranges {
        let Some(block) = Block::of(&out.shape, range) else { return Ok(None) };
        let full = |h: &Held, axis: usize| 0..h.shape()[axis];
        let [sets, k, m] = [0, 1, 2].map(|axis| block.on(axis, out.shape[axis]));
        let u = s.slice(u.ids[0], &[sets, full(u, 1)])?;
        let a = s.slice(a.ids[0], &[full(a, 0), k, full(a, 2)])?;
        let b = s.slice(b.ids[0], &[full(b, 0), full(b, 1), m])?;
        ids.extend(
            s.to.push_multi(node.op, &[Some(a), Some(b), Some(u)], Attrs::new(), &[true])?.into_iter().flatten(),
        );
    }
    s.settle(Held { ty: out.clone(), ranges, ids }).map(Some)
}

/// `Σ_n u[s,n] y[n]²` of a whole `u`: columns of the samples, laid out as rows.
pub(super) fn square_sum(
    s: &mut Splitter<'_>,
    node: &Node,
    inputs: &[&Held],
    out: &TensorType,
) -> Result<Option<Held>> {
    let &[y, u] = inputs else { return Ok(None) };
    let &[sets, samples] = u.shape() else { return Ok(None) };
    if !u.is_whole() || sets == 0 || samples == 0 {
        return Ok(None);
    }
    let size = out.len() / sets;
    let y = Held { ty: TensorType::new(y.ty.dtype, [samples, size]), ..y.clone() };
    let ranges = cut(&out.shape, s.most / samples);
    let mut ids = Vec::with_capacity(ranges.len());
    for range in &ranges {
        let Some(block) = Block::of(&[sets, size], range) else { return Ok(None) };
        let (rows, columns) = (block.on(0, sets), block.on(1, size));
        let u = s.slice(u.ids[0], &[rows, 0..samples])?;
        let y = matrix(s, &y, &(0..samples), &columns)?;
        ids.extend(s.to.push_multi(node.op, &[Some(y), Some(u)], Attrs::new(), &[true])?.into_iter().flatten());
    }
    s.settle(Held { ty: out.clone(), ranges, ids }).map(Some)
}
