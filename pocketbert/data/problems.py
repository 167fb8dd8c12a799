"""What can be wrong with a row, and how often it was."""

from dataclasses import dataclass, field


class Problem(str):
    """Why a row cannot be read, worded to follow "3 rows of train.csv ..."."""


BLANK = Problem("with nothing on the line")
FEWER = Problem("with fewer fields than columns")
MORE = Problem("with more fields than columns")
QUOTES = Problem("with broken CSV quotes or line ends")
HEADER = Problem("that repeats the header")
JSON = Problem("with invalid JSON")


@dataclass
class Tally:
    """Counts rows by what is special about them, and remembers the first one of each kind.

    Keys are (what, fate), for example ("with an empty text", "left out").
    """

    counts: dict = field(default_factory=dict)
    first: dict = field(default_factory=dict)

    def add(self, where, what, fate="left out"):
        self.counts[what, fate] = self.counts.get((what, fate), 0) + 1
        self.first.setdefault((what, fate), where)

    def notes(self, name):
        return [f"{count:,} row{'s' * (count > 1)} of {name} {what} (first: {self.first[what, fate]}): {fate}"
                for (what, fate), count in self.counts.items()]
