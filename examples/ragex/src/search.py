"""The index: what the server asks."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from . import chunks, ranking


@dataclass(frozen=True)
class Hit:
    """One answer: where it is, what it is, how well it fits (1 is best), and who found it."""

    path: str
    line: int
    title: str
    score: float
    by: str


class Index:
    """The chunks of a corpus, ranked on request. Immutable once made."""

    def __init__(self, config: Path):
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        self.root = config.parent / settings["corpus"]
        self.patterns: list[str] = settings["files"]
        self.results: int = settings["results"]
        self.synonyms: dict[str, list[str]] = settings.get("synonyms", {})
        self.chunks = chunks.walk(self.root, self.patterns, settings["chunk_lines"])
        if not self.chunks:
            raise ValueError(f"reading the corpus {str(self.root)!r}: no file matches {self.patterns}")
        # A path says a lot about what is in a file, so it counts as text.
        self.texts = [f"{chunk.path}\n{chunk.text}" for chunk in self.chunks]
        self.ranker = ranking.make(self.texts)

    def search(self, query: str, count: int | None = None) -> list[Hit]:
        """The best answers by meaning; "..." in quotes is searched for literally, with ripgrep."""
        count = count or self.results
        if len(query) > 2 and query[0] == query[-1] == '"':
            return self.literal(query[1:-1], count)
        found = self.ranker.rank(self.expand(query), count)
        return [self.hit(self.chunks[i], score) for i, score in found]

    def hit(self, chunk: chunks.Chunk, score: float) -> Hit:
        """An answer that the ranker gave."""
        return Hit(chunk.path, chunk.first, chunk.title, score, self.ranker.name)

    def expand(self, query: str) -> str:
        """The query with the configured synonyms of its words."""
        asked = chunks.words(query)
        return " ".join(asked + [other for word in asked for other in self.synonyms.get(word, [])])

    def literal(self, text: str, count: int) -> list[Hit]:
        """The first lines that hold the text as it stands."""
        globs = [f"--glob={pattern}" for pattern in self.patterns]
        command = ["rg", "--json", "--fixed-strings", "--sort=path", *globs, "--", text, str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode > 1:
            raise RuntimeError(f"searching for {text!r}: {done.stderr.strip()}")
        hits = []
        for event in map(json.loads, done.stdout.splitlines()):
            if event["type"] == "match":
                data = event["data"]
                path = Path(data["path"]["text"]).relative_to(self.root).as_posix()
                hits.append(Hit(path, data["line_number"], data["lines"]["text"].strip(), 1.0, "ripgrep"))
        return hits[:count]

    def health(self) -> dict[str, object]:
        """What /health says."""
        return {
            "status": "ok",
            "chunks": len(self.chunks),
            "ranker": self.ranker.name,
            "accelerator": os.environ.get("RAGEX_ACCELERATOR", "none"),
        }


def answer(index: Index, query: str) -> dict[str, object]:
    """The answer to a query in the form in which it is sent."""
    return {"query": query, "hits": [asdict(hit) for hit in index.search(query)]}
