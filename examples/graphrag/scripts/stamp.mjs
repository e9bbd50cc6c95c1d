// Notes in dist/build.json what was built from which dependencies; GET /health tells it.
import { readFileSync, writeFileSync } from "node:fs";

const { version } = JSON.parse(readFileSync("package.json", "utf8"));
const dependencies = readFileSync("deps.hash", "utf8").trim().slice(0, 12);
writeFileSync("dist/build.json", JSON.stringify({ version, dependencies }) + "\n");
