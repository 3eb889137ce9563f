// Runs the script that its address names and sends what it finds to the server.

import { Player } from "/web/player.js";

const post = (path, body) => fetch(path, { method: "POST", body });

/** One after the other in one piece of bytes. */
function joined(arrays) {
  const bytes = new Uint8Array(arrays.reduce((n, array) => n + array.byteLength, 0));
  let at = 0;
  for (const array of arrays) {
    bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
    at += array.byteLength;
  }
  return bytes;
}

async function load(player, name) {
  const [text, data] = await Promise.all([fetch(`/${name}.json`), fetch(`/${name}.bin`)]);
  return player.load(await text.json(), await data.arrayBuffer());
}

const scripts = {
  /** Every plan of a bundle that brings its feeds. */
  async cases(player) {
    const bundle = await load(player, "cases");
    const left = bundle.plans.values();
    const worker = async () => {
      for (const name of left) {
        try {
          const session = await bundle.session(name);
          await post(`/result/${name}`, joined(await session.run()));
          session.destroy();
        } catch (error) {
          await post(`/error/${name}`, error.message);
        }
      }
    };
    // compiling one plan's shaders while another one runs
    await Promise.all(Array.from({ length: 4 }, worker));
  },

  /** Fisher and new weights of a model. */
  async forget(player) {
    const { Forgetter } = await import("/web/forget.js");
    const bundle = await load(player, "plan");
    const model = await (await fetch("/model.onnx")).arrayBuffer();
    const forgetter = await Forgetter.open(bundle, model);
    const fisher = await forgetter.fisher([7]);
    const weights = await forgetter.dampen(fisher, { alpha: 10, lambda: 1 });
    for (const name of fisher.forget.keys()) {
      await post(`/f_F/${name}`, joined([fisher.forget.get(name)]));
      await post(`/f_R/${name}`, joined([fisher.retain.get(name)]));
      await post(`/dampen/${name}`, joined([weights.get(name)]));
    }
    // the page has no use for the other rule
    const ratio = await bundle.session("ratio");
    const strengths = { lambda1: 1e-3, lambda2: 10, sign: 1 };
    const changed = await ratio.run(({ role, of }) => {
      if (role === "weight") return forgetter.weights.get(of);
      if (role === "forget_fisher") return fisher.forget.get(of);
      if (role === "retain_fisher") return fisher.retain.get(of);
      return Float32Array.of(strengths[of]);
    });
    for (const [k, { name }] of ratio.outputs.entries()) await post(`/ratio/${name}`, joined([changed[k]]));
    await post("/answers/before", (await forgetter.answers()).join());
    await post("/answers/after", (await forgetter.answers(weights)).join());
  },
};

try {
  const player = await Player.open();
  const { vendor, architecture, description } = player.info;
  await post("/adapter", [vendor, architecture, description].join(" ").trim());
  await scripts[location.hash.slice(1)](player);
  await post("/done", "");
} catch (error) {
  await post("/failed", `${error.message}\n${error.stack}`);
}
