// Arithmetic: tokens, then a recursive descent parser that evaluates an expression as it goes.

export type Token = { kind: "number"; value: number } | { kind: "operator"; value: string };

export function tokens(text: string): Token[] {
  return [...text.matchAll(/\d+(\.\d+)?|[-+*/()]/g)].map(([match]) =>
    /\d/.test(match) ? { kind: "number", value: Number(match) } : { kind: "operator", value: match },
  );
}

export function evaluate(text: string): number {
  const rest = tokens(text);
  const next = (...values: string[]) => {
    const token = rest[0];
    return token?.kind === "operator" && values.includes(token.value) ? (rest.shift(), token.value) : undefined;
  };
  const factor = (): number => {
    if (next("-")) return -factor();
    if (next("(")) {
      const value = sum();
      if (!next(")")) throw new SyntaxError("a ) is missing");
      return value;
    }
    const token = rest.shift();
    if (token?.kind !== "number") throw new SyntaxError("a number is missing");
    return token.value;
  };
  const product = (): number => {
    let value = factor();
    for (let op; (op = next("*", "/")); ) value = op === "*" ? value * factor() : value / factor();
    return value;
  };
  const sum = (): number => {
    let value = product();
    for (let op; (op = next("+", "-")); ) value = op === "+" ? value + product() : value - product();
    return value;
  };
  return sum();
}
