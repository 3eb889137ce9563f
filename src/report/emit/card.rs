//! A fragment of a Hugging Face model card.
//!
//! <https://huggingface.co/docs/hub/model-cards>

use super::Facts;
use crate::onnx::FileDigest;
use crate::report::format;
use std::fmt::Display;

/// Front matter and a section to be joined to the card of the original. Names out of files are shown as they are and
/// mean nothing in Markdown.
pub fn model_card(f: &Facts) -> String {
    let [old, new] = [&f.before, &f.after].map(|files| files.first().map_or("model", |d| &d.name));
    let mut out = format!(
        "---\nlibrary_name: onnx\ntags:\n- onnx\n- machine-unlearning\n# base_model: the repository of the original\n---\n\n\
         ## Forgotten classes\n\n\
         {} is {} after forgetting {} with `{}` {}: {}, seed {}, engine `{}`. Nothing but {} differs.\n\n",
        code(new),
        code(old),
        f.classes(),
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        f.rule(),
        f.seed,
        f.engine,
        f.extent()
    );
    out += "### Measures\n\n| labelled inputs | before | after |\n| --- | ---: | ---: |\n";
    for a in &f.answers {
        let [before, after] = a.cells();
        out += &row([a.what.to_owned(), before, after]);
    }
    out += "\n| weight | elements | changed | relative |\n| --- | ---: | ---: | ---: |\n";
    for c in f.changed() {
        out += &row([
            code(&c.name),
            format::count(c.elements),
            format::count(c.changed),
            format::significant(c.relative, 3),
        ]);
    }
    out += "\n### Limits\n\n";
    f.limits().iter().for_each(|l| out += &format!("- {}\n", format::name(l)));
    out += "\n### Files\n\n| file | SHA-256 |\n| --- | --- |\n";
    for (files, which) in [(&f.before, "original"), (&f.after, "this")] {
        for FileDigest { name, sha256 } in files {
            out += &row([format!("{which}: {}", code(name)), format!("`{sha256}`")]);
        }
    }
    out
}

fn row<const N: usize>(cells: [impl Display; N]) -> String {
    let cells = cells.map(|c| c.to_string());
    format!("| {} |\n", cells.join(" | "))
}

/// A name as code: between more backticks than it has in a row, without what would end a line or a cell.
fn code(name: &str) -> String {
    let name = format::name(name).replace('|', "\\|");
    let longest = name.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if name.starts_with('`') || name.ends_with('`') || name.is_empty() { " " } else { "" };
    format!("{fence}{space}{name}{space}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::emit::tests::facts;

    #[test]
    fn names_mean_nothing() {
        let card = model_card(&facts());
        assert!(card.starts_with("---\nlibrary_name: onnx\n"), "{card}");
        assert!(card.contains("`new.onnx` is ``old\\|`x`.onnx`` after forgetting classes 1, 4 of 10"), "{card}");
        assert!(card.contains("| `fc1\\n# weight\\|` | 10 | 6 | 0.250 |\n"), "{card}");
        assert!(card.contains("| retained, answered rightly | 8 of 8 | 7 of 8 |\n"), "{card}");
        assert!(card.contains("- In doubt: 1 of 8 retained inputs is lost.\n"), "{card}");
        assert!(!card.contains("same"), "{card}");
        let hash = format!("| this: `w.data` | `{}` |\n", "c".repeat(64));
        assert!(card.ends_with(&hash), "{card}");
        assert_eq!([code("`"), code(""), code("a``b")], ["`` ` ``", "`  `", "```a``b```"]);
    }
}
