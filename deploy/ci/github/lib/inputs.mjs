// What the workflow asks for, checked.
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { Failure } from "./workflow.mjs";

const LONGEST_INTENT = 500;
const UNITS = { s: 1, m: 60, h: 3600 };

/**
 * The inputs as the request needs them.
 *
 * @throws {Failure} an input is missing or makes no sense; its name and what it should have been.
 */
export function wanted(environment) {
  const input = (name) => (environment[`INPUT_${name.toUpperCase()}`] ?? "").trim();
  const server = base(input("server"));
  return {
    server,
    cluster: matching(input("cluster"), "cluster", /^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$/, "the name of a cluster"),
    scope: matching(input("scope"), "scope", /^[A-Za-z0-9][A-Za-z0-9._/-]{0,252}$/, "policy/scope"),
    audience: matching(input("audience") || server, "audience", /^[\x21-\x7e]{1,512}$/, "one word, mostly a URL"),
    lifetime: seconds(input("lifetime")),
    intent: line(input("intent")),
    details: details(input("authorization-details")),
    authorities: authorities(input("certificate-authority")),
  };
}

function matching(text, name, pattern, what) {
  if (!pattern.test(text)) throw new Failure(`The input "${name}" has to be ${what}.`);
  return text;
}

/** Without a slash at the end. */
function base(text) {
  const url = URL.canParse(text) ? new URL(text) : null;
  const isPlain = url?.protocol === "https:" && !url.username && !url.password && !url.search && !url.hash;
  if (!isPlain) throw new Failure('The input "server" has to be the https:// URL of the daemon\'s HTTP door.');
  return url.href.replace(/\/+$/, "");
}

function seconds(text) {
  if (!text) return "";
  const [, number, unit] = matching(text, "lifetime", /^[0-9]{1,6}[smh]$/, "like 90s, 10m or 1h").match(/^(\d+)(.)$/);
  return String(Number(number) * UNITS[unit]);
}

function line(text) {
  if ([...text].length > LONGEST_INTENT || /\p{Cc}/u.test(text)) {
    throw new Failure(`The input "intent" has to be one line of at most ${LONGEST_INTENT} characters.`);
  }
  return text;
}

function details(text) {
  if (!text) return "";
  try {
    const listed = JSON.parse(text);
    if (Array.isArray(listed) && listed.every((each) => each?.type === "kubernetes")) return JSON.stringify(listed);
  } catch {
    // Said below, without the parser's words, which quote the input.
  }
  throw new Failure('The input "authorization-details" has to be a JSON array: [{"type": "kubernetes", …}].');
}

/** PEM, or "" where public roots vouch for the daemon. */
function authorities(text) {
  if (!text) return "";
  try {
    const pem = text.includes("-----BEGIN") ? text : readFileSync(text, "utf8");
    new X509Certificate(pem);
    return pem;
  } catch {
    throw new Failure('The input "certificate-authority" has to be a certificate as PEM, or a path to one.');
  }
}
