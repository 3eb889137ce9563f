"""Holds what an audit computes against scikit-learn, SciPy, NumPy and ONNX Runtime.

check_audit.py formulas FILE.json          numbers of the library on arrays that the test drew
check_audit.py audit FILE.json DATA.npz MEMBERS.npz OTHERS.npz    a whole audit of two CNN fixtures, from the files alone
"""
import json
import sys

import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FAILED = []


def near(what, got, want, tolerance):
    got, want = np.asarray(got, float), np.asarray(want, float)
    if got.shape != want.shape or not np.all(np.abs(got - want) <= tolerance):
        FAILED.append(f"{what}: {got} instead of {want}")


def delong(scores, positive, contrast):
    """Value and standard error of a contrast of areas, from all pairs."""
    psi = []
    for s in scores:
        a, b = s[positive][:, None], s[~positive][None, :]
        psi.append((a > b) + 0.5 * (a == b))
    psi = np.tensordot(contrast, np.array(psi, float), 1)
    m, n = psi.shape
    variance = psi.mean(1).var(ddof=1) / m + psi.mean(0).var(ddof=1) / n
    return psi.mean(), np.sqrt(variance)


def wilson(k, n):
    ci = stats.binomtest(int(k), int(n)).proportion_ci(0.95, "wilson")
    return np.array([ci.low, ci.high])


def newcombe(a, b, n_a, n_b, phi):
    """Newcombe's hybrid interval of a difference of shares."""
    p, q = a / n_a, b / n_b
    (l1, u1), (l2, u2) = wilson(a, n_a), wilson(b, n_b)
    low = np.sqrt((p - l1) ** 2 - 2 * phi * (p - l1) * (u2 - q) + (u2 - q) ** 2)
    high = np.sqrt((u1 - p) ** 2 - 2 * phi * (u1 - p) * (q - l2) + (q - l2) ** 2)
    return [p - q - low, p - q + high]


def cka(a, b):
    """From the features themselves, not from Gram matrices."""
    a, b = a - a.mean(0), b - b.mean(0)
    return np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))


def modified_entropy(p, y):
    rest = np.delete(p, y)
    return -(1 - p[y]) * np.log(p[y]) - (rest * np.log1p(-rest)).sum()


def rmia(target, outside, positive):
    ratio = np.exp(target) / np.exp(outside).mean(0)
    population = np.flatnonzero(~positive)
    return [np.mean([ratio[i] >= ratio[z] for z in population if z != i]) for i in range(len(ratio))]


def check_logistic(what, x, y, folds, logits, one_column):
    """Readers of the same folds; scikit-learn's binary form has one column of weights, and twice the C is then the same."""
    for k in range(5):
        kept, out = folds != k, folds == k
        scaler = StandardScaler().fit(x[kept])
        reader = LogisticRegression(C=2.0 if one_column else 1.0, tol=1e-8, max_iter=5000).fit(scaler.transform(x[kept]), y[kept])
        want, got = reader.decision_function(scaler.transform(x[out])), logits[out]
        if one_column:
            near(f"{what}, fold {k}", got[:, 1] - got[:, 0], want, 5e-3)
        else:
            near(f"{what}, fold {k}", softmax(got, 1), softmax(want, 1), 1e-3)


def formulas(path):
    d = json.load(open(path))
    a = lambda name: np.array(d[name])
    scores, positive = a("scores"), a("positive")
    areas = [roc_auc_score(positive, s) for s in scores]
    near("areas", d["areas"], areas, 1e-12)
    for k, s in enumerate(scores):
        value, se = delong([s], positive, np.array([1.0]))
        near(f"interval {k}", d["intervals"][k], [value - 1.959964 * se, value + 1.959964 * se], 1e-6)
        fpr, tpr, _ = roc_curve(positive, s, drop_intermediate=False)
        near(f"curve {k}", d["curves"][k], np.column_stack([fpr, tpr]), 1e-12)
        for rate, got in zip((0.01, 0.1), d["rates"][k]):
            near(f"rate {k}", got, tpr[fpr <= rate].max(), 1e-12)
    value, se = delong(scores, positive, np.array([1.0, -0.5, -0.5]))
    near("paired areas", d["above"], [value, value - 1.959964 * se, value + 1.959964 * se], 1e-6)
    for k, n, got in d["wilson"]:
        near(f"wilson {k} of {n}", got, wilson(k, n), 1e-9)
    one, two = a("hits")
    near("difference", d["difference"], newcombe(one.sum(), two[:30].sum(), len(one), 30, 0.0), 1e-9)
    near("paired difference", d["paired"], newcombe(one.sum(), two.sum(), len(one), len(two), np.corrcoef(one, two)[0, 1]), 1e-9)
    p, q = log_softmax(a("logits"), 2)
    P, Q = np.exp(p), np.exp(q)
    near("KL", d["kl"], rel_entr(P, Q).sum(1), 1e-9)
    near("JS", d["js"], jensenshannon(P, Q, axis=1) ** 2, 1e-9)
    near("activation distance", d["l2"], np.linalg.norm(P - Q, axis=1), 1e-12)
    near("modified entropy", d["modified_entropy"], [modified_entropy(P[i], y) for i, y in enumerate(d["classes"])], 1e-9)
    near("RMIA", d["rmia"], rmia(a("target"), a("outside"), positive), 1e-12)
    x, y, z = a("features"), a("y"), a("other_features")
    near("CKA", d["cka"], cka(x, z), 1e-9)
    near("CKA without one", d["cka_without"], [cka(np.delete(x, i, 0), np.delete(z, i, 0)) for i in range(len(x))], 1e-9)
    folds = a("folds")
    sizes = [np.bincount(y[folds == k], minlength=3) for k in range(5)]
    near("folds are even", np.ptp(sizes, 0), np.zeros(3), 1)
    check_logistic("three classes", x, y, folds, a("reader"), False)
    check_logistic("two classes", x, (y == 1).astype(int), a("folds_2"), a("reader_2"), True)
    v = a("values")
    near("mean", d["mean"], v.mean(), 1e-12)
    want = stats.bootstrap((v,), np.mean, method="percentile", n_resamples=20000, rng=1).confidence_interval
    near("bootstrap", d["bootstrap"], [want.low, want.high], 0.15 * (want.high - want.low))
    left_out = np.array([np.delete(v, i).mean() for i in range(len(v))])
    se = v.std(ddof=1) / np.sqrt(len(v))  # what the jackknife of a mean comes to
    near("jackknife", d["jackknife"], [v.mean() - 1.959964 * se, v.mean() + 1.959964 * se], 1e-6)
    assert len(left_out) == len(v)


def shown(path, x):
    """Logits and what the last Gemm reads."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    last = [n for n in model.graph.node if n.op_type == "Gemm"][-1]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], 1, None))
    run = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": x})
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return run[0].astype(float), run[1].astype(float), weights[last.input[1]], weights[last.input[2]]


def audit(path, data, members, others):
    d = json.load(open(path))
    numbers = {(m["id"], n["id"]): n for m in d["audit"]["measures"] for n in m["numbers"]}
    load = lambda p: [np.load(p)[k] for k in ("x", "y")]
    pixels = lambda x: x.astype(np.float32) / 255
    x, y = load(data)
    files = {"before": d["before"], "value": d["after"], "reference": d["references"][0]}
    seen = {k: shown(f, pixels(x)) for k, f in files.items()}
    lost = y == d["audit"]["classes"][0]
    forgotten = d["audit"]["classes"][0]
    kept = [c for c in range(10) if c != forgotten]

    def told(measure, number, of, tolerance=1e-6, models=files):
        for k in models:
            got = numbers[measure, number][k]
            if got is not None:
                near(f"{measure} {number} {k}", got, of(k), tolerance)

    answers = {k: z.argmax(1) for k, (z, *_) in seen.items()}
    told("answers", "A_R", lambda k: (answers[k] == y)[~lost].mean())
    told("answers", "A_F", lambda k: (answers[k] == y)[lost].mean())
    told("answers", "answered_anywhere", lambda k: (answers[k] == forgotten).mean())
    near("A_R interval", numbers["answers", "A_R"]["interval"], wilson((answers["value"] == y)[~lost].sum(), (~lost).sum()), 1e-6)
    drop = [(answers["before"] == y)[y == c].mean() - (answers["value"] == y)[y == c].mean() for c in kept]
    near("class drop", numbers["answers", "class_drop"]["value"], max(drop), 1e-6)

    log_p = {k: log_softmax(z, 1) for k, (z, *_) in seen.items()}
    P, Q = np.exp(log_p["reference"][lost]), np.exp(log_p["value"][lost])
    near("JS", numbers["distance", "js"]["value"], (jensenshannon(P, Q, axis=1) ** 2).mean(), 1e-5)
    near("activation distance", numbers["distance", "activation_distance"]["value"], np.linalg.norm(P - Q, axis=1).mean(), 1e-5)
    near("KL", numbers["distance", "kl"]["value"], rel_entr(P, np.maximum(Q, np.exp(-87))).sum(1).mean(), 1e-3)

    remaining = {k: log_softmax(z[:, kept], 1) for k, (z, *_) in seen.items()}
    either = lambda s: max(roc_auc_score(lost, s), roc_auc_score(lost, -s))
    told("leak", "auc_max", lambda k: either(remaining[k].max(1)), 1e-4)
    told("leak", "auc_entropy", lambda k: either((np.exp(remaining[k]) * remaining[k]).sum(1)), 1e-4)
    # folds of another order: the same reader, not the same split
    cut = StratifiedKFold(5, shuffle=True, random_state=0)
    linear = lambda k: cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(C=2.0, max_iter=300)), remaining[k], lost, cv=cut, method="decision_function")
    told("leak", "auc_linear", lambda k: either(linear(k)), 0.01, ["value"])

    probe = lambda k: cross_val_predict(make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)), seen[k][1], y, cv=cut)
    told("probe", "recovery", lambda k: (probe(k) == y)[lost].mean(), 0.06, ["value"])
    told("probe", "cka_forgotten", lambda k: cka(seen["before"][1][lost], seen[k][1][lost]), 1e-4)

    w, b = seen["before"][2:]
    under = {k: (f @ w.T + b).argmax(1) for k, (_, f, *_) in seen.items()}
    told("old_head", "A_F", lambda k: (under[k] == forgotten)[lost].mean())
    told("old_head", "false_alarms", lambda k: (under[k] == forgotten)[~lost].mean())

    inside, outside = load(members)[0], load(others)[0]
    positive = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    both = {k: log_softmax(shown(f, pixels(np.r_[inside, outside]))[0], 1) for k, f in files.items()}
    told("membership", "auc_loss", lambda k: roc_auc_score(positive, np.maximum(both[k][:, forgotten], -87)), 1e-4)
    told("membership", "auc_entropy", lambda k: roc_auc_score(positive, (np.exp(both[k]) * np.maximum(both[k], -87)).sum(1)), 1e-4)


if __name__ == "__main__":
    {"formulas": formulas, "audit": audit}[sys.argv[1]](*sys.argv[2:])
    sys.exit("\n".join(FAILED) if FAILED else 0)
