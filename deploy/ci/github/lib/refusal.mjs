// A refusal in words: what it means, whom to ask, and the id that finds its record.
import { Passing } from "./http.mjs";
import { Failure } from "./workflow.mjs";

const OPERATOR = "Ask the daemon's operator.";
const OWNER = "Ask the policy's owner.";

/** By reason (docs/errors.md). */
export const ADVICE = {
  TOKEN_AUDIENCE: 'The OIDC token is for somebody else: "audience" has to be the daemon\'s own.',
  TOKEN_ISSUER_UNKNOWN: `The daemon trusts no issuer that your tokens are from. ${OPERATOR}`,
  TOKEN_EXPIRED: `A fresh token is too old already: clocks differ. ${OPERATOR}`,
  TOKEN_NOT_YET_VALID: `A fresh token is not valid yet: clocks differ. ${OPERATOR}`,
  TOKEN_LIFETIME: `Tokens of your issuer live longer than the daemon accepts. ${OPERATOR}`,
  TOKEN_REPLAYED: `This OIDC token was used before, which this action never does. ${OPERATOR}`,
  TOKEN_CLAIMS: `The OIDC token lacks what a job's has. ${OPERATOR}`,
  SUBJECT_REVOKED: `Grants for this job's identity were revoked. ${OPERATOR}`,
  NO_POLICY:
    "No policy matches this job: repository, branch, environment or event are others than it names. Ask the owner of " +
    "the policy that you expected; `exchanged policy explain` tells what it misses.",
  CONDITION_FALSE: `A policy matches this job, but its condition does not hold, such as for this branch. ${OWNER}`,
  INTENT_REQUIRED: 'The policy wants to know what you are about to do: give "intent".',
  CLUSTER_UNKNOWN: 'There is no such cluster: mend "cluster".',
  CLUSTER_NOT_GRANTED: `The policy does not grant this cluster. ${OWNER}`,
  SCOPE_UNKNOWN: 'There is no such scope for this job: mend "scope".',
  SCOPE_AMBIGUOUS: 'Several policies have this scope: give "scope" as policy/scope.',
  NAMESPACE_CLOSED: `The policy names a namespace that no grant may reach. ${OWNER}`,
  DETAILS_EXCEED_POLICY: '"authorization-details" asks for more than the policy grants.',
  DETAILS_CANNOT_NARROW: "This scope grants a cluster role, of which only namespaces can be narrowed.",
  DETAILS_UNSUPPORTED: "This grant cannot be narrowed like that.",
  LIFETIME_EXCEEDS_POLICY: 'The policy has a shorter maximum: give a shorter "lifetime".',
  BREEDING_NOT_ACKNOWLEDGED: `The scope has rights that could make more rights, and not everybody agreed. ${OWNER}`,
  POLICY_CHANGED: "The policy changed at this very moment: run the job again.",
  APPROVAL_REQUIRED: `Somebody has to agree first. ${OWNER}`,
  TOO_MANY_LIVE_GRANTS: `Too many tokens are in use at once: let fewer jobs run side by side. ${OPERATOR}`,
  JOB_EXHAUSTED: "This job had as many tokens as one job may: ask once for all of its steps.",
  RATE_LIMITED: "Too many requests: run the job again later.",
  OVERLOADED: "The daemon has too much to do: run the job again later.",
  KEYS_UNAVAILABLE: `The daemon cannot fetch the issuer's keys. ${OPERATOR}`,
  CLUSTER_UNAVAILABLE: `The daemon cannot reach the cluster. ${OPERATOR}`,
  STORE_UNAVAILABLE: `The daemon cannot record now, so it grants nothing. ${OPERATOR}`,
  LOG_UNAVAILABLE: `The daemon cannot record now, so it grants nothing. ${OPERATOR}`,
  INTERNAL: `A bug in the daemon. ${OPERATOR}`,
};
const OTHERWISE = "docs/errors.md tells what that is and whom to ask.";

const PASSING = [429, 502, 503, 504];

/** The error for an answer that grants nothing; none of its own words go into it that were not checked. */
export function refusal({ status, headers, text }) {
  const told = parsed(text);
  const reason = word(told.reason, /^[A-Z][A-Z_]{1,63}$/);
  const id = word(told.request_id, /^[A-Za-z0-9-]{1,64}$/);
  const parameter = word(told.parameter, /^[a-z_]{1,64}$/);
  const about = [id && `request ${id}`, parameter && `parameter ${parameter}`].filter(Boolean).join(", ");
  const advice = Object.hasOwn(ADVICE, reason) ? ADVICE[reason] : OTHERWISE;
  const said = reason ? `The daemon refused: ${reason}` : `The daemon's door answers with ${status}`;
  const message = `${said}${about && ` (${about})`}. ${reason ? advice : 'Is "server" its HTTP door?'}`;
  const passes = reason === "POLICY_CHANGED" || (PASSING.includes(status) && reason !== "JOB_EXHAUSTED");
  return passes ? new Passing(message, seconds(headers["retry-after"])) : new Failure(message);
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

function word(value, pattern) {
  return typeof value === "string" && pattern.test(value) ? value : "";
}

/** RFC 9110 §10.2.3: a number of seconds, or a date. */
function seconds(text = "") {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  return Math.max(0, (Date.parse(text) - Date.now()) / 1000) || 0;
}
