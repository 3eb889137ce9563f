//! Where elements lie in a file.

use std::ops::Range;

/// Elements of equal width at equal distances: element `i` starts at byte `start + i * step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Offset of the first element from the start of the file, in bytes.
    pub start: usize,
    /// Distance between elements in bytes; more than their width in an unpacked protobuf field.
    pub step: usize,
    /// Number of elements.
    pub count: usize,
}

impl Run {
    /// Adds this run to a list, joined to the last one when it goes on at the same distance.
    /// True when it is a new entry.
    pub(super) fn append_to(self, runs: &mut Vec<Run>) -> bool {
        if let Some(last) = runs.last_mut() {
            let distance = self.start.saturating_sub(last.start);
            let step = if last.count == 1 { distance } else { last.step };
            if self.count == 1 && step.checked_mul(last.count) == Some(distance) {
                last.step = step;
                last.count = last.count.saturating_add(1);
                return false;
            }
        }
        runs.push(self);
        true
    }

    /// The bytes from the first element to the end of the last, for elements of `width` bytes.
    pub(super) fn span(&self, width: usize) -> Option<Range<usize>> {
        let Some(last) = self.count.checked_sub(1) else { return Some(self.start..self.start) };
        let end = last.checked_mul(self.step)?.checked_add(width)?.checked_add(self.start)?;
        Some(self.start..end)
    }

    /// Up to `count` elements from element `first` on.
    pub(super) fn part(&self, first: usize, count: usize) -> Option<Run> {
        let start = first.checked_mul(self.step)?.checked_add(self.start)?;
        Some(Run { start, step: self.step, count: count.min(self.count.checked_sub(first)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_parts_hold_whole_elements() {
        let run = Run { start: 10, step: 5, count: 3 };
        assert_eq!(run.span(4), Some(10..24));
        assert_eq!(run.part(1, 9), Some(Run { start: 15, step: 5, count: 2 }));
        assert_eq!(Run { start: 3, step: 4, count: 0 }.span(4), Some(3..3));
        assert_eq!(Run { start: 1, step: usize::MAX, count: 3 }.span(4), None);
    }

    #[test]
    fn joins_single_elements_only_at_equal_distances() {
        let mut runs = Vec::new();
        for start in [100, 105, 110, 117, 124] {
            Run { start, step: 4, count: 1 }.append_to(&mut runs);
        }
        assert_eq!(runs, [Run { start: 100, step: 5, count: 3 }, Run { start: 117, step: 7, count: 2 }]);
        assert!(Run { start: 200, step: 4, count: 8 }.append_to(&mut runs));
    }
}
