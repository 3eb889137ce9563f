"""Tables and plots of the study (study.py)."""

import json
import statistics

KINDS = {"c": ("trained with codes, which are given", 1.5, 20), "n": ("never saw codes, no inputs given", 2.0, 40)}
# what the tool is given where it searches, and where strengths are given
INPUTS = {"c": ("codes", "codes, judged by 10 real images a class"), "n": ("none", "1,000 real images")}
DATA = {"fashion": "Fashion-MNIST", "mnist": "MNIST"}
WAYS = {
    "tool": "`forget`, default flags",
    "bias": "(a) the class's output set to −∞",
    "ssd": "(b) dampening with 1,000 real images, best of 6 strengths",
    "ratio": "(c) ratio rule, best of 12 strengths",
    "retrained": "(d) trained again without the class",
}
MARKS = ("<!-- study: made by tests/bench/study.py -->", "<!-- end of study -->")


def kind(row):
    return row["model"].split("_")[2]


def change(row):
    return row["A_R"] - row["A_R before"]


def good(row):
    return row["A_F"] <= 1 and change(row) >= -KINDS[kind(row)][1]


def median(rows, key):
    found = [r[key] for r in rows if r[key] is not None]
    return f"{statistics.median(found):.1f}" if found else "–"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def summary(rows, models):
    """One line a model, then all."""
    head = ["model", "goal met", "worst A_F", "worst A_R change", "median A_F under the old head", "worst", "of these unsure"]
    lines = []
    for model in [*models, None]:
        some = [r for r in rows if model in (None, r["model"])]
        lines.append([
            model.split("_")[1] if model else "**all**", f"{sum(map(good, some))} of {len(some)}", f"{max(r['A_F'] for r in some):.1f}",
            f"{min(map(change, some)):+.1f}", median(some, "old_head"), f"{max(r['old_head'] for r in some):.1f}",
            str(sum(r["unsure"] for r in some)),
        ])  # fmt: skip
    return table(head, lines)


def cases(rows):
    head = ["model", "class", "A_F before", "A_R before", "A_F", "A_R change", "A_F under the old head", "last layer %", "rule", "s"]
    lines = []
    for r in rows:
        strength = ", ".join(f"{v:.3g}" for _, v in r["strength"])
        doubt = " (unsure)" if r["unsure"] else ""
        lines.append([
            r["model"].split("_")[1], str(r["class"]), f"{r['A_F before']:.1f}", f"{r['A_R before']:.1f}", f"{r['A_F']:.1f}", f"{change(r):+.1f}",
            f"{r['old_head']:.1f}", f"{100 * r['head_share']:.0f}", f"{r['rule']} {strength}{doubt}", f"{r['seconds']:.1f}",
        ])  # fmt: skip
    return table(head, lines)


def against(rows):
    """The ways beside each other, on the cases that every one of them has."""
    head = ["way", "cases", "goal met", "median A_F", "median A_R change", "worst", "median A_F under the old head"]
    lines = []
    for way, words in WAYS.items():
        some = [r for r in rows if r["way"] == way]
        if not some:
            continue
        changes = [change(r) for r in some]
        lines.append([
            words, str(len(some)), f"{sum(map(good, some))} of {len(some)}", median(some, "A_F"), f"{statistics.median(changes):+.1f}",
            f"{min(changes):+.1f}", median(some, "old_head"),
        ])  # fmt: skip
    return table(head, lines)


def confidence(rows):
    """How often what `forget` says of its own result is right: with default flags, and over strengths that were given to it."""
    head = ["inputs", "strength", "results", "sure, goal met", "sure, missed", "unsure, missed", "unsure, met", "worst A_F, A_R change where sure"]
    lines = []
    for k, (searched, given) in INPUTS.items():
        mine = [r for r in rows if kind(r) == k]
        by_default = [r for r in mine if r["way"] == "tool"]
        tried = [{"model": r["model"], **t} for r in mine for t in r.get("tried", [])]
        for inputs, strength, some in ((searched, "searched", by_default), (given, "given", tried)):
            if some:
                lines.append([inputs, strength, str(len(some)), *told(some)])
    return table(head, lines)


def told(rows):
    """How many results are sure and met the goal, sure and missed it, unsure and missed it, unsure and met it; the worst that are sure."""
    count = lambda unsure, met: str(sum(r["unsure"] == unsure and good(r) == met for r in rows))
    sure = [r for r in rows if not r["unsure"]]
    worst = f"{max(r['A_F'] for r in sure):.1f}, {min(map(change, sure)):+.1f}" if sure else "–"
    return [count(False, True), count(False, False), count(True, False), count(True, True), worst]


def layers(rows, models):
    """Median share of the change Σ|Δw| of each weight, over a model's classes."""
    lines = []
    for model in models:
        some = [r["shares"] for r in rows if r["model"] == model]
        shares = {w: statistics.median(s.get(w, 0.0) for s in some) for w in some[0]}
        great = [f"{w} {100 * s:.0f}" for w, s in sorted(shares.items(), key=lambda i: -i[1]) if s >= 0.05]
        lines.append([model.split("_")[1], ", ".join(great)])
    return table(["model", "weights with 5 % of the change or more, in percent"], lines)


def plot(rows, path, title):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "study"
    from matplotlib import pyplot

    ways = [w for w in WAYS if w != "retrained" and any(r["way"] == w for r in rows)]
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.4), sharey=True)
    for ax, (key, label) in zip(axes, [("A_F", "A_F after, %"), ("change", "A_R change, points"), ("old_head", "A_F under the old head, %")]):
        for i, way in enumerate(ways):
            found = [change(r) if key == "change" else r[key] for r in rows if r["way"] == way]
            # spread by rank, so that equal points can be told apart
            places = [i + 0.5 * (k % 9 - 4) / 9 for k in range(len(found))]
            ax.plot(found, places, "o", markersize=3, alpha=0.6, color=f"C{i}")
            ax.plot([statistics.median(found)] * 2, [i - 0.38, i + 0.38], color="black", linewidth=1.5)
        ax.set_xlabel(label)
        ax.grid(axis="x", linewidth=0.4)
        ax.set_yticks(range(len(ways)), [{"tool": "forget"}.get(w, w) for w in ways])
    axes[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(results, page, plots):
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    rows.sort(key=lambda r: (r["model"], r["class"]))
    plots.mkdir(parents=True, exist_ok=True)
    out = [MARKS[0]]
    for data, data_words in DATA.items():
        for k, (kind_words, drop, old) in KINDS.items():
            some = [r for r in rows if r["model"].startswith(data) and kind(r) == k]
            mine = [r for r in some if r["way"] == "tool"]
            if not mine:
                continue
            models = sorted({r["model"] for r in mine})
            out += ["", f"### {data_words}, models that {'were ' if k == 'c' else ''}{kind_words}", ""]
            out += [f"Goal of a case: A_F at most 1 %, A_R down by at most {drop} points; of all: median under the old head at most {old} %.", ""]
            out += summary(mine, models) + [""]
            out += [f"![each case a dot, the median a line](plots/study-{data}-{k}.svg)", ""] + against(some) + [""] + layers(mine, models)
            out += ["", "<details><summary>every case</summary>", ""] + cases(mine) + ["", "</details>"]
            plot(some, plots / f"study-{data}-{k}.svg", f"{data_words}: models that {'were ' if k == 'c' else ''}{kind_words}")
    out += ["", "### How often `forget` is right about itself", "", *confidence(rows)]
    text = page.read_text()
    before, rest = text.split(MARKS[0])
    page.write_text(before + "\n".join(out) + "\n\n" + MARKS[1] + rest.split(MARKS[1])[1])
