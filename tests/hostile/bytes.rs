//! Bytes that are no model, or nearly one.

use super::Room;
use super::child::Limits;
use super::models::{self, classifier, field};
use onnx_unlearn::onnx::Model;
use prost::Message;
use std::io::{Seek, SeekFrom, Write};

#[test]
fn the_classifier_itself_is_fine() {
    let room = Room::new();
    room.write("m.onnx", classifier().encode_to_vec());
    models::codes(&room.path("c.npz"));
    room.succeeds("control", &["inspect", "m.onnx"]);
    room.succeeds("control", &models::forget("m.onnx", &["-o", "out.onnx"]));
    assert_ne!(std::fs::read(room.path("m.onnx")).unwrap(), std::fs::read(room.path("out.onnx")).unwrap());
}

/// Offsets at which a field of any message of the model starts or ends, and where its key and its length end.
fn boundaries(bytes: &[u8], base: usize, out: &mut Vec<usize>, depth: usize) -> bool {
    let mut rest = bytes;
    let at = |rest: &[u8]| base + bytes.len() - rest.len();
    while !rest.is_empty() {
        out.push(at(rest));
        let Ok(key) = prost::encoding::decode_varint(&mut rest) else { return false };
        out.push(at(rest));
        let skip = match key & 7 {
            0 => prost::encoding::decode_varint(&mut rest).map(|_| 0).ok(),
            1 => Some(8),
            5 => Some(4),
            2 => prost::encoding::decode_varint(&mut rest).map(|n| n as usize).ok(),
            _ => None,
        };
        let Some(skip) = skip.filter(|&n| n <= rest.len() && key >> 3 > 0) else { return false };
        out.push(at(rest));
        let mut inner = Vec::new();
        if key & 7 == 2 && depth < 8 && boundaries(&rest[..skip], at(rest), &mut inner, depth + 1) {
            out.extend(inner);
        }
        rest = &rest[skip..];
    }
    true
}

#[test]
fn truncated_at_every_field_boundary() {
    let room = Room::new();
    let whole = classifier().encode_to_vec();
    let mut cuts = Vec::new();
    assert!(boundaries(&whole, 0, &mut cuts, 0));
    cuts.sort_unstable();
    cuts.dedup();
    assert!(cuts.len() > 150, "{} boundaries", cuts.len());
    for cut in cuts.into_iter().filter(|&c| c < whole.len()) {
        // protobuf has no end mark: a file cut between two fields of the model is a model without what followed,
        // and this one lacks its graph then
        Model::from_bytes("cut", whole[..cut].to_vec()).expect_err(&format!("cut at {cut}"));
        if cut % 7 == 0 {
            room.write("m.onnx", &whole[..cut]);
            room.refuses(&format!("cut at {cut}"), &["inspect", "m.onnx"], &["m.onnx: ", "ONNX model"]);
        }
    }
}

#[test]
fn bytes_that_are_no_model() {
    let good = classifier().encode_to_vec();
    let graph = classifier().graph.unwrap().encode_to_vec();
    let without = |change: fn(&mut onnx_unlearn::onnx::proto::ModelProto)| {
        let mut m = classifier();
        change(&mut m);
        m.encode_to_vec()
    };
    let mut long_varint = vec![0x08];
    long_varint.extend([0x80; 10]);
    long_varint.push(0);
    let nested = |depth: usize| {
        // graph > node > attribute > graph > …
        let mut reversed: Vec<u8> = Vec::new();
        for level in (0..depth).rev() {
            let number = if level == 0 { 7 } else { [6, 1, 5][level % 3] };
            let mut head = vec![number << 3 | 2];
            prost::encoding::encode_varint(reversed.len() as u64, &mut head);
            reversed.extend(head.iter().rev());
        }
        reversed.reverse();
        [vec![0x08, 8], reversed].concat()
    };
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", vec![], &["the file is empty"]),
        ("one byte", vec![0x08], &["byte 1"]),
        ("one zero byte", vec![0], &["field number"]),
        ("trailing zeros", [&good[..], &[0; 5]].concat(), &["field number out of range"]),
        ("trailing text", [&good[..], b"\nmore"].concat(), &["ONNX model"]),
        ("trailing start of a field", [&good[..], &[0x0a, 9, 1]].concat(), &["9 bytes where 1 are left"]),
        ("varint of 11 bytes", long_varint, &["longer than 64 bits"]),
        ("varint of 10 bytes above 64 bits", [&[0x08][..], &[0xff; 9], &[2]].concat(), &["longer than 64 bits"]),
        ("length beyond the file", [&[0x08, 8][..], &[0x3a, 0xff, 0xff, 0xff, 0x7f]].concat(), &["are left"]),
        ("length of 2^64 - 1", [&[0x08, 8, 0x3a][..], &[0xff; 9], &[1]].concat(), &["are left"]),
        ("nesting 101", nested(101), &["nest deeper than 100"]),
        ("nesting 100,000", nested(100_000), &["nest deeper than 100"]),
        ("nested unknown groups", [&[0x08, 8][..], &vec![0x0b; 1 << 20]].concat(), &["group"]),
        ("a group that ends", [&good[..], &[0x0c]].concat(), &["group"]),
        (
            "wrong UTF-8 in a name",
            [&[0x08, 8][..], &field(7, &field(2, &[b'a', 0xc3]))].concat(),
            &["UTF-8", "graph.name"],
        ),
        ("no ir_version", without(|m| m.ir_version = None), &["no ir_version"]),
        ("ir_version 0", without(|m| m.ir_version = Some(0)), &["no ir_version"]),
        ("negative ir_version", without(|m| m.ir_version = Some(-3)), &["no ir_version"]),
        ("no operator set", without(|m| m.opset_import.clear()), &["no opset_import"]),
        (
            "operator set of another domain alone",
            without(|m| m.opset_import[0].domain = Some("x".into())),
            &["operator set"],
        ),
        ("operator set 10^18", without(|m| m.opset_import[0].version = Some(10_i64.pow(18))), &["newer than"]),
        ("negative operator set", without(|m| m.opset_import[0].version = Some(-1)), &["older than"]),
        ("no graph", without(|m| m.graph = None), &["no graph"]),
        ("two graphs", [&good[..], &field(7, &graph)].concat(), &["stands twice"]),
        (
            "two raw_data",
            [&[0x08, 8][..], &field(7, &field(5, &[field(9, &[0; 4]), field(9, &[1; 4])].concat()))].concat(),
            &["raw_data", "stands twice"],
        ),
        ("wrong wire type", vec![0x08, 8, 0x3d, 0, 0, 0, 0], &["wire type"]),
        ("a GIF", b"GIF89a\x01\0\x01\0".to_vec(), &["not an ONNX model"]),
        ("a pickle", b"\x80\x02}q\0.".to_vec(), &["not an ONNX model"]),
    ];
    let room = Room::new();
    for (case, bytes, words) in cases {
        room.write("m.onnx", bytes);
        room.refuses_model(case, "m.onnx", &[&["m.onnx"], words].concat());
    }
}

/// Of a scalar that stands twice the last one counts, as protobuf says.
#[test]
fn repeated_singular_fields() {
    let room = Room::new();
    room.write("m.onnx", [&[0x08, 0][..], &classifier().encode_to_vec(), &[0x08, 9]].concat());
    let ended = room.succeeds("ir_version three times", &["inspect", "m.onnx", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["ir_version"], 9);
    let mut bytes = classifier().encode_to_vec();
    bytes.extend([0x08, 0]);
    room.write("m.onnx", bytes);
    room.refuses_model("the last ir_version is 0", "m.onnx", &["no ir_version"]);
}

#[test]
fn files_over_2_gib() {
    let room = Room::new();
    let path = room.write("m.onnx", classifier().encode_to_vec());
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // a sparse file: nothing of it is read
    file.set_len((2 << 30) + 5).unwrap();
    file.seek(SeekFrom::End(-1)).and_then(|_| file.write_all(b"x")).unwrap();
    let ended = super::child::run(room.root(), &["inspect", "m.onnx"], &Limits::default());
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("2 GiB") && ended.stderr.contains("external data"), "{}", ended.stderr);
    assert_eq!(room.names(), ["m.onnx"]);
}

/// Two bytes each in the file, hundreds when decoded.
#[test]
fn decoding_takes_no_more_memory_than_promised() {
    let room = Room::new();
    for (case, element) in [("empty attributes", [5 << 3 | 2, 0]), ("empty inputs", [1 << 3 | 2, 0])] {
        let node = field(1, &element.repeat(6 << 20));
        room.write("m.onnx", [&[0x08, 8][..], &field(7, &node)].concat());
        let limits = Limits { memory: 3 << 30, ..Limits::default() };
        let ended = super::child::run(room.root(), &["inspect", "m.onnx"], &limits);
        assert_eq!(ended.code, Some(2), "{case}: {}", ended.stderr);
    }
}
