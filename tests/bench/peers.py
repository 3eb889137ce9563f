"""Fisher and `forget` against PyTorch, alternately in one run: prints Markdown tables, medians and ratios.

    cargo build --release && cargo bench --no-run --bench fisher
    python3 tests/bench/peers.py TOOL BENCH FOLDER [ROUNDS]

TOOL is the command, BENCH what `cargo bench --no-run --bench fisher` names. The Python needs torch (PyPI) and what its
exporter needs (onnx, onnxscript). FOLDER takes the models, made here from a seed, and their inputs: ten random samples,
one a class. PyTorch's loop is a backward pass for each sample and `F += g**2`; vmap is `torch.func`, all samples at once.
Both, and our bench, measure with everything loaded and warm; the commands are measured from process start.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, gelu

THREADS = 2
CLASSES = 10
REPEATS = 3


class Basic(nn.Module):
    def __init__(self, c: int, m: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c, m, 3, stride, 1, bias=False), nn.BatchNorm2d(m)
        self.conv2, self.norm2 = nn.Conv2d(m, m, 3, 1, 1, bias=False), nn.BatchNorm2d(m)
        same = stride == 1 and c == m
        self.short = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(c, m, 1, stride, bias=False), nn.BatchNorm2d(m))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.short(x))


class ResNet18(nn.Module):
    """ResNet-18 as it is used for images of 32 × 32: no stride and no pool at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        blocks, c = [], 64
        for m, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Basic(c, m, stride), Basic(m, m, 1)]
            c = m
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(512, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


class Layer(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.norm2, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = ((q * (d // self.heads) ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(n, t, d))
        return x + self.down(gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, d: int = 192, layers: int = 8, patch: int = 8, size: int = 64, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, d, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.places = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, d) * 0.02)
        self.layers = nn.ModuleList(Layer(d, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, CLASSES))


MODELS = {"resnet18": (ResNet18, (3, 32, 32)), "vit": (ViT, (3, 64, 64)), "mlp": (mlp, (784,))}


def make(name: str, folder: Path) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The model and its inputs, which are also written to the folder."""
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = build().eval()
    x, y = torch.randn(CLASSES, *shape), torch.arange(CLASSES)
    np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
    torch.save(model.state_dict(), folder / f"{name}.pt")
    axes = {"x": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(
        model, (x[:2],), str(folder / f"{name}.onnx"), input_names=["x"], output_names=["logits"], dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip
    return model, x, y


def peers(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, object]:
    """What makes the Fisher of all samples in PyTorch."""
    weights = dict(model.named_parameters())
    held, buffers = {k: w.detach() for k, w in weights.items()}, dict(model.named_buffers())

    def loop() -> dict[str, torch.Tensor]:
        f = {k: torch.zeros_like(w) for k, w in weights.items()}
        for i in range(len(x)):
            model.zero_grad(set_to_none=True)
            cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
            for k, w in weights.items():
                f[k] += w.grad**2
        return f

    def loss(w: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(model, (w, buffers), (one[None],)), label[None])

    each = vmap(grad(loss), (None, 0, 0))
    return {"loop": loop, "vmap": lambda: {k: (g**2).sum(0) for k, g in each(held, x, y).items()}}


def timed(run) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def ours(bench: str, folder: Path, name: str, engine: str, what: str) -> float:
    command = [bench, folder / f"{name}.onnx", folder / f"{name}.npz", engine, str(REPEATS), what]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line["what"]: line["median"] for line in map(json.loads, out.splitlines())}[what]


def fisher_table(bench: str, folder: Path, rounds: int) -> None:
    made = {name: make(name, folder) for name in MODELS}
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, (model, x, y) in made.items():
            for peer, run in peers(model, x, y).items():
                seconds[name, peer].append(timed(run))
            for engine in ("cpu", "ort"):
                seconds[name, engine].append(ours(bench, folder, name, engine, "fisher, one sum"))
                each = ours(bench, folder, name, engine, "fisher, a sum for each class")
                seconds[name, f"{engine}, classes"].append(each)
    print("| model | loop | vmap | cpu | ort | loop ÷ faster | loop ÷ slower | better peer ÷ faster | cpu, each class | ort, each class |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in MODELS:
        m = {k: statistics.median(v) for (n, k), v in seconds.items() if n == name}
        fast, slow = sorted((m["cpu"], m["ort"]))
        ms = [f"{m[k] * 1e3:.1f}" for k in ("loop", "vmap", "cpu", "ort")]
        ratios = [f"{r:.2f}" for r in (m["loop"] / fast, m["loop"] / slow, min(m["loop"], m["vmap"]) / fast)]
        print("|", " | ".join([name, *ms, *ratios, *(f"{m[f'{e}, classes'] * 1e3:.1f}" for e in ("cpu", "ort"))]), "|")


def command_table(tool: str, folder: Path, rounds: int) -> None:
    here = Path(__file__).parent
    model, inputs, out = folder / "mlp.onnx", folder / "mlp.npz", folder / "out.onnx"
    ratio = ["--rule", "ratio", "--lambda1", "1e-3", "--lambda2", "10"]
    script = [sys.executable, here / "peer_forget.py", folder / "mlp.pt", inputs, "0", "1e-3", "10", folder / "out.pt"]
    forget = [tool, "forget", model, "--inputs", inputs, "--class", "0", "-o", out]
    commands = {
        "PyTorch, ratio rule": script,
        "forget --rule ratio --engine cpu": [*forget, *ratio, "--engine", "cpu"],
        "forget --rule ratio": [*forget, *ratio],
        "forget (ascent, searched) --engine cpu": [*forget, "--engine", "cpu"],
        "forget (ascent, searched)": forget,
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for i in range(rounds + 1):
        for what, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            # the first round warms the caches of the file system
            if i > 0:
                seconds[what].append(time.perf_counter() - start)
    print("\n| whole command, MLP 784-1000-10 | seconds | PyTorch's time ÷ this |")
    print("| --- | --- | --- |")
    script_took = statistics.median(seconds["PyTorch, ratio rule"])
    for what, took in seconds.items():
        print(f"| {what} | {statistics.median(took):.3f} | {script_took / statistics.median(took):.1f} |")


def main() -> None:
    tool, bench, folder = sys.argv[1:4]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    os.environ.setdefault("RAYON_NUM_THREADS", str(THREADS))
    torch.set_num_threads(THREADS)
    Path(folder).mkdir(parents=True, exist_ok=True)
    print(f"torch {torch.__version__}, {THREADS} threads, {rounds} rounds of {REPEATS}, milliseconds\n")
    fisher_table(bench, Path(folder), rounds)
    command_table(tool, Path(folder), rounds)


if __name__ == "__main__":
    main()
