//! The fuzz targets of `fuzz/` on the stable toolchain, for a bounded time: random changes to good files, and the
//! corpus that the fuzzers keep. No input may panic, hang, or take memory out of proportion.

use super::models::{self, classifier};
use onnx_unlearn::fuzz::{TARGETS, Target};
use onnx_unlearn::inputs::npz::write;
use onnx_unlearn::onnx::{ExportOptions, to_bytes};
use onnx_unlearn::ops;
use onnx_unlearn::record::{Secret, seal};
use onnx_unlearn::tensor::{Array, DType};
use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

/// Counts what this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    // a thread that is ending counts no more
    let _ = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(more).saturating_sub(less));
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: the system's allocator does the work
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that one input of a few kilobytes may make this program hold: folding stops at half of this.
const MOST_MEMORY: usize = 2 << 30;
/// Far beyond what any input takes.
const MOST_TIME: Duration = Duration::from_secs(60);

/// Runs one input through a target.
fn feed(target: Target, bytes: &[u8], case: &dyn Fn() -> String) {
    MOST.set(HELD.get());
    let (before, start) = (HELD.get(), Instant::now());
    let done = std::panic::catch_unwind(|| target.1(bytes));
    if done.is_err() {
        let path = std::env::temp_dir().join(format!("onnx-unlearn-{}-finding", target.0));
        std::fs::write(&path, bytes).unwrap();
        panic!("{} panics on {}, kept as {}", target.0, case(), path.display());
    }
    let (took, most) = (start.elapsed(), MOST.get() - before);
    assert!(took < MOST_TIME, "{} takes {took:?} for {}", target.0, case());
    assert!(most < MOST_MEMORY, "{} takes {} MiB for {}", target.0, most >> 20, case());
}

/// Small models: the classifier, and one per op out of its cases.
fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![classifier().encode_to_vec()];
    for op in ops::table() {
        for case in op.cases() {
            let Ok(built) = crate::common::build(op, &case, DType::F32) else { continue };
            if let Ok(bytes) = to_bytes(&built.graph, &ExportOptions::default())
                && bytes.len() < 4096
            {
                all.push(bytes);
                break;
            }
        }
    }
    all
}

fn codes() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.npz");
    models::codes(&path);
    vec![std::fs::read(path).unwrap(), two_inputs(dir.path())]
}

/// Samples of the first model that the target `npz` reads for.
fn two_inputs(folder: &Path) -> Vec<u8> {
    let path = folder.join("two.npz");
    let x = Array::full(&[4, 2, 3], 0.5f32);
    let mask = Array::from_vec(&[4, 3], vec![true; 12]).unwrap();
    write(&path, &[("x", &x), ("y", &Array::ints(&[0, 1, 2, 3])), ("mask", &mask)]).unwrap();
    std::fs::read(path).unwrap()
}

/// A whole Fisher and a part of one, as this program writes them.
fn fishers() -> Vec<Vec<u8>> {
    let room = super::Room::new();
    room.write("m.onnx", models::classifier().encode_to_vec());
    models::codes(&room.path("c.npz"));
    let args = ["fisher", "m.onnx", "--inputs", "c.npz", "--engine", "cpu", "-o"];
    let of = |more: &[&str]| {
        room.succeeds("a seed", &[&args[..], more].concat());
        std::fs::read(room.path("f")).unwrap()
    };
    vec![of(&["f"]), of(&["f", "--shard", "0/2"]), of(&["f", "--shard", "1/2", "--layers", "b1"])]
}

/// A record of the model that the target holds it against, bare and signed, and lists of class names.
fn records() -> Vec<Vec<u8>> {
    let bare = super::records::statement();
    let key = Secret::from_pem(super::records::SECRET).unwrap();
    let names = ["{0: 'cat', 1: 'dog'}", r#"{"cat": 0, "d\u006fg": 1}"#, "['cat', 'dog']", "cat,dog", "cat\ndog\n"];
    let texts = names.into_iter().map(|n| n.as_bytes().to_vec());
    [seal(bare.clone(), None).unwrap(), seal(bare, Some(&key)).unwrap()].into_iter().chain(texts).collect()
}

/// A few random changes, as fuzzers make them.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x08, 0x0a, 0x12];
    for _ in 0..rng.random_range(1..5) {
        if bytes.is_empty() {
            bytes.push(rng.random());
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at] = ODD[rng.random_range(0..ODD.len())],
            3 => bytes.insert(at, ODD[rng.random_range(0..ODD.len())]),
            4 => drop(bytes.remove(at)),
            5 => {
                let end = (at + rng.random_range(1..32)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let other = &others[rng.random_range(0..others.len())];
                if !other.is_empty() {
                    let from = rng.random_range(0..other.len());
                    let end = (from + rng.random_range(1..64)).min(other.len());
                    let over = (at + end - from).min(bytes.len());
                    bytes.splice(at..over, other[from..end].iter().copied());
                }
            }
        }
    }
}

/// `ONNX_UNLEARN_FUZZ` sets the executions of each target; a few seconds' worth otherwise.
fn executions() -> u64 {
    std::env::var("ONNX_UNLEARN_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(4000)
}

fn property(name: &str) {
    let seeds = &seeds_of(name);
    let target = *TARGETS.iter().find(|t| t.0 == name).unwrap();
    for (i, bytes) in seeds.iter().enumerate() {
        feed(target, bytes, &|| format!("seed {i}"));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for i in 0..executions() {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
        mutate(&mut bytes, seeds, &mut rng);
        feed(target, &bytes, &|| format!("execution {i}"));
    }
}

#[test]
fn load() {
    property("load");
}

#[test]
fn import() {
    property("import");
}

#[test]
fn patch() {
    property("patch");
}

#[test]
fn npz() {
    property("npz");
}

#[test]
fn safetensors() {
    property("safetensors");
}

#[test]
fn record() {
    property("record");
}

/// What the targets of a name start from.
fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "npz" => codes(),
        "safetensors" => fishers(),
        "record" => records(),
        _ => seeds(),
    }
}

/// With `ONNX_UNLEARN_SEEDS` set to a folder, the seeds are written there, for `cargo fuzz` to start from.
#[test]
fn seeds_for_fuzzers() {
    let Some(folder) = std::env::var_os("ONNX_UNLEARN_SEEDS") else { return };
    for (target, _) in TARGETS {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (i, bytes) in seeds_of(target).into_iter().enumerate() {
            std::fs::write(folder.join(format!("{i:03}")), bytes).unwrap();
        }
    }
}

/// Every file that the fuzzers found worth keeping, every finding among them.
#[test]
fn the_corpus() {
    let mut files = 0;
    for target in TARGETS {
        for folder in ["seeds", "findings"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(target.0);
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                feed(target, &bytes, &|| path.display().to_string());
                files += 1;
            }
        }
    }
    assert!(files > 0, "fuzz/seeds is missing");
}
