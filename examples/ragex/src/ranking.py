"""Ranks texts against a question: TF-IDF vectors and their cosine.

scikit-learn does it where the ml layer has installed it; elsewhere NumPy does, with the same formula, so that both
give the same order. The weights are scikit-learn's: (1 + ln tf) * (ln((1 + n) / (1 + df)) + 1), rows of length one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .chunks import words

try:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors
except ModuleNotFoundError:
    TfidfVectorizer = NearestNeighbors = None


class Ranker(Protocol):
    """Ranks the texts that it was made with."""

    name: str

    def rank(self, query: str, count: int) -> list[tuple[int, float]]:
        """The best texts for a query as (index, score from 0 to 1), best first, at most count."""


class SklearnRanker:
    """TfidfVectorizer and NearestNeighbors."""

    name = "scikit-learn"

    def __init__(self, texts: Sequence[str]):
        self.vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
        matrix = self.vectorizer.fit_transform(texts)
        self.size = matrix.shape[0]
        self.neighbors = NearestNeighbors(metric="cosine", algorithm="brute").fit(matrix)

    def rank(self, query: str, count: int) -> list[tuple[int, float]]:
        vector = self.vectorizer.transform([query])
        if vector.nnz == 0:
            return []
        far, near = self.neighbors.kneighbors(vector, n_neighbors=self.size)
        return best(near[0], 1.0 - far[0], count)


class NumpyRanker:
    """The same by hand: a dense matrix, one row a text, one column a word."""

    name = "numpy"

    def __init__(self, texts: Sequence[str]):
        counts = [Counter(words(text)) for text in texts]
        self.column = {word: i for i, word in enumerate(sorted(set().union(*counts)))}
        frequency = np.zeros(len(self.column))
        for counted in counts:
            for word in counted:
                frequency[self.column[word]] += 1
        self.idf = np.log((1 + len(counts)) / (1 + frequency)) + 1
        self.matrix = np.vstack([self.vector(counted) for counted in counts])

    def vector(self, counted: Counter[str]) -> np.ndarray:
        """The unit vector of counted words; words that no text has are left out."""
        row = np.zeros(len(self.column))
        for word, times in counted.items():
            if word in self.column:
                row[self.column[word]] = 1 + np.log(times)
        row *= self.idf
        length = np.linalg.norm(row)
        return row / length if length else row

    def rank(self, query: str, count: int) -> list[tuple[int, float]]:
        vector = self.vector(Counter(words(query)))
        if not vector.any():
            return []
        scores = self.matrix @ vector
        return best(np.arange(len(scores)), scores, count)


def best(indexes: np.ndarray, scores: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The count highest of positive scores; ties go to the lower index, whoever ranked them."""
    pairs = [(int(i), round(float(s), 6)) for i, s in zip(indexes, scores) if s > 1e-9]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count]


def make(texts: Sequence[str]) -> Ranker:
    """The best ranker that this image can run."""
    return SklearnRanker(texts) if TfidfVectorizer else NumpyRanker(texts)
