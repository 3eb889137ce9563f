// Uses the page as a person would, and sends to the server what the person would have.

const post = (path, body) => fetch(path, { method: "POST", body });
const frame = document.getElementById("page");
const page = () => frame.contentDocument;

async function state(...wanted) {
  for (;;) {
    const now = page()?.body?.dataset.state;
    if (wanted.includes(now)) return now;
    if (now === "failed" && !wanted.includes(now)) throw new Error(page().getElementById("status").textContent);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Chooses these files of another model, as a person would in the dialogue. */
async function choose(...names) {
  const files = new DataTransfer();
  for (const name of names) files.items.add(new File([await (await fetch(`/own/${name}`)).arrayBuffer()], name));
  page().getElementById("files").files = files.files;
  page().getElementById("files").dispatchEvent(new Event("change"));
  await state("loading", "failed");
}

const text = (id) => page().getElementById(id).innerText;

try {
  await state("ready");
  page().getElementById("forget").click();
  await post("/told", text("status"));
  page().querySelector("input[name=class][value='7']").click();
  page().getElementById("forget").click();
  await state("done");
  const link = page().getElementById("download");
  await post("/name", link.download);
  await post("/downloaded", await (await fetch(link.href)).arrayBuffer());
  await post("/still", text("still"));
  await post("/kept", text("kept"));
  await choose("plan.json", "plan.bin", "model.onnx");
  await state("ready");
  page().querySelector("input[name=class][value='3']").click();
  page().getElementById("forget").click();
  await state("done");
  await post("/own", page().getElementById("download").download);
  await choose("plan.json", "plan.bin", "other.onnx");
  await state("failed");
  await post("/other", text("status"));
  frame.width = 400;
  await new Promise((resolve) => setTimeout(resolve, 100));
  const { scrollWidth, clientWidth } = page().documentElement;
  await post("/narrow", String(scrollWidth - clientWidth));
  // another server, which the address names, is refused by the page's own policy
  const elsewhere = frame.contentWindow.fetch(location.hash.slice(1), { method: "POST", mode: "no-cors", body: "secret" });
  await post("/elsewhere", await elsewhere.then(() => "sent", () => "refused"));
  await post("/done", "");
} catch (error) {
  await post("/failed", `${error.message}\n${error.stack}`);
}
