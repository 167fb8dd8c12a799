"""Standard input as lines that arrive one by one: can the next one be read without waiting?"""

import re
import select

BLOCK_BYTES = 1 << 16
LINE = re.compile(rb"\S[^\n]*\n")  # a complete line that is not blank


class StreamLines:
    """An iterator over the lines of a binary file, decoded as UTF-8, that knows whether another line is there.

    A byte that cannot be decoded arrives as a lone surrogate, as from data.lines.text_lines.
    """

    def __init__(self, file):
        self.file = file
        self.buffer = bytearray()
        self.start = 0              # of the next line in the buffer
        self.searched = 0           # no line break lies between start and here
        self.at_end = False
        self.is_first = True

    def __iter__(self):
        return self

    def __next__(self):
        end = self.find_end()
        while end < 0 and not self.at_end:
            self.read_block()
            end = self.find_end()
        if end < 0:
            end = len(self.buffer)
        if end == self.start:
            raise StopIteration
        line = bytes(self.buffer[self.start:end])
        self.start = self.searched = end
        if self.is_first:
            self.is_first = False
            line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        return line.decode("utf-8", "surrogateescape")

    def find_end(self):
        """The place after the next line break, or -1."""
        end = self.buffer.find(b"\n", self.searched)
        self.searched = len(self.buffer) if end < 0 else end
        return end + 1 if end >= 0 else -1

    def read_block(self):
        """Wait for some bytes, at most BLOCK_BYTES."""
        block = self.file.read1(BLOCK_BYTES)
        self.at_end = not block
        del self.buffer[:self.start]
        self.searched -= self.start
        self.start = 0
        self.buffer += block

    def ready(self):
        """Can another line that is not blank, or the end, be read without waiting? A file on disk is always ready."""
        while not self.at_end:
            if LINE.search(self.buffer, self.start):
                return True
            if not self.has_bytes():
                return False
            self.read_block()
        return True

    def has_bytes(self):
        try:
            return bool(select.select([self.file], [], [], 0)[0])
        except (OSError, ValueError):  # not a file of the system, or a pipe of Windows, which cannot be asked
            return self.file.seekable()
