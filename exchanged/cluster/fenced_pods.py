"""The pods, and templates of pods, that grants write: as an account that the grant may name, and without the host.

What is refused is what the Pod Security Standards' level `baseline` refuses, any added capability, and every volume
that is not one of the cluster's own kinds.
"""

from collections.abc import Iterable
from typing import Final

from exchanged.cluster.admission import JsonObject, listed, policy, rule
from exchanged.cluster.fenced_grants import is_grant
from exchanged.cluster.manifests import RUN_AS
from exchanged.config import Cluster

_PLACES: Final[tuple[tuple[str, str, dict[str, list[str]]], ...]] = (
    ("pods", "object", {"": ["pods", "pods/ephemeralcontainers"]}),
    ("podtemplates", "object.template", {"": ["podtemplates"]}),
    (
        "templates",
        "object.spec.template",
        {
            "": ["replicationcontrollers"],
            "apps": ["deployments", "daemonsets", "statefulsets", "replicasets"],
            "batch": ["jobs"],
        },
    ),
    ("cronjobs", "object.spec.jobTemplate.spec.template", {"batch": ["cronjobs"]}),
)
"""Where a pod's metadata and spec lie, in which kinds."""
_VOLUMES: Final = ("configMap", "downwardAPI", "emptyDir", "image", "persistentVolumeClaim", "projected", "secret")
"""An allow-list: each other kind is a path, a disk or a driver of somebody's choice."""
_SYSCTLS: Final = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
)
"""Those of a pod's own network and memory, by the Pod Security Standards."""
_SELINUX: Final = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
"""The older form, as annotations: in a template it becomes a pod's profile."""


def pods_fences(cluster: Cluster) -> Iterable[JsonObject]:
    """A policy for each place in which a pod is written."""
    for suffix, place, kinds in _PLACES:
        rules = [rule([group], resources, ["CREATE", "UPDATE"]) for group, resources in kinds.items()]
        yield policy(
            f"{cluster.daemon_namespace}-{suffix}",
            is_grant(cluster),
            rules,
            _variables(place),
            [*_account(), *_host(), *_security()],
        )


def _variables(place: str) -> dict[str, str]:
    return {
        "spec": f"{place}.spec",
        "annotations": f"{place}.?metadata.?annotations.orValue({{}})",
        "account": "variables.spec.?serviceAccountName.orValue('') == '' ? 'default' : "
        "variables.spec.serviceAccountName",
        "containers": "variables.spec.containers + variables.spec.?initContainers.orValue([]) + "
        "variables.spec.?ephemeralContainers.orValue([])",
        "contexts": "[variables.spec.?securityContext.orValue({})] + "
        "variables.containers.map(c, c.?securityContext.orValue({}))",
    }


def _account() -> Iterable[tuple[str, str]]:
    yield (
        "authorizer.group('').resource('serviceaccounts').namespace(request.namespace)"
        f".name(variables.account).check('{RUN_AS}').allowed()",
        "the policy does not list this service account under workloads.serviceAccounts",
    )


def _host() -> Iterable[tuple[str, str]]:
    """Nothing of the host's: its namespaces, files, ports and services."""
    yield (
        "!variables.spec.?hostNetwork.orValue(false) && !variables.spec.?hostPID.orValue(false) && "
        "!variables.spec.?hostIPC.orValue(false)",
        "no namespace of the host",
    )
    kinds = " || ".join(f"has(v.{kind})" for kind in _VOLUMES)
    yield f"variables.spec.?volumes.orValue([]).all(v, {kinds})", f"volumes are {', '.join(_VOLUMES)}"
    yield (
        "variables.containers.all(c, c.?ports.orValue([]).all(p, p.?hostPort.orValue(0) == 0))",
        "no port of the host",
    )
    yield (
        # The kubelet asks, so a host of one's choice is a way into the node's own network.
        "variables.containers.all(c, [c.?livenessProbe, c.?readinessProbe, c.?startupProbe, "
        "c.?lifecycle.?postStart, c.?lifecycle.?preStop].all(h, "
        "h.?httpGet.?host.orValue('') == '' && h.?tcpSocket.?host.orValue('') == ''))",
        "probes and hooks ask the pod itself",
    )
    yield (
        # A pod that runs has a node, and keeps it.
        "variables.spec.?nodeName.orValue('') == '' || (request.operation == 'UPDATE' && "
        "request.resource.resource == 'pods' && oldObject.spec.?nodeName.orValue('') == variables.spec.nodeName)",
        "nodeName is left to the scheduler",
    )


def _security() -> Iterable[tuple[str, str]]:
    """No way out of the container."""
    yield (
        "variables.contexts.all(s, !s.?privileged.orValue(false) && "
        "s.?capabilities.?add.orValue([]).size() == 0 && !s.?windowsOptions.?hostProcess.orValue(false))",
        "no privileged containers, no added capabilities",
    )
    yield (
        "variables.contexts.all(s, s.?procMount.orValue('Default') == 'Default' && "
        f"s.?seLinuxOptions.?type.orValue('') in {listed(_SELINUX)} && "
        "s.?seLinuxOptions.?user.orValue('') == '' && s.?seLinuxOptions.?role.orValue('') == '')",
        "no unmasked /proc, no SELinux label but a container's",
    )
    yield (
        "variables.contexts.all(s, s.?seccompProfile.?type.orValue('') != 'Unconfined' && "
        "s.?appArmorProfile.?type.orValue('') != 'Unconfined') && "
        f"variables.annotations.all(k, !k.startsWith('{_APPARMOR}') || variables.annotations[k] != 'unconfined')",
        "no container without its seccomp and AppArmor profiles",
    )
    yield (
        f"variables.spec.?securityContext.?sysctls.orValue([]).all(s, s.name in {listed(_SYSCTLS)})",
        "no sysctls but safe ones",
    )
