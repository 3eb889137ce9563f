//! How a browser shows and prints the pages. `$ONNX_UNLEARN_SCREENSHOTS` names a folder that pictures of them are left in.

use crate::audits;
use crate::browser::Browser;
use crate::common::available;
use crate::made::{WORDS, hostile, large, small};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

const WIDTHS: [u32; 3] = [1280, 800, 400];

/// What the probe finds wrong with what is shown.
fn wrong(browser: &mut Browser) -> Vec<String> {
    let found = browser.evaluate(include_str!("probe.js"));
    found.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

/// Pages of a PDF.
fn sheets(pdf: &[u8]) -> usize {
    let mark = b"/Type /Page";
    pdf.windows(mark.len() + 1).filter(|w| w.starts_with(mark) && !w.ends_with(b"s")).count()
}

fn keep(name: &str, bytes: &[u8]) {
    if let Some(folder) = std::env::var_os("ONNX_UNLEARN_SCREENSHOTS") {
        std::fs::write(Path::new(&folder).join(name), bytes).unwrap();
    }
}

/// Shows a page in all widths and schemes, and prints it; between how many sheets it has to take.
fn check(browser: &mut Browser, room: &TempDir, name: &str, page: &str, least: usize, most: usize) {
    let path = room.path().join(format!("{name}.html"));
    std::fs::write(&path, page).unwrap();
    keep(&format!("{name}.html"), page.as_bytes());
    browser.open(&path);
    for width in WIDTHS {
        for is_dark in [false, true] {
            browser.show_as(width, is_dark, false);
            let scheme = if is_dark { "dark" } else { "light" };
            let found = wrong(browser);
            assert!(found.is_empty(), "{name}, {width} px, {scheme}: {found:#?}");
            if std::env::var_os("ONNX_UNLEARN_SCREENSHOTS").is_some() {
                keep(&format!("{name}-{width}-{scheme}.png"), &browser.picture());
            }
        }
    }
    // on paper what is folded away is there, and dark screens print on white
    browser.show_as(760, true, true);
    let background = browser.evaluate("getComputedStyle(document.body).backgroundColor");
    assert_eq!(background, Value::from("rgb(255, 255, 255)"), "{name}");
    let unfolded = browser.evaluate("[...document.querySelectorAll('details tr')].every((r) => r.checkVisibility({contentVisibilityAuto: true}) && r.getBoundingClientRect().height > 0)");
    assert_eq!(unfolded, Value::from(true), "{name}");
    let pdf = browser.print();
    keep(&format!("{name}.pdf"), &pdf);
    let sheets = sheets(&pdf);
    assert!((least..=most).contains(&sheets), "{name}: {sheets} sheets");
    let heard = browser.heard(&path);
    assert!(heard.requests.is_empty() && heard.console.is_empty(), "{name}: {heard:?}");
}

#[test]
fn pages_look_right_in_a_browser_and_in_print() {
    let Some(mut browser) = available(Browser::start()) else { return };
    let room = tempfile::tempdir().unwrap();
    check(&mut browser, &room, "forget", small(), 3, 6);
    check(&mut browser, &room, "hostile", &hostile(), 3, 6);
    check(&mut browser, &room, "large", &large(1_000, 10_000), 5, 10);
}

#[test]
fn pages_of_audits_look_right_in_a_browser_and_in_print() {
    let Some(mut browser) = available(Browser::start()) else { return };
    let room = tempfile::tempdir().unwrap();
    check(&mut browser, &room, "audit", audits::small(), 6, 11);
    check(&mut browser, &room, "audit-hostile", &audits::hostile(WORDS), 4, 8);
    check(&mut browser, &room, "audit-large", &audits::large(1_000, 10_000), 5, 11);
}

#[test]
fn the_probe_sees_what_is_wrong() {
    let Some(mut browser) = available(Browser::start()) else { return };
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("wrong.html");
    let mut shown = |from: &str, to: &str| {
        let page = small().replacen(from, to, 1);
        assert!(page != small(), "{from:?} is not in the page");
        std::fs::write(&path, page).unwrap();
        browser.open(&path);
        browser.show_as(400, false, false);
        (wrong(&mut browser).join("\n"), browser.heard(&path))
    };
    let said = |from, to, words: &str, shown: &mut dyn FnMut(&'static str, &'static str) -> (String, _)| {
        let (found, _) = shown(from, to);
        assert!(found.contains(words), "{words:?} is not in {found:?}");
    };
    said("--soft: #555b66", "--soft: #9a9a9a", "contrast 2.", &mut shown);
    said("<main>", "<main><p style=\"width: 900px; max-width: none\">wide</p>", "wider than the window", &mut shown);
    said("alt=\"input of class 7, to be forgotten\"", "alt=\"\"", "a picture without words", &mut shown);
    said("data:image/png;base64,iVBO", "data:image/png;base64,AAAA", "not shown", &mut shown);
    said("<h2 id=\"answers\"", "<h4 id=\"answers\"", "a level of headings", &mut shown);
    said("font: 12px system-ui", "font: 5px system-ui", "letters of", &mut shown);
    let (_, heard) = shown("<main>", "<main><img alt=\"x\" src=\"http://127.0.0.1:9/x.png\">");
    assert!(!heard.console.is_empty(), "the page's own rule keeps it from asking, and the browser says so");
    let rule = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
    let (_, heard) = shown(rule, "img-src *\"><link rel=\"stylesheet\" href=\"http://127.0.0.1:9/x.css");
    assert_eq!(heard.requests, ["http://127.0.0.1:9/x.css"]);
}
