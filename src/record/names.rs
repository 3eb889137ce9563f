//! Class names in a model's `metadata_props`: where they stand, and taking some of them out.
//!
//! Exporters write them as JSON or as Python prints them, as a list, as a dictionary from or to class ids, or separated by
//! commas or lines.

use crate::error::{Error, Result};
use crate::files::hex;
use crate::onnx::{Edit, Model, metadata_edits};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::ops::Range;

/// Keys under which exporters write class names, in lower case and without separators.
const KEYS: [&str; 12] = [
    "names",
    "labels",
    "classes",
    "categories",
    "classnames",
    "classlabels",
    "labelnames",
    "id2label",
    "idx2label",
    "label2id",
    "classtoidx",
    "idxtoclass",
];

/// What stands between names that are neither JSON nor Python.
const SEPARATORS: [char; 4] = ['\n', ',', ';', '|'];

/// A shorter key would be guessed.
const SHORTEST_KEY: usize = 16;

/// The name of a class where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    class: usize,
    /// The name, escapes resolved.
    name: String,
    /// Its bytes in the value, without quotes.
    span: Range<usize>,
}

/// The names of the classes, as far as `metadata_props` have them.
pub fn class_names(model: &Model, classes: usize) -> BTreeMap<usize, String> {
    let mut names = BTreeMap::new();
    for prop in &model.proto().metadata_props {
        for label in labels(prop.key(), prop.value(), classes) {
            names.entry(label.class).or_insert(label.name);
        }
    }
    names
}

/// What stands in the place of a name that is taken out.
fn placeholder(class: usize) -> String {
    format!("class_{class}")
}

/// The edits of the model file that take the names of classes out of `metadata_props`, with the new values by the number of
/// the entry.
///
/// In lists of names it is the entry of the class that goes; in all other values every place where the name stands as a
/// word of its own, unless it is part of another class's name.
///
/// # Errors
/// `Invalid` when the metadata have no name of one of these classes.
pub fn scrub(model: &Model, forgotten: &[usize], classes: usize) -> Result<(Vec<Edit>, BTreeMap<usize, String>)> {
    let names = class_names(model, classes);
    let goes: Vec<(usize, &String)> = forgotten.iter().filter_map(|c| Some((*c, names.get(c)?))).collect();
    if let Some(c) = forgotten.iter().find(|c| !names.contains_key(c)) {
        return Err(Error::invalid(nameless(*c)));
    }
    let others: Vec<&String> = names.iter().filter(|(c, _)| !forgotten.contains(c)).map(|(_, n)| n).collect();
    let mut values = BTreeMap::new();
    for (i, prop) in model.proto().metadata_props.iter().enumerate() {
        let value = prop.value();
        let listed = labels(prop.key(), value, classes);
        let mut cuts: Vec<(Range<usize>, usize)> = Vec::new();
        for label in listed.iter().filter(|l| forgotten.contains(&l.class)) {
            cuts.push((label.span.clone(), label.class));
        }
        if listed.is_empty() {
            cuts = words(value, &goes, &others);
        }
        cuts.sort_by_key(|(span, _)| span.start);
        let mut new = String::new();
        let mut at = 0;
        for (span, class) in cuts {
            if span.start < at {
                continue;
            }
            new += &value[at..span.start];
            new += &placeholder(class);
            at = span.end;
        }
        new += &value[at..];
        if new != value {
            values.insert(i, new);
        }
    }
    Ok((metadata_edits(model, &values)?, values))
}

/// What to say of a class whose name is not found.
pub fn nameless(class: usize) -> String {
    format!("the model's metadata_props name no class {class}; they are looked for under {}, …", KEYS[..4].join(", "))
}

/// HMAC-SHA256 of a name in UTF-8, in hexadecimal.
///
/// # Errors
/// `Invalid` for a key of less than 16 bytes.
pub fn name_hmac(key: &[u8], name: &str) -> Result<String> {
    if key.len() < SHORTEST_KEY {
        return Err(Error::invalid(format!("the key has {} bytes, {SHORTEST_KEY} are the least", key.len())));
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|e| Error::internal(format!("hmac: {e}")))?;
    mac.update(name.as_bytes());
    Ok(hex(&mac.finalize().into_bytes()))
}

/// Where names stand as words of their own, and of which class; not inside the name of another class.
fn words(value: &str, goes: &[(usize, &String)], others: &[&String]) -> Vec<(Range<usize>, usize)> {
    let places = |name: &str| -> Vec<Range<usize>> {
        if name.trim().is_empty() {
            return Vec::new();
        }
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let found = value.match_indices(name).map(|(at, _)| at..at + name.len());
        found.filter(|r| !word(value[..r.start].chars().next_back()) && !word(value[r.end..].chars().next())).collect()
    };
    let kept: Vec<Range<usize>> = others.iter().flat_map(|n| places(n)).collect();
    let mut longest: Vec<_> = goes.to_vec();
    longest.sort_by_key(|(_, n)| std::cmp::Reverse(n.len()));
    let mut cuts: Vec<(Range<usize>, usize)> = Vec::new();
    for (class, name) in longest {
        for place in places(name) {
            let inside = |r: &Range<usize>| r.start <= place.start && place.end <= r.end && *r != place;
            let overlaps = |r: &Range<usize>| r.start < place.end && place.start < r.end;
            if !kept.iter().any(inside) && !cuts.iter().any(|(r, _)| overlaps(r)) {
                cuts.push((place, class));
            }
        }
    }
    cuts
}

/// The names that a value holds, if it is a list of them: one for every class, or a dictionary with ids below `classes`.
fn labels(key: &str, value: &str, classes: usize) -> Vec<Label> {
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    if !KEYS.contains(&key.as_str()) {
        return Vec::new();
    }
    let found = match value.trim_start().chars().next() {
        Some('{') => dictionary(value),
        Some('[' | '(') => list(value),
        _ => separated(value, classes),
    };
    let Some(found) = found else { return Vec::new() };
    let in_range = found.iter().all(|l| l.class < classes);
    let mut ids: Vec<usize> = found.iter().map(|l| l.class).collect();
    ids.sort_unstable();
    ids.dedup();
    // ids that appear twice say nothing
    if in_range && ids.len() == found.len() { found } else { Vec::new() }
}

/// Names with one kind of separator between them.
fn separated(value: &str, classes: usize) -> Option<Vec<Label>> {
    for (k, separator) in SEPARATORS.into_iter().enumerate() {
        let whole = value.trim_end_matches('\n');
        let parts: Vec<&str> = whole.split(separator).collect();
        // a name that holds another separator would be read otherwise once its neighbour is gone
        if parts.len() != classes || whole.contains(&SEPARATORS[..k]) {
            continue;
        }
        let mut at = 0;
        return Some(
            parts
                .into_iter()
                .enumerate()
                .map(|(class, part)| {
                    let start = at + part.len() - part.trim_start().len();
                    at += part.len() + 1;
                    let name = part.trim();
                    Label { class, name: name.to_owned(), span: start..start + name.len() }
                })
                .collect(),
        );
    }
    None
}

/// A token of JSON or of Python: a string with its place, a number, or punctuation.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Text(String, Range<usize>),
    Number(usize),
    Mark(char),
}

/// The tokens of a value; `None` when there is anything else in it.
fn tokens(value: &str) -> Option<Vec<Token>> {
    let mut all = Vec::new();
    let mut rest = value.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            c if c.is_whitespace() => {}
            '{' | '}' | '[' | ']' | '(' | ')' | ':' | ',' => all.push(Token::Mark(c)),
            quote @ ('"' | '\'') => {
                let mut name = String::new();
                let end = loop {
                    match rest.next()? {
                        (end, c) if c == quote => break end,
                        (_, '\\') => name.push(escaped(&mut rest)?),
                        (_, c) => name.push(c),
                    }
                };
                all.push(Token::Text(name, at + 1..end));
            }
            c if c.is_ascii_digit() => {
                let mut end = at + 1;
                while rest.next_if(|(_, c)| c.is_ascii_digit()).is_some() {
                    end += 1;
                }
                all.push(Token::Number(value[at..end].parse().ok()?));
            }
            _ => return None,
        }
    }
    Some(all)
}

type Chars<'a> = std::iter::Peekable<std::str::CharIndices<'a>>;

/// What a backslash and what follows it mean.
fn escaped(rest: &mut Chars<'_>) -> Option<char> {
    let digits = match rest.next()?.1 {
        'n' => return Some('\n'),
        't' => return Some('\t'),
        'r' => return Some('\r'),
        'b' => return Some('\u{8}'),
        'f' => return Some('\u{c}'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        c => return Some(c),
    };
    let first = code(rest, digits)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    // JSON writes what lies beyond 16 bits as two of them
    let ((_, '\\'), (_, 'u')) = (rest.next()?, rest.next()?) else { return None };
    let second = code(rest, 4)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)
}

fn code(rest: &mut Chars<'_>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0_u32, |code, _| code.checked_mul(16)?.checked_add(rest.next()?.1.to_digit(16)?))
}

/// `["a", "b"]` or `('a', 'b',)`.
fn list(value: &str) -> Option<Vec<Label>> {
    let all = tokens(value)?;
    let (Token::Mark('[' | '('), inner) = all.split_first()? else { return None };
    let (Token::Mark(']' | ')'), inner) = inner.split_last()? else { return None };
    let mut labels = Vec::new();
    for (class, item) in items(inner).into_iter().enumerate() {
        let [Token::Text(name, span)] = item else { return None };
        labels.push(Label { class, name: name.clone(), span: span.clone() });
    }
    Some(labels)
}

/// `{"0": "a"}`, `{0: 'a'}` or `{"a": 0}`.
fn dictionary(value: &str) -> Option<Vec<Label>> {
    let all = tokens(value)?;
    let (Token::Mark('{'), inner) = all.split_first()? else { return None };
    let (Token::Mark('}'), inner) = inner.split_last()? else { return None };
    let mut labels = Vec::new();
    for item in items(inner) {
        let (class, name, span) = match item {
            [Token::Number(class), Token::Mark(':'), Token::Text(name, span)]
            | [Token::Text(name, span), Token::Mark(':'), Token::Number(class)] => (*class, name, span),
            [Token::Text(class, _), Token::Mark(':'), Token::Text(name, span)] => (class.parse().ok()?, name, span),
            _ => return None,
        };
        labels.push(Label { class, name: name.clone(), span: span.clone() });
    }
    Some(labels)
}

/// What stands between commas; nothing after the last one.
fn items(inner: &[Token]) -> Vec<&[Token]> {
    let mut all: Vec<&[Token]> = inner.split(|t| *t == Token::Mark(',')).collect();
    if all.last().is_some_and(|last| last.is_empty()) {
        all.pop();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Vec<(usize, String)> {
        labels(key, value, 3).into_iter().map(|l| (l.class, l.name)).collect()
    }

    #[test]
    fn names_as_exporters_write_them() {
        let want: Vec<(usize, String)> =
            ["cat", "polar bear", "bear"].iter().enumerate().map(|(i, n)| (i, (*n).to_owned())).collect();
        for (key, value) in [
            ("names", "{0: 'cat', 1: 'polar bear', 2: 'bear'}"),
            ("id2label", r#"{"0": "cat", "1": "polar bear", "2": "bear"}"#),
            ("class_to_idx", r#"{"cat":0,"polar bear":1,"bear":2}"#),
            ("Labels", r#"["cat", "polar bear", "bear"]"#),
            ("classes", "('cat', 'polar bear', 'bear',)"),
            ("class_names", "cat, polar bear,bear"),
            ("class-names", "cat\npolar bear\nbear\n"),
        ] {
            assert_eq!(read(key, value), want, "{value}");
            for label in labels(key, value, 3) {
                assert_eq!(&value[label.span], label.name, "{value}");
            }
        }
        let odd = r#"['it\'s', "\u00e9", "\ud83d\ude00"]"#;
        assert_eq!(read("names", odd).into_iter().map(|l| l.1).collect::<Vec<_>>(), ["it's", "é", "😀"]);
        for (key, value) in [
            ("description", "['cat', 'dog', 'bear']"),
            ("names", "{0: 'cat', 0: 'dog'}"),
            ("names", "{9: 'cat'}"),
            ("names", "[1, 2, 3]"),
            ("names", "['cat', 'dog"),
            ("names", "cat, dog"),
            ("names", "cat;polar, bear;bear"),
            ("names", r#"["\ud83d"]"#),
            ("names", ""),
        ] {
            assert_eq!(read(key, value), [], "{value}");
        }
    }

    #[test]
    fn a_word_goes_and_the_names_of_others_stay() {
        let (bear, polar, cat) = ("bear".to_owned(), "polar bear".to_owned(), "cat".to_owned());
        let text = "a bear, a polar bear, bears, a cat and category bear";
        let cut = |goes: &[(usize, &String)], others: &[&String]| {
            words(text, goes, others).into_iter().map(|(r, c)| (&text[r], c)).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[(2, &bear)], &[&polar, &cat]), [("bear", 2), ("bear", 2)]);
        assert_eq!(cut(&[(2, &bear), (1, &polar)], &[&cat]), [("polar bear", 1), ("bear", 2), ("bear", 2)]);
        assert_eq!(cut(&[(0, &cat)], &[]), [("cat", 0)]);
        assert_eq!(cut(&[(0, &String::new())], &[]), []);
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // test case 7, with a text and a key longer than a block
        let text = "This is a test using a larger than block-size key and a larger than block-size data. The key needs to \
                    be hashed before being used by the HMAC algorithm.";
        let want = "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2";
        assert_eq!(name_hmac(&[0xaa; 131], text).unwrap(), want);
        assert!(name_hmac(b"short", "x").is_err());
    }
}
