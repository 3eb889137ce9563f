"""What `forget --rule ratio` does, in PyTorch and from process start: the ratio rule on the Fisher of labelled inputs.

    python3 tests/bench/peer_forget.py MODEL.pt INPUTS.npz CLASS LAMBDA1 LAMBDA2 OUT.pt

MODEL.pt holds the state of a `Sequential(Linear, ReLU, Linear)`. Yamashita et al., arXiv 2306.05670, equations 6 to 9:
every class counts the same, both signs are tried, and the one with the better A_R + E_F on the inputs is kept.
"""

import sys

import numpy as np
import torch
from torch.nn.functional import cross_entropy


def model_of(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    first, last = state["0.weight"], state["2.weight"]
    model = torch.nn.Sequential(
        torch.nn.Linear(first.shape[1], first.shape[0]), torch.nn.ReLU(), torch.nn.Linear(last.shape[1], last.shape[0])
    )
    model.load_state_dict(state)
    return model.eval()


def fishers(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, forget: int) -> list[list[torch.Tensor]]:
    """The Fisher of the class to forget and that of all others, one tensor a weight."""
    weights = list(model.parameters())
    sums = [[torch.zeros_like(w) for w in weights] for _ in range(2)]
    for i in range(len(x)):
        model.zero_grad(set_to_none=True)
        cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        side = 0 if int(y[i]) == forget else 1
        for total, w in zip(sums[side], weights):
            total += w.grad**2
    counts = torch.bincount(y).float()
    classes = [1, int((counts > 0).sum()) - 1]
    return [[f / n for f in side] for side, n in zip(sums, classes)]


@torch.no_grad()
def rewritten(
    old: list[torch.Tensor], f: list[list[torch.Tensor]], lambda1: float, lambda2: float, sign: int
) -> list[torch.Tensor]:
    new = []
    for w, f_f, f_r in zip(old, *f):
        eta = torch.where(f_f == 0, torch.zeros_like(f_f), f_f / f_r)
        finite = eta[torch.isfinite(eta)]
        most = finite.max() if len(finite) else torch.tensor(0.0)
        eta = torch.where(torch.isfinite(eta), eta, most)
        alpha = min(lambda1, lambda2 / float(most)) if most > 0 else lambda1
        new.append(w + sign * alpha * eta)
    return new


def main() -> None:
    path, inputs, forget, lambda1, lambda2, out = sys.argv[1:]
    torch.set_num_threads(2)
    model = model_of(torch.load(path, weights_only=True))
    data = np.load(inputs)
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    f = fishers(model, x, y, int(forget))
    weights = list(model.parameters())
    old = [w.detach().clone() for w in weights]
    best = None
    for sign in (1, -1):
        new = rewritten(old, f, float(lambda1), float(lambda2), sign)
        with torch.no_grad():
            for w, v in zip(weights, new):
                w.copy_(v)
            answers = model(x).argmax(1)
        kept, gone = y != int(forget), y == int(forget)
        score = float((answers[kept] == y[kept]).float().mean() + (answers[gone] != y[gone]).float().mean())
        if best is None or score > best[0]:
            best = (score, new)
    with torch.no_grad():
        for w, v in zip(weights, best[1]):
            w.copy_(v)
    torch.save(model.state_dict(), out)


if __name__ == "__main__":
    main()
