// The graph: passages and terms are nodes, "mentions" is an edge. A question lights up the terms that it names; the light
// spreads along the edges (personalised PageRank), so a passage can answer without sharing a word with the question.
import { UndirectedGraph } from "graphology";
import { terms, type Passage } from "./documents.js";

interface Node {
  kind: "passage" | "term";
}

interface Edge {
  weight: number;
}

export interface Answer {
  id: string;
  title: string;
  text: string;
  score: number;
  /** Terms of the passage that the question reached, strongest first. */
  because: string[];
}

// The usual restart probability of PageRank, and rounds enough for scores to settle in the sixth digit.
const restart = 0.15;
const rounds = 60;

/** Immutable once made. */
export class Graph {
  private readonly graph = new UndirectedGraph<Node, Edge>();
  private readonly passages: Map<string, Passage>;

  constructor(passages: Passage[]) {
    this.passages = new Map(passages.map((passage) => [`p:${passage.id}`, passage]));
    const mentions = new Map<string, number>();
    for (const term of passages.flatMap((passage) => passage.terms)) mentions.set(term, (mentions.get(term) ?? 0) + 1);
    for (const [key, passage] of this.passages) {
      this.graph.addNode(key, { kind: "passage" });
      for (const term of passage.terms) {
        this.graph.mergeNode(`t:${term}`, { kind: "term" });
        // A term that every passage mentions says nothing about any of them.
        const weight = Math.log(1 + passages.length / (mentions.get(term) ?? 1));
        this.graph.addEdge(key, `t:${term}`, { weight });
      }
    }
  }

  get size(): { passages: number; terms: number; edges: number } {
    return { passages: this.passages.size, terms: this.graph.order - this.passages.size, edges: this.graph.size };
  }

  /** The passages that answer best, at most count; none when the question names nothing that is known. */
  ask(question: string, count = 3): Answer[] {
    const seeds = terms(question).map((term) => `t:${term}`).filter((node) => this.graph.hasNode(node));
    if (seeds.length === 0) return [];
    const rank = this.spread(seeds);
    return [...this.passages]
      .map(([key, passage]) => ({ key, passage, score: rank.get(key) ?? 0 }))
      .sort((a, b) => b.score - a.score || a.key.localeCompare(b.key))
      .slice(0, count)
      .map(({ passage, score }) => ({
        id: passage.id,
        title: passage.title,
        text: passage.text,
        score: Number(score.toFixed(4)),
        because: [...passage.terms].sort((a, b) => (rank.get(`t:${b}`) ?? 0) - (rank.get(`t:${a}`) ?? 0)).slice(0, 4),
      }));
  }

  /** Personalised PageRank: the share of a random walk that keeps coming back to the seeds. */
  private spread(seeds: string[]): Map<string, number> {
    let rank = new Map(seeds.map((node) => [node, 1 / seeds.length]));
    for (let round = 0; round < rounds; round++) {
      const next = new Map(seeds.map((node) => [node, restart / seeds.length]));
      for (const [node, share] of rank) {
        const edges = this.graph.mapEdges(node, (_, { weight }, source, target) => ({
          other: source === node ? target : source,
          weight,
        }));
        const total = edges.reduce((sum, edge) => sum + edge.weight, 0);
        for (const { other, weight } of edges) {
          next.set(other, (next.get(other) ?? 0) + ((1 - restart) * share * weight) / total);
        }
      }
      rank = next;
    }
    return rank;
  }
}
