// From text to token ids, equal to those of Python (pocketbert/data/tokenizer.py, encoding.py and tweets.py).
//
//     const encode = encoder(Tokenizer, tokenizerJson, config);
//     encode("so good");                          // { ids: [2, 61, 123, 3], cut: false }
//
// @huggingface/tokenizers does the work; here is what Python does around it, and two corrections.

const LONG_TEXT = 8;       // characters for each token of text_length: longer texts are cut before they are tokenized
const MARGIN = 64;         // tokens that must lie between the tokens that are used and a cut at a blank
const WORD_MARGIN = 1000;  // the same for a cut inside a word

const CLEANERS = { none: (text) => text, cardiff: cleanCardiff };

function cleanCardiff(text) {
  const clean = (word) => (word.startsWith("@") && word.length > 1 ? "@user" : word.startsWith("http") ? "http" : word);
  return text.split(" ").map(clean).join(" ");
}

// Tokenizer: the class of @huggingface/tokenizers    tokenizerJson, config: the parsed files of the model folder
export function encoder(Tokenizer, tokenizerJson, config) {
  const tokenizer = new Tokenizer(tokenizerJson, {});
  correct(tokenizer, tokenizerJson.normalizer);
  const clean = CLEANERS[config.text_cleaning];
  if (!clean) throw new Error(`text_cleaning "${config.text_cleaning}" exists in Python only`);
  const tokenize = (text) => tokenizer.encode(clean(text.toWellFormed()), { add_special_tokens: false }).ids;
  const { prefix, suffix } = specials(tokenizer);
  const room = config.text_length - prefix.length - suffix.length;
  return (text) => {
    const ids = firstTokens(text, tokenize, LONG_TEXT * config.text_length, room);
    return { ids: [...prefix, ...ids.slice(0, room), ...suffix], cut: ids.length > room };
  };
}

// Python's library makes letters small one by one, JavaScript a whole text, where a Σ that ends a word becomes ς; and
// @huggingface/tokenizers puts no blanks around the Chinese characters beyond U+FFFF.
function correct(tokenizer, options) {
  const normalize = tokenizer.normalizer;
  if (options?.type !== "BertNormalizer") return;
  tokenizer.normalizer = (text) => {
    if (options.lowercase) text = text.replaceAll("Σ", "σ");
    if (options.handle_chinese_chars) text = text.replace(/[\u{20000}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu, " $& ");
    return normalize(text);
  };
}

// Which special tokens does the tokenizer put before and after a text?
function specials(tokenizer) {
  const whole = tokenizer.encode("a").ids;
  const bare = tokenizer.encode("a", { add_special_tokens: false }).ids;
  const start = whole.findIndex((_, i) => bare.every((id, j) => whole[i + j] === id));
  return { prefix: whole.slice(0, start), suffix: whole.slice(start + bare.length) };
}

// The ids of a text, or of a start of it that has the same first `room` ids: see encoding.start_of in Python.
function firstTokens(text, tokenize, length, room) {
  for (; length < text.length; length *= 4) {
    let end = text.lastIndexOf(" ", length - 1);
    const inWord = end < length / 2;
    if (inWord) end = length;
    while (!inWord && text[end - 1] === " ") end -= 1;
    const ids = tokenize(text.slice(0, end));
    if (ids.length >= room + (inWord ? WORD_MARGIN : MARGIN)) return ids;
  }
  return tokenize(text);
}
