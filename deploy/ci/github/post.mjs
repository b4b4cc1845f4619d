// Gives the token back and deletes the kubeconfig, as far as the main step came.
import { giveBack } from "./lib/exchange.mjs";
import { deleteKubeconfig } from "./lib/kubeconfig.mjs";
import { asStep, Failure, info, mask, warning } from "./lib/workflow.mjs";

const { STATE_token: token, STATE_server: server, STATE_authorities: authorities } = process.env;
const { STATE_expires: expires, STATE_folder: folder } = process.env;

// The job's own work is done by now: what it came to stays its result, and neither half keeps the other from its turn.
await asStep(async () => {
  try {
    if (token) await end();
    else info("There is no token to give back.");
  } finally {
    if (folder) clear();
  }
});

async function end() {
  mask(token);
  try {
    await giveBack(server, authorities, token);
    info("The token is given back.");
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    warning(`The token was not given back; it ends by itself${expires ? ` at ${expires}` : ""}. ${error.message}`);
  }
}

/** A step, or its container, may have made of the folder what it liked. */
function clear() {
  try {
    deleteKubeconfig(folder);
  } catch (error) {
    warning(`The kubeconfig in ${folder} was not deleted: ${error.code ?? error}. Delete it on the runner.`);
  }
}
