"""A cache of fixed size."""

from collections import OrderedDict


class LRU:
    """Keeps the entries that were used last; the least recently used one is evicted first."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.entries = OrderedDict()
        self.hits = self.misses = 0

    def get(self, key, make):
        """The cached value of key; made, kept and counted as a miss where there is none."""
        if key in self.entries:
            self.hits += 1
            self.entries.move_to_end(key)
            return self.entries[key]
        self.misses += 1
        value = self.entries[key] = make(key)
        if len(self.entries) > self.capacity:
            self.entries.popitem(last=False)
        return value
