// One HTTPS request: bounded in time and size, certificates always verified, redirects never followed.
import { Agent, request } from "node:https";
import { Failure } from "./workflow.mjs";

const MOST_CHARACTERS = 256 * 1024;
/** What passes by itself, or may. */
const PASSING = ["ECONNREFUSED", "ECONNRESET", "EPIPE", "EAI_AGAIN", "ENETUNREACH", "EHOSTUNREACH", "ETIMEDOUT"];

/** It did not work now, and may work later; `pause` is how many seconds whoever answered wants to be left alone. */
export class Passing extends Failure {
  constructor(message, pause = 0) {
    super(message);
    this.pause = pause;
  }
}

/**
 * The answer: its status, headers and text.
 *
 * @throws {Passing} nobody answered.
 * @throws {Failure} whoever answered cannot be trusted, or says too much.
 */
export async function call(url, { method = "GET", headers = {}, body = "", authorities = "", seconds, who }) {
  const options = {
    method,
    headers: body ? { ...headers, "Content-Type": "application/x-www-form-urlencoded" } : headers,
    // Through the proxy that the environment names, if any.
    agent: new Agent({ proxyEnv: process.env }),
    rejectUnauthorized: true,
    signal: AbortSignal.timeout(seconds * 1000),
    ...(authorities && { ca: authorities }),
  };
  try {
    return await answered(url, options, body, who);
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw unanswered(error, who, seconds);
  }
}

async function answered(url, options, body, who) {
  const reply = await new Promise((resolve, reject) => {
    request(url, options, resolve).on("error", reject).end(body);
  });
  let text = "";
  for await (const part of reply.setEncoding("utf8")) {
    text += part;
    if (text.length > MOST_CHARACTERS) throw new Failure(`${who} answers with more than anybody should.`);
  }
  return { status: reply.statusCode, headers: reply.headers, text };
}

function unanswered(error, who, seconds) {
  if (error.name === "AbortError" || error.name === "TimeoutError") {
    return new Passing(`${who} did not answer within ${seconds} seconds.`);
  }
  const code = /^[A-Z0-9_]{1,64}$/.test(error.code) ? error.code : error.name;
  if (PASSING.includes(code)) return new Passing(`${who} cannot be reached (${code}).`);
  if (code === "ENOTFOUND") return new Failure(`${who} cannot be found: there is no such host.`);
  return new Failure(
    `${who} cannot be trusted or understood (${code}). If a private CA vouches for it, give "certificate-authority".`,
  );
}
