// The exchange (RFC 8693) and giving back (RFC 7009), with what to do when they fail.
import { setTimeout as pause } from "node:timers/promises";
import { call, Passing } from "./http.mjs";
import { refusal } from "./refusal.mjs";
import { Cancelled, Failure, mask } from "./workflow.mjs";

const TRIES = 6;
const FIRST_PAUSE_SECONDS = 0.5;
const PATIENCE_SECONDS = 120;
/** The runner waits for a post step, and nobody else does. */
const PATIENCE_AT_THE_END_SECONDS = 30;
const ID_TOKEN_SECONDS = 10;
/** Twice what the daemon gives an exchange by default. */
const EXCHANGE_SECONDS = 30;
const REVOKE_SECONDS = 10;
const JWT = /^[\w-]+\.[\w-]+\.[\w-]+$/;

/**
 * The daemon's reply, and when it was asked for.
 *
 * @throws {Failure} it grants nothing.
 */
export async function exchange(asked, stopped) {
  return persistently(PATIENCE_SECONDS, stopped, async () => {
    // GitHub's tokens are for one use, and a try that failed may have used its own: each has a fresh one.
    const subjectToken = await idToken(asked.audience);
    if (stopped.aborted) throw new Cancelled();
    const began = Date.now();
    return { began, text: await post(asked, "/token", form(asked, subjectToken), EXCHANGE_SECONDS) };
  });
}

/** @throws {Failure} it was not given back. */
export async function giveBack(server, authorities, token) {
  const never = new AbortController().signal;
  const body = String(new URLSearchParams({ token }));
  await persistently(PATIENCE_AT_THE_END_SECONDS, never, () =>
    post({ server, authorities }, "/revoke", body, REVOKE_SECONDS),
  );
}

function form(asked, subjectToken) {
  const fields = {
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: subjectToken,
    subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
    audience: asked.cluster,
    scope: asked.scope,
    requested_lifetime: asked.lifetime,
    intent: asked.intent,
    authorization_details: asked.details,
  };
  return String(new URLSearchParams(Object.entries(fields).filter(([, value]) => value)));
}

async function post({ server, authorities }, path, body, seconds) {
  const reply = await call(server + path, { method: "POST", body, authorities, seconds, who: "The daemon" });
  if (reply.status !== 200) throw refusal(reply);
  return reply.text;
}

/** The job's OIDC token, for this audience. */
async function idToken(audience) {
  const { ACTIONS_ID_TOKEN_REQUEST_URL: address, ACTIONS_ID_TOKEN_REQUEST_TOKEN: bearer } = process.env;
  if (!address?.startsWith("https://") || !bearer) {
    throw new Failure("This job may not ask for an OIDC token. Give it `permissions: {id-token: write}`.");
  }
  const url = new URL(address);
  url.searchParams.set("audience", audience);
  const who = "GitHub's OIDC endpoint";
  const headers = { Accept: "application/json", Authorization: `Bearer ${bearer}` };
  const reply = await call(url, { headers, seconds: ID_TOKEN_SECONDS, who });
  if (reply.status >= 500 || reply.status === 429) throw new Passing(`${who} answers with ${reply.status}.`);
  let token;
  try {
    token = JSON.parse(reply.text).value;
  } catch {
    // Said below.
  }
  if (reply.status !== 200 || typeof token !== "string" || !JWT.test(token)) {
    throw new Failure(`${who} gave no token (${reply.status}).`);
  }
  mask(token);
  return token;
}

/** What `work` comes to, tried again while what fails may pass, with pauses that grow and differ between jobs. */
async function persistently(patience, stopped, work) {
  const until = Date.now() + patience * 1000;
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (stopped.aborted) throw new Cancelled();
      if (!(error instanceof Passing)) throw error;
      const backOff = FIRST_PAUSE_SECONDS * 2 ** (tries - 1) * (1 + Math.random());
      const wait = Math.max(backOff, error.pause) * 1000;
      if (tries === TRIES || Date.now() + wait > until) {
        throw new Failure(`${error.message} Tried ${tries} times.`);
      }
      await pause(wait, undefined, { signal: stopped }).catch(() => {
        throw new Cancelled();
      });
    }
  }
}
