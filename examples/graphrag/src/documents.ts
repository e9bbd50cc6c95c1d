// Reads documents and finds what they are about.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A paragraph of a document: the piece that an answer consists of. */
export interface Passage {
  id: string;
  title: string;
  text: string;
  /** The terms that the passage mentions, each once. */
  terms: string[];
}

const stop = new Set(
  ("a an and are as at be by can do does for from has have how if in into is it its not of on one only or so than that the " +
    "them then there they this to was what when where which who why will with without").split(" "),
);

/** The terms of a text: words in lower case without endings that don't matter, stop words left out. */
export function terms(text: string): string[] {
  const words = text.toLowerCase().match(/[a-z][a-z0-9-]+/g) ?? [];
  return [...new Set(words.filter((word) => !stop.has(word)).map(stem))];
}

function stem(word: string): string {
  if (word.length > 5 && word.endsWith("ies")) return word.slice(0, -3) + "y";
  if (word.length > 5 && word.endsWith("ing")) return word.slice(0, -3);
  if (word.length > 4 && word.endsWith("ed")) return word.slice(0, -2);
  if (word.length > 3 && word.endsWith("s") && !word.endsWith("ss")) return word.slice(0, -1);
  return word;
}

/** Every paragraph of the .md files of a folder, in the order of their names. */
export function read(folder: string): Passage[] {
  const passages: Passage[] = [];
  for (const name of readdirSync(folder).filter((file) => file.endsWith(".md")).sort()) {
    const [heading = name, ...paragraphs] = readFileSync(join(folder, name), "utf8").trim().split(/\n\s*\n/);
    const title = heading.replace(/^#+\s*/, "");
    paragraphs.forEach((paragraph, index) => {
      const text = paragraph.replace(/\s+/g, " ").trim();
      passages.push({ id: `${name}#${index + 1}`, title, text, terms: terms(`${title} ${text}`) });
    });
  }
  if (passages.length === 0) throw new Error(`reading documents from "${folder}": no paragraph in any .md file`);
  return passages;
}
