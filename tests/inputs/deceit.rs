//! Files made to deceive.

use super::idx::idx;
use super::{f32_model, in_file, load_x, message, npy, zipped};
use onnx_unlearn::inputs::{Options, load, npz};
use proptest::prelude::*;
use tempfile::TempDir;
use zip::CompressionMethod;

#[test]
fn hostile_files_are_errors() {
    let model = f32_model(&[2], 10);
    let good = npy("<f4", "False", "(1, 2)", &[0; 8]);
    load_x(&good, 1, &model, &Options::default()).unwrap();
    let huge = [
        "(1, 2, 3)",                    // more than the entry holds
        "(1, 1)",                       // less
        "(4611686018427387904, 2)",     // 2^63 bytes and more
        "(18446744073709551615, 2)",    // overflow
        "(0, 18446744073709551615, 9)", // overflow hidden by a zero
        "(4294967296, 4294967296)",     // product wraps to 0
        "(0, 2)",                       // nothing
        "()",
        "(1000000000, 2)",
    ];
    for shape in huge {
        for order in ["True", "False"] {
            let x = npy("<f4", order, shape, &[0; 8]);
            load_x(&x, 1, &model, &Options::default()).expect_err(shape);
        }
    }
    for bytes in
        [&b""[..], b"\x93NUMPY", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", b"\x93NUMPY\x09\x00\x10\x00", &[0; 300]]
    {
        load_x(bytes, 1, &model, &Options::default()).unwrap_err();
    }
    // brackets without end would exhaust the stack of a recursive reader
    load_x(&npy("<f4", "False", &"(".repeat(9_000), &[]), 1, &model, &Options::default()).unwrap_err();
}

#[test]
fn a_zip_cannot_promise_more_than_it_holds() {
    let dir = TempDir::new().unwrap();
    let model = f32_model(&[2], 10);
    let x = npy("<f4", "False", "(1, 2)", &[0; 8]);
    let y = npy("|u1", "False", "(1,)", &[0]);
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let whole = zipped(&[("x.npy", &x), ("y.npy", &y)], method);
        load(&in_file(&dir, &whole), &model, &Options::default()).unwrap();
        for end in 0..whole.len() {
            load(&in_file(&dir, &whole[..end]), &model, &Options::default()).unwrap_err();
        }
        // the sizes in the central directory, 24 bytes into the entry, made to lie
        let at = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        for size in [0u32, 1, 1 << 20, 0xffff_fff0] {
            for field in [20, 24] {
                let mut lie = whole.clone();
                lie[at + field..at + field + 4].copy_from_slice(&size.to_le_bytes());
                load(&in_file(&dir, &lie), &model, &Options::default()).unwrap_err();
            }
        }
    }
    // one changed element: the checksum finds it
    let mut whole = zipped(&[("x.npy", &x), ("y.npy", &y)], CompressionMethod::Stored);
    let at = whole.windows(8).position(|w| w == [0; 8]).unwrap();
    whole[at + 3] ^= 1;
    assert!(message(load(&in_file(&dir, &whole), &model, &Options::default())).to_lowercase().contains("checksum"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), deflate: bool) {
        let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let x = npy("<f4", "False", "(2, 2)", &[1; 16]);
        let y = npy("<i8", "False", "(2,)", &[0; 16]);
        let mut bytes = zipped(&[("x.npy", &x), ("y.npy", &y)], method);
        for (at, v) in changes {
            let at = at.index(bytes.len());
            bytes[at] = v;
        }
        let dir = TempDir::new().unwrap();
        let path = in_file(&dir, &bytes);
        let _ = load(&path, &f32_model(&[2], 2), &Options::default());
        let _ = npz::keys(&path);
    }

    #[test]
    fn changed_headers_never_panic(text in "[(){}\\[\\]',: 0-9A-Za-z<|_]{0,80}") {
        let n = u16::try_from(text.len()).unwrap().to_le_bytes();
        let x = [b"\x93NUMPY\x01\x00", &n[..], text.as_bytes(), &[0; 8]].concat();
        prop_assert!(load_x(&x, 1, &f32_model(&[2], 2), &Options::default()).is_err());
    }

    #[test]
    fn idx_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), header in prop::bool::ANY) {
        let dir = TempDir::new().unwrap();
        let bytes = if header { [&[0, 0, 8, 3][..], &bytes].concat() } else { bytes };
        std::fs::write(dir.path().join("test-images-idx3-ubyte"), bytes).unwrap();
        std::fs::write(dir.path().join("test-labels-idx1-ubyte"), idx(8, &[1], &[0])).unwrap();
        let _ = load(dir.path(), &f32_model(&[2, 2], 2), &Options::default());
    }
}
