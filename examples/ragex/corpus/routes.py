"""Shortest paths in a weighted graph."""

import heapq


def dijkstra(graph, source):
    """The distance from source to every node that can be reached; graph maps node -> {neighbour: weight}."""
    distance = {source: 0}
    queue = [(0, source)]
    while queue:
        so_far, node = heapq.heappop(queue)
        if so_far > distance[node]:
            continue
        for neighbour, weight in graph.get(node, {}).items():
            through = so_far + weight
            if through < distance.get(neighbour, float("inf")):
                distance[neighbour] = through
                heapq.heappush(queue, (through, neighbour))
    return distance
