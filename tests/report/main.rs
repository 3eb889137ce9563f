//! Pages that tell of a run: what stands in them, how large they get, and how a browser shows them.

mod browser;
#[path = "../common/mod.rs"]
mod common;
mod looks;
mod made;

use made::{hostile, large, small};
use std::io::Write;
use std::process::{Command, Stdio};

/// No page is larger, whatever the model (5 MB).
const LARGEST: usize = 5 << 20;

#[test]
fn a_page_says_what_was_asked_and_what_came_of_it() {
    let page = small();
    for words in [
        "make cnn.onnx forget class 7 of 10",
        "0 of 1",
        "9 of 9",
        "fc1.weight",
        "last layer",
        "aria-label=\"Before: class (rows) and answer (columns), labelled inputs\"",
        "<span class=\"tag\">chosen</span>",
        "alt=\"input of class 7, to be forgotten\"",
        "sha256 abab",
        "<span>--class</span> <span>7</span>",
        "cpu (embedded)",
        "learned harder than data",
    ] {
        assert!(page.contains(words), "{words:?} is not in the page");
    }
    assert_eq!(page.matches("data:image/png;base64,").count(), 10, "one picture a class");
}

#[test]
fn equal_runs_give_equal_bytes() {
    assert!(small() == made::small_again());
}

#[test]
fn names_from_strangers_are_words() {
    let page = hostile();
    assert!(page.contains("&#60;script&#62;alert(1)&#60;/script&#62;"), "the name is shown");
    assert!(!page.contains("<script") && !page.contains("<img src=x"), "and is not markup");
    assert!(!page.contains("x\" onload=\""), "and ends no attribute");
    assert!(!page.contains('\u{202e}'), "and turns no text around");
    assert!(page.len() < LARGEST);
}

#[test]
fn pages_stay_small() {
    let page = large(1_000, 10_000);
    assert!(page.len() < LARGEST, "{} bytes", page.len());
    for words in [
        "960 others",
        "9,959 other weights that changed less",
        "Of 1,000 classes these are the 12",
        "more classes are not shown",
    ] {
        assert!(page.contains(words), "{words:?} is not in the page");
    }
}

#[test]
fn an_independent_parser_finds_no_fault() {
    let python = std::env::var_os("ONNX_UNLEARN_PYTHON").unwrap_or_else(|| "python3".into());
    let there = Command::new(&python).args(["-c", "import html5lib"]).stderr(Stdio::null()).status();
    let there = there.is_ok_and(|s| s.success());
    let missing = || onnx_unlearn::Error::invalid("the Python package html5lib is missing");
    let Some(()) = common::available(there.then_some(()).ok_or_else(missing)) else { return };
    let parse = |page: &str| {
        let program = "import html5lib, sys; html5lib.HTMLParser(strict=True).parse(sys.stdin.buffer.read(), transport_encoding='utf-8')";
        let mut child =
            Command::new(&python).args(["-c", program]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for page in [small(), &hostile(), &large(1_000, 10_000)] {
        let (is_good, said) = parse(page);
        assert!(is_good, "{said}");
    }
    assert!(!parse(&small().replacen("</h1>", "", 1)).0, "a fault is found");
}
