// Texts in, labels and probabilities out, as pocketbert.Classifier in Python. For pages of your own:
//
//     import { openModel } from "./pocketbert.js";
//
//     const model = await openModel();            // of the folder that holds this file
//     await model.answer("so good");              // { label: "positive", score: 0.98, probabilities: {...}, ... }

import * as ort from "./ort.js";
import { Tokenizer } from "./tokenizers.js";
import { encoder } from "./tokens.js";

ort.env.wasm.numThreads = 1;  // more threads need special HTTP headers, and a text takes about a millisecond
ort.env.wasm.wasmPaths = { wasm: new URL("./ort-wasm-simd-threaded.wasm", import.meta.url).href };

async function fetchFile(name, folder) {
  const response = await fetch(new URL(name, folder));
  if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status})`);
  return response.arrayBuffer();
}

// folder: URL of a folder with model.onnx, tokenizer.json and config.json
export async function openModel(folder = new URL("./", import.meta.url)) {
  const names = ["model.onnx", "tokenizer.json", "config.json"];
  const files = await Promise.all(names.map((name) => fetchFile(name, folder)));
  const [tokenizerJson, config] = files.slice(1).map((file) => JSON.parse(new TextDecoder().decode(file)));
  const labels = Object.keys(config.id2label).map((_, i) => config.id2label[i]);
  const encode = encoder(Tokenizer, tokenizerJson, config);
  const session = await ort.InferenceSession.create(new Uint8Array(files[0]), { executionProviders: ["wasm"] });

  async function answer(text) {
    const start = performance.now();
    const { ids, cut } = encode(text);
    const shape = [1, ids.length];
    const { logits } = await session.run({
      input_ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), shape),
      attention_mask: new ort.Tensor("int64", new BigInt64Array(ids.length).fill(1n), shape),
    });
    const row = softmax(logits.data);
    const best = row.indexOf(Math.max(...row));
    const probabilities = Object.fromEntries(labels.map((label, i) => [label, row[i]]));
    return { label: labels[best], score: row[best], probabilities, ids, cut, ms: performance.now() - start };
  }

  let last = Promise.resolve();  // one text after the other
  const inTurn = (text) => (last = last.then(() => answer(text), () => answer(text)));
  await inTurn("a");             // the first call sets up memory
  return { labels, config, bytes: files.reduce((sum, file) => sum + file.byteLength, 0), answer: inTurn };
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}
