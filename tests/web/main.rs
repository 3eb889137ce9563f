//! Plans that are written out, played in a browser: a second implementation of WGSL and of everything below it.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod forget;
mod page;
mod site;
mod zoo;

use site::{Browser, Files, Posted, Site};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A browser that says nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a script of the harness sends until it is done; `None` without a browser.
fn play(script: &str, mut files: Files) -> Option<Vec<Posted>> {
    let _alone = alone();
    for (path, bytes) in [
        ("/harness.html", include_str!("harness.html")),
        ("/harness.js", include_str!("harness.js")),
        ("/web/player.js", include_str!("../../docs/web/player.js")),
        ("/web/forget.js", include_str!("../../docs/web/forget.js")),
    ] {
        files.insert(path.to_owned(), bytes.as_bytes().to_vec());
    }
    let site = Site::serve(files);
    let _browser = Browser::open(&site.url(&format!("/harness.html#{script}")))?;
    Some(listen(&site))
}

/// One browser at a time: each fills the processors.
fn alone() -> MutexGuard<'static, ()> {
    static BROWSER: Mutex<()> = Mutex::new(());
    BROWSER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a page sends until it is done.
fn listen(site: &Site) -> Vec<Posted> {
    let mut all = Vec::new();
    loop {
        let posted = site.next(PATIENCE);
        match posted.path.as_str() {
            "/done" => return all,
            "/failed" => panic!("the browser failed: {}", String::from_utf8_lossy(&posted.body)),
            "/adapter" => println!("{}", String::from_utf8_lossy(&posted.body)),
            _ => all.push(posted),
        }
    }
}
