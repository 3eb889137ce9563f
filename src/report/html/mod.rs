//! A report as one HTML page that needs nothing else: no script, no font, no address.
//!
//! A page is plain data ([`Page`]) made from what a run found ([`forget`], [`audit`]); `templates/` turns it into text and escapes every
//! word, since names in models come from strangers. Pages are bounded however many classes and weights there are, and
//! equal data gives equal bytes.

pub mod audit;
mod block;
mod chart;
mod classes;
pub mod forget;
mod matrix;
mod origin;
mod picture;
mod weights;

pub use block::{Block, Cell, Column, Fact, Figure, Kind, Level, Row, Section, Table, Track};
pub use chart::{Axis, Chart, Dot, Line, Marker, Scale, Series};
pub use matrix::{Counts, Heat, Matrix, MatrixRow};
pub use origin::File;
pub use picture::{Picture, pictures};

use crate::error::{Error, Result};
use crate::report::format;
use askama::Template;

/// A report.
#[derive(Clone, Debug)]
pub struct Page {
    /// What made it: `onnx-unlearn forget`.
    pub origin: &'static str,
    /// The verdict, in a few words.
    pub headline: String,
    /// How the verdict is to be taken.
    pub level: Level,
    /// What was asked for, and what came of it, each under a word.
    pub summary: Vec<Fact>,
    /// The few numbers that carry the verdict.
    pub figures: Vec<Figure>,
    /// Heading of what speaks against the result.
    pub doubts_title: &'static str,
    /// What speaks against the result.
    pub doubts: Vec<String>,
    /// What is said where nothing does.
    pub no_doubt: &'static str,
    /// Everything else.
    pub sections: Vec<Section>,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Document<'a> {
    page: &'a Page,
    version: &'static str,
}

impl Page {
    /// The page as an HTML document, which a browser shows without asking for anything else.
    ///
    /// # Errors
    /// `Internal` when the template fails.
    pub fn render(&self) -> Result<String> {
        let document = Document { page: self, version: env!("CARGO_PKG_VERSION") };
        document.render().map_err(|e| Error::internal(format!("report: {e}")))
    }
}

/// Most letters that are shown of one name.
const NAME: usize = 120;
/// Most letters that are shown of a remark.
const REMARK: usize = 600;
/// Most letters that are shown of a command.
const COMMAND: usize = 8_000;
/// Most classes that are named in a sentence.
const NAMED_CLASSES: usize = 12;

/// A name out of a file or a command as it is shown: control characters are escaped, and a long one is cut.
pub fn shown(name: &str) -> String {
    clipped(name, NAME)
}

fn clipped(text: &str, most: usize) -> String {
    let head: String = text.chars().take(most).collect();
    let cut = if head.len() < text.len() { "…" } else { "" };
    format!("{}{cut}", format::name(&head))
}

/// A command's words as a shell takes them; a long command is cut.
pub fn command_words(words: &[String]) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:@%+".contains(c);
    let quoted = |w: &String| {
        let is_plain = !w.is_empty() && w.chars().all(plain);
        if is_plain { w.clone() } else { format!("'{}'", w.replace('\'', r"'\''")) }
    };
    let mut room = COMMAND;
    let mut all = Vec::new();
    for word in words {
        if room == 0 {
            all.push("…".to_owned());
            break;
        }
        let word = clipped(&quoted(word), room);
        room = room.saturating_sub(word.chars().count() + 1);
        all.push(word);
    }
    all
}

/// `class 7`, `classes 1, 4 and 7`, and no more than a dozen of them.
fn class_list(classes: &[usize]) -> String {
    let names: Vec<String> = classes.iter().take(NAMED_CLASSES).map(usize::to_string).collect();
    let more = classes.len() - names.len();
    match (&names[..], more) {
        ([], _) => "no class".to_owned(),
        ([one], 0) => format!("class {one}"),
        ([head @ .., last], 0) => format!("classes {} and {last}", head.join(", ")),
        (all, more) => format!("classes {} and {} more", all.join(", "), format::count(more)),
    }
}

/// With a capital letter in front.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let head: String = letters.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    format!("{head}{}", letters.as_str())
}

/// A remark as a sentence of its own; a long one is cut.
fn sentence(text: &str) -> String {
    let text = capital(&clipped(text, REMARK));
    if text.ends_with(['.', '…']) { text } else { format!("{text}.") }
}

/// `1 input`, `3 inputs`.
fn counted(n: usize, what: &str) -> String {
    format!("{} {what}{}", format::count(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_classes_stay_short() {
        assert_eq!(class_list(&[7]), "class 7");
        assert_eq!(class_list(&[1, 4, 7]), "classes 1, 4 and 7");
        let many: Vec<usize> = (0..1000).collect();
        assert_eq!(class_list(&many), "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 988 more");
    }

    #[test]
    fn commands_can_be_typed_again() {
        let words = ["onnx-unlearn", "forget", "my model.onnx", "--protect", "conv*", "it's", ""].map(str::to_owned);
        let line = r"onnx-unlearn forget 'my model.onnx' --protect 'conv*' 'it'\''s' ''";
        assert_eq!(command_words(&words).join(" "), line);
        let long = command_words(&vec!["x".repeat(1000); 1000]).join(" ");
        assert!(long.len() < COMMAND + 100 && long.ends_with('…'));
    }

    #[test]
    fn names_are_cut_and_cannot_turn_text_around() {
        let long = shown(&"é".repeat(1000));
        assert_eq!((long.chars().count(), long.ends_with('…')), (NAME + 1, true));
        assert_eq!(shown("a\u{202e}b\n"), "a\\u{202e}b\\n");
    }
}
