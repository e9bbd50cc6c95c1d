// graphrag: answers questions from a graph of what documents mention together.
//
//   node dist/main.js --query "who rebuilds the images?"
//   node dist/main.js --serve        GET /health, GET /ask?q=...
//   node dist/main.js --check        asks a running server whether it is well
//   node dist/main.js --selftest     builds the graph, asks it what it must know
import { readFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import { read } from "./documents.js";
import { Graph } from "./graph.js";

const folder = process.env["GRAPHRAG_DOCUMENTS"] ?? "documents";
const port = Number(process.env["GRAPHRAG_PORT"] ?? "8081");

// A question, a passage, and its place among the answers: what --selftest asks. The passage about tides has no word in
// common with the last question: ships, harbours and pilots lead to it.
const known: [question: string, passage: string, place: number][] = [
  ["how do bees find their way back?", "bees.md#2", 1],
  ["why do tides follow the moon?", "tides.md#1", 1],
  ["what keeps a lighthouse lamp turning?", "lighthouses.md#2", 1],
  ["reefs", "tides.md#2", 2],
];

function serve(graph: Graph): void {
  const build: unknown = JSON.parse(readFileSync(new URL("build.json", import.meta.url), "utf8"));
  const reply = (response: ServerResponse, status: number, body: unknown) =>
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body) + "\n");
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://localhost");
    const question = url.searchParams.get("q");
    if (url.pathname === "/health") reply(response, 200, { status: "ok", build, ...graph.size });
    else if (url.pathname === "/ask" && question) reply(response, 200, { question, answers: graph.ask(question) });
    else if (url.pathname === "/ask") reply(response, 400, { error: "the parameter q is missing" });
    else reply(response, 404, { error: `nothing at ${url.pathname}: ask /health or /ask?q=...` });
  });
  server.listen(port, () => console.log(`graphrag: ${JSON.stringify(graph.size)}, port ${port}`));
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => server.close(() => process.exit(0)));
}

async function check(): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${port}/health`, { signal: AbortSignal.timeout(4000) });
  return response.ok ? 0 : 1;
}

function selftest(graph: Graph): number {
  let wrong = 0;
  for (const [question, passage, place] of known) {
    const answer = graph.ask(question)[place - 1];
    const good = answer?.id === passage;
    if (!good) wrong++;
    console.log(`${good ? "ok  " : "FAIL"} ${question} -> ${place}. ${answer?.id} (${answer?.because.join(", ")})`);
  }
  console.log(`selftest: ${known.length - wrong} of ${known.length} right, ${JSON.stringify(graph.size)}`);
  return wrong === 0 ? 0 : 1;
}

function answer(graph: Graph, question: string): number {
  const answers = graph.ask(question);
  for (const { id, score, text } of answers) console.log(`${score.toFixed(4)}  ${id}  ${text}`);
  return answers.length > 0 ? 0 : 1;
}

const [mode, argument = ""] = process.argv.slice(2);
if (mode === "--serve") serve(new Graph(read(folder)));
else if (mode === "--check") process.exitCode = await check();
else if (mode === "--selftest") process.exitCode = selftest(new Graph(read(folder)));
else if (mode === "--query" && argument) process.exitCode = answer(new Graph(read(folder)), argument);
else {
  console.error("usage: node dist/main.js --serve | --check | --selftest | --query TEXT");
  process.exitCode = 2;
}
