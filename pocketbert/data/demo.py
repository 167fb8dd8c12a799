"""A generated corpus of tweet-like texts, so that every script runs without a download.

Three classes: negative, neutral, positive. Counting words is not enough to tell them apart: every clause that praises
has a counterpart that criticises with the very same words.

    although the plot was a mess, the film was great      positive: the main clause decides,
    the plot was a mess, although the film was great      negative: and the order of the words says which one it is
    I don't think the film was a mess                     positive: "not" reverses a clause, near or far
    anyone know if the film was great?                    neutral:  nobody has judged anything yet

Few texts have a label, as is usual: 4,000 for training, 1,000 for validation, 2,000 for the test. 16,000 more of the
same grammar have none (`unlabelled`; `--unlabelled demo:unlabelled` in distill.py). Two per cent of the labels are
wrong, in every split, as in data that people have labelled: the best possible macro-F1 is about 0.98.

With seed 0, counting words and word pairs stays below 0.85 macro-F1; a 4-layer encoder of width 128, trained from
scratch (lr 6e-4, 15 epochs), reaches 0.96 on validation. A bag of n-grams reaches 0.87 on the labels alone, and 0.95
with that encoder's answers on the texts without a label.

    from pocketbert.data.demo import generate
    for text, label in generate(seed=0)["train"][:10]:
        print(label, "|", text)

The grammar is the tables below: {name} in a template stands for any entry of the table `name`, and an entry that is
written twice is drawn twice as often. All random numbers come from random.Random(seed).random(), the one method whose
sequence Python promises to keep, so a seed gives the same texts in every process and version.
"""

import random
import re

LABELS = ["negative", "neutral", "positive"]
TRAIN = 4000  # texts with a label; few, so that unlabelled texts are worth something
UNLABELLED = 16000

# One domain per text: what it is about, the domain's hashtags and the small talk that goes with it.
DOMAINS = [
    {"thing": ["my new phone", "the phone", "the camera", "the battery", "the screen", "the update"],
     "tag": ["#phone", "#gadgets", "#tech"],
     "aside": ["charging it again", "unboxing day", "typing with one thumb"]},
    {"thing": ["the night train", "my train", "the seat", "the heating", "the buffet car", "the view"],
     "tag": ["#train", "#commute", "#travel"],
     "aside": ["platform four", "window seat", "two stops to go"]},
    {"thing": ["the new cafe", "my flat white", "the cake", "the milk foam", "the queue", "the terrace"],
     "tag": ["#coffee", "#barista", "#brunch"],
     "aside": ["second cup", "corner table", "oat milk again"]},
    {"thing": ["the film", "the sequel", "the plot", "the ending", "the soundtrack", "the last scene"],
     "tag": ["#film", "#cinema", "#movienight"],
     "aside": ["row seven", "popcorn in hand", "late show"]},
    {"thing": ["the new game", "the demo", "the story", "the map", "the final boss", "the tutorial"],
     "tag": ["#gaming", "#indiegame", "#coop"],
     "aside": ["level nine", "one more round", "headset on"]},
    {"thing": ["the weather", "the wind", "this rain", "the heat", "the evening sky", "the fog"],
     "tag": ["#weather", "#autumn", "#outdoors"],
     "aside": ["umbrella packed", "by the lake", "walking the dog"]},
    {"thing": ["the new office", "my first shift", "the meeting", "the rota", "the training day", "my desk"],
     "tag": ["#work", "#office", "#mondays"],
     "aside": ["lunch break", "inbox at zero", "third call today"]},
]

# The words that carry an opinion. {same} and {opposite} in a template draw from here: the polarity of the
# label, or the other one. A neutral text takes a side at random, because it only mentions it.
OPINIONS = {
    "positive": ["great", "lovely", "brilliant", "good", "wonderful", "superb", "so nice", "a joy",
                 "a real treat", "absolutely perfect"],
    "negative": ["awful", "terrible", "dreadful", "bad", "horrible", "useless", "so dull", "a mess",
                 "a real chore", "absolutely dire"],
}

GRAMMAR = {
    "is": ["is", "was", "really is", "has been"],
    "isnt": ["is not", "isn't", "was not", "wasn't", "was never", "is hardly"],
    # A clause that agrees with the label (pro), one that does not (con). One in six is negated, near or far.
    "pro": ["{same claim}"] * 5 + ["{opposite denied}"],
    "con": ["{opposite claim}"] * 5 + ["{same denied}"],
    "same claim": ["{thing} {is} {same}"] * 2 + ["I think {thing} {is} {same}"],
    "opposite claim": ["{thing} {is} {opposite}"] * 2 + ["I think {thing} {is} {opposite}"],
    "same denied": ["{thing} {isnt} {same}", "I don't think {thing} {is} {same}",
                    "nobody would say {thing} {is} {same}"],
    "opposite denied": ["{thing} {isnt} {opposite}", "I don't think {thing} {is} {opposite}",
                        "nobody would say {thing} {is} {opposite}"],
    "either": ["{pro}", "{con}"],
    # What a positive or negative text says ...
    "opinion": ["{pro}"] * 9 + ["no idea yet what is next but {pro}", "people ask me, so: {pro}",
                                "anyone else? {pro}"] + ["{contrast}"] * 6,
    "contrast": ["{con} but {pro}"] * 3 + ["although {con}, {pro}", "{pro}, although {con}",
                                           "{pro} even though {con}", "some say {con} but {pro}"],
    # ... and what a neutral one does: ask, report, plan.
    "mention": ["anyone know if {either}?", "people ask me if {either}",
                "some say {pro} but others say {con}", "no idea yet if {either}",
                "if {either} we will stay a bit longer", "will report if {either}",
                "a survey asks whether {pro} or {con}", "tomorrow I will know if {either}"],
}

OPENERS = ["good morning all", "not an ad", "quick question time is over", "happy monday",
           "sorry for the late post", "last but not least", "still in my slippers",
           "update for anyone who asked", "as people say"]

HASHTAGS = ["#today", "#justsaying", "#nofilter", "#smalltalk"]

EMOJI = ["🙃", "👀", "☕", "🚆", "🎬", "🎮", "📱", "🤷", "💬", "🌧️"]


def pick(rng, options):
    """One of the options. Not rng.choice: only the sequence of random() is promised across versions."""
    return options[int(rng.random() * len(options))]


def expand(rng, template, tables):
    """Replace every {slot}, from left to right, until none is left. A thing occurs once in a text."""
    while slot := re.search(r"\{([\w ]+)\}", template):
        options = tables[slot[1]]
        word = pick(rng, options)
        if slot[1] == "thing":
            options.remove(word)
        template = template[:slot.start()] + word + template[slot.end():]
    return template


def misspell(rng, text):
    """One typing error in a word of five letters or more: a vowel three times, or two letters swapped."""
    words = text.split(" ")
    long_words = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long_words:
        return text
    i = pick(rng, long_words)
    word = words[i]
    vowels = [j for j, letter in enumerate(word) if letter in "aeiou"]
    if vowels and rng.random() < 0.5:
        j = pick(rng, vowels)
        words[i] = word[:j] + word[j] * 3 + word[j + 1:]
    else:
        j = 1 + int(rng.random() * (len(word) - 2))
        words[i] = word[:j] + word[j + 1] + word[j] + word[j + 2:]
    return " ".join(words)


def decorate(rng, text, domain):
    """Add what makes it a tweet and says nothing about the label: off-topic talk, @mentions, #tags, links, emoji."""
    if rng.random() < 0.15:
        text = misspell(rng, text)
    if rng.random() < 0.25:
        text = pick(rng, OPENERS) + pick(rng, [", ", ". ", ": ", " - "]) + text
    if rng.random() < 0.20:
        text = text + pick(rng, [". ", ", ", " ... "]) + pick(rng, domain["aside"])
    if rng.random() < 0.15:
        text = f"@user{int(rng.random() * 100)} {text}"
    if rng.random() < 0.30:
        text = f"{text} {pick(rng, domain['tag'] + HASHTAGS)}"
    if rng.random() < 0.20:
        text = f"{text} {pick(rng, EMOJI)}"
    if rng.random() < 0.08:
        text = f"{text} https://t.example/{int(rng.random() * 100)}"
    return text if rng.random() < 0.5 else text[0].upper() + text[1:]


def compose(rng, label):
    """One text that means `label`."""
    domain = pick(rng, DOMAINS)
    side = pick(rng, ["negative", "positive"]) if label == "neutral" else label
    other = "negative" if side == "positive" else "positive"
    tables = {**GRAMMAR, "thing": list(domain["thing"]), "same": OPINIONS[side], "opposite": OPINIONS[other]}
    return decorate(rng, expand(rng, "{mention}" if label == "neutral" else "{opinion}", tables), domain)


def mislabel(rng, label, noise):
    """With probability `noise`, one of the two other labels."""
    return pick(rng, [other for other in LABELS if other != label]) if rng.random() < noise else label


def generate(seed=0, train=TRAIN, validation=1000, test=2000, noise=0.02):
    """Return {"train": [(text, label_name), ...], "validation": [...], "test": [...]}.

    No text occurs twice, within a split or across splits. The noise has random numbers of its own: noise=0.0 gives
    the same texts with the labels that the grammar means. Test is drawn first and train last, so a longer train
    split begins with the shorter one and leaves the others as they are.
    """
    rng = random.Random(f"texts {seed}")
    noise_rng = random.Random(f"noise {seed}")
    seen = set()
    splits = {}
    for name, size in [("test", test), ("validation", validation), ("train", train)]:
        splits[name] = []
        while len(splits[name]) < size:
            label = pick(rng, LABELS)
            text = compose(rng, label)
            if text not in seen:
                seen.add(text)
                splits[name].append((text, mislabel(noise_rng, label, noise)))
    return {name: splits[name] for name in ["train", "validation", "test"]}


def unlabelled(seed=0, count=UNLABELLED):
    """`count` texts of the same grammar, without labels, that are in no split of generate(seed).

    They are what follows the training texts in a longer train split.
    """
    longer = generate(seed, train=TRAIN + count)["train"]
    return [text for text, _ in longer[TRAIN:]]
