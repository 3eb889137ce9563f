//! Einsum: <https://onnx.ai/onnx/operators/onnx__Einsum.html>. Operands are contracted two by two, each time
//! as one matrix product where there is something to sum, and as a product of elements elsewhere.

use super::composite::{Composite, Parts};
use super::{Arg, Case, MANY, Op, Spec};
use crate::error::{Error, Result};
use crate::graph::{Batch, ValueId};
use crate::tensor::{Array, DType};
use std::collections::BTreeMap;

/// One index of an equation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    /// An axis behind `...`, counted from the last one, as they broadcast.
    Ellipsis(usize),
    Letter(char),
}

/// A value and the index of each of its axes.
#[derive(Clone)]
struct Operand {
    value: ValueId,
    labels: Vec<Label>,
}

type Extents = BTreeMap<Label, usize>;

/// The indices of one term, whose `...` stands for so many axes; and whether it has one.
fn term(text: &str, ellipsis: impl Fn(usize) -> Result<usize>) -> Result<(Vec<Label>, bool)> {
    let wrong = || Error::format(format!("term '{text}' of the equation holds more than letters and one ellipsis"));
    let letters = |s: &str| -> Result<Vec<Label>> {
        s.chars().map(|c| c.is_ascii_alphabetic().then_some(Label::Letter(c)).ok_or_else(wrong)).collect()
    };
    let Some((before, after)) = text.split_once("...") else {
        return Ok((letters(text)?, false));
    };
    let (before, after) = (letters(before)?, letters(after)?);
    let count = ellipsis(before.len() + after.len())?;
    let between = (0..count).rev().map(Label::Ellipsis);
    Ok((before.into_iter().chain(between).chain(after).collect(), true))
}

/// The indices of every operand of these ranks, and those of the output.
fn parse(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<Label>>, Vec<Label>)> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = equation.split_once("->").map_or((&equation[..], None), |(i, o)| (i, Some(o)));
    let terms: Vec<&str> = inputs.split(',').collect();
    if terms.len() != ranks.len() {
        return Err(Error::format(format!(
            "equation '{equation}' has {} operands, {} are given",
            terms.len(),
            ranks.len()
        )));
    }
    let (mut all, mut dotted) = (Vec::new(), false);
    for (text, &rank) in terms.into_iter().zip(ranks) {
        let wrong = || Error::format(format!("term '{text}' of equation '{equation}' does not fit rank {rank}"));
        let (labels, dots) = term(text, |letters| rank.checked_sub(letters).ok_or_else(wrong))?;
        if labels.len() != rank {
            return Err(wrong());
        }
        dotted |= dots;
        all.push(labels);
    }
    let used: Vec<Label> = all.iter().flatten().copied().collect();
    let most = used.iter().filter_map(|l| if let Label::Ellipsis(i) = l { Some(i + 1) } else { None }).max();
    let output = match output {
        Some(text) => {
            let (labels, dots) = term(text, |_| Ok(most.unwrap_or(0)))?;
            let once = |l: &&Label| labels.iter().filter(|m| m == l).count() == 1 && used.contains(l);
            if labels.iter().filter(once).count() != labels.len() || (dotted && !dots) {
                return Err(Error::format(format!(
                    "output '{text}' of equation '{equation}' repeats an index, has one that no operand has, or lacks the ellipsis"
                )));
            }
            labels
        }
        None => {
            let dots = (0..most.unwrap_or(0)).rev().map(Label::Ellipsis);
            let mut once: Vec<Label> = used.iter().copied().filter(|l| matches!(l, Label::Letter(_))).collect();
            once.retain(|l| used.iter().filter(|m| *m == l).count() == 1);
            once.sort_unstable();
            dots.chain(once).collect()
        }
    };
    Ok((all, output))
}

/// The extent of every index; one of 1 stretches to that of another operand.
fn extents(p: &Parts, operands: &[Operand]) -> Result<Extents> {
    let mut out = Extents::new();
    for o in operands {
        for (&label, d) in o.labels.iter().zip(p.shape(o.value)) {
            let known = out.entry(label).or_insert(d);
            if *known == 1 {
                *known = d;
            } else if d != 1 && d != *known {
                return Err(Error::format(format!("index {label:?} of the equation has extents {known} and {d}")));
            }
        }
    }
    Ok(out)
}

/// `x[…i…i…]` as `x[……i]`, until no index stands twice.
fn diagonal(p: &mut Parts, mut o: Operand) -> Result<Operand> {
    let twice = |labels: &[Label]| {
        (0..labels.len()).find_map(|i| (i + 1..labels.len()).find(|&j| labels[i] == labels[j]).map(|j| (i, j)))
    };
    while let Some((i, j)) = twice(&o.labels) {
        let shape = p.shape(o.value);
        if shape[i] != shape[j] {
            return Err(Error::format(format!("index {:?} has extents {} and {}", o.labels[i], shape[i], shape[j])));
        }
        let d = shape[i];
        let rest: Vec<usize> = (0..shape.len()).filter(|&a| a != i && a != j).collect();
        let moved = p.transpose(o.value, &[&rest[..], &[i, j]].concat())?;
        let flat: Vec<usize> = rest.iter().map(|&a| shape[a]).chain([d * d]).collect();
        let flat = p.reshape(moved, &flat)?;
        o.value = p.slice(flat, rest.len(), [0, d * d, d + 1])?;
        o.labels = rest.iter().map(|&a| o.labels[a]).chain([o.labels[i]]).collect();
    }
    Ok(o)
}

/// Without the axes of extent 1 that another operand stretches.
fn unstretched(p: &mut Parts, o: Operand, extents: &Extents) -> Result<Operand> {
    let shape = p.shape(o.value);
    let kept: Vec<usize> = (0..shape.len()).filter(|&a| shape[a] == extents[&o.labels[a]]).collect();
    let to: Vec<usize> = kept.iter().map(|&a| shape[a]).collect();
    Ok(Operand { value: p.reshape(o.value, &to)?, labels: kept.iter().map(|&a| o.labels[a]).collect() })
}

/// Summed over every index that is not `needed`.
fn sum_away(p: &mut Parts, o: Operand, needed: impl Fn(&Label) -> bool) -> Result<Operand> {
    let gone: Vec<usize> = (0..o.labels.len()).filter(|&a| !needed(&o.labels[a])).collect();
    let labels = o.labels.iter().copied().filter(|l| needed(l)).collect();
    Ok(Operand { value: p.reduce_sum(o.value, &gone, false)?, labels })
}

/// With its axes in the order of `labels`, which name the same ones.
fn ordered(p: &mut Parts, o: &Operand, labels: &[Label]) -> Result<ValueId> {
    let perm: Vec<usize> = labels.iter().filter_map(|l| o.labels.iter().position(|m| m == l)).collect();
    p.transpose(o.value, &perm)
}

/// The index along which the samples lie.
fn samples(p: &mut Parts, o: &Operand) -> Option<Label> {
    match p.graph().value(o.value).batch {
        Batch::Axis { axis, .. } => o.labels.get(axis).copied(),
        _ => None,
    }
}

/// The product of two operands, summed over what neither the output nor another operand needs.
fn contract(p: &mut Parts, a: Operand, b: Operand, needed: &[Label], extents: &Extents) -> Result<Operand> {
    let (in_a, in_b) = (a.labels.clone(), b.labels.clone());
    let a = sum_away(p, a, |l| needed.contains(l) || in_b.contains(l))?;
    let b = sum_away(p, b, |l| needed.contains(l) || in_a.contains(l))?;
    // what depends on the samples stands on the left, as the input of a layer does
    let (a, b) = if samples(p, &a).is_none() && samples(p, &b).is_some() { (b, a) } else { (a, b) };
    let both: Vec<Label> = a.labels.iter().copied().filter(|l| b.labels.contains(l)).collect();
    let (mut batch, sum): (Vec<Label>, Vec<Label>) = both.iter().copied().partition(|l| needed.contains(l));
    let mut left: Vec<Label> = a.labels.iter().copied().filter(|l| !both.contains(l)).collect();
    let right: Vec<Label> = b.labels.iter().copied().filter(|l| !both.contains(l)).collect();
    let plain = left.is_empty() && right.is_empty();
    if sum.is_empty() || plain || !p.dtype(a.value).is_float() {
        return multiply(p, &a, &b, &right, &sum);
    }
    let shape = |labels: &[Label]| -> Vec<usize> { labels.iter().map(|l| extents[l]).collect() };
    let size = |labels: &[Label]| -> usize { shape(labels).iter().product() };
    let q = ordered(p, &b, &[&batch[..], &sum, &right].concat())?;
    let q = p.reshape(q, &[&shape(&batch)[..], &[size(&sum), size(&right)]].concat())?;
    // Samples stay an axis of their own, over which the right side is stretched. Without other such axes all
    // rows of the left can be: they are never joined.
    let (s, others) = (samples(p, &a), samples(p, &b));
    let apart = |l: &Label| others.is_none() && Some(*l) == s;
    let rows = if batch.is_empty() {
        shape(&left)
    } else {
        let (front, rest): (Vec<Label>, Vec<Label>) = left.iter().copied().partition(apart);
        batch = [front, batch].concat();
        left = rest;
        vec![size(&left)]
    };
    let rows = if rows.is_empty() { vec![1] } else { rows };
    let x = ordered(p, &a, &[&batch[..], &left, &sum].concat())?;
    let x = p.reshape(x, &[&shape(&batch)[..], &rows, &[size(&sum)]].concat())?;
    let y = p.op("MatMul", &[x, q])?;
    let labels = [batch, left, right].concat();
    Ok(Operand { value: p.reshape(y, &shape(&labels))?, labels })
}

/// `a ∘ b` with broadcasting, summed over `sum`; `right` are the indices of b alone.
fn multiply(p: &mut Parts, a: &Operand, b: &Operand, right: &[Label], sum: &[Label]) -> Result<Operand> {
    let labels = [&a.labels[..], right].concat();
    let mut sides = Vec::with_capacity(2);
    for o in [a, b] {
        let mine: Vec<Label> = labels.iter().copied().filter(|l| o.labels.contains(l)).collect();
        let missing: Vec<usize> = (0..labels.len()).filter(|&i| !mine.contains(&labels[i])).collect();
        let v = ordered(p, o, &mine)?;
        sides.push(p.unsqueeze(v, &missing)?);
    }
    let value = p.op("Mul", &sides)?;
    sum_away(p, Operand { value, labels }, |l| !sum.contains(l))
}

/// The pair whose product is the smallest, the first of equals.
fn best_pair(operands: &[Operand], output: &[Label], extents: &Extents) -> (usize, usize) {
    let size = |i: usize, j: usize| -> f64 {
        needed(operands, output, (i, j))
            .iter()
            .filter(|l| operands[i].labels.contains(l) || operands[j].labels.contains(l))
            .map(|l| extents[l] as f64)
            .product()
    };
    let pairs = (0..operands.len()).flat_map(|i| (i + 1..operands.len()).map(move |j| (i, j)));
    pairs.min_by(|a, b| size(a.0, a.1).total_cmp(&size(b.0, b.1))).unwrap_or((0, 1))
}

/// The indices that outlive the product of a pair.
fn needed(operands: &[Operand], output: &[Label], pair: (usize, usize)) -> Vec<Label> {
    let others = operands.iter().enumerate().filter(|(k, _)| *k != pair.0 && *k != pair.1);
    let mut all: Vec<Label> =
        others.flat_map(|(_, o)| o.labels.iter().copied()).chain(output.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn write(p: &mut Parts) -> Result<Vec<Option<ValueId>>> {
    let values = (0..p.n_inputs()).map(|i| p.x(i)).collect::<Result<Vec<_>>>()?;
    if let Some(&v) = values.iter().find(|&&v| p.dtype(v) != p.dtype(values[0])) {
        return Err(Error::format(format!("operands are {} and {}", p.dtype(values[0]), p.dtype(v))));
    }
    let ranks: Vec<usize> = values.iter().map(|&v| p.shape(v).len()).collect();
    let (terms, output) = parse(p.view().string("equation", "")?, &ranks)?;
    let operands: Vec<Operand> =
        values.into_iter().zip(terms).map(|(value, labels)| Operand { value, labels }).collect();
    let extents = extents(p, &operands)?;
    let mut left = Vec::with_capacity(operands.len());
    for o in operands {
        let o = diagonal(p, o)?;
        left.push(unstretched(p, o, &extents)?);
    }
    while left.len() > 1 {
        let (i, j) = best_pair(&left, &output, &extents);
        let needed = needed(&left, &output, (i, j));
        let b = left.remove(j);
        let a = left.remove(i);
        let product = contract(p, a, b, &needed, &extents)?;
        left.insert(i, product);
    }
    let last = left.pop().ok_or_else(|| Error::format("there is no operand"))?;
    let last = sum_away(p, last, |l| output.contains(l))?;
    Ok(vec![Some(ordered(p, &last, &output)?)])
}

fn cases() -> Vec<Case> {
    let case = |equation: &str, shapes: &[&[usize]]| {
        Case::new(&format!("Einsum {equation} of {}", shapes.len()), shapes).attr("equation", equation)
    };
    let ints = |shape: &[usize]| {
        let v = (0i64..).take(shape.iter().product()).map(|i| i * 7 % 5 - 2).collect();
        Arg::Fed(Array::from_vec(shape, v).unwrap_or_else(|_| Array::ints(&[])), DType::I64)
    };
    vec![
        case("ij->ji", &[&[3, 4]]),
        case("ij->", &[&[3, 4]]),
        case("bij", &[&[2, 3, 4]]),
        case("ba", &[&[3, 4]]),
        case("bijk->bk", &[&[2, 3, 4, 5]]),
        case("ii->i", &[&[4, 4]]),
        case("ii", &[&[3, 3]]),
        case("iji->j", &[&[3, 4, 3]]),
        case("iijj->ij", &[&[3, 3, 2, 2]]),
        case("iii->i", &[&[3, 3, 3]]),
        case("...ii->...i", &[&[2, 3, 3]]),
        case("...->...", &[&[2, 3]]),
        case("ij,jk->ik", &[&[3, 5], &[5, 4]]),
        case("ij,jk", &[&[3, 5], &[5, 4]]),
        case("ij, kj -> ki", &[&[3, 5], &[4, 5]]),
        case("bij,jk->bik", &[&[2, 3, 5], &[5, 4]]),
        case("oi,bil->bol", &[&[4, 5], &[2, 5, 3]]),
        case("bhid,bhjd->bhij", &[&[2, 3, 4, 5], &[2, 3, 6, 5]]),
        case("bihd,bjhd->bhij", &[&[2, 4, 3, 5], &[2, 6, 3, 5]]),
        case("bhwc,hkc->bhwk", &[&[2, 3, 4, 5], &[3, 6, 5]]),
        case("hkc,bhwc->bwhk", &[&[3, 6, 5], &[2, 3, 4, 5]]),
        case("bxyd,xyde->bxe", &[&[2, 3, 2, 4], &[3, 2, 4, 5]]),
        case("i,j->ij", &[&[3], &[4]]),
        case("i,i->i", &[&[3], &[3]]),
        case("i,i->", &[&[5], &[5]]),
        case("i,i", &[&[5], &[5]]),
        case("bi,bi->b", &[&[3, 4], &[3, 4]]),
        case("ij,j->i", &[&[3, 4], &[4]]),
        case("ij,kl->jl", &[&[3, 4], &[2, 5]]),
        case("ij,->ji", &[&[3, 4], &[]]),
        case("Ab,bA->A", &[&[3, 4], &[4, 3]]),
        case("...ij,...jk->...ik", &[&[2, 3, 4, 5], &[3, 5, 2]]),
        case("...ij,jk", &[&[2, 3, 4], &[4, 5]]),
        case("i...,...i->...i", &[&[4, 3], &[2, 1, 4]]),
        case("bij,bjk->bik", &[&[1, 3, 4], &[2, 4, 5]]).within(1e-5),
        case("ij,jk,kl->il", &[&[3, 4], &[4, 2], &[2, 5]]),
        case("bi,oij,bj->bo", &[&[2, 3], &[4, 3, 5], &[2, 5]]),
        case("ai,aj,ak,al->ijkl", &[&[3, 2], &[3, 2], &[3, 3], &[3, 2]]),
        Case::new("Einsum of integers", &[])
            .arg(ints(&[3, 4]))
            .arg(ints(&[4, 2]))
            .attr("equation", "ij,jk->ik")
            .no_gradient("integers"),
    ]
}

static EINSUM: Composite = Composite { spec: Spec::new("Einsum", 12, (1, MANY)), write, cases };

pub(super) static OPS: &[&dyn Op] = &[&EINSUM];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Attrs, Graph};

    #[test]
    fn equations_that_say_nothing_clear_are_refused() {
        let mut g = Graph::new(0);
        let x = g.weight("x", Array::full(&[2, 3], 1f32));
        for (equation, operands) in [
            ("ij->ik", 1),
            ("ij->iij", 1),
            ("ij", 2),
            ("ijk->i", 1),
            ("i1->i", 1),
            ("i.j->i", 1),
            ("...->", 1),
            ("ii->i", 1),
            ("ij,jk->ik", 2),
            ("i...j...->ij", 1),
        ] {
            let e = g.push("Einsum", &vec![x; operands], Attrs::new().with("equation", equation));
            assert!(e.is_err(), "{equation}");
        }
    }
}
