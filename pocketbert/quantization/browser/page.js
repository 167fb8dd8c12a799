// The page: a text box, a bar for each label, and what it cost.

import { openModel } from "./pocketbert.js";

const MOST_BARS = 8;  // of more labels only the most probable are shown
const at = (id) => document.getElementById(id);
const percent = (x) => `${(100 * x).toFixed(1)} %`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;

function bar(name) {
  const row = document.createElement("li");
  for (const part of ["name", "track", "percent"]) {
    row.append(Object.assign(document.createElement("span"), { className: part }));
  }
  row.children[0].textContent = name;
  row.children[1].append(Object.assign(document.createElement("div"), { className: "fill" }));
  return row;
}

// probabilities: {label: p}, or null for no text    The bars of few labels keep their places, those of many are sorted.
function show(labels, probabilities) {
  const p = (label) => probabilities?.[label] ?? 0;
  const sorted = [...labels].sort((a, b) => p(b) - p(a));
  const shown = labels.length <= MOST_BARS ? labels : sorted.slice(0, MOST_BARS);
  if (at("bars").dataset.shown !== shown.join("\n")) {
    at("bars").replaceChildren(...shown.map(bar));
    at("bars").dataset.shown = shown.join("\n");
  }
  shown.forEach((label, i) => {
    const row = at("bars").children[i];
    row.className = probabilities && label === sorted[0] ? "best" : "";
    row.querySelector(".fill").style.width = `${100 * p(label)}%`;
    row.querySelector(".percent").textContent = probabilities ? percent(p(label)) : "";
  });
}

function question(labels) {
  if (labels.length > 4) return `Which of ${labels.length} labels?`;
  return labels.length > 1 ? `${labels.slice(0, -1).join(", ")} or ${labels.at(-1)}?` : labels[0];
}

function notes(answer, labels, textLength) {
  const parts = [];
  if (answer.cut) parts.push(`Only the first ${textLength} tokens are read.`);
  if (labels.length > MOST_BARS) parts.push(`The ${MOST_BARS} most probable of ${labels.length} labels are shown.`);
  return parts.join(" ");
}

function costs(model, loadMs) {
  const all = performance.getEntriesByType("resource").reduce((sum, file) => sum + file.decodedBodySize, 0);
  return `Model ${megabytes(model.bytes)}, page and runtime ${megabytes(all - model.bytes)}; `
    + `ready in ${(loadMs / 1000).toFixed(1)} s.`;
}

async function main() {
  const start = performance.now();
  const model = await openModel();
  const loaded = costs(model, performance.now() - start);
  document.title = at("title").textContent = question(model.labels);

  async function update() {
    const text = at("text").value;
    const answer = text.trim() ? await model.answer(text) : null;
    if (text !== at("text").value) return;  // more was typed meanwhile; its own update shows it
    show(model.labels, answer?.probabilities);
    at("verdict").textContent = answer ? answer.label : "\u00a0";
    at("note").textContent = answer ? notes(answer, model.labels, model.config.text_length) : "";
    at("status").textContent = answer
      ? `${loaded} This text: ${answer.ids.length} tokens, ${answer.ms.toFixed(1)} ms.` : loaded;
  }

  at("text").addEventListener("input", () => update().catch(report));
  at("text").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    at("text").value = "";
    update().catch(report);
  });
  await update();
  document.documentElement.dataset.ready = "yes";
}

function report(error) {
  at("status").textContent = `The model does not answer: ${error.message}`;
}

main().catch(report);
