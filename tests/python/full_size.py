#!/usr/bin/env python3
"""Gradients and Fisher of full-size classifiers, through the command line, against PyTorch's autograd in float64.

Every model is built by torchvision or transformers with random weights, exported at opset 17 and given a few labelled
inputs. `gradients --mode sum` writes a graph that stock ONNX Runtime then runs; `fisher` runs on each engine. Needs a
Python with torch, torchvision and onnx, and for bert and distilbert transformers; ONNX_UNLEARN_PYTHON names one with
onnxruntime. Prints a row of a Markdown table per model and engine; exits with 1 where a relative error is above --limit.

The error of a tensor is |found - PyTorch| / |PyTorch| in the Euclidean norm; stated is the worst over all tensors.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fixtures"))
import zoo_models
from zoo_reference import Mapping, export, make_inputs, make_labels, reference, settle_statistics, shake, twin, write_npz

RUN_MODEL = pathlib.Path(__file__).with_name("run_model.py")
TEXT_LENGTH = 64
VOCABULARY = 30522
# a gradient below this share of the model's greatest is zero but for rounding: keys' biases under softmax
VANISHING = 1e-9


def measured(command, **kwargs):
    """Runs a command that has to succeed; its answer, seconds, and peak memory in MB."""
    start = time.time()
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, **kwargs)
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed with {child.returncode}")
    return text, time.time() - start, usage.ru_maxrss / 1024


def read_safetensors(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", 8 + size)
    return {
        name: np.frombuffer(data[slice(*about["data_offsets"])], np.float32).reshape(about["shape"])
        for name, about in header.items() if name != "__metadata__"
    }


def worst(found, wanted, scale=1.0):
    """The greatest relative error over all tensors, and whose it is."""
    greatest = max(np.linalg.norm(w) for w in wanted.values())
    errors = {}
    for name, w in wanted.items():
        norm = np.linalg.norm(w)
        if norm > VANISHING * greatest:
            errors[name] = np.linalg.norm(found[name] / scale - w) / norm
    name = max(errors, key=errors.get)
    return errors[name], name


def make(name, samples, folder):
    """The model, exported, its labelled inputs, and what PyTorch says."""
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
    # every sample has a class of its own: the Fisher is then the plain mean
    y = make_labels(samples, classes)
    write_npz(folder / "inputs.npz", inputs, y)
    _, _, shaped = reference(net, mapping, inputs, y)
    sums = {n: s for n, (s, _) in shaped.items()}
    squares = {n: q for n, (_, q) in shaped.items()}
    return path, inputs, y, sums, squares


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
    text, seconds, peak = measured(
        [tool, "fisher", path, "--inputs", folder / "inputs.npz", "-o", target, "--engine", engine, "--json"])
    report = json.loads(text)
    error, where = worst(read_safetensors(target), squares, 1.0 / samples)
    return report, seconds, peak, error, where


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tool", type=pathlib.Path, help="the onnx-unlearn binary, a release build")
    args.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {' '.join(zoo_models.FULL)}")
    args.add_argument("--engines", default="cpu,ort", help="for the Fisher; default: %(default)s")
    args.add_argument("--samples", type=int, default=10)
    args.add_argument("--limit", type=float, default=1e-3, help="greatest relative error; twice that for the Fisher")
    args = args.parse_args()
    unknown = set(args.models) - set(zoo_models.FULL)
    if unknown:
        raise SystemExit(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(zoo_models.FULL)}")
    torch.set_num_threads(os.cpu_count())
    print("| model | what | engine | nodes | batch | seconds | peak MB | worst relative error | of |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    good = True
    for name in args.models or zoo_models.FULL:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            path, inputs, y, sums, squares = make(name, args.samples, folder)
            nodes, seconds, peak, error, where = check_gradients(args.tool, path, inputs, y, sums, folder)
            good &= error <= args.limit
            print(f"| {name} | gradients | ONNX Runtime | {nodes} | {args.samples} | {seconds:.1f} | {peak:.0f} | {error:.1e} | {where} |", flush=True)
            for engine in args.engines.split(","):
                report, seconds, peak, error, where = check_fisher(args.tool, path, engine, squares, args.samples, folder)
                good &= error <= 2 * args.limit
                print(f"| {name} | fisher | {engine} | | {report['batch']} | {seconds:.1f} | {peak:.0f} | {error:.1e} | {where} |", flush=True)
                if report["one_by_one"]:
                    print(f"{name}: samples ran one by one: {report['one_by_one']}", file=sys.stderr)
    sys.exit(0 if good else 1)


main()
