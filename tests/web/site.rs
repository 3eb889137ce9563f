//! A web server for one test, and the browser that looks at it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the browser is given and what it sent, on a port of its own.
pub struct Site {
    port: u16,
    posted: Receiver<Posted>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What a page sent.
pub struct Posted {
    pub path: String,
    pub body: Vec<u8>,
}

/// Files by their path.
pub type Files = HashMap<String, Vec<u8>>;

impl Site {
    /// Serves these files; every POST is kept.
    pub fn serve(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, posted) = channel();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (files, log) = (Arc::new(files), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, log, sender) = (files.clone(), log.clone(), sender.clone());
                // a browser that is closed breaks its connections off
                std::thread::spawn(move || answer(stream, &files, &log, &sender));
            }
        });
        Self { port, posted, requests }
    }
    /// The address of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
    /// The next thing that a page sends.
    pub fn next(&self, patience: Duration) -> Posted {
        let next = self.posted.recv_timeout(patience);
        next.unwrap_or_else(|_| panic!("the browser sent nothing for {patience:?}; it asked for {:?}", self.requests()))
    }
    /// Method and path of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, files: &Files, log: &Mutex<Vec<String>>, sender: &Sender<Posted>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let (method, path) = line.split_once(' ')?;
        let path = path.split([' ', '?']).next()?.to_owned();
        log.lock().unwrap().push(format!("{method} {path}"));
        let is_post = method == "POST";
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let found = if is_post { Some(Vec::new()) } else { files.get(&path).cloned() };
        if is_post {
            sender.send(Posted { path: path.clone(), body }).ok()?;
        }
        let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
        let kind = match path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("json") => "application/json",
            _ => "application/octet-stream",
        };
        let content = found.unwrap_or_default();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", content.len());
        let stream = reader.get_mut();
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content)).ok()?;
    }
}

/// A browser without a window, in a profile of its own; closed when dropped.
pub struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

/// No window, no updates, and no host but this machine: a page that asks for another gets an error.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu-sandbox",
    // containers have little shared memory
    "--disable-dev-shm-usage",
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-vulkan=native",
    "--use-webgpu-adapter=swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-quic",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

impl Browser {
    /// Opens a page. Without a browser the test that asked is skipped, or fails where all engines are required.
    pub fn open(url: &str) -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
        let names = std::env::var("ONNX_UNLEARN_CHROMIUM").map_or(names.to_vec(), |name| vec![name]);
        let profile = tempfile::tempdir().unwrap();
        for name in &names {
            let mut command = Command::new(name);
            command.args(FLAGS).arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            #[cfg(unix)]
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            if let Ok(child) = command.spawn() {
                return Some(Self { child, _profile: profile });
            }
        }
        let why = format!("no browser: none of {} starts", names.join(", "));
        let required = std::env::var_os("ONNX_UNLEARN_REQUIRE_ENGINES").is_some() && cfg!(target_os = "linux");
        assert!(!required, "{why}");
        // straight to stderr: the test runner shows what `println` says of failed tests alone
        let _ = writeln!(std::io::stderr(), "skipped: {why}");
        None
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // its helpers belong to the same group
        #[cfg(unix)]
        if let Ok(group) = i32::try_from(self.child.id()) {
            // SAFETY: kill has no preconditions; the group is the one made in `open`
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
