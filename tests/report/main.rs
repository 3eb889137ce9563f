//! Pages that tell of a run: what stands in them, how large they get, and how a browser shows them.

mod audits;
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
        "aria-label=\"Before: class (rows), answer (columns), inputs\"",
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

/// Codes may be known by heart: inputs that were made beside them tell what the body still knows.
#[test]
fn made_inputs_tell_whether_a_class_is_hidden() {
    let (hidden, gone) = (made::beside(6), made::beside(0));
    for words in ["hidden more than forgotten", "6 of 8", "made inputs of the class"] {
        assert!(hidden.contains(words), "{words:?} is not in the page");
    }
    assert!(gone.contains("0 of 8") && !gone.contains("hidden more than forgotten"));
}

#[test]
fn equal_runs_give_equal_bytes() {
    assert!(small() == made::small_again());
}

#[test]
fn a_page_of_an_audit_shows_all_that_was_measured() {
    let page = audits::small();
    for words in [
        "whether cnn_without_0.onnx has forgotten class 0",
        "1 model trained without class 0",
        "accuracy on retained classes (A_R)",
        "AUC of the loss attack",
        "<path class=\"line s4\"",
        "not measured",
        "Where the change lies",
        "code of class 0, to be forgotten",
        "<span>--members</span>",
        "reference: cnn_without_0_again.onnx",
    ] {
        assert!(page.contains(words), "{words:?} is not in the page");
    }
    for name in ["answers", "membership inference", "class leak", "features", "code trigger"] {
        assert!(page.contains(&format!("Numbers of the measure “{name}”")), "{name}");
    }
    assert_eq!(page.matches("data:image/png;base64,").count(), 10, "the codes, and no sample of the data");
}

#[test]
fn names_from_strangers_are_words() {
    for page in [hostile(), audits::hostile(made::WORDS)] {
        assert!(page.contains("&#60;script&#62;alert(1)&#60;/script&#62;"), "the name is shown");
        assert!(!page.contains("<script") && !page.contains("<img src=x"), "and is not markup");
        assert!(!page.contains("x\" onload=\""), "and ends no attribute");
        assert!(!page.contains('\u{202e}'), "and turns no text around");
        assert!(page.len() < LARGEST);
    }
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
    let page = audits::large(1_000, 10_000);
    assert!(page.len() < LARGEST, "{} bytes", page.len());
    for words in ["960 others", "9,960 other weights", "Of 1,000 classes these are the 12"] {
        assert!(page.contains(words), "{words:?} is not in the page of an audit");
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
    let hostile = [hostile(), audits::hostile(made::WORDS)];
    let large = [large(1_000, 10_000), audits::large(1_000, 10_000)];
    for page in hostile.iter().chain(&large).map(String::as_str).chain([small(), audits::small()]) {
        let (is_good, said) = parse(page);
        assert!(is_good, "{said}");
    }
    assert!(!parse(&small().replacen("</h1>", "", 1)).0, "a fault is found");
}

/// A run of the command in a folder of its own; what it left there.
fn told(room: &std::path::Path, more: &[&str]) -> std::process::Output {
    let (model, codes) = (common::fixture("mlp.onnx"), common::fixture("mlp.codes.npz"));
    let args = ["forget", common::arg(&model), "--inputs", common::arg(&codes), "--class", "3", "--engine", "cpu"];
    common::tool(args.iter().chain(more)).current_dir(room).output().unwrap()
}

#[test]
fn the_command_writes_the_page_with_the_model() {
    let room = tempfile::tempdir().unwrap();
    let out = told(room.path(), &["-o", "new.onnx", "--report", "new.html"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let page = std::fs::read_to_string(room.path().join("new.html")).unwrap();
    let sha256 = |path: &std::path::Path| {
        use sha2::Digest;
        let sum = sha2::Sha256::digest(std::fs::read(path).unwrap());
        sum.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let files = [common::fixture("mlp.onnx"), common::fixture("mlp.codes.npz"), room.path().join("new.onnx")]
        .map(|p| sha256(&p));
    for words in
        files.iter().map(String::as_str).chain(["class 3", "<span>--report</span> <span>new.html</span>", "cpu"])
    {
        assert!(page.contains(words), "{words:?} is not in the page");
    }
    let again = told(room.path(), &["-o", "new.onnx", "--report", "new.html"]);
    assert!(again.status.success());
    assert!(page == std::fs::read_to_string(room.path().join("new.html")).unwrap(), "equal runs, equal bytes");
}

#[test]
fn without_its_page_no_model_is_written() {
    let room = tempfile::tempdir().unwrap();
    let refused = |report: &str, words: &str| {
        let out = told(room.path(), &["-o", "new.onnx", "--report", report]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{words:?} is not in {said}");
        assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0, "{report}: something is left");
    };
    refused("new.onnx", "new.onnx");
    refused("missing/new.html", "does not exist");
    refused(common::arg(&common::fixture("mlp.codes.npz")), "read as well");
}
