// Gives the token back and deletes the kubeconfig, as far as the main step came.
import { giveBack } from "./lib/exchange.mjs";
import { deleteKubeconfig } from "./lib/kubeconfig.mjs";
import { asStep, Failure, info, mask, warning } from "./lib/workflow.mjs";

const { STATE_token: token, STATE_server: server, STATE_authorities: authorities } = process.env;
const { STATE_expires: expires, STATE_folder: folder } = process.env;

await asStep(async () => {
  if (folder) deleteKubeconfig(folder);
  if (!token) {
    info("There is no token to give back.");
    return;
  }
  mask(token);
  try {
    await giveBack(server, authorities, token);
    info("The token is given back.");
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    // The job's own work is done by now: what it came to stays its result.
    warning(`The token was not given back; it ends by itself${expires ? ` at ${expires}` : ""}. ${error.message}`);
  }
});
