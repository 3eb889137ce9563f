//! Ranges of the elements of a tensor, in row-major order, and the blocks of its shape that they are.

use std::ops::Range;

/// Blocks along an axis begin at multiples of this where so many fit, so that shaders still read in fours.
const ALIGN: usize = 16;

/// The ranges in which a tensor of this shape is kept where `most` elements fit together: blocks of about the same size
/// along the first axis of which one slice fits, for every place on the axes before it.
pub fn cut(shape: &[usize], most: usize) -> Vec<Range<usize>> {
    let len: usize = shape.iter().product();
    let most = most.max(1);
    if len <= most {
        return std::iter::once(0..len).collect();
    }
    let inner_of = |axis: usize| -> usize { shape[axis + 1..].iter().product() };
    let axis = (0..shape.len()).find(|&a| inner_of(a) <= most).unwrap_or(shape.len() - 1);
    let (extent, inner) = (shape[axis], inner_of(axis));
    let fit = (most / inner).clamp(1, extent);
    let even = extent.div_ceil(extent.div_ceil(fit));
    let size = if even.next_multiple_of(ALIGN) <= fit { even.next_multiple_of(ALIGN) } else { fit };
    let outer: usize = shape[..axis].iter().product();
    (0..outer)
        .flat_map(|o| {
            let row = move |r: usize| (o * extent + r) * inner;
            (0..extent).step_by(size).map(move |r| row(r)..row((r + size).min(extent)))
        })
        .collect()
}

/// A range that is a block of a shape: one place on all axes before `axis`, some of `axis`, all of those after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) axis: usize,
    /// The place on each axis before `axis`.
    pub(super) outer: Vec<usize>,
    pub(super) rows: Range<usize>,
}

impl Block {
    /// The largest block of this shape that the range is, if it is one.
    pub(super) fn of(shape: &[usize], range: &Range<usize>) -> Option<Self> {
        (0..shape.len()).find_map(|axis| {
            let inner: usize = shape[axis + 1..].iter().product();
            let extent = shape[axis];
            let whole = inner > 0 && range.start.is_multiple_of(inner) && range.end.is_multiple_of(inner);
            if !whole || range.is_empty() || range.start / inner / extent != (range.end / inner - 1) / extent {
                return None;
            }
            let first = range.start / inner % extent;
            let mut rest = range.start / inner / extent;
            let mut outer: Vec<usize> = shape[..axis].iter().rev().map(|&d| (rest % d, rest /= d).0).collect();
            outer.reverse();
            Some(Self { axis, outer, rows: first..first + range.len() / inner })
        })
    }

    /// Its own shape, of as many axes as the whole.
    pub(super) fn shape(&self, whole: &[usize]) -> Vec<usize> {
        let mut shape = whole.to_vec();
        shape[..self.axis].fill(1);
        shape[self.axis] = self.rows.len();
        shape
    }

    /// What it takes of an axis.
    pub(super) fn on(&self, axis: usize, extent: usize) -> Range<usize> {
        match axis.cmp(&self.axis) {
            std::cmp::Ordering::Less => self.outer[axis]..self.outer[axis] + 1,
            std::cmp::Ordering::Equal => self.rows.clone(),
            std::cmp::Ordering::Greater => 0..extent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, cut};

    #[test]
    fn what_fits_is_whole() {
        for (shape, most) in [(vec![3, 4], 12), (vec![], 1), (vec![0, 4], 2)] {
            let ranges = cut(&shape, most);
            assert_eq!((ranges.len(), &ranges[0]), (1, &(0..shape.iter().product())));
        }
    }

    #[test]
    fn blocks_cover_everything_and_fit() {
        for (shape, most) in
            [(vec![100, 7], 200), (vec![2, 100, 7], 200), (vec![5, 40], 30), (vec![1, 1, 33], 2), (vec![4, 3, 2], 2)]
        {
            let ranges = cut(&shape, most);
            let mut at = 0;
            for range in &ranges {
                assert_eq!(range.start, at);
                assert!(range.len() <= most && !range.is_empty(), "{shape:?} {range:?}");
                let block = Block::of(&shape, range).unwrap();
                assert_eq!(block.shape(&shape).iter().product::<usize>(), range.len());
                at = range.end;
            }
            assert_eq!(at, shape.iter().product::<usize>());
        }
    }

    #[test]
    fn a_block_knows_its_place() {
        let block = Block::of(&[2, 3, 4], &(16..24)).unwrap();
        assert_eq!((block.axis, &block.outer[..], block.rows.clone()), (1, &[1][..], 1..3));
        assert_eq!(block.shape(&[2, 3, 4]), [1, 2, 4]);
        assert_eq!([block.on(0, 2), block.on(1, 3), block.on(2, 4)], [1..2, 1..3, 0..4]);
        // it begins in one row and ends in another
        assert_eq!(Block::of(&[2, 3], &(1..4)), None);
        assert_eq!(Block::of(&[1, 6], &(0..6)).unwrap().axis, 0);
    }
}
