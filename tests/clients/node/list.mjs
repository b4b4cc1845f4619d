// Lists pods until it is told to stop (standard input ends): one line of JSON for each call, with what went wrong.
import * as k8s from '@kubernetes/client-node';

const [kubeconfig, namespace, pause] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const api = config.makeApiClient(k8s.CoreV1Api);

let stopped = false;
process.stdin.on('data', () => {}).on('end', () => { stopped = true; });
while (!stopped) {
  let error = '';
  try {
    await api.listNamespacedPod({ namespace });
  } catch (caught) {
    error = String(caught).slice(0, 500);
  }
  console.log(JSON.stringify({ error }));
  await new Promise((resolve) => setTimeout(resolve, 1000 * Number(pause)));
}
process.exit(0);
