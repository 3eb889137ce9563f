"""Prints the figures of docs/benchmarks.md: every class of a fixture forgotten, measured on real test images.

    python3 tests/python/figures.py TOOL DATA [--models mlp,cnn,resnet] [--fixed] [-- FORGET FLAGS]

TOOL is the built command, DATA a folder with the Fashion-MNIST test set. The strength is searched by `forget` itself,
unless flags after `--` say otherwise. With --fixed a grid of given strengths is tried instead, the six best on the 1,000
images in fixtures/ also on DATA, and the best of these is shown (labels choose here, as no tool may; it shows what a rule
can do).
Standard library only.
"""

import argparse
import json
import os
import subprocess
import tempfile

FIXED = {
    "dampen": [["--alpha", str(0.05 * 2**k), "--lambda", str(l)] for l in (1, 0.1, 0.01) for k in range(15)],
    "ratio": [["--lambda1", "1e30", "--lambda2", str(b)] for b in (0.03, 0.1, 0.3, 0.6, 1, 2, 4, 8, 16)]
    + [["--lambda1", str(a), "--lambda2", str(b)] for a in (3e-4, 1e-3, 3e-3, 1e-2) for b in (1, 3, 10, 30)],
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("data")
    parser.add_argument("--models", default="mlp,cnn,resnet")
    parser.add_argument("--classes", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--fixed", choices=sorted(FIXED))
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()

    def run(*words):
        done = subprocess.run([args.tool, *words, "--json", "--quiet", "--engine", args.engine], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")
        return json.loads(done.stdout)

    def evaluate(model, classes, data):
        found = run("evaluate", model, "--data", data, "--forgotten", classes)
        return 100 * found["A_F"], 100 * found["A_R"]

    print("| model | class | A_F before | A_R before | A_F after | A_R change | strength | last layer % | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.onnx")
        for name in args.models.split(","):
            model = f"fixtures/{name}.onnx"
            codes = f"fixtures/{name.split('_')[0]}.codes.npz"
            good = strict = 0
            classes = args.classes.split(",")
            for c in classes:
                def forget(flags):
                    return run("forget", model, "--inputs", codes, "--class", c, "-o", out, *flags)

                flags = args.flags
                if args.fixed:
                    small = "fixtures/fmnist_test_1000.npz"
                    scores = []
                    for strength in FIXED[args.fixed]:
                        forget(["--rule", args.fixed, *strength])
                        a_f, a_r = evaluate(out, c, small)
                        # lost first, then the retained accuracy
                        scores.append((a_f > 1, a_f if a_f > 1 else 0, -a_r, strength))
                    best = []
                    for *_, strength in sorted(scores)[:6]:
                        flags = ["--rule", args.fixed, *strength]
                        forget(flags)
                        a_f, a_r = evaluate(out, c, args.data)
                        best.append((max(a_f - 1, 0), -a_r, flags))
                    flags = min(best)[2]
                before = evaluate(model, c, args.data)
                report = forget(flags)
                after = evaluate(out, c, args.data)
                strength = ", ".join(f"{k} {v:.3g}" for k, v in report["strength"])
                drop = before[1] - after[1]
                good += after[0] <= 3 and drop <= 2
                strict += after[0] <= 1 and drop <= 1.5
                cells = [name, c, *(f"{v:.1f}" for v in before), f"{after[0]:.1f}", f"{-drop:+.1f}"]
                cells += [f"{report['rule']}: {strength}", f"{100 * report['head_share']:.0f}", f"{report['seconds']:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)
            print(f"| {name} | all | E_F ≥ 97, drop ≤ 2: {good} of {len(classes)} | E_F ≥ 99, drop ≤ 1.5: {strict} of {len(classes)} | | | | | |", flush=True)


if __name__ == "__main__":
    main()
