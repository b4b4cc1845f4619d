// Exchanges a proof of identity for a cluster token, shows what came, and gives it back.
//
//   node exchange.mjs SERVER CLUSTER SCOPE TOKEN_FILE
//
// SERVER is the daemon's gRPC door, host:port; EXCHANGED_CA names a file with who vouches for it, Node's own roots do
// without. The contract is read from proto/ as it is; nothing is generated.
import { readFileSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import protobuf from 'protobufjs';

const PROTO = fileURLToPath(new URL('../../../proto', import.meta.url));
const JWT = 'urn:ietf:params:oauth:token-type:jwt';
const TIMEOUT = 20_000; // milliseconds for one try; the daemon gives an exchange 15,000
const PATIENCE = 60_000; // for all of them
const SHORTEST_PAUSE = 1_000;
const LONGEST_PAUSE = 60_000;
const OPTIONS = {
  // Two minutes by default: far too late for a daemon that was away.
  'grpc.max_reconnect_backoff_ms': 5_000,
  // A connection that a network forgot is noticed by the call that waits on it.
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5_000,
};
const PASSING = new Set([grpc.status.UNAVAILABLE, grpc.status.RESOURCE_EXHAUSTED, grpc.status.DEADLINE_EXCEEDED]);
// What of google.rpc an error carries.
const rpc = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }`, { keepCase: true }).root;

async function main([server, cluster, scope, tokenFile]) {
  const client = connect(server, process.env.EXCHANGED_CA);
  const until = Date.now() + PATIENCE;
  try {
    const reply = await again(until, () => call(client, 'Exchange', {
      audience: [cluster],
      scope,
      // Read anew for each try: the proof may have been replaced, or be good for one use.
      subject_token: readFileSync(tokenFile, 'utf8').trim(),
      subject_token_type: JWT,
    }));
    // The daemon's clock is not ours: count from now, and not from expires_at.
    const refresh = Math.round((0.5 + 0.3 * Math.random()) * reply.expires_in);
    console.log(`granted ${reply.scope} as ${reply.grant_id} at ${reply.cluster.server}`);
    console.log(`good for ${reply.expires_in}s, to be replaced after ${refresh}s`);

    // Here the token is used: `Authorization: Bearer ${reply.access_token}`, to reply.cluster.server.

    await again(until, () => call(client, 'Revoke', { token: reply.access_token }));
    console.log('given back');
  } finally {
    client.close();
  }
}

function connect(server, authority) {
  const files = { includeDirs: [PROTO], keepCase: true, longs: Number, defaults: true };
  const contract = grpc.loadPackageDefinition(loadSync('exchanged/v1/exchange.proto', files));
  const credentials = grpc.credentials.createSsl(authority ? readFileSync(authority) : null);
  return new contract.exchanged.v1.TokenExchange(server, credentials, OPTIONS);
}

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, { deadline: Date.now() + TIMEOUT }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

// Tries until it succeeds, the daemon says no, or time is up. Pauses have full jitter.
async function again(until, attempt) {
  for (let bound = SHORTEST_PAUSE; ; bound = Math.min(2 * bound, LONGEST_PAUSE)) {
    try {
      return await attempt();
    } catch (error) {
      const { failure, passes, after } = explain(error);
      const pause = after + Math.random() * bound;
      if (!passes || Date.now() + pause > until) throw failure;
      console.error(`${failure.message}; trying again in ${Math.round(pause)} ms`);
      await wait(pause);
    }
  }
}

// What happened, whether waiting may help, and how long the daemon asks to wait.
function explain(error) {
  if (!error.metadata) return { failure: error, passes: false, after: 0 };
  let [reason, request, after] = ['', '', 0];
  const [raw] = error.metadata.get('grpc-status-details-bin');
  for (const { type_url: url, value } of raw ? rpc.lookupType('Status').decode(raw).details : []) {
    if (url.endsWith('/google.rpc.ErrorInfo')) {
      const info = rpc.lookupType('ErrorInfo').decode(value);
      [reason, request] = [info.reason, info.metadata.request_id];
    } else if (url.endsWith('/google.rpc.RetryInfo')) {
      const delay = rpc.lookupType('RetryInfo').decode(value).retry_delay;
      after = Number(delay.seconds) * 1_000 + delay.nanos / 1e6;
    }
  }
  const told = reason ? `${error.details} [${reason}, request ${request}]` : `no answer: ${error.details}`;
  // The policy changed while the grant was made; the new one was not asked.
  return { failure: new Error(told), passes: PASSING.has(error.code) || reason === 'POLICY_CHANGED', after };
}

if (process.argv.length === 6) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
} else {
  console.error('usage: node exchange.mjs SERVER CLUSTER SCOPE TOKEN_FILE');
  process.exitCode = 2;
}
