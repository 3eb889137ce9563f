// The page: a model and its plan, classes chosen, the model forgotten and offered for download.

import { Player } from "./player.js";
import { Forgetter } from "./forget.js";

/** What the page starts with. */
const FIXTURE = {
  folder: "mlp",
  about: "a small network for Fashion-MNIST that was trained with one mnemonic code a class",
  names: ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
};

const at = (id) => document.getElementById(id);
const percent = (part) => `${(100 * part).toFixed(part > 0 && part < 0.001 ? 3 : 1)} %`;

let player;
let forgetter;
let names = [];
let link;

function show(state, message = "") {
  document.body.dataset.state = state;
  at("status").textContent = message;
  at("forget").disabled = state === "loading" || state === "working" || !forgetter;
}

/** Runs a task; what goes wrong is said on the page. */
async function guarded(task) {
  try {
    await task();
  } catch (error) {
    show("failed", error.message);
    throw error;
  }
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, attributes);
}

const nameOf = (c) => names[c] ?? `class ${c}`;

async function fetched(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} could not be loaded: ${response.status} ${response.statusText}`);
  return response;
}

async function fixture() {
  const of = (file) => fetched(`${FIXTURE.folder}/${file}`);
  const [text, data, model] = await Promise.all([of("plan.json"), of("plan.bin"), of("model.onnx")]);
  await open(await text.json(), await data.arrayBuffer(), await model.arrayBuffer(), FIXTURE);
}

/** The three files of a user, told apart by their names' endings. */
async function own(files) {
  const ending = (end) => {
    const found = files.filter((file) => file.name.endsWith(end));
    if (found.length !== 1) throw new Error(`choose one file that ends in ${end}, together with the two others`);
    return found[0];
  };
  const [text, data, model] = [".json", ".bin", ".onnx"].map(ending);
  await open(JSON.parse(await text.text()), await data.arrayBuffer(), await model.arrayBuffer(), { about: "", names: [] });
}

async function open(text, data, model, known) {
  show("loading", "Compiling shaders…");
  at("result").hidden = true;
  forgetter = undefined;
  player ??= await Player.open();
  const bundle = player.load(text, data);
  forgetter = await Forgetter.open(bundle, model);
  names = known.names;
  const parameters = [...forgetter.weights.values()].reduce((n, elements) => n + elements.length, 0);
  const about = known.about ? `, ${known.about}` : "";
  at("model").textContent =
    `${text.model.name}${about}: ${forgetter.classes} classes, ${parameters.toLocaleString("en")} weights, ` +
    `${forgetter.labels.length} labelled inputs.`;
  const { vendor, architecture, description } = player.info;
  at("about").textContent = `Runs on ${[vendor, architecture, description].filter(Boolean).join(" ") || "WebGPU"}.`;
  at("classes").replaceChildren(...[...new Set(forgetter.labels)].sort((a, b) => a - b).map(choice));
  show("ready");
}

/** A class to choose, with its first input as a picture. */
function choice(c) {
  const label = document.createElement("label");
  const box = element("input", "", { type: "checkbox", name: "class", value: c });
  label.append(box, picture(forgetter.labels.indexOf(c)) ?? "", element("span", nameOf(c)));
  return label;
}

/** Channels, height and width of a sample, where it can be a picture; a row of a square number of pixels is one. */
function extents(shape) {
  const side = Math.sqrt(shape[0]);
  if (shape.length === 1 && side > 1 && Number.isInteger(side)) return [1, side, side];
  return shape.length === 3 ? shape : [];
}

/** Sample number `index` in grey or in colours, if it is a picture. */
function picture(index) {
  const input = forgetter.sessions.forward.input("sample");
  const [channels, height, width] = extents(input.shape.slice(1));
  if (![1, 3].includes(channels) || input.dtype !== "float32") return undefined;
  const batch = forgetter.bundle.text.samples.batches.find(({ from, to }) => from <= index && index < to);
  const area = height * width;
  const first = (index - batch.from) * channels * area;
  const pixels = forgetter.bundle.elements(batch.inputs[input.of], input.dtype).subarray(first, first + channels * area);
  const [low, high] = pixels.reduce(([l, h], v) => [Math.min(l, v), Math.max(h, v)], [Infinity, -Infinity]);
  const canvas = element("canvas", "", { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < area; i++) {
    for (let k = 0; k < 3; k++) {
      const value = pixels[(channels === 3 ? k : 0) * area + i];
      image.data[4 * i + k] = (255 * (value - low)) / (high - low || 1);
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

async function forget() {
  const classes = [...document.querySelectorAll("input[name=class]:checked")].map((box) => Number(box.value));
  const strength = { alpha: at("alpha").valueAsNumber, lambda: at("lambda").valueAsNumber };
  if (classes.length === 0) return show("ready", "Choose a class first.");
  if (classes.length === new Set(forgetter.labels).size) return show("ready", "Leave at least one class.");
  at("result").hidden = true;
  show("working", "Estimating the Fisher information…");
  const start = performance.now();
  const before = await forgetter.answers();
  const fisher = await forgetter.fisher(classes);
  show("working", "Changing weights…");
  const weights = await forgetter.dampen(fisher, strength);
  const after = await forgetter.answers(weights);
  const seconds = (performance.now() - start) / 1000;
  report(classes, before, after, weights);
  offer(classes, forgetter.patched(weights));
  show("done", `Done in ${seconds.toFixed(2)} s.`);
}

function report(classes, before, after, weights) {
  const { labels } = forgetter;
  const forgotten = (i) => classes.includes(labels[i]);
  const samples = labels.map((_, i) => i);
  const still = samples.filter((i) => forgotten(i) && classes.includes(after[i])).length;
  const kept = samples.filter((i) => !forgotten(i) && after[i] === labels[i]).length;
  const retained = samples.filter((i) => !forgotten(i)).length;
  at("still").textContent = `${still} of ${labels.length - retained}`;
  at("kept").textContent = `${kept} of ${retained}`;
  at("answers").replaceChildren(...[...new Set(labels)].sort((a, b) => a - b).map((c) => answered(c, classes, before, after)));
  at("changes").replaceChildren(...changes(weights));
  at("result").hidden = false;
}

/** A row: the classes answered to the inputs of one class. */
function answered(c, classes, before, after) {
  const given = (answers) => [...new Set(answers.filter((_, i) => forgetter.labels[i] === c))].map(nameOf).join(", ");
  const row = document.createElement("tr");
  row.className = classes.includes(c) ? "forgotten" : "";
  const moved = given(before) !== given(after);
  row.append(
    element("th", nameOf(c), { scope: "row" }),
    element("td", given(before)),
    element("td", given(after), { className: moved ? "lost" : "" }),
  );
  return row;
}

/** Rows: how many elements of each weight changed, and its share of all change. */
function changes(weights) {
  const each = [...weights].map(([name, next]) => {
    const old = forgetter.weights.get(name);
    let changed = 0;
    let sum = 0;
    next.forEach((value, i) => {
      changed += value !== old[i];
      sum += Math.abs(value - old[i]);
    });
    return { name, changed: changed / next.length, sum };
  });
  const all = each.reduce((total, { sum }) => total + sum, 0);
  return each.map(({ name, changed, sum }) => {
    const share = all > 0 ? sum / all : 0;
    const row = document.createElement("tr");
    const cell = element("td", percent(share), { className: "share" });
    const bar = cell.appendChild(element("span", ""));
    bar.style.width = `${4 * share}rem`;
    row.append(element("th", name, { scope: "row" }), element("td", percent(changed)), cell);
    return row;
  });
}

function offer(classes, bytes) {
  if (link) URL.revokeObjectURL(link);
  link = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  const name = forgetter.bundle.text.model.name.replace(/\.onnx$/, "");
  Object.assign(at("download"), { href: link, download: `${name}.without-${classes.join("-")}.onnx` });
  at("download").textContent = `Download ${at("download").download}`;
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(forget);
});
at("files").addEventListener("change", () => guarded(() => own([...at("files").files])));
guarded(fixture);
