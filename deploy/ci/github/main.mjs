// Gets a cluster token for this job, and leaves a kubeconfig for the steps that follow.
import { exchange } from "./lib/exchange.mjs";
import { wanted } from "./lib/inputs.mjs";
import { makeFolder, writeKubeconfig } from "./lib/kubeconfig.mjs";
import { granted, tokenOf } from "./lib/reply.mjs";
import { asStep, Cancelled, exportVariable, info, mask, saveState, setOutput } from "./lib/workflow.mjs";

const stopping = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, stop);

/** The runner sends SIGINT, and kills seconds later. A token that is on its way is waited for, to be given back. */
function stop() {
  if (!stopping.signal.aborted) info("Cancelled. An answer that is on its way is waited for, and given back.");
  stopping.abort();
}

await asStep(async () => {
  const asked = wanted(process.env);
  const reply = await exchange(asked, stopping.signal);
  const token = tokenOf(reply);
  mask(token);
  // First of all what the post step needs: from here on the token is given back, whatever happens.
  saveState("server", asked.server);
  saveState("authorities", asked.authorities);
  saveState("token", token);
  if (stopping.signal.aborted) throw new Cancelled();

  const { grantId, scope, expiresAt, namespace, cluster } = granted(reply);
  saveState("expires", expiresAt);
  const folder = makeFolder(process.env.RUNNER_TEMP);
  saveState("folder", folder);
  const kubeconfig = writeKubeconfig(folder, { token, namespace, cluster });
  exportVariable("KUBECONFIG", kubeconfig);
  setOutput("kubeconfig", kubeconfig);
  setOutput("grant-id", grantId);
  setOutput("expires-at", expiresAt);
  info(`Granted ${scope} at ${cluster.name} until ${expiresAt}: grant ${grantId}.`);
});
