// Run by quantize.py in node: which texts get other token ids than in Python?
//
//     node check.js < question.json               // {tokenizer, config, texts, ids}; prints [row numbers]

import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { encoder } from "./tokens.js";

const { tokenizer, config, texts, ids } = JSON.parse(readFileSync(0));
const encode = encoder(Tokenizer, tokenizer, config);
const rows = texts.map((text, i) => (encode(text).ids.join() === ids[i].join() ? -1 : i));
console.log(JSON.stringify(rows.filter((i) => i >= 0)));
