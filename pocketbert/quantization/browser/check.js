// Run by quantize.py in node: how many texts get other ids than in Python?
//
//     node check.js FOLDER < rows.json            // [[text, ids], ...]; prints the row numbers of those that differ

import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { encoder } from "./tokens.js";

const read = (path) => JSON.parse(readFileSync(path));
const folder = process.argv[2];
const encode = encoder(Tokenizer, read(`${folder}/tokenizer.json`), read(`${folder}/config.json`));
const differs = ([text, ids]) => encode(text).ids.join() !== ids.join();
console.log(JSON.stringify(read(0).flatMap((row, i) => (differs(row) ? [i] : []))));
