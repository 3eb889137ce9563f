"""Forgetting several classes: pairs and triples drawn from a seed, judged on all test images by ONNX Runtime.

    python3 tests/bench/groups.py TOOL DATA [--seed N] [--pairs N] [--triples N] [--models cnn resnet] [-- forget flags]

DATA holds the IDX files of Fashion-MNIST. The tool sees the codes of each fixture and no image. Prints a Markdown table; needs
numpy and onnxruntime.
"""

import argparse
import gzip
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"


def images(folder):
    read = lambda name: gzip.open(pathlib.Path(folder) / name).read()
    x = np.frombuffer(read("t10k-images-idx3-ubyte.gz"), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return x.astype(np.float32) / 255, np.frombuffer(read("t10k-labels-idx1-ubyte.gz"), np.uint8, offset=8)


def answers(model, x):
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 1000]})[0].argmax(1) for i in range(0, len(x), 1000)])


def accuracy(said, y, classes, of):
    """Percent of the images of these classes that is answered with one of them, or rightly for the others."""
    own = np.isin(y, of)
    hit = np.isin(said, classes) if set(of) <= set(classes) else said == y
    return 100 * hit[own].mean()


def draw(seed, pairs, triples):
    rng = random.Random(seed)
    groups = []
    while len(groups) < pairs + triples:
        size = 2 if len(groups) < pairs else 3
        group = tuple(sorted(rng.sample(range(10), size)))
        if group not in groups:
            groups.append(group)
    return groups


def main():
    own, flags = (sys.argv[1:], [])
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    p = argparse.ArgumentParser()
    p.add_argument("tool")
    p.add_argument("data")
    p.add_argument("--seed", type=int, default=2024)
    p.add_argument("--pairs", type=int, default=10)
    p.add_argument("--triples", type=int, default=10)
    p.add_argument("--models", nargs="+", default=["cnn", "resnet"])
    args = p.parse_args(own)
    x, y = images(args.data)
    groups = draw(args.seed, args.pairs, args.triples)
    print(f"seed {args.seed}; flags: {' '.join(flags) or 'none'}\n")
    print("| model | classes | A_F of each before | A_F of each after | A_R before | A_R change | strategy: stages | unsure |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in args.models:
        path = FIXTURES / f"{model}.onnx"
        before = answers(path, x)
        good = 0
        for group in groups:
            others = [c for c in range(10) if c not in group]
            with tempfile.TemporaryDirectory() as folder:
                out = pathlib.Path(folder) / "out.onnx"
                command = [args.tool, "forget", path, "--inputs", FIXTURES / f"{model}.codes.npz", "-o", out, "--json"]
                command += ["--class", ",".join(map(str, group)), *flags]
                report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                after = answers(out, x)
            each = [[accuracy(said, y, group, [c]) for c in group] for said in (before, after)]
            a_r = [accuracy(said, y, group, others) for said in (before, after)]
            left = accuracy(after, y, group, list(group))
            good += left <= 2 and a_r[1] >= a_r[0] - 3
            stages = report["grouping"]["steps"]
            told = [
                ("shared " if s["shared"] else "")
                + "+".join(map(str, s["classes"]))
                + f" {s['rule']} "
                + "/".join(f"{v:g}" for _, v in s["strength"])
                for s in stages
            ]
            cells = [
                model,
                "+".join(map(str, group)),
                " ".join(f"{v:.1f}" for v in each[0]),
                " ".join(f"{v:.1f}" for v in each[1]),
                f"{a_r[0]:.1f}",
                f"{a_r[1] - a_r[0]:+.1f}",
                report["grouping"]["taken"] + ": " + ", ".join(told),
                "yes" if report["doubts"] else "",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)
        print(f"| {model} | all | | | | E_F ≥ 98, drop ≤ 3: {good} of {len(groups)} | | |", flush=True)


if __name__ == "__main__":
    main()
