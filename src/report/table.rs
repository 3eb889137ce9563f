//! Tables for a terminal: aligned columns, two spaces apart, no lines.

use super::format;
use std::fmt;
use unicode_width::UnicodeWidthStr;

/// Which side of a column its cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table of text. `Display` gives lines that each end in a newline.
#[derive(Clone, Debug)]
pub struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head per column and the side that its cells keep to.
    pub fn new<const N: usize>(head: [(&str, Align); N]) -> Self {
        Self::with_columns(head.into_iter().map(|(text, align)| (text.to_owned(), align)))
    }
    /// As [`Table::new`] for columns that are known only at run time.
    pub fn with_columns(head: impl IntoIterator<Item = (String, Align)>) -> Self {
        let (head, align): (Vec<_>, _) = head.into_iter().unzip();
        let mut table = Self { align, rows: Vec::new() };
        table.row(head);
        table
    }
    /// Adds a row; missing cells are empty, cells past the last column are dropped. Control characters are escaped.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let mut cells: Vec<_> = cells.into_iter().map(|c| format::name(c.as_ref())).collect();
        cells.resize(self.align.len(), String::new());
        self.rows.push(cells);
        self
    }
    /// Number of rows below the head.
    pub fn len(&self) -> usize {
        self.rows.len() - 1
    }
    /// True when there is nothing below the head.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> =
            (0..self.align.len()).map(|c| self.rows.iter().map(|r| r[c].width()).max().unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.align).zip(&widths) {
                let space = " ".repeat(width - cell.width());
                match align {
                    Align::Left => line += &format!("{cell}{space}"),
                    Align::Right => line += &format!("{space}{cell}"),
                }
                line += "  ";
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut t = Table::new([("layer", Align::Left), ("share %", Align::Right), ("", Align::Left)]);
        t.row(["fc1.weight", "7.5"]).row(["größe", "100.0", "most"]).row(["x\n", "0.1", "", "dropped"]);
        let expected = "layer       share %\nfc1.weight      7.5\ngröße         100.0  most\nx\\n             0.1\n";
        assert_eq!((t.to_string(), t.len()), (expected.to_owned(), 3));
    }
}
