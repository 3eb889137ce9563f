//! Joining the parts of a Fisher that were computed apart.

use super::kept::{Kept, gap};
use super::plan::{chunks, halves};
use super::store::{Origin, write};
use super::sums::{Row, joined_hash};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Where the rows of all parts are: by class and chunks, the part and its row.
type Places = BTreeMap<(usize, usize, usize), (usize, usize)>;

/// Joins parts to the whole Fisher and writes it. The file is the same to the bit in whatever order the parts come, and
/// the one that a run without parts writes.
///
/// # Errors
/// `Invalid` when the parts are of different models, inputs or weights, when two hold the same samples, and when samples
/// are missing; `Format` when a sum is NaN, infinite or negative; and when the file cannot be written.
pub fn merge(parts: &[Kept], out: &Path) -> Result<Origin> {
    let first = parts.first().ok_or_else(|| Error::invalid("there is no part to be joined"))?;
    parts.iter().try_for_each(|p| agree(first, p))?;
    let places = places(parts)?;
    let mut origin = first.origin.clone();
    origin.engines = parts.iter().flat_map(|p| p.origin.engines.iter().cloned()).collect();
    origin.engines.sort();
    origin.engines.dedup();
    origin.rows = places
        .iter()
        .map(|(&(class, from, to), &(p, r))| Row { class, from, to, sha256: parts[p].origin.rows[r].sha256.clone() })
        .collect();
    if let Some(what) = gap(&origin) {
        return Err(Error::invalid(format!("the parts together lack {what}")));
    }
    let whole = |&(class, n): &(usize, usize)| Row { class, from: 0, to: chunks(n), sha256: String::new() };
    let rows: Vec<Row> = origin.samples.iter().map(whole).collect();
    origin.rows.clone_from(&rows);
    write(out, &first.layout, origin, |writer| {
        for (i, row) in rows.iter().enumerate() {
            let hash = hash(parts, &places, row.class, &row.range())?;
            writer.origin.rows[i].sha256 = hash;
            for weight in 0..first.layout.names.len() {
                writer.put(weight, i, &sum(parts, &places, weight, row.class, &row.range())?)?;
            }
        }
        Ok(())
    })
}

/// Checks that two parts can be of one Fisher.
fn agree(a: &Kept, b: &Kept) -> Result<()> {
    let differ = |what: &str| {
        Err(Error::invalid(format!("{} and {} are of different {what}", a.path.display(), b.path.display())))
    };
    let (x, y) = (&a.origin, &b.origin);
    match () {
        () if x.model_sha256 != y.model_sha256 => differ("models"),
        () if x.output != y.output => differ("outputs of the model"),
        () if x.listing_sha256 != y.listing_sha256 => differ("inputs"),
        () if x.samples != y.samples => differ("classes"),
        () if a.layout.names != b.layout.names || a.layout.shapes != b.layout.shapes => differ("weights"),
        () if a.layout.wide != b.layout.wide => differ("precision"),
        () if x.unused != y.unused => differ("weights"),
        () => Ok(()),
    }
}

/// All rows by what they are of.
fn places(parts: &[Kept]) -> Result<Places> {
    let mut all = Places::new();
    for (p, part) in parts.iter().enumerate() {
        for (r, row) in part.origin.rows.iter().enumerate() {
            let key = (row.class, row.from, row.to);
            let before = all.range(..(row.class, row.to, 0)).next_back();
            let taken = before.filter(|((c, _, to), _)| *c == row.class && *to > row.from).map(|(_, at)| at.0);
            if let Some(other) = taken {
                return Err(Error::invalid(format!(
                    "{} and {} overlap: both hold samples of class {}",
                    parts[other].path.display(),
                    part.path.display(),
                    row.class
                )));
            }
            all.insert(key, (p, r));
        }
    }
    Ok(all)
}

fn hash(parts: &[Kept], places: &Places, class: usize, node: &Range<usize>) -> Result<String> {
    if let Some(&(p, r)) = places.get(&(class, node.start, node.end)) {
        return Ok(parts[p].origin.rows[r].sha256.clone());
    }
    let (left, right) = halves(node).ok_or_else(|| Error::internal("a chunk that no part holds"))?;
    Ok(joined_hash(&hash(parts, places, class, &left)?, &hash(parts, places, class, &right)?))
}

/// The sum at a node of the tree: a part's, or that of its halves.
fn sum(parts: &[Kept], places: &Places, weight: usize, class: usize, node: &Range<usize>) -> Result<Vec<f64>> {
    if let Some(&(p, r)) = places.get(&(class, node.start, node.end)) {
        return parts[p].row(weight, r).map_err(|e| e.at(parts[p].path.display()));
    }
    let (left, right) = halves(node).ok_or_else(|| Error::internal("a chunk that no part holds"))?;
    let mut sum = self::sum(parts, places, weight, class, &left)?;
    let more = self::sum(parts, places, weight, class, &right)?;
    sum.iter_mut().zip(more).for_each(|(x, y)| *x += y);
    Ok(sum)
}
