"""Cuts source files into chunks, and text into the words that are compared.

A chunk starts where a definition starts, or after a fixed number of lines: small enough to be an answer, large enough
to say what it is about.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFINITION = re.compile(r"^(def|class|async def|func|type|export|function|interface|#{1,3}) ?")
WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+")
STOP = frozenset("a an and are be by do does for from how if in is it of on or so that the this to what when where which with".split())


@dataclass(frozen=True)
class Chunk:
    """A run of lines of one file; first is 1 for the file's first line."""

    path: str
    first: int
    text: str

    @property
    def title(self) -> str:
        """The chunk's first line that says something."""
        return next((line.strip() for line in self.text.splitlines() if line.strip()), "")


def words(text: str) -> list[str]:
    """The words of text or code in lower case: camelCase and snake_case are taken apart, plurals lose their s."""
    found: list[str] = []
    for word in WORD.findall(text):
        for part in CAMEL.findall(word):
            part = part.lower()
            if len(part) > 3 and part.endswith("s") and not part.endswith("ss"):
                part = part[:-1]
            if len(part) > 1 and part not in STOP:
                found.append(part)
    return found


def split(path: str, text: str, lines: int) -> Iterator[Chunk]:
    """Yields the chunks of one file, none longer than the given number of lines."""
    held: list[str] = []
    first = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if held and (DEFINITION.match(line) or len(held) >= lines):
            yield Chunk(path, first, "\n".join(held))
            held, first = [], number
        held.append(line)
    if any(line.strip() for line in held):
        yield Chunk(path, first, "\n".join(held))


def walk(root: Path, patterns: list[str], lines: int) -> list[Chunk]:
    """All chunks of the files below root whose name matches a pattern, in the order of their paths."""
    if not root.is_dir():
        raise FileNotFoundError(f"reading the corpus {str(root)!r}: no such folder")
    found: list[Chunk] = []
    for file in sorted(root.rglob("*")):
        if file.is_file() and any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns):
            text = file.read_text(encoding="utf-8", errors="replace")
            found.extend(split(file.relative_to(root).as_posix(), text, lines))
    return [chunk for chunk in found if words(chunk.text)]
