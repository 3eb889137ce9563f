#!/usr/bin/env python3
"""Gradients and Fisher of full-size classifiers, through the command line, against PyTorch's autograd in float64.

Every model is built by torchvision or transformers with random weights, exported at opset 17 and given a few labelled
inputs. `gradients --mode sum` writes a graph that stock ONNX Runtime then runs; `fisher` runs on each engine. Needs a
Python with torch, torchvision and onnx, and for bert and distilbert transformers; ONNX_UNLEARN_PYTHON names one with
onnxruntime. Prints a row of a Markdown table per model: the worst relative errors with seconds and peak memory, of the
gradients and of the Fisher on each engine; exits with 1 where an error is above --limit.

The error of a tensor is |found - PyTorch| / |PyTorch| in the Euclidean norm; stated is the worst over all tensors. It
has to be at most --limit, twice that for the Fisher. Models with a kink (ReLU, MaxPool, ...) may have ten times as much:
of two million activations a few lie so close to it that float32 cannot tell on which side, and each moves the gradient
of a layer of 25,000 by half a percent. That nothing but rounding is let pass is what the engine `cpu64` shows: the same
model, its weights widened to float64, on `cpu`, whose limit is a thousandth of --limit.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fixtures"))
import light
import zoo_models
from kinks import FORCED, reference_on_pieces, with_kinks
from zoo_reference import Mapping, export, make_inputs, make_labels, reference, settle_statistics, shake, twin, write_npz

MEASURE = pathlib.Path(__file__).with_name("measure.py")
RUN_MODEL = pathlib.Path(__file__).with_name("run_model.py")
TEXT_LENGTH = 64
VOCABULARY = 30522
# a gradient below this share of the model's greatest is zero but for rounding: keys' biases under softmax
VANISHING = 1e-9
LIGHT = tuple(f"light_{name}" for name in light.NAMES)
ALL = (*zoo_models.FULL, *LIGHT)
DTYPES = {"F32": np.float32, "F64": np.float64}
KINKS = {"Relu", "Clip", "HardSwish", "HardSigmoid", "LeakyRelu", "MaxPool", "Max", "Min"}


def measured(command):
    """Runs a command that has to succeed; its answer, seconds, and peak memory in MB."""
    with tempfile.NamedTemporaryFile("r") as report:
        text = subprocess.run([sys.executable, MEASURE, report.name, *map(str, command)], stdout=subprocess.PIPE, check=True).stdout
        seconds, peak = map(float, report.read().split())
    return text, seconds, peak


def read_safetensors(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", 8 + size)
    return {
        name: np.frombuffer(data[slice(*about["data_offsets"])], DTYPES[about["dtype"]]).reshape(about["shape"])
        for name, about in header.items() if name != "__metadata__"
    }


def worst(found, wanted):
    """The greatest relative error over all tensors, and whose it is."""
    greatest = max(np.linalg.norm(w) for w in wanted.values())
    errors = {}
    for name, w in wanted.items():
        norm = np.linalg.norm(w)
        if norm > VANISHING * greatest:
            errors[name] = np.linalg.norm(found[name] - w) / norm
    name = max(errors, key=errors.get)
    return errors[name], name


def make(name, samples, folder):
    """The model, its labelled inputs, and what PyTorch says."""
    path, inputs, y, net, mapping = (make_light if name in LIGHT else export_full)(name, samples, folder)
    write_npz(folder / "inputs.npz", inputs, y)
    _, _, exact = reference(net, mapping, inputs, y)
    return path, inputs, y, [{n: pair[k] for n, pair in exact.items()} for k in range(2)], (net, mapping)


def make_light(name, samples, folder):
    """A model that another exporter made, which takes one sample."""
    path = folder / f"{name}.onnx"
    net, mapping = light.make(name.removeprefix("light_"), path)
    inputs = make_inputs((224, 224), samples, 5, TEXT_LENGTH, VOCABULARY)
    return path, {net.input: inputs["input"]}, make_labels(1, 1000).repeat(samples), net, mapping


def export_full(name, samples, folder):
    build, kind = zoo_models.FULL[name]
    torch.manual_seed(1)
    net = build().eval()
    classes = zoo_models.CLASSES if kind[0] == "ids" else 1000
    inputs = make_inputs(kind, samples, 5, TEXT_LENGTH, VOCABULARY)
    shake(net, 1)
    settle_statistics(net, inputs.values(), 1)
    path = folder / f"{name}.onnx"
    export(net, inputs, path)
    net = twin(net, inputs, path)
    mapping = Mapping(net, path)
    if mapping.left or mapping.missing:
        print(f"{name}: no parameter for {mapping.left}, no initializer for {mapping.missing}", file=sys.stderr)
    # all samples are of one class, so that they share a run, and the file holds one sum
    return path, inputs, make_labels(1, classes).repeat(samples), net, mapping


def widened(path):
    """The model in float64."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        widen(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del model.graph.value_info[:]
    wide = path.with_suffix(".f64.onnx")
    onnx.save(model, wide)
    return wide


def widen(tensor):
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def limits(path, limit):
    """The greatest errors of the gradients and of the Fisher in float32."""
    return (10 * limit, 20 * limit) if KINKS & ops_of(path) else (limit, 2 * limit)


def ops_of(path):
    return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


def check_pieces(tool, path, inputs, y, network, folder):
    """Gradients and Fisher of the exported graphs in ONNX Runtime, against float64 on the same side of every kink: the
    worst error of each, and how many activations lie on another side in float64."""
    for mode in ("sum", "fisher"):
        graph, target = folder / f"{mode}.onnx", folder / f"{mode}.kinks.onnx"
        measured([tool, "gradients", path, "-o", graph, "--batch", len(y), "--mode", mode, "--json"])
        kinks = with_kinks(graph, target)
        np.savez(folder / "feeds.npz", **{n: x.numpy() for n, x in inputs.items()}, labels=y.numpy(),
                 sample_weights=np.ones(len(y), np.float32))
        python = os.environ.get("ONNX_UNLEARN_PYTHON", sys.executable)
        measured([python, RUN_MODEL, target, folder / "feeds.npz", folder / "out.npz"])
        with np.load(folder / "out.npz") as out:
            values = {str(n): out[str(k)] for k, n in enumerate(out["names"])}
        found = {n.rpartition(".")[0]: v for n, v in values.items() if n.endswith((".grad", ".fisher"))}
        exact, moved, activations = reference_on_pieces(*network, inputs, y, kinks, values)
        yield mode, *worst(found, exact[mode == "fisher"]), moved, activations


def check_gradients(tool, path, inputs, y, sums, folder):
    """The row of `gradients --mode sum`, run by ONNX Runtime."""
    samples = len(y)
    text, made, _ = measured([tool, "gradients", path, "-o", folder / "grad.onnx", "--batch", samples, "--json"])
    nodes = json.loads(text)["nodes"]
    feeds = {n: x.numpy() for n, x in inputs.items()}
    np.savez(folder / "feeds.npz", **feeds, labels=y.numpy(), sample_weights=np.ones(samples, np.float32))
    python = os.environ.get("ONNX_UNLEARN_PYTHON", sys.executable)
    _, seconds, peak = measured([python, RUN_MODEL, folder / "grad.onnx", folder / "feeds.npz", folder / "out.npz"])
    with np.load(folder / "out.npz") as out:
        found = {str(n).removesuffix(".grad"): out[str(k)] for k, n in enumerate(out["names"])}
    error, where = worst(found, sums)
    return nodes, made + seconds, peak, error, where


def check_fisher(tool, path, engine, squares, samples, folder):
    target = folder / "fisher.safetensors"
    target.unlink(missing_ok=True)
    if engine == "cpu64":
        path, engine = widened(path), "cpu"
    text, seconds, peak = measured(
        [tool, "fisher", path, "--inputs", folder / "inputs.npz", "-o", target, "--engine", engine, "--json"])
    report = json.loads(text)
    sums = {name: rows.sum(0, dtype=np.float64) for name, rows in read_safetensors(target).items()}
    error, where = worst(sums, squares)
    return report, seconds, peak, error, where


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tool", type=pathlib.Path, help="the onnx-unlearn binary, a release build")
    args.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {' '.join(ALL)}")
    args.add_argument("--engines", default="cpu,ort,cpu64", help="for the Fisher; default: %(default)s")
    args.add_argument("--kinks", action="store_true",
                      help="also compare in float64 on the pieces of the float32 run, and count what lies elsewhere")
    args.add_argument("--samples", type=int, default=10)
    args.add_argument("--limit", type=float, default=1e-3, help="greatest relative error; default: %(default)s")
    args = args.parse_args()
    unknown = set(args.models) - set(ALL)
    if unknown:
        raise SystemExit(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    torch.set_num_threads(os.cpu_count())
    engines = [e for e in args.engines.split(",") if e]
    heads = ["model", "weights", "nodes", "samples", "gradients", *(["on the same pieces", "moved"] if args.kinks else []), *engines]
    print(f"| {' | '.join(heads)} |")
    print(f"|{' --- |' * len(heads)}", flush=True)
    missed = []
    for name in args.models or ALL:
        cells = []
        try:
            for what, error, limit in checks(args, engines, name, cells):
                if not error <= limit:
                    missed.append(f"{name}, {what}: {error:.1e}")
        except (RuntimeError, subprocess.CalledProcessError) as e:
            missed.append(f"{name}: {e}")
        print(f"| {' | '.join([name, *cells])} |", flush=True)
    for line in missed:
        print(line, file=sys.stderr)
    sys.exit(1 if missed else 0)


def checks(args, engines, name, cells):
    """Adds to the row of a model; gives of each check what it is of, its error, and the limit."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # the light models take one sample at once
        samples = 1 if name in LIGHT else args.samples
        path, inputs, y, (sums, squares), network = make(name, samples, folder)
        limit, fisher_limit = limits(path, args.limit)
        nodes, seconds, peak, error, where = check_gradients(args.tool, path, inputs, y, sums, folder)
        cells += [f"{sum(s.size for s in sums.values()) / 1e6:.1f} M", str(nodes), str(samples), measures(seconds, peak, error)]
        yield f"gradients, {where}", error, limit
        met = KINKS & ops_of(path)
        if args.kinks and met and met <= set(FORCED):
            errors = []
            for mode, error, where, moved, activations in check_pieces(args.tool, path, inputs, y, network, folder):
                errors.append(error)
                yield f"{mode} on the same pieces, {where}", error, args.limit * (2 if mode == "fisher" else 1)
            cells += [", ".join(f"{e:.1e}" for e in errors), f"{moved} of {activations / 1e6:.1f} M"]
        elif args.kinks:
            cells += ["", ""]
        for engine in engines:
            report, seconds, peak, error, where = check_fisher(args.tool, path, engine, squares, samples, folder)
            cells.append(measures(seconds, peak, error))
            if report["one_by_one"]:
                print(f"{name}: samples ran one by one: {report['one_by_one']}", file=sys.stderr)
            yield f"fisher on {engine}, {where}", error, args.limit / 1000 if engine == "cpu64" else fisher_limit


def measures(seconds, peak, error):
    return f"{error:.1e}; {seconds:.1f} s, {peak:.0f} MB"


if __name__ == "__main__":
    main()
