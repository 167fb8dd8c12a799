"""Clean tweets as the authors of a checkpoint cleaned its training texts.

    cardiff     "@ann see https://t.co/x"  ->  "@user see http"
    bertweet    "@ann isn't here 😂 …"     ->  "@USER is n't here :face_with_tears_of_joy: ..."

A model that was pretrained on "@USER" has hardly seen "@ann": without the cleaning it would meet words that are new to
it. The name of the cleaning is stored in config.json ("text_cleaning"), so that every later step does the same.
"""

import html
import re
import unicodedata
from functools import lru_cache


def clean_cardiff(text):
    """Cardiff NLP's preprocessing (the model cards of cardiffnlp/twitter-roberta-base and its relatives)."""
    words = ("@user" if word.startswith("@") and len(word) > 1 else word for word in text.split(" "))
    return " ".join("http" if word.startswith("http") else word for word in words)


# Emoji whose usual name differs from that of the Unicode standard, the most frequent first. With this list 437 of the
# 516 emoji in BERTweet's vocabulary get the name that it has for them; without it 343 do.
EMOJI_NAMES = """
❤red_heart 😍smiling_face_with_heart-eyes ♥heart_suit 😘face_blowing_a_kiss 👌OK_hand
😁beaming_face_with_smiling_eyes ☺smiling_face 🙏folded_hands 👍thumbs_up 💯hundred_points 🙌raising_hands
🏽medium_skin_tone 🏻light_skin_tone 👏clapping_hands 😅grinning_face_with_sweat 🏼medium_light_skin_tone
🎶musical_notes 🏾medium_dark_skin_tone 💁person_tipping_hand 🤷person_shrugging 😜winking_face_with_tongue
😄grinning_face_with_smiling_eyes 😋face_savoring_food 🤦person_facepalming 😤face_with_steam_from_nose ☀sun
👊oncoming_fist 😝squinting_face_with_tongue 😆grinning_squinting_face 😃grinning_face_with_big_eyes
☹frowning_face 😓downcast_face_with_sweat 💃woman_dancing 👎thumbs_down 👉backhand_index_pointing_right
👋waving_hand 🙅person_gesturing_NO 😥sad_but_relieved_face 😛face_with_tongue 💥collision 🎄Christmas_tree
😻smiling_cat_face_with_heart-eyes 💦sweat_droplets 🥺pleading_face 👇backhand_index_pointing_down
🥰smiling_face_with_3_hearts ®registered 💫dizzy 😰anxious_face_with_sweat 💤zzz ™trade_mark 🎁wrapped_gift
❗exclamation_mark 🌚new_moon_face 🍕pizza 🏀basketball 🤪zany_face 🙋person_raising_hand ⚡high_voltage
🗣speaking_head ☝index_pointing_up 💨dashing_away ➡right_arrow 🙆person_gesturing_OK 👐open_hands
🚨police_car_light 👯people_with_bunny_ears 👈backhand_index_pointing_left 🖕middle_finger 🎅Santa_Claus
❣heavy_heart_exclamation 🏃person_running 🏿dark_skin_tone 🤩star-struck 🤞crossed_fingers 🙇person_bowing
©copyright 👽alien 🌎globe_showing_Americas 🥴woozy_face 🌍globe_showing_Europe-Africa ⚠warning
💆person_getting_massage 🤬face_with_symbols_on_mouth 🚶person_walking 👿angry_face_with_horns ❓question_mark
💵dollar_banknote ▶play_button 🔴red_circle 🤨face_with_raised_eyebrow ⬇down_arrow 🤮face_vomiting 🍆eggplant
"""

EMOJI_NAMES = {entry[0]: entry[1:] for entry in EMOJI_NAMES.split()}

NARROW_EMOJI = "✌♀♂☮✏☘☠❄☃✍☯✈☑☁☄✔✖✝▪‼⁉"

# NLTK's TweetTokenizer in one expression; the first alternative that matches wins. The lengths are bounded (a label of
# a domain has at most 63 letters, the name in a mail address 64), so that a hostile text takes linear time.
TWEET_TOKEN = re.compile(r"""
      https?:(?:/{1,3}|[a-z0-9%])[^\s()<>{}\[\]]+[^\s`!()\[\]{};:'".,<>?«»“”‘’]     # link
    | [a-z0-9.\-]{1,253}\.[a-z]{2,13}/[^\s()<>{}\[\]]+[^\s`!()\[\]{};:'".,<>?«»“”‘’]  # no http
    | (?<!@)[a-z0-9]{1,63}(?:[.\-][a-z0-9]{1,63}){0,9}\.[a-z]{2,13}\b/?(?!@)       # bare domain
    | (?:\+?[01][ *\-.)]*)?(?:\(?\d{3}[ *\-.)]*)?\d{3}[ *\-.)]*\d{4}               # telephone number
    | [<>]?[:;=8][\-o*']?[)\](\[dp/:}{@|\\]                                        # :-)
    | [)\](\[dp/:}{@|\\][\-o*']?[:;=8][<>]?                                        # (-:
    | <3 | <[^>\s]{1,300}> | -+> | <-+                                             # heart, tag, arrows
    | @\w+ | \#+\w[\w'\-]*\w                                                       # @mention, #hashtag
    | [\w.+\-]{1,64}@[\w\-]+\.(?:[\w\-]\.?)+[\w\-]                                 # mail
    | [^\W\d_²³¹¼½¾](?:[^\W\d²³¹¼½¾]|['\-])+[^\W\d_²³¹¼½¾]                        # don't, well-known
    | [+\-]?\d+[,/.:\-]\d+[+\-]?                                                   # 1.5, 24/7
    | [^\W²³¹¼½¾]+ | \.(?:\s*\.)+ | \S                                            # word, dots, the rest
    """, re.VERBOSE | re.IGNORECASE)

# BERTweet's replacements, in its order; both columns are verbatim, the two blanks included.
CONTRACTIONS = [("cannot ", "can not "), ("n't ", " n't "), ("n 't ", " n't "), ("ca n't", "can't"),
                ("ai n't", "ain't"), ("'m ", " 'm "), ("'re ", " 're "), ("'s ", " 's "), ("'ll ", " 'll "),
                ("'d ", " 'd "), ("'ve ", " 've "), (" p . m .", "  p.m."), (" p . m ", " p.m "),
                (" a . m .", " a.m."), (" a . m ", " a.m ")]


@lru_cache(maxsize=4096)
def emoji_name(char):
    """':red_heart:' for '❤'; '' for the variation selector; any other character as it is.

    Python's unicodedata does not say which characters are emoji. We take everything from U+1F1E6 on, the symbols that
    are as wide as a Chinese character (which excludes ★ and ♡, as BERTweet does), and the two lists above.
    """
    if char == "\ufe0f":
        return ""
    if char in EMOJI_NAMES:
        return f":{EMOJI_NAMES[char]}:"
    wide_symbol = "\u2600" <= char <= "\u27bf" and unicodedata.east_asian_width(char) == "W"
    if wide_symbol or char in NARROW_EMOJI or "\U0001f1e6" <= char <= "\U0001faff":
        name = unicodedata.name(char, "").lower().replace(" ", "_")
        return f":{name}:" if name else char
    return char


def bertweet_word(token):
    """One token of a tweet as BERTweet writes it: @USER, HTTPURL, or :the_name: of an emoji."""
    if token.startswith("@"):
        return "@USER"
    if token.lower().startswith(("http", "www")):
        return "HTTPURL"
    if len(token) == 1:
        return {"’": "'", "…": "..."}.get(token) or emoji_name(token)
    return token


def clean_bertweet(text):
    """`normalizeTweet` of BERTweet (github.com/VinAIResearch/BERTweet), without its two dependencies."""
    text = text.replace("’", "'").replace("…", "...")
    text = re.sub(r"&#?\w{1,31};", lambda m: html.unescape(m[0]).replace(m[0], ""), text)  # "" if unknown
    text = re.sub(r"([^a-zA-Z0-9])\1{3,}", r"\1\1\1", text)             # at most three of a kind: "!!!"
    text = " ".join(bertweet_word(token) for token in TWEET_TOKEN.findall(text))
    for old, new in CONTRACTIONS:
        text = text.replace(old, new)
    return " ".join(text.split())


CLEANERS = {"none": str, "cardiff": clean_cardiff, "bertweet": clean_bertweet}


def default_cleaning(name, config):
    """The cleaning with which a checkpoint was trained: a key of CLEANERS.

    name: the Hub id or folder the user asked for    config: the parsed config.json
    """
    names = [str(name), str(config.get("_name_or_path") or "")]
    if config.get("tokenizer_class") == "BertweetTokenizer" or any("vinai/bertweet" in n for n in names):
        return "bertweet"
    return "cardiff" if any(n.startswith("cardiffnlp/twitter") for n in names) else "none"
