"""The kinds of Kubernetes that belong to no namespace.

A request over all namespaces looks like one for such a kind: the authorizer is told group and resource, and not which
of the two it is. What is not listed here counts as having namespaces.
"""

from typing import Final

_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "": ("componentstatuses", "namespaces", "nodes", "persistentvolumes"),
    "admissionregistration.k8s.io": (
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "validatingwebhookconfigurations",
    ),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "apiregistration.k8s.io": ("apiservices",),
    "certificates.k8s.io": ("certificatesigningrequests", "clustertrustbundles"),
    "flowcontrol.apiserver.k8s.io": ("flowschemas", "prioritylevelconfigurations"),
    "metrics.k8s.io": ("nodes",),
    "networking.k8s.io": ("ingressclasses", "ipaddresses", "servicecidrs"),
    "node.k8s.io": ("runtimeclasses",),
    "rbac.authorization.k8s.io": ("clusterrolebindings", "clusterroles"),
    "resource.k8s.io": ("deviceclasses", "devicetaintrules", "resourceslices"),
    "scheduling.k8s.io": ("priorityclasses",),
    "storage.k8s.io": ("csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"),
    "storagemigration.k8s.io": ("storageversionmigrations",),
}
OF_NO_NAMESPACE: Final = frozenset((group, resource) for group, listed in _GROUPS.items() for resource in listed)
"""Group and resource."""
