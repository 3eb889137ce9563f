//! Graphs that do not hold together, go round in circles, or cost too much.

use super::Room;
use super::child::Limits;
use super::models::{
    self, CLASSES, attribute, changed, classifier, field, floats, int, ints, model_of, node, raw, value,
};
use onnx_unlearn::onnx::proto::*;
use prost::Message;

fn numbers(name: &str, v: &[i64]) -> TensorProto {
    let bytes: Vec<u8> = v.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw(name, DataType::Int64, &[v.len() as i64], bytes)
}

#[test]
fn graphs_that_do_not_hold_together() {
    let relu = |x: &str, y: &str| node("Relu", &[x], &[y], vec![]);
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("a node that reads itself", changed(|g| g.node[1] = relu("r", "r")), &[]),
        (
            "two nodes that read each other",
            changed(|g| {
                g.node[1] = relu("b", "r");
                g.node.insert(2, relu("r", "b"));
            }),
            &[],
        ),
        ("nodes in the wrong order", changed(|g| g.node.reverse()), &["'r'", "before"]),
        ("a dangling input", changed(|g| g.node[1].input[0] = "nowhere".into()), &["'nowhere'"]),
        ("a dangling output", changed(|g| g.output[0].name = Some("nowhere".into())), &["'nowhere'"]),
        ("a value given twice", changed(|g| (g.node[1].output[0], g.node[2].input[0]) = ("h".into(), "h".into())), &[]),
        (
            "a node that shadows a weight",
            changed(|g| (g.node[1].output[0], g.node[2].input[0]) = ("w1".into(), "w1".into())),
            &["'w1'", "twice"],
        ),
        (
            "a node that shadows the input",
            changed(|g| (g.node[0].output[0], g.node[1].input[0]) = ("x".into(), "x".into())),
            &["'x'", "twice"],
        ),
        ("an input listed twice", changed(|g| g.input.push(g.input[0].clone())), &["'x'", "twice"]),
        ("no input", changed(|g| g.input.clear()), &["'x'"]),
        ("no output", changed(|g| g.output.clear()), &["output"]),
        ("no node", changed(|g| g.node.clear()), &["logits"]),
        ("an output without a name", changed(|g| g.output[0].name = None), &[]),
        ("an op without a name", changed(|g| g.node[1].op_type = None), &["not supported"]),
        ("an op with a NUL", changed(|g| g.node[1].op_type = Some("Re\0lu".into())), &["not supported"]),
        ("an op of 100,000 letters", changed(|g| g.node[1].op_type = Some("x".repeat(100_000))), &["not supported"]),
        ("a node without outputs", changed(|g| g.node[1].output.clear()), &[]),
        ("too many inputs", changed(|g| g.node[1].input = vec!["h".into(); 9]), &["Relu"]),
        ("ten thousand outputs", changed(|g| g.node[1].output.extend((0..10_000).map(|i| format!("o{i}")))), &["Relu"]),
        (
            "an input of unknown type",
            changed(|g| g.input[0] = ValueInfoProto { name: Some("x".into()), ..Default::default() }),
            &["'x'"],
        ),
        (
            "an input of negative extent",
            changed(|g| {
                let mut v = value("x", &[0, 4]);
                if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut()) {
                    t.shape.as_mut().unwrap().dim[1].value = Some(dimension::Value::DimValue(-4));
                }
                g.input[0] = v;
            }),
            &["'x'", "-4"],
        ),
        ("an input of 2^62 elements", changed(|g| g.input[0] = value("x", &[0, 1 << 31, 1 << 31])), &["x"]),
        ("a batch of 2^40", changed(|g| g.input[0] = value("x", &[1 << 40, 4])), &["m.onnx"]),
    ];
    let room = Room::new();
    for (case, bytes, words) in cases {
        room.write("m.onnx", bytes);
        room.refuses_model(case, "m.onnx", &[&["m.onnx"], words].concat());
    }
}

/// A model that puts one node with an image before its last layer.
fn image(nodes: Vec<NodeProto>, more: Vec<TensorProto>) -> Vec<u8> {
    let mut all = nodes;
    all.push(node("Flatten", &["y"], &["f"], vec![]));
    all.push(node("Gemm", &["f", "head"], &["logits"], vec![]));
    let weights = [more, vec![floats("head", &[2 * 8 * 8, CLASSES], 1)]].concat();
    model_of(all, weights, &[0, 2, 8, 8]).encode_to_vec()
}

#[test]
fn attributes_that_make_no_sense() {
    let conv =
        |a: Vec<AttributeProto>| image(vec![node("Conv", &["x", "k"], &["y"], a)], vec![floats("k", &[2, 2, 3, 3], 1)]);
    let pool = |a: Vec<AttributeProto>| image(vec![node("MaxPool", &["x"], &["y"], a)], vec![]);
    let pads = || ints("pads", &[1, 1, 1, 1]);
    let one = |op: &str, a: Vec<AttributeProto>| image(vec![node(op, &["x"], &["y"], a)], vec![]);
    let two = |op: &str, v: &[i64], a: Vec<AttributeProto>| {
        image(vec![node(op, &["x", "n"], &["y"], a)], vec![numbers("n", v)])
    };
    let string =
        |name: &str, v: &[u8]| AttributeProto { s: Some(v.to_vec().into()), ..attribute(name, AttributeType::String) };
    let max = i64::MAX;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("stride 0", conv(vec![pads(), ints("strides", &[0, 1])]), "strides"),
        ("stride negative", conv(vec![pads(), ints("strides", &[-1, 1])]), "strides"),
        ("stride 2^63 - 1", conv(vec![pads(), ints("strides", &[max, max])]), ""),
        ("strides of another rank", conv(vec![pads(), ints("strides", &[1])]), "strides"),
        ("dilation 0", conv(vec![pads(), ints("dilations", &[0, 0])]), "dilations"),
        ("dilation 2^63 - 1", conv(vec![pads(), ints("dilations", &[max, max])]), ""),
        ("pads negative beyond the image", conv(vec![ints("pads", &[-9, -9, -9, -9])]), ""),
        ("pads 2^63 - 1", conv(vec![ints("pads", &[max; 4])]), ""),
        ("pads of three numbers", conv(vec![ints("pads", &[1, 1, 1])]), "pads"),
        ("group 0", conv(vec![pads(), int("group", 0)]), "group"),
        ("group negative", conv(vec![pads(), int("group", -2)]), "group"),
        ("group that does not divide", conv(vec![pads(), int("group", 3)]), "group"),
        ("kernel_shape that is not the kernel's", conv(vec![pads(), ints("kernel_shape", &[5, 5])]), "kernel_shape"),
        ("unknown auto_pad", conv(vec![string("auto_pad", b"SOMEHOW")]), "SOMEHOW"),
        ("auto_pad of wrong UTF-8", conv(vec![string("auto_pad", b"\xff\xfe")]), "UTF-8"),
        ("pool without a kernel", pool(vec![]), "kernel_shape"),
        ("pool kernel 0", pool(vec![ints("kernel_shape", &[0, 0])]), "kernel_shape"),
        ("pool kernel negative", pool(vec![ints("kernel_shape", &[-1, 3])]), "kernel_shape"),
        ("pool kernel beyond the image", pool(vec![ints("kernel_shape", &[99, 99])]), ""),
        ("pool kernel 2^63 - 1", pool(vec![ints("kernel_shape", &[max, max])]), ""),
        ("pads beyond the kernel", pool(vec![ints("kernel_shape", &[3, 3]), ints("pads", &[9, 9, 9, 9])]), ""),
        ("axis out of range", one("Softmax", vec![int("axis", 7)]), "axis"),
        ("axis below the range", one("Softmax", vec![int("axis", -9)]), "axis"),
        ("axis -2^63", one("Softmax", vec![int("axis", i64::MIN)]), "axis"),
        ("perm that repeats", one("Transpose", vec![ints("perm", &[0, 1, 1, 2])]), "perm"),
        ("perm out of range", one("Transpose", vec![ints("perm", &[0, 1, 2, 9])]), "perm"),
        ("perm too short", one("Transpose", vec![ints("perm", &[0, 1])]), "perm"),
        ("an attribute of the wrong type", one("Softmax", vec![string("axis", b"1")]), "axis"),
        ("two -1 in Reshape", two("Reshape", &[-1, -1], vec![]), "-1"),
        ("-2 in Reshape", two("Reshape", &[-2, 128], vec![]), "-2"),
        ("Reshape to other elements", two("Reshape", &[5, 5], vec![]), "Reshape"),
        ("Reshape to 2^63 - 1", two("Reshape", &[max, max], vec![]), "Reshape"),
        ("Reshape that copies what is not there", two("Reshape", &[0, 0, 0, 0, 0, 0], vec![]), "Reshape"),
        ("Expand to 2^62 elements", two("Expand", &[1 << 31, 2, 8, 8], vec![]), ""),
        ("Expand to a negative extent", two("Expand", &[-8, 2, 8, 8], vec![]), ""),
        ("Unsqueeze out of range", two("Unsqueeze", &[99], vec![]), ""),
        ("Squeeze of an extent above 1", two("Squeeze", &[1], vec![]), "Squeeze"),
        ("Gather out of range", two("Gather", &[99], vec![int("axis", 1)]), "99"),
        ("Pad of three numbers", two("Pad", &[1, 1, 1], vec![]), "Pad"),
        ("Pad 2^62", two("Pad", &[1 << 62, 0, 0, 0, 0, 0, 0, 0], vec![]), ""),
        ("Pad to less than nothing", two("Pad", &[-99, 0, 0, 0, 0, 0, 0, 0], vec![]), ""),
        (
            "a sequence of graphs as an attribute",
            one("Softmax", vec![attribute("axis", AttributeType::Graphs)]),
            "axis",
        ),
        (
            "an attribute of type 77",
            one("Softmax", vec![AttributeProto { r#type: Some(77), ..int("axis", 1) }]),
            "axis",
        ),
    ];
    let room = Room::new();
    for (case, bytes, word) in cases {
        room.write("m.onnx", bytes);
        room.refuses_model(case, "m.onnx", &["m.onnx", word]);
    }
}

/// `depth` control-flow nodes, each in a branch of the one before.
fn nested(op: &str, attribute_name: &str, depth: usize) -> NodeProto {
    let mut inner = node("Identity", &["x"], &["y"], vec![]);
    for _ in 0..depth {
        let g = GraphProto { node: vec![inner], output: vec![value("y", &[0, 4])], ..Default::default() };
        let branch = AttributeProto { g: Some(Box::new(g)), ..attribute(attribute_name, AttributeType::Graph) };
        inner = node(op, &["x"], &["y"], vec![branch]);
    }
    inner
}

#[test]
fn control_flow_is_refused_fast() {
    let room = Room::new();
    for (op, branch) in [("If", "then_branch"), ("Loop", "body"), ("Scan", "body")] {
        for depth in [1, 20, 30] {
            let flow = |g: &mut GraphProto| {
                g.node[0].input[0] = "y".into();
                g.node.insert(0, nested(op, branch, depth));
            };
            room.write("m.onnx", changed(flow));
            room.refuses_model(&format!("{op} nested {depth} deep"), "m.onnx", &["m.onnx", op]);
        }
    }
}

fn function(name: &str, calls: &[&str]) -> FunctionProto {
    let nodes = calls.iter().enumerate().map(|(i, f)| NodeProto {
        domain: Some("own".into()),
        ..node(f, &["a"], &[if i + 1 == calls.len() { "b" } else { "c" }], vec![])
    });
    FunctionProto {
        name: Some(name.into()),
        domain: Some("own".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: nodes.collect(),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..Default::default()
    }
}

#[test]
fn functions_that_call_themselves() {
    let with = |functions: Vec<FunctionProto>| {
        let mut m = classifier();
        m.functions = functions;
        m.opset_import.push(OperatorSetIdProto { domain: Some("own".into()), version: Some(1) });
        m.graph.as_mut().unwrap().node[1] =
            NodeProto { domain: Some("own".into()), ..node("f0", &["h"], &["r"], vec![]) };
        m.encode_to_vec()
    };
    // every function calls the next one twice: 2^60 nodes when all are written out
    let doubling: Vec<_> = (0..60)
        .map(|i| {
            let next = format!("f{}", i + 1);
            function(&format!("f{i}"), &[&next, &next])
        })
        .collect();
    let room = Room::new();
    for (case, functions) in [
        ("itself", vec![function("f0", &["f0"])]),
        ("each other", vec![function("f0", &["f1"]), function("f1", &["f0"])]),
        (
            "round a ring of fifty",
            (0..50).map(|i| function(&format!("f{i}"), &[&format!("f{}", (i + 1) % 50)])).collect(),
        ),
        ("the next one twice, sixty deep", doubling),
        ("a chain of 20,000", (0..20_000).map(|i| function(&format!("f{i}"), &[&format!("f{}", i + 1)])).collect()),
        ("one that is not there", vec![function("f0", &["f9"])]),
    ] {
        room.write("m.onnx", with(functions));
        room.refuses_model(case, "m.onnx", &["m.onnx"]);
    }
}

/// Large, and right: a chain of a million nodes without weights. It may be refused, it may not hang.
#[test]
fn a_million_nodes() {
    let room = Room::new();
    let head = classifier();
    let mut graph: Vec<u8> = Vec::new();
    for i in 0..1_000_000 {
        let (x, y) = (format!("a{i}"), format!("a{}", i + 1));
        let n = if i == 0 { node("Relu", &["x"], &[&y], vec![]) } else { node("Relu", &[&x], &[&y], vec![]) };
        graph.extend(field(1, &n.encode_to_vec()));
    }
    let mut rest = *head.graph.clone().unwrap();
    rest.node[0].input[0] = "a1000000".into();
    graph.extend(rest.encode_to_vec());
    let head = ModelProto { graph: None, ..head }.encode_to_vec();
    room.write("m.onnx", [head.clone(), field(7, &graph)].concat());
    let limits = Limits { memory: 6 << 30, time: std::time::Duration::from_secs(300) };
    let ended = super::child::run(room.root(), &["inspect", "m.onnx"], &limits);
    assert!(matches!(ended.code, Some(0 | 2)), "{:?}: {}", ended.code, ended.stderr);
    // and one that is refused: the last of them is unknown
    graph.extend(field(1, &node("Mystery", &["a7"], &["z"], vec![]).encode_to_vec()));
    graph.extend(field(12, &value("z", &[0, CLASSES]).encode_to_vec()));
    room.write("m.onnx", [head, field(7, &graph)].concat());
    room.refuses_within("a million nodes and a mystery", &["inspect", "m.onnx"], &["Mystery"], &limits);
}

/// Few bytes that would fold to many, or take forever to fold.
#[test]
fn constants_that_grow() {
    let fill = |dims: &[i64], name: &str| {
        let shape = numbers(&format!("{name}.shape"), dims);
        (node("ConstantOfShape", &[&format!("{name}.shape")], &[name], vec![]), shape)
    };
    let room = Room::new();
    let limits = Limits { memory: 3 << 30, ..Limits::default() };
    let try_model = |case: &str, mut nodes: Vec<NodeProto>, weights: Vec<TensorProto>| {
        // the answer depends on the last of them
        let last = nodes.last().unwrap().output[0].clone();
        nodes.push(node("ReduceMax", &[&last], &["peak"], vec![int("keepdims", 0)]));
        nodes.push(node("Add", &["x", "peak"], &["xp"], vec![]));
        let bytes = changed(|g| {
            g.initializer.extend(weights);
            g.node[0].input[0] = "xp".into();
            g.node.splice(0..0, nodes);
        });
        room.write("m.onnx", bytes);
        let ended = super::child::run(room.root(), &["inspect", "m.onnx"], &limits);
        assert!(matches!(ended.code, Some(0 | 2)), "{case}: {:?}: {}", ended.code, ended.stderr);
    };
    let (one, shape) = fill(&[1 << 26], "big0");
    let many: Vec<_> =
        (1..200).map(|i| node("Neg", &[&format!("big{}", i - 1)], &[&format!("big{i}")], vec![])).collect();
    try_model("two hundred constants of 2^26", [vec![one], many].concat(), vec![shape]);
    let (row, a) = fill(&[1, 1 << 25], "row");
    let (column, b) = fill(&[1 << 25, 1], "column");
    let products: Vec<_> = (0..5000).map(|i| node("MatMul", &["row", "column"], &[&format!("p{i}")], vec![])).collect();
    try_model("five thousand products of 2^25", [vec![row, column], products].concat(), vec![a, b]);
    let (left, a) = fill(&[1 << 13, 1 << 13], "left");
    try_model("a product of 2^39 steps", vec![left, node("MatMul", &["left", "left"], &["p"], vec![])], vec![a]);
    let (large, a) = fill(&[1 << 40], "large");
    room.write(
        "m.onnx",
        changed(|g| {
            g.initializer.push(a);
            g.node[1] = node("Add", &["h", "large"], &["r"], vec![]);
            g.node.insert(0, large);
        }),
    );
    room.refuses_model("a constant of 2^40", "m.onnx", &["too large"]);
    let names: Vec<String> = (0..64).map(|_| "x".to_owned()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let concat = |x: &[&str], y: &str| node("Concat", x, &[y], vec![int("axis", 1)]);
    let chain = (0..40).map(|i| {
        let (x, y) = (if i == 0 { "x".to_owned() } else { format!("g{i}") }, format!("g{}", i + 1));
        concat(&names.iter().map(|_| x.as_str()).collect::<Vec<_>>(), &y)
    });
    room.write(
        "m.onnx",
        changed(|g| {
            g.node[0].input[0] = "g40".into();
            g.node.splice(0..0, chain.collect::<Vec<_>>());
        }),
    );
    room.refuses_model("sixty-four times as wide, forty times over", "m.onnx", &["too large"]);
}

/// A model whose every value is allowed and whose run would need more memory than any machine has.
#[test]
fn a_run_that_needs_too_much_memory() {
    let room = Room::new();
    let n = 1_i64 << 28;
    let bytes = changed(|g| {
        g.initializer.push(numbers("wide", &[1, n]));
        g.initializer.push(numbers("row", &[1, 1]));
        let column = node("ReduceMax", &["h"], &["m"], vec![ints("axes", &[1]), int("keepdims", 1)]);
        let grown = node("Expand", &["m", "wide"], &["e"], vec![]);
        let copies: Vec<_> = (0..64).map(|i| node("Sigmoid", &["e"], &[&format!("s{i}")], vec![])).collect();
        let mut sum: Vec<NodeProto> = Vec::new();
        for i in 0..64 {
            let before = if i == 0 { "e".to_owned() } else { format!("t{}", i - 1) };
            sum.push(node("Add", &[&before, &format!("s{i}")], &[&format!("t{i}")], vec![]));
        }
        let back = node("ReduceMax", &["t63"], &["q"], vec![ints("axes", &[1]), int("keepdims", 1)]);
        let add = node("Add", &["h", "q"], &["hq"], vec![]);
        g.node[1].input[0] = "hq".into();
        g.node.splice(1..1, [vec![column, grown], copies, sum, vec![back, add]].concat());
    });
    room.write("m.onnx", bytes);
    models::codes(&room.path("c.npz"));
    room.refuses("64 values of 6 GiB", &models::forget("m.onnx", &["-o", "out.onnx"]), &["memory"]);
}

#[test]
fn no_head_that_can_be_recognised() {
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an image as the answer", {
            let mut m = model_of(vec![node("Relu", &["x"], &["logits"], vec![])], vec![], &[0, 2, 8, 8]);
            m.graph.as_mut().unwrap().output[0] = value("logits", &[0, 2, 8, 8]);
            m.encode_to_vec()
        }),
        (
            "a scalar as the answer",
            changed(|g| {
                g.node.push(node("ReduceSum", &["logits"], &["s"], vec![int("keepdims", 0)]));
                g.output[0] = value("s", &[]);
            }),
        ),
        ("a constant as the answer", changed(|g| g.output[0].name = Some("w2".into()))),
        ("the input as the answer", changed(|g| g.output[0].name = Some("x".into()))),
        (
            "an answer that depends on no weight",
            model_of(vec![node("Relu", &["x"], &["logits"], vec![])], vec![], &[0, 3]).encode_to_vec(),
        ),
        (
            "an answer of integers",
            changed(|g| {
                g.node.push(node("ArgMax", &["logits"], &["best"], vec![int("axis", 1), int("keepdims", 0)]));
                g.output[0].name = Some("best".into());
            }),
        ),
    ];
    let room = Room::new();
    for (case, bytes) in cases {
        room.write("m.onnx", bytes);
        room.refuses_model(case, "m.onnx", &[]);
    }
}
