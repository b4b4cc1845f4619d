// The kubeconfig: in a folder of its own outside of the workspace, readable by this user alone.
import { mkdtempSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "./workflow.mjs";

const NAME = "kubeconfig";

/** A new folder, which nobody else can look into. */
export function makeFolder(temporary) {
  if (!temporary) throw new Failure("RUNNER_TEMP is not set: this has to be run by a GitHub Actions runner.");
  return mkdtempSync(join(temporary, "exchanged-"));
}

/** The path of the new file. */
export function writeKubeconfig(folder, grant) {
  const path = join(folder, NAME);
  writeFileSync(path, JSON.stringify(kubeconfig(grant), null, 2), { flag: "wx", mode: 0o600 });
  return path;
}

/** The file and its folder are gone, if they were there; nothing else is touched. */
export function deleteKubeconfig(folder) {
  rmSync(join(folder, NAME), { force: true });
  try {
    rmdirSync(folder);
  } catch {
    // Gone, or a step put something there.
  }
}

function kubeconfig({ token, namespace, cluster: { name, server, authority } }) {
  const data = authority && { "certificate-authority-data": Buffer.from(authority).toString("base64") };
  return {
    apiVersion: "v1",
    kind: "Config",
    "current-context": name,
    clusters: [{ name, cluster: { server, ...data } }],
    users: [{ name, user: { token } }],
    contexts: [{ name, context: { cluster: name, user: name, ...(namespace && { namespace }) } }],
  };
}
