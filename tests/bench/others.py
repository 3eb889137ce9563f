"""Forgetting on models and data of other kinds, with nothing tuned: prints a Markdown table.

    python3 tests/bench/others.py TOOL FOLDER

Makes classifiers of scikit-learn's own data sets (digits, wine, iris, breast cancer) in FOLDER, as they are and behind a
StandardScaler, exported by skl2onnx; and takes the digit classifiers of fixtures/kinds (Keras, PyTorch's exporters,
recurrent ones). Every class is forgotten by itself with default flags, without any inputs, with three samples a class,
and with all training samples (labels of the training half alone), and judged on the other half. Needs numpy,
scikit-learn and skl2onnx.
"""

import json
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

KINDS = Path(__file__).resolve().parents[2] / "fixtures" / "kinds"
SETS = {
    "digits": datasets.load_digits,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
    "cancer": datasets.load_breast_cancer,
}
# a model that never learned its classes says nothing of how they are forgotten
LEAST_ACCURACY = 0.8


def tabular(folder):
    """Name, model, test file, and files of labelled inputs of every classifier of features."""
    random = np.random.default_rng(0)
    for name, load in SETS.items():
        x, y = load(return_X_y=True)
        x = x.astype(np.float32)
        x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, random_state=1, stratify=y)
        few = np.concatenate([random.choice(np.flatnonzero(y == c), 3, replace=False) for c in np.unique(y)])
        test, some, all_of_it = (folder / f"{name}.{part}.npz" for part in ("test", "few", "train"))
        np.savez(test, x=x_test, y=y_test.astype(np.int64))
        np.savez(some, x=x[few], y=y[few].astype(np.int64))
        np.savez(all_of_it, x=x, y=y.astype(np.int64))
        for kind, before in (("plain", []), ("scaled", [StandardScaler()])):
            model = make_pipeline(*before, MLPClassifier((64, 32), max_iter=2000, random_state=0)).fit(x, y)
            if model.score(x_test, y_test) < LEAST_ACCURACY:
                continue
            path = folder / f"{name}_{kind}.onnx"
            path.write_bytes(to_onnx(model, x[:1], options={"zipmap": False}, target_opset=17).SerializeToString())
            yield f"scikit-learn, {name}, {kind}", path, test, {"3 a class": some, "training half": all_of_it}


def small(folder):
    """The fixtures on iris, of eight hidden units."""
    x, y = datasets.load_iris(return_X_y=True)
    for name, features in {"skl_mlp": (x - x.mean(0)) / x.std(0), "skl_pipeline": x}.items():
        test = folder / f"{name}.npz"
        np.savez(test, x=features.astype(np.float32), y=y.astype(np.int64))
        yield f"iris, {name}", KINDS / f"{name}.onnx", test, {}


def digits(folder):
    """The digit classifiers of other exporters, which were trained on these digits."""
    data = np.load(KINDS / "digits.npz")
    x, y = (data["x"] / 16).astype(np.float32), data["y"]
    forms = {"keras_nhwc": x[..., None], "torch_dynamo": x[:, None], "torch_functions": x[:, None]}
    forms |= {name: x for name in ("torch_gru", "torch_gru_both", "torch_lstm")}
    for name, images in forms.items():
        test = folder / f"{name}.npz"
        np.savez(test, x=images, y=y)
        yield f"digits, {name}", KINDS / f"{name}.onnx", test, {}


def run(*command):
    done = subprocess.run([*map(str, command), "--json", "-q", "--engine", "cpu"], stdout=subprocess.PIPE)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}: exit code {done.returncode}")
    return json.loads(done.stdout)


def measured(tool, model, test, forgotten):
    report = run(tool, "evaluate", model, "--data", test, "--forgotten", forgotten)
    return 100 * report["A_F"], 100 * report["A_R"]


def main():
    warnings.simplefilter("ignore")
    tool, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "out.onnx"
    print("| model | inputs | classes | A_F before, least | A_F after, most | A_R change, median | least | unsure | seconds |")
    print("|" + " --- |" * 9)
    for name, model, test, given in [*tabular(folder), *small(folder), *digits(folder)]:
        classes = np.unique(np.load(test)["y"])
        for inputs, path in {"none": None, **given}.items():
            before, after, unsure, seconds = [], [], 0, []
            for c in map(int, classes):
                flags = ["--inputs", path] if path else []
                report = run(tool, "forget", model, *flags, "--class", c, "-o", out)
                before.append(measured(tool, model, test, c))
                after.append(measured(tool, out, test, c))
                unsure += bool(report["doubts"])
                seconds.append(report["seconds"])
            change = [b[1] - a[1] for a, b in zip(before, after)]
            print(f"| {name} | {inputs} | {len(classes)} | {min(b[0] for b in before):.1f} | {max(a[0] for a in after):.1f} "
                  f"| {statistics.median(change):+.1f} | {min(change):+.1f} | {unsure} | {statistics.median(seconds):.1f} |",
                  flush=True)


if __name__ == "__main__":
    main()
