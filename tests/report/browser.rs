//! A headless Chromium that is told what to do through its DevTools protocol, on a pipe.

use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No test of a page takes this long; a browser that hangs is ended.
const PATIENCE: Duration = Duration::from_secs(240);

const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// One page in one browser.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    calls: u64,
    events: Vec<Value>,
    ended: Arc<AtomicBool>,
    _profile: TempDir,
}

/// What a page asked for and complained of while it was shown.
#[derive(Debug, Default)]
pub struct Heard {
    /// Addresses, but for the page's own and those that hold their content.
    pub requests: Vec<String>,
    /// Lines in the console.
    pub console: Vec<String>,
}

/// The browser's program, if there is one.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("ONNX_UNLEARN_CHROMIUM") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|n| folders.iter().map(move |f| f.join(n))).find(|p| p.is_file())
}

impl Browser {
    /// Starts a browser with a profile of its own.
    pub fn start() -> onnx_unlearn::Result<Self> {
        let missing = || onnx_unlearn::Error::invalid("no chromium was found; looks of pages are not tested");
        if !cfg!(unix) {
            return Err(missing());
        }
        let program = program().ok_or_else(missing)?;
        let profile = tempfile::tempdir().unwrap();
        // the pipe is expected at the descriptors 3 and 4
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 >/dev/null", "sh"])
            .arg(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let ended = Arc::new(AtomicBool::new(false));
        let (watched, id) = (Arc::clone(&ended), child.id());
        std::thread::spawn(move || {
            let start = Instant::now();
            while !watched.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                if start.elapsed() > PATIENCE {
                    let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
                    return;
                }
            }
        });
        let mut this = Self { child, to, from, session: None, calls: 0, events: vec![], ended, _profile: profile };
        let target = this.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = this.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        this.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Network", "Runtime", "Log"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        Ok(this)
    }

    /// Calls a method; its answer.
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.to.flush().unwrap();
        loop {
            let mut answer = self.read();
            if answer["id"] == json!(self.calls) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser ended");
        serde_json::from_slice(&bytes).unwrap()
    }

    fn wait_for(&mut self, method: &str) {
        while !self.events.iter().any(|e| e["method"] == json!(method)) {
            let event = self.read();
            self.events.push(event);
        }
    }

    /// Shows a file.
    pub fn open(&mut self, path: &Path) {
        self.events.clear();
        self.call("Page.navigate", json!({"url": address(path)}));
        self.wait_for("Page.loadEventFired");
    }

    /// How wide the window is and whether it is dark, or how the page is printed.
    pub fn show_as(&mut self, width: u32, is_dark: bool, is_print: bool) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if is_dark { "dark" } else { "light" };
        let media = if is_print { "print" } else { "screen" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"media": media, "features": features}));
    }

    /// The value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let mut answer = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(answer.get("exceptionDetails").is_none(), "{answer}");
        answer["result"]["value"].take()
    }

    /// The whole page as a PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        let size = self.call("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        bytes(
            &self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true, "clip": clip})),
        )
    }

    /// The page as it is printed, a PDF.
    pub fn print(&mut self) -> Vec<u8> {
        self.call("Emulation.clearDeviceMetricsOverride", json!({}));
        self.call("Emulation.setEmulatedMedia", json!({"media": "", "features": []}));
        bytes(
            &self.call("Page.printToPDF", json!({"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": true})),
        )
    }

    /// What the page that was opened last asked for and complained of until now.
    pub fn heard(&mut self, path: &Path) -> Heard {
        // an answer comes after all that happened before
        self.evaluate("0");
        let own = address(path);
        let mut heard = Heard::default();
        for event in &self.events {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    let url = params["request"]["url"].as_str().unwrap();
                    if url != own && !url.starts_with("data:") {
                        heard.requests.push(url.to_owned());
                    }
                }
                "Log.entryAdded" | "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" => {
                    heard.console.push(params.to_string());
                }
                _ => {}
            }
        }
        heard
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = None;
        self.calls += 1;
        let close = json!({"id": self.calls, "method": "Browser.close"});
        if self.to.write_all(format!("{close}\0").as_bytes()).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn address(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn bytes(answer: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(answer["data"].as_str().unwrap()).unwrap()
}
