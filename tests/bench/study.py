#!/usr/bin/env python3
"""The study of docs/benchmarks.md: every class of every model of study_models.py forgotten, measured on real test images.

    python3 tests/bench/study.py run  TOOL MODELS RESULTS.jsonl --fashion FOLDER --mnist FOLDER [NAME …] [--ways tool,ssd,…]
    python3 tests/bench/study.py page RESULTS.jsonl PAGE.md PLOTS

`run` appends a JSON line for each case and way, and leaves alone what is there already; ONNX Runtime judges, on all 10,000
test images, which the tool does not see. The ways: `tool` is `forget` with default flags (with codes: --inputs codes; without:
no inputs at all); `bias` sets the class's output to −∞; `ssd` is dampening with the Fisher of 1,000 real training images at
the best of six strengths; `ratio` is the ratio rule at the best of twelve strengths, with codes, or with those real images for
models without; `retrained` is the model trained again without the class, where study_models.py made it. For `ssd` and
`ratio` labels of the test images choose, as no tool may. `page` replaces what stands between the marks in PAGE.md by tables, and
draws PLOTS/study-*.svg. Needs onnx, onnxruntime, numpy; `page` needs matplotlib.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import tempfile

import numpy as np

WAYS = ("tool", "bias", "ssd", "ratio", "retrained")
SSD = [["--rule", "dampen", "--alpha", str(a), "--lambda", "1"] for a in (1, 3, 10, 30, 100, 300)]
RATIO = [["--rule", "ratio", "--lambda1", str(a), "--lambda2", str(b)] for a in (1e30,) for b in (0.03, 0.1, 0.3, 1, 3, 10)] + [
    ["--rule", "ratio", "--lambda1", str(a), "--lambda2", str(b)] for a in (1e-3, 1e-2) for b in (1, 3, 10)
]
FEW = 10  # real training images a class, where results with codes are judged
CHOSEN_ON = 2000  # test images that a strength is chosen on


def read_idx(folder, name):
    packed = folder / f"{name}.gz"
    data = gzip.open(packed).read() if packed.exists() else (folder / name).read_bytes()
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(np.frombuffer(data, ">i4", data[3], 4))


class Images:
    def __init__(self, x, y):
        self.x, self.y = x, y


class Data:
    def __init__(self, folder):
        self.x = read_idx(folder, "t10k-images-idx3-ubyte")[:, None].astype(np.float32) / 255
        self.y = read_idx(folder, "t10k-labels-idx1-ubyte").astype(np.int64)
        self.some = Images(self.x[:CHOSEN_ON], self.y[:CHOSEN_ON])
        self.train = (read_idx(folder, "train-images-idx3-ubyte"), read_idx(folder, "train-labels-idx1-ubyte"))

    def real(self, path, each):
        """So many training images a class, as labelled inputs."""
        x, y = self.train
        rows = np.concatenate([np.flatnonzero(y == c)[:each] for c in range(10)])
        np.savez(path, x=x[rows, None].astype(np.float32) / 255, y=y[rows].astype(np.int64))


def logits(model, data):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    given = str(model) if isinstance(model, (str, pathlib.Path)) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: data.x[i : i + 500]})[0] for i in range(0, len(data.x), 500)])


def accuracies(answers, data, forgotten):
    """A_F and A_R in percent."""
    right, lost = answers == data.y, np.isin(data.y, forgotten)
    return 100 * right[lost].mean(), 100 * right[~lost].mean()


def weights(model):
    import onnx

    return {t.name: t for t in onnx.load(model).graph.initializer}


def under_the_old_head(before, after, head):
    """The changed body with the original last layer."""
    import onnx

    model, old = onnx.load(after), weights(before)
    for t in model.graph.initializer:
        if t.name in head:
            t.CopyFrom(old[t.name])
    return model


class Case:
    """One model and the class to forget."""

    def __init__(self, study, name, c):
        self.study, self.name, self.c = study, name, c
        self.data = study.data(name)
        self.model = study.models / f"{name}.onnx"
        self.codes = study.models / f"{name}.codes.npz"
        self.out = study.folder / "out.onnx"

    def judge(self, model):
        """A_F, A_R, and A_F under the old head."""
        found = accuracies(logits(model, self.data).argmax(1), self.data, [self.c])
        old = under_the_old_head(self.model, model, self.study.head(self.name))
        return *found, accuracies(logits(old, self.data).argmax(1), self.data, [self.c])[0]

    def tool(self):
        inputs = ["--inputs", self.codes] if self.codes.exists() else []
        report = self.study.tool("forget", self.model, "--class", self.c, "-o", self.out, *inputs)
        a_f, a_r, old = self.judge(self.out)
        shares = {w["name"]: w["share"] for w in report["changes"]}
        return {
            "A_F": a_f, "A_R": a_r, "old_head": old, "seconds": report["seconds"], "unsure": bool(report["doubts"]),
            "doubts": report["doubts"], "rule": report["rule"], "strength": report["strength"],
            "head_share": report["head_share"], "shares": shares, "passes": report["passes"],
        }  # fmt: skip

    def bias(self):
        answers = self.study.before(self.name).copy()
        answers[:, self.c] = -np.inf
        a_f, a_r = accuracies(answers.argmax(1), self.data, [self.c])
        return {"A_F": a_f, "A_R": a_r, "old_head": self.study.start(self.name, self.c)[0]}

    def best(self, inputs, grid):
        """The strength with the best A_R among those that leave at most 1 % of the class, or else the least A_F; and what
        `forget` said of each of them."""
        fisher = self.study.fisher(self.name, inputs)
        some = self.data.some
        start = accuracies(self.study.before(self.name)[: len(some.y)].argmax(1), some, [self.c])[1]

        # of a strength that is given codes alone say too little
        judges = ["--calibration", self.study.real(self.name, FEW)] if inputs == self.codes else []

        def forget(flags):
            given = ["--inputs", inputs, "--fisher", fisher, *judges, *flags]
            return self.study.tool("forget", self.model, "--class", self.c, "-o", self.out, *given)

        tried = []
        for flags in grid:
            doubts = forget(flags)["doubts"]
            a_f, a_r = accuracies(logits(self.out, some).argmax(1), some, [self.c])
            tried.append({"strength": flags, "A_F": a_f, "A_R": a_r, "A_R before": start, "unsure": bool(doubts)})
        flags = min((max(g["A_F"] - 1, 0), -g["A_R"], g["strength"]) for g in tried)[2]
        forget(flags)
        a_f, a_r, old = self.judge(self.out)
        return {"A_F": a_f, "A_R": a_r, "old_head": old, "strength": flags, "tried": tried}

    def ssd(self):
        return self.best(self.study.real(self.name), SSD)

    def ratio(self):
        return self.best(self.codes if self.codes.exists() else self.study.real(self.name), RATIO)

    def retrained(self):
        model = self.study.models / f"{self.name}.without_{self.c}.onnx"
        if not model.exists():
            return None
        a_f, a_r = accuracies(logits(model, self.data).argmax(1), self.data, [self.c])
        return {"A_F": a_f, "A_R": a_r, "old_head": None}


class Study:
    def __init__(self, args, folder):
        self.binary, self.models, self.folder = args.tool, args.models, folder
        self.folders = {"fashion": args.fashion, "mnist": args.mnist}
        self.kept = {}

    def once(self, key, make):
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def tool(self, *words):
        words = [str(w) for w in words]
        done = subprocess.run([self.binary, *words, "--json", "--quiet", "--engine", "cpu"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")
        return json.loads(done.stdout)

    def data(self, name):
        kind = name.split("_")[0]
        return self.once(kind, lambda: Data(self.folders[kind]))

    def real(self, name, each=100):
        path = self.folder / f"{name.split('_')[0]}.{each}.npz"
        if not path.exists():
            self.data(name).real(path, each)
        return path

    def fisher(self, name, inputs):
        path = self.folder / f"{name}.{pathlib.Path(inputs).stem}.safetensors"
        if not path.exists():
            self.tool("fisher", self.models / f"{name}.onnx", "--inputs", inputs, "-o", path)
        return path

    def head(self, name):
        show = lambda: subprocess.run([self.binary, "inspect", str(self.models / f"{name}.onnx"), "--json"], capture_output=True, check=True)
        return self.once(("head", name), lambda: json.loads(show().stdout)["classifier"]["head_weights"])

    def before(self, name):
        return self.once(("before", name), lambda: logits(self.models / f"{name}.onnx", self.data(name)))

    def start(self, name, c):
        return accuracies(self.before(name).argmax(1), self.data(name), [c])


def run(args):
    done = set()
    if args.results.exists():
        done = {(r["model"], r["class"], r["way"]) for r in map(json.loads, args.results.read_text().splitlines())}
    known = sorted(p.stem for p in args.models.glob("*_*_[cn].onnx"))
    names = [n for n in args.names or known if (args.mnist or not n.startswith("mnist"))]
    with tempfile.TemporaryDirectory() as folder, args.results.open("a") as results:
        study = Study(args, pathlib.Path(folder))
        for way in args.ways.split(","):
            for name in names:
                for c in range(10):
                    if (name, c, way) in done:
                        continue
                    found = getattr(Case(study, name, c), way)()
                    if found is None:
                        continue
                    start = study.start(name, c)
                    row = {"model": name, "class": c, "way": way, "A_F before": start[0], "A_R before": start[1], **found}
                    print(json.dumps(row), file=results, flush=True)
                    old = "" if row["old_head"] is None else f", old head {row['old_head']:.1f}"
                    print(f"{way} {name} {c}: A_F {row['A_F']:.1f}, A_R {row['A_R'] - start[1]:+.1f}{old}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("tool")
    one.add_argument("models", type=pathlib.Path)
    one.add_argument("results", type=pathlib.Path)
    one.add_argument("names", nargs="*")
    one.add_argument("--fashion", type=pathlib.Path, default=pathlib.Path("/usr/share/datasets/fashion-mnist"))
    one.add_argument("--mnist", type=pathlib.Path)
    one.add_argument("--ways", default=",".join(WAYS))
    one.set_defaults(does=run)
    page = commands.add_parser("page")
    page.add_argument("results", type=pathlib.Path)
    page.add_argument("page", type=pathlib.Path)
    page.add_argument("plots", type=pathlib.Path)

    def write(args):
        import study_page

        study_page.write(args.results, args.page, args.plots)

    page.set_defaults(does=write)
    args = parser.parse_args()
    args.does(args)


if __name__ == "__main__":
    main()
