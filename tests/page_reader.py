"""What a page of ours holds, read as a browser would: its numbers, ids, addresses, scripts and words."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br"}   # elements without an end


class PageReader(HTMLParser):
    """numbers: [(place in results.json, kind, text)]    loose: digits in cells that are neither of these nor words
    words: texts of <bdi>    ids, addresses, names of all attributes    texts: {"style": [...], "script": [...]}
    """

    def __init__(self, page):
        super().__init__()
        self.stack = []
        self.numbers, self.loose, self.words, self.cells, self.ids, self.addresses = [], [], [], [], [], []
        self.attributes = set()
        self.texts = {"style": [], "script": [], "title": [], "desc": [], "pre": [], "h2": []}
        self.tables_without_a_box = 0
        self.feed(page)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes |= set(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[name] for name in ("src", "href", "action", "xlink:href") if name in attributes]
        if tag == "table" and "scroll" not in (self.stack[-1][1].get("class") or ""):
            self.tables_without_a_box += 1
        if tag in self.texts:
            self.texts[tag].append("")
        elif tag == "bdi":
            self.words.append("")
        elif tag == "td":
            self.cells.append("")
        elif "data-at" in attributes:
            self.numbers.append((attributes["data-at"], attributes["data-as"], ""))
        if tag not in VOID:
            self.stack.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, text):
        tags = [tag for tag, _ in self.stack]
        is_number = bool(self.stack) and "data-at" in self.stack[-1][1]
        if is_number:
            at, kind, before = self.numbers[-1]
            self.numbers[-1] = (at, kind, before + text)
        if "bdi" in tags:
            self.words[-1] += text
        if tags and tags[-1] in self.texts:
            self.texts[tags[-1]][-1] += text
        if "td" in tags:
            self.cells[-1] += text
            if not is_number and "bdi" not in tags and any(c.isdigit() for c in text):
                self.loose.append(text)
