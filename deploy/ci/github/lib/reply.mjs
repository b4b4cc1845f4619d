// What the daemon grants, checked before any of it is used.
import { Failure } from "./workflow.mjs";

/** RFC 6750 §2.1. */
const TOKEN = /^[A-Za-z0-9._~+/-]{1,16384}=*$/;
const WORD = /^[A-Za-z0-9][A-Za-z0-9._:/-]{0,252}$/;
const NAMESPACE = /^[a-z0-9-]{1,63}$/;
const PEM = /^[A-Za-z0-9+/=\s-]*$/;

/** The token of a reply (RFC 8693 §2.2.1), of whatever kind the rest may be. */
export function tokenOf({ text }) {
  return understood(() => matching(JSON.parse(text).access_token, TOKEN));
}

/** What was granted. */
export function granted({ text, began }) {
  return understood(() => {
    const reply = JSON.parse(text);
    const { name, server, certificate_authority: authority = "" } = reply.cluster;
    return {
      grantId: matching(reply.grant_id, WORD),
      scope: matching(reply.scope, WORD),
      expiresAt: moment(began, reply.expires_in),
      namespace: only(reply.authorization_details),
      cluster: { name: matching(name, WORD), server: https(server), authority: matching(authority, PEM) },
    };
  });
}

function understood(read) {
  try {
    return read();
  } catch {
    throw new Failure('The answer is none of the daemon\'s. Is "server" its HTTP door?');
  }
}

function matching(text, pattern) {
  if (typeof text !== "string" || !pattern.test(text)) throw new TypeError();
  return text;
}

/** In the clear the token would be anybody's. */
function https(text) {
  const url = new URL(text);
  if (url.protocol !== "https:") throw new TypeError();
  return url.href.replace(/\/$/, "");
}

function moment(began, seconds) {
  if (!Number.isInteger(seconds)) throw new TypeError();
  return new Date(began + seconds * 1000).toISOString();
}

/** The namespace of a grant that has one alone, for kubectl to take where none is said; or "". */
function only(details) {
  // A detail without namespaces is for the whole cluster.
  const [first = "", ...more] = new Set(details.flatMap(({ namespaces }) => (namespaces?.length ? namespaces : [""])));
  return more.length === 0 && NAMESPACE.test(first) ? first : "";
}
