import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.worlds import World, until_fenced, world
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MODE = {
    "mode": "bindings",
    "namespaces": ["web"],
    "fencedRoles": True,
    "allow": ["workloads", "exec"],
}
VERBS = ["create", "get", "patch", "update"]
RULES = [
    {"apiGroups": [""], "resources": ["pods", "pods/ephemeralcontainers", "replicationcontrollers"], "verbs": VERBS},
    {"apiGroups": [""], "resources": ["podtemplates"], "verbs": VERBS},
    {"apiGroups": ["apps"], "resources": ["deployments", "daemonsets", "statefulsets", "replicasets"], "verbs": VERBS},
    {"apiGroups": ["batch"], "resources": ["jobs", "cronjobs"], "verbs": VERBS},
]
PODS = "/api/v1/namespaces/web/pods"
WITHIN: dict[str, dict[str, Any]] = {
    "a config map": {"volumes": [{"name": "v", "configMap": {"name": "x"}}]},
    "a secret": {"volumes": [{"name": "v", "secret": {"secretName": "x"}}]},
    "an empty folder": {"volumes": [{"name": "v", "emptyDir": {}}]},
    "a claim": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]},
    "an image": {"volumes": [{"name": "v", "image": {"reference": "x"}}]},
    "its own token": {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]},
    "about itself": {"volumes": [{"name": "v", "downwardAPI": {}}]},
    "probes of its own": {"containers": [{"livenessProbe": {"httpGet": {"port": 80}}}]},
    "a container's SELinux type": {"securityContext": {"seLinuxOptions": {"type": "container_t"}}},
    "a safe sysctl": {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}},
    "usual profiles": {
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "appArmorProfile": {"type": "RuntimeDefault"}}
    },
    "fewer capabilities": {"containers": [{"securityContext": {"capabilities": {"drop": ["ALL"]}}}]},
    "a port": {"containers": [{"ports": [{"containerPort": 80}]}]},
}
BEYOND: dict[str, dict[str, Any]] = {
    "another account": {"serviceAccountName": "powerful"},
    "another account by its old name": {"serviceAccountName": "", "serviceAccount": "powerful"},
    "the default account": {"serviceAccountName": ""},
    "the host's network": {"hostNetwork": True},
    "the host's processes": {"hostPID": True},
    "the host's memory": {"hostIPC": True},
    "a node by name": {"nodeName": "control-plane"},
    "a path of the host": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
    "a driver on the host": {"volumes": [{"name": "v", "flexVolume": {"driver": "a/b"}}]},
    "an export": {"volumes": [{"name": "v", "nfs": {"server": "10.0.0.1", "path": "/"}}]},
    "a target": {"volumes": [{"name": "v", "iscsi": {"targetPortal": "10.0.0.1", "iqn": "iqn.2001-04.a:b", "lun": 0}}]},
    "a cloud's disk": {"volumes": [{"name": "v", "awsElasticBlockStore": {"volumeID": "vol-1"}}]},
    "an inline driver": {"volumes": [{"name": "v", "csi": {"driver": "secrets-store.csi.k8s.io"}}]},
    "a claim of its own making": {
        "volumes": [
            {
                "name": "v",
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "volumeName": "host",
                            "resources": {"requests": {"storage": "1Gi"}},
                        }
                    }
                },
            }
        ]
    },
    "an unconfined SELinux type": {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}},
    "an SELinux role": {"containers": [{"securityContext": {"seLinuxOptions": {"role": "system_r"}}}]},
    "an unsafe sysctl": {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
    "no seccomp": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
    "no seccomp in a container": {"containers": [{"securityContext": {"seccompProfile": {"type": "Unconfined"}}}]},
    "no AppArmor": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}},
    "a process of the host": {
        "hostNetwork": True,
        "os": {"name": "windows"},
        "securityContext": {"windowsOptions": {"hostProcess": True}},
    },
    "all of /proc": {"hostUsers": False, "containers": [{"securityContext": {"procMount": "Unmasked"}}]},
    "a privileged container": {"containers": [{"securityContext": {"privileged": True}}]},
    "a privileged container at first": {
        "initContainers": [{"name": "i", "image": "x", "securityContext": {"privileged": True}}]
    },
    "a capability": {"containers": [{"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]},
    "a port of the host": {"containers": [{"ports": [{"containerPort": 1, "hostPort": 1}]}]},
    "a probe of the node": {"containers": [{"livenessProbe": {"httpGet": {"host": "127.0.0.1", "port": 10255}}}]},
    "a probe of a neighbour": {"containers": [{"readinessProbe": {"tcpSocket": {"host": "10.0.0.1", "port": 22}}}]},
    "a hook at the node": {
        "containers": [{"lifecycle": {"postStart": {"httpGet": {"host": "127.0.0.1", "port": 10255}}}}]
    },
}
TEMPLATES = {
    "deployments": ("apps/v1", "Deployment"),
    "daemonsets": ("apps/v1", "DaemonSet"),
    "statefulsets": ("apps/v1", "StatefulSet"),
    "replicasets": ("apps/v1", "ReplicaSet"),
    "jobs": ("batch/v1", "Job"),
    "cronjobs": ("batch/v1", "CronJob"),
    "replicationcontrollers": ("v1", "ReplicationController"),
    "podtemplates": ("v1", "PodTemplate"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster where grants may write workloads."""
    policies = {"all.yaml": policy("deployer", name="all", rules=RULES, acknowledge=["workloads", "exec"])}
    with world(tmp_path_factory.mktemp("pods"), {"prod": MODE}, policies) as running:
        until_fenced(running)
        yield running


@pytest.fixture(scope="module")
def token(made: World) -> str:
    """The token of a grant."""
    return str(made.token("deployer/all")["access_token"])


def _spec(changes: dict[str, Any]) -> dict[str, Any]:
    main = {"name": "main", "image": "x"} | next(iter(changes.get("containers", [{}])))
    return {"serviceAccountName": "web", **changes, "containers": [main]}


def _pod(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": _spec(changes)}


@pytest.mark.parametrize("what", list(WITHIN))
def test_a_grants_pod_has_what_pods_usually_have(made: World, token: str, what: str) -> None:
    """The volumes of the cluster's own kinds, and restrictions, are a grant's to choose."""
    status, answer = made.cluster.request("POST", f"{PODS}?dryRun=All", token=token, body=_pod("x", WITHIN[what]))
    assert status == 201, answer


@pytest.mark.parametrize("what", list(BEYOND))
def test_a_grants_pod_has_nothing_of_the_host(made: World, token: str, what: str) -> None:
    """No account that is not listed, nothing of a node, and no way out of a container."""
    status, answer = made.cluster.request("POST", f"{PODS}?dryRun=All", token=token, body=_pod("x", BEYOND[what]))
    assert (status, "exchanged:" in answer["message"]) == (403, True), answer


def _template(kind: str, spec: dict[str, Any], annotations: dict[str, str]) -> dict[str, Any]:
    version, name = TEMPLATES[kind]
    template = {"metadata": {"labels": {"a": "b"}, "annotations": annotations}, "spec": spec}
    head = {"apiVersion": version, "kind": name, "metadata": {"name": "x"}}
    if kind == "podtemplates":
        return {**head, "template": template}
    if kind == "jobs":
        return {**head, "spec": {"template": {**template, "spec": {"restartPolicy": "Never", **spec}}}}
    if kind == "cronjobs":
        never = {**template, "spec": {"restartPolicy": "Never", **spec}}
        return {**head, "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": never}}}}
    selector = {"a": "b"} if kind == "replicationcontrollers" else {"matchLabels": {"a": "b"}}
    return {**head, "spec": {"selector": selector, "template": template}}


@pytest.mark.parametrize("kind", list(TEMPLATES))
def test_a_template_is_looked_into_as_a_pod_is(made: World, token: str, kind: str) -> None:
    """What makes pods is bounded like a pod, in every place in which a pod's specification can lie."""
    version = TEMPLATES[kind][0]
    path = f"/{'api' if version == 'v1' else 'apis'}/{version}/namespaces/web/{kind}?dryRun=All"
    unconfined = {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}
    tries: list[tuple[dict[str, Any], dict[str, str], bool]] = [
        ({}, {}, True),
        ({}, unconfined, False),
        *((BEYOND[what], {}, False) for what in ("another account", "a path of the host", "a privileged container")),
    ]
    for changes, annotations, expected in tries:
        body = _template(kind, _spec(changes), annotations)
        status, answer = made.cluster.request("POST", path, token=token, body=body)
        assert status == (201 if expected else 403), (changes, annotations, answer)
        assert expected or "exchanged:" in answer["message"]


def test_a_running_pod_gets_no_privileged_container(made: World, token: str) -> None:
    """A container that is added to a pod is looked at as the others are."""
    made.cluster.request("POST", PODS, token=token, body=_pod("gated", {"schedulingGates": [{"name": "a.example/b"}]}))
    for number, (context, expected) in enumerate((({"privileged": True}, 1), ({}, 0))):
        added = {"name": f"e{number}", "image": "x", "securityContext": context}
        patch = json.dumps({"spec": {"ephemeralContainers": [added]}})
        arguments = ("patch", "pod", "gated", "-n", "web", "--subresource=ephemeralcontainers", "-p", patch)
        done = made.cluster.kubectl(*arguments, token=token, check=False)
        assert done.returncode == expected, done.stderr
        assert expected == 0 or "no privileged containers" in done.stderr


def test_a_running_pod_keeps_its_node(made: World, token: str) -> None:
    """A pod that was scheduled can be labelled; a node's name cannot be put into one that was not."""
    assert made.cluster.request("POST", PODS, body=_pod("placed", {"nodeName": "node-1"}))[0] == 201
    done = made.cluster.kubectl("label", "pod", "placed", "a=b", "-n", "web", token=token, check=False)
    assert done.returncode == 0, done.stderr
    assert made.cluster.request("POST", PODS, body=_pod("waiting", {}))[0] == 201
    patch = '{"spec":{"nodeName":"node-1"}}'
    done = made.cluster.kubectl("patch", "pod", "waiting", "-n", "web", "-p", patch, token=token, check=False)
    assert done.returncode != 0
