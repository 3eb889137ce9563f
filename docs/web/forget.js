// Forgets classes of a model with a plan that `onnx-unlearn plan --webgpu --for forget` wrote. It knows no page.

import { count } from "./player.js";

/** The model file that a plan belongs to, and the plan's sessions. */
export class Forgetter {
  /** Checks that these are the bytes of the plan's model, and makes the plans ready. */
  static async open(bundle, bytes) {
    const { model } = bundle.text;
    if (bytes.byteLength !== model.bytes || (await sha256(bytes)) !== model.sha256) {
      throw new Error(`this is not ${model.name} as the plan was made for it`);
    }
    const [forward, fisher, dampen] = await Promise.all(
      ["forward", "fisher", "dampen"].map((name) => bundle.session(name)),
    );
    return new Forgetter(bundle, bytes, { forward, fisher, dampen });
  }

  constructor(bundle, bytes, sessions) {
    this.bundle = bundle;
    this.bytes = bytes;
    this.sessions = sessions;
    this.weights = new Map(bundle.text.weights.map((place) => [place.name, elementsAt(bytes, place)]));
    this.labels = bundle.text.samples.classes;
    this.classes = bundle.text.classes;
  }

  /** Feeds of everything that a batch and the weights bring. */
  feed(batch, weights, more = () => undefined) {
    return (input) => {
      if (input.role === "weight") return weights.get(input.of);
      if (input.role === "sample") return this.bundle.elements(batch.inputs[input.of], input.dtype);
      if (input.role === "labels") return this.bundle.elements(batch.labels, input.dtype);
      return more(input);
    };
  }

  /** The class answered for each sample under these weights: the greatest logit, the first of equals. */
  async answers(weights = this.weights) {
    const all = [];
    for (const batch of this.bundle.text.samples.batches) {
      const [logits] = await this.sessions.forward.run(this.feed(batch, weights));
      for (let sample = 0; sample < batch.to - batch.from; sample++) {
        const row = logits.subarray(sample * this.classes, (sample + 1) * this.classes);
        all.push(row.reduce((best, logit, c) => (logit > row[best] ? c : best), 0));
      }
    }
    return all;
  }

  /** What each sample counts in the Fisher of these classes: the mean over a class's samples, then over the classes. */
  sampleWeights(classes) {
    const own = classes.map((c) => this.labels.filter((label) => label === c).length);
    return this.labels.map((label) => {
      const at = classes.indexOf(label);
      return at < 0 ? 0 : 1 / (own[at] * classes.length);
    });
  }

  /**
   * The Fisher of the classes to forget and of all others that have samples: two maps from a weight's name to its
   * elements.
   */
  async fisher(forgotten, progress = () => {}) {
    const present = [...new Set(this.labels)].sort((a, b) => a - b);
    const retained = present.filter((c) => !forgotten.includes(c));
    if (forgotten.length === 0 || retained.length === 0) throw new Error("choose classes to forget, not all of them");
    const counts = [forgotten, retained].map((classes) => this.sampleWeights(classes));
    const session = this.sessions.fisher;
    const { shape } = session.input("sample_weights");
    const sums = session.outputs.map((output) => new Float32Array(count(output.shape)));
    for (const batch of this.bundle.text.samples.batches) {
      // samples that only fill the batch up count nothing
      const u = new Float32Array(count(shape));
      counts.forEach((of, set) => u.set(of.slice(batch.from, batch.to), set * shape[1]));
      const part = await session.run(this.feed(batch, this.weights, () => u));
      part.forEach((squares, k) => squares.forEach((square, i) => (sums[k][i] += square)));
      progress(batch.to / this.labels.length);
    }
    const half = (set) => (sum) => sum.subarray((set * sum.length) / 2, ((set + 1) * sum.length) / 2);
    const named = (set) => new Map(session.outputs.map(({ name }, k) => [name, half(set)(sums[k])]));
    for (const [name, sum] of [...named(0), ...named(1)]) {
      if (!sum.every(Number.isFinite)) throw new Error(`the Fisher of '${name}' is not finite`);
    }
    return { forget: named(0), retain: named(1) };
  }

  /** The weights after dampening: w · min(λ f_R / f_F, 1) where f_F > α f_R. */
  async dampen(fisher, { alpha, lambda }) {
    const strengths = { alpha, lambda };
    const session = this.sessions.dampen;
    const changed = await session.run((input) => {
      if (input.role === "weight") return this.weights.get(input.of);
      if (input.role === "forget_fisher") return fisher.forget.get(input.of);
      if (input.role === "retain_fisher") return fisher.retain.get(input.of);
      return Float32Array.of(strengths[input.of]);
    });
    const weights = new Map(this.weights);
    session.outputs.forEach(({ name }, k) => weights.set(name, changed[k]));
    for (const [name, elements] of weights) {
      if (!elements.every(Number.isFinite)) throw new Error(`the new elements of '${name}' are not all finite`);
    }
    return weights;
  }

  /** The model's bytes with these weights; an element that did not change keeps its bytes. */
  patched(weights) {
    const bytes = this.bytes.slice(0);
    for (const place of this.bundle.text.weights) patch(bytes, place, weights.get(place.name), this.weights.get(place.name));
    return bytes;
  }
}

/** Offset in the file of each element of a weight. */
function* offsets({ runs }) {
  for (const [start, step, length] of runs) {
    for (let i = 0; i < length; i++) yield start + i * step;
  }
}

function elementsAt(bytes, place) {
  const view = new DataView(bytes);
  return Float32Array.from(offsets(place), (at) => view.getFloat32(at, true));
}

function patch(bytes, place, next, old) {
  const view = new DataView(bytes);
  let i = 0;
  for (const at of offsets(place)) {
    if (next[i] !== old[i]) view.setFloat32(at, next[i], true);
    i++;
  }
}

async function sha256(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
