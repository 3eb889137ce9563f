//! What a page is made of.

use super::chart::Chart;
use super::matrix::Matrix;
use super::picture::Picture;
use crate::report::format;

/// How something is to be taken; a page shows it by a word and a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Neither good nor bad.
    Plain,
    /// As it should be.
    Good,
    /// To be looked at.
    Unsure,
    /// Not as it should be.
    Bad,
}

impl Level {
    /// Name of the style.
    pub fn style(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Unsure => "unsure",
            Self::Bad => "bad",
        }
    }
}

/// Something under a word.
#[derive(Clone, Debug)]
pub struct Fact {
    /// The word.
    pub name: String,
    /// What is said.
    pub text: String,
    /// True where letters count: a hash.
    pub is_code: bool,
}

impl Fact {
    /// A sentence under a word.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), is_code: false }
    }
    /// A hash or a path under a word.
    pub fn code(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), is_code: true }
    }
}

/// A number that is shown large.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The number.
    pub value: String,
    /// What it counts.
    pub text: String,
    /// What it was before, or what it is to be compared with.
    pub note: String,
    /// How it is to be taken.
    pub level: Level,
}

/// A part of a page under a heading.
#[derive(Clone, Debug)]
pub struct Section {
    /// Stable name, for links.
    pub id: &'static str,
    /// The heading.
    pub title: String,
    /// What stands there.
    pub blocks: Vec<Block>,
}

/// One thing in a section.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A heading below the section's, with a verdict.
    Heading(String, Level, String),
    /// A list.
    List(Vec<String>),
    /// Things under words.
    Facts(Vec<Fact>),
    /// A command, word by word.
    Command(Vec<String>),
    /// A table.
    Table(Table),
    /// A table that is folded away on a screen, under these words.
    Folded(String, Table),
    /// A chart.
    Chart(Box<Chart>),
    /// Matrices side by side.
    Matrices(Vec<Matrix>),
    /// Pictures in rows.
    Pictures(Vec<Picture>),
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// The columns; the first names the row.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its head.
    pub text: &'static str,
    /// What stands in it.
    pub kind: Kind,
}

/// What stands in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Words.
    Words,
    /// Names out of a file.
    Name,
    /// Numbers.
    Number,
    /// Numbers drawn.
    Drawn,
}

impl Kind {
    /// Name of the style.
    pub fn style(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Name => "name",
            Self::Number => "number",
            Self::Drawn => "drawn",
        }
    }
}

/// A row of a table.
#[derive(Clone, Debug)]
pub struct Row {
    /// A word on what is special about the row, shown beside its name.
    pub tag: &'static str,
    /// True for a row that stands for many.
    pub is_rest: bool,
    /// Cells in the order of the columns.
    pub cells: Vec<Cell>,
}

impl Row {
    /// A row.
    pub fn new(cells: impl IntoIterator<Item = Cell>) -> Self {
        Self { tag: "", is_rest: false, cells: cells.into_iter().collect() }
    }
    /// With a word on what is special about it; an empty one is none.
    #[must_use]
    pub fn tagged(self, tag: &'static str) -> Self {
        Self { tag, ..self }
    }
    /// As one that stands for many.
    #[must_use]
    pub fn rest(self) -> Self {
        Self { is_rest: true, ..self }
    }
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Words or a number.
    Text(String),
    /// The same, with something smaller below.
    Noted(String, String),
    /// A part of 1 as a bar, with its number.
    Bar(String, f64),
    /// Two numbers between 0 and 1 on a track.
    Track(Track),
    /// A verdict.
    Verdict(Level, String),
}

/// A number before and after, both between 0 and 1, on a track.
#[derive(Clone, Copy, Debug)]
pub struct Track {
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
    /// Interval of the number after.
    pub interval: Option<[f64; 2]>,
}

impl Track {
    /// Horizontal place of a number in a box that is 100 wide, inside a margin for the marks.
    fn place(v: f64) -> String {
        let v = if v.is_finite() { v.clamp(0.0, 1.0) } else { 0.0 };
        format!("{:.1}", 4.0 + 92.0 * v)
    }
    /// Where the number before stands.
    pub fn before_at(&self) -> String {
        Self::place(self.before)
    }
    /// Where the number after stands.
    pub fn after_at(&self) -> String {
        Self::place(self.after)
    }
    /// Both numbers.
    pub fn text(&self) -> String {
        format!("{} → {} %", format::percent(self.before), format::percent(self.after))
    }
    /// The interval in numbers.
    pub fn interval_text(&self) -> Option<String> {
        self.interval.map(|[lo, hi]| format!("{} to {}", format::percent(lo), format::percent(hi)))
    }
    /// Ends of the interval.
    pub fn interval_at(&self) -> Option<(String, String)> {
        self.interval.map(|[lo, hi]| (Self::place(lo), Self::place(hi)))
    }
}

impl Cell {
    /// Words or a number.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
    /// Width of a bar in a box that is 100 wide; what is there at all can be seen.
    pub fn bar_width(part: &f64) -> String {
        let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
        format!("{:.1}", if part > 0.0 { (100.0 * part).max(0.5) } else { 0.0 })
    }
}
