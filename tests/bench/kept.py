#!/usr/bin/env python3
"""What a kept Fisher saves, and what a class costs: whole commands on made models, medians of RUNS runs.

    kept.py TOOL requests mlp|cnn [ENGINE]   the first `forget` of a model of 100 classes, and a second one
    kept.py TOOL classes [ENGINE]            `fisher` of 10 to 1,000 classes of one model

Needs numpy, onnx and onnxruntime. The models were not trained: their body is random, and the last layer compares its
features with those of one code a class, so that every code is answered with its class.
"""
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RUNS = int(os.environ.get("RUNS", "5"))


def body(kind, rng):
    """Nodes from x to the features h, initializers, input shape, number of features."""
    normal = lambda *shape: (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    if kind == "cnn":
        shape, sizes = (3, 32, 32), [(32, 3, 1), (64, 32, 2), (128, 64, 2), (256, 128, 2)]
        nodes, weights, at = [], {}, "x"
        for i, (m, c, stride) in enumerate(sizes):
            weights[f"conv{i}.weight"], weights[f"conv{i}.bias"] = normal(m, c, 3, 3), np.zeros(m, np.float32)
            nodes += [
                helper.make_node("Conv", [at, f"conv{i}.weight", f"conv{i}.bias"], [f"c{i}"], pads=[1] * 4, strides=[stride] * 2),
                helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
            ]
            at = f"r{i}"
        nodes += [helper.make_node("GlobalAveragePool", [at], ["p"]), helper.make_node("Flatten", ["p"], ["h"])]
        return nodes, weights, shape, sizes[-1][0]
    shape, sizes = (784,), [784, 512, 256]
    nodes, weights, at = [], {}, "x"
    for i, (n, m) in enumerate(zip(sizes, sizes[1:])):
        weights[f"fc{i}.weight"], weights[f"fc{i}.bias"] = normal(m, n), np.zeros(m, np.float32)
        out = "h" if i == len(sizes) - 2 else f"r{i}"
        nodes += [
            helper.make_node("Gemm", [at, f"fc{i}.weight", f"fc{i}.bias"], [f"g{i}"], transB=1),
            helper.make_node("Relu", [f"g{i}"], [out]),
        ]
        at = out
    return nodes, weights, shape, sizes[-1]


def model(nodes, weights, shape, out, width):
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def made(room, kind, classes, seed=1):
    """Writes a model of so many classes and one code for each."""
    rng = np.random.default_rng(seed)
    nodes, weights, shape, width = body(kind, rng)
    codes = rng.random((classes, *shape), dtype=np.float32)
    features = model(nodes, weights, shape, "h", width)
    session = onnxruntime.InferenceSession(features.SerializeToString(), providers=["CPUExecutionProvider"])
    h = session.run(None, {"x": codes})[0]
    mean = h.mean(0)
    h = (h - mean) / np.linalg.norm(h - mean, axis=1, keepdims=True)
    # logits 8 at the own code, spread about 0 at the others; the mean of the features is taken off by the bias
    size = np.linalg.norm(session.run(None, {"x": codes})[0] - mean, axis=1).mean()
    weights["head.weight"] = (8 / size * h).astype(np.float32)
    weights["head.bias"] = (-weights["head.weight"] @ mean).astype(np.float32)
    nodes.append(helper.make_node("Gemm", ["h", "head.weight", "head.bias"], ["logits"], transB=1))
    onnx.save(model(nodes, weights, shape, "logits", classes), room / "model.onnx")
    np.savez(room / "codes.npz", x=codes, y=np.arange(classes))
    return sum(w.size for w in weights.values())


def run(words):
    """Median seconds of a command, processor seconds, and its last answer."""
    walls, cpus = [], []
    for _ in range(RUNS):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(walls), statistics.median(cpus), json.loads(done.stdout)


def requests(tool, kind, engine):
    with tempfile.TemporaryDirectory() as room:
        room = pathlib.Path(room)
        count = made(room, kind, 100)
        print(f"{kind}, 100 classes, {count:,} weights, engine {engine}, medians of {RUNS}")
        print("| command | s | processor s | passes forward and back | passes forward |\n| --- | --- | --- | --- | --- |")
        base = [tool, "forget", room / "model.onnx", "--class", "7", "-o", room / "out.onnx", "--engine", engine, "--json", "-q"]
        keep = ["--json", "-q", "--engine", engine]

        def row(name, words):
            wall, cpu, report = run([str(w) for w in words])
            passes = report.get("passes", {})
            back = passes.get("fisher", report.get("samples", 0))
            back += report["made"]["samples"] * report["made"]["steps"] if report.get("made") else 0
            if isinstance(report.get("inputs"), dict) and "steps" in report["inputs"]:
                back += report["inputs"]["samples"] * report["inputs"]["steps"]
            forward = passes.get("search", 0)
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {back:,} | {forward:,} |", flush=True)
            return wall, back, forward

        made_range = ["--range", "0,1"]
        first = row("forget, nothing kept", base + made_range)
        row("codes synthesize", [tool, "codes", "synthesize", room / "model.onnx", "-o", room / "made.npz"] + made_range + keep)
        row("fisher of these inputs", [tool, "fisher", room / "model.onnx", "--inputs", room / "made.npz", "-o", room / "made.fisher"] + keep)
        second = row("forget, inputs and Fisher kept", base + ["--inputs", room / "made.npz", "--fisher", room / "made.fisher"])
        print(f"{first[0] / second[0]:.1f} times faster, {sum(first[1:]) / sum(second[1:]):.1f} times fewer passes of both kinds")
        first = row("forget --inputs codes", base + ["--inputs", room / "codes.npz"])
        row("fisher of the codes", [tool, "fisher", room / "model.onnx", "--inputs", room / "codes.npz", "-o", room / "codes.fisher"] + keep)
        second = row("forget --inputs codes --fisher", base + ["--inputs", room / "codes.npz", "--fisher", room / "codes.fisher"])
        print(f"{first[0] / second[0]:.1f} times faster, {sum(first[1:]) / sum(second[1:]):.1f} times fewer passes of both kinds")


def classes(tool, engine):
    print(f"fisher, one code a class, engine {engine}, medians of {RUNS}")
    print("| classes | s | processor s | ms a class |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as room:
        room = pathlib.Path(room)
        made(room, "mlp", 1000)
        for n in (10, 30, 100, 300, 1000):
            which = ",".join(str(c) for c in range(n))
            words = [tool, "fisher", room / "model.onnx", "--inputs", room / "codes.npz", "--class", which, "-o", room / "f", "--engine", engine, "--json", "-q"]
            wall, cpu, _ = run([str(w) for w in words])
            print(f"| {n:,} | {wall:.3f} | {cpu:.3f} | {1000 * wall / n:.2f} |", flush=True)


if __name__ == "__main__":
    tool, what, *rest = sys.argv[1:]
    if what == "requests":
        requests(tool, rest[0], (rest + ["cpu"])[1])
    else:
        classes(tool, (rest + ["cpu"])[0])
