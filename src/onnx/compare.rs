//! What else differs between two models than some weights.

use super::edit::{Edit, kept};
use super::load::Model;
use super::run::Run;
use crate::error::Result;

/// Everything but the elements of these weights of `before`, by their index in [`Model::weights`], is the same in `after`,
/// once the edits are made to the model file; if not, a line for each file in which something else differs.
///
/// # Errors
/// `Internal` for a weight that does not exist.
pub fn differences_outside(before: &Model, after: &Model, weights: &[usize], edits: &[Edit]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut compare = |name: &str, old: &[u8], new: &[u8], file: Option<usize>, edits: &[Edit]| {
        let listed = weights.iter().filter_map(|&i| before.weights().get(i)).filter(|w| w.data_file() == file);
        let mut runs: Vec<(Run, usize)> =
            listed.flat_map(|w| w.runs().iter().map(|r| (*r, w.storage().width()))).collect();
        runs.sort_by_key(|(r, _)| r.start);
        if let Some(at) = stray(old, new, &runs, edits) {
            lines.push(format!("{name} differs from the original outside of the listed weights, first at byte {at}"));
        }
    };
    compare("the model file", before.bytes(), after.bytes(), None, edits);
    for (i, old) in before.data_files().iter().enumerate() {
        let new = after.data_files().iter().find(|n| n.location() == old.location());
        let name = format!("data file {}", old.location().display());
        compare(&name, old.bytes(), new.map_or(&[], |n| n.bytes()), Some(i), &[]);
    }
    Ok(lines)
}

/// Offset in `new` of the first byte that is neither the old one, nor in an element of the runs, which are sorted, nor
/// what an edit puts there.
fn stray(old: &[u8], new: &[u8], runs: &[(Run, usize)], edits: &[Edit]) -> Option<usize> {
    let mut end = 0_usize;
    let mut puts = edits.iter();
    for piece in kept(old.len(), edits) {
        let inside = runs.iter().filter(|(r, _)| piece.source.contains(&r.start));
        let from = |at: usize| piece.at.saturating_add(at.saturating_sub(piece.source.start));
        let mut at = piece.source.start;
        for (run, width) in inside {
            let span = run.span(*width)?;
            if let Some(found) = differing(old, new, at..span.start, from(at)) {
                return Some(found);
            }
            for gap in gaps(*run, *width).filter(|g| g.start >= at) {
                if let Some(found) = differing(old, new, gap.clone(), from(gap.start)) {
                    return Some(found);
                }
            }
            at = at.max(span.end);
        }
        if let Some(found) = differing(old, new, at..piece.source.end, from(at)) {
            return Some(found);
        }
        end = piece.end();
        if let Some(edit) = puts.next() {
            let next = end.saturating_add(edit.bytes.len());
            let there = new.get(end..next.min(new.len())).unwrap_or_default();
            if there != edit.bytes {
                let first = edit.bytes.iter().zip(there).position(|(a, b)| a != b).unwrap_or(there.len());
                return Some(end.saturating_add(first));
            }
            end = next;
        }
    }
    (new.len() != end).then_some(end.min(new.len()))
}

/// What lies between the elements of a run.
fn gaps(run: Run, width: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let between = if run.step > width { run.count.saturating_sub(1) } else { 0 };
    (0..between).map(move |i| {
        let element = run.start.saturating_add(i.saturating_mul(run.step));
        element.saturating_add(width)..element.saturating_add(run.step)
    })
}

/// Offset in `new` of the first byte that is not that of `old` in this range, which starts at `from` in `new`.
fn differing(old: &[u8], new: &[u8], range: std::ops::Range<usize>, from: usize) -> Option<usize> {
    if range.start >= range.end {
        return None;
    }
    let Some(old) = old.get(range) else { return Some(from) };
    let to = from.saturating_add(old.len());
    let there = new.get(from..to.min(new.len())).unwrap_or_default();
    if there == old {
        return None;
    }
    let first = old.iter().zip(there).position(|(a, b)| a != b).unwrap_or(there.len());
    Some(from.saturating_add(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_outside_of_the_elements_counts() {
        let old: Vec<u8> = (0..40).collect();
        // two elements of 2 bytes, 4 apart, and one run without gaps
        let runs = [(Run { start: 8, step: 4, count: 2 }, 2), (Run { start: 20, step: 2, count: 3 }, 2)];
        let edits = [Edit { range: 4..6, bytes: vec![9, 9, 9] }, Edit { range: 30..34, bytes: vec![] }];
        let element = [8, 9, 12, 13, 20, 21, 22, 23, 24, 25];
        for edits in [&[][..], &edits] {
            let new = super::super::edit::edited(&old, edits).unwrap();
            assert_eq!(stray(&old, &new, &runs, edits), None);
            for at in 0..new.len() {
                let mut other = new.clone();
                other[at] ^= 0x80;
                let source =
                    old.iter().position(|b| *b == new[at]).filter(|_| edits.is_empty() || !(4..7).contains(&at));
                let free = source.is_some_and(|s| element.contains(&s));
                assert_eq!(stray(&old, &other, &runs, edits), (!free).then_some(at), "{at}");
            }
            assert!(stray(&old, &new[..new.len() - 1], &runs, edits).is_some());
            assert!(stray(&old, &[&new[..], &[0]].concat(), &runs, edits).is_some());
        }
    }
}
