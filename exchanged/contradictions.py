"""What the keys of a configuration say together that cannot be, or is not safe.

It is looked for in the plain document, so that a fault in one key hides none in another; what is wrong with a key by
itself is passed over here, for the schema tells.
"""

import ipaddress
from collections.abc import Iterator
from typing import Any

from exchanged.config import OWN_CLUSTER, AuthorizerDoor, Cluster, Doors, KubernetesIssuer, MutualDoor
from exchanged.strict_yaml import Path

Contradiction = tuple[Path, str]
"""Where, and what."""
Plain = dict[str, Any]

_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not listened at
_OF_BINDINGS = ("fencedRoles", "clusterRoles")
_OWN_NAMESPACES = {
    "grantsNamespace": Cluster.model_fields["grants_namespace"].default,
    "daemonNamespace": Cluster.model_fields["daemon_namespace"].default,
}


def contradictions(document: object) -> Iterator[Contradiction]:
    """All of them, in no order."""
    top = _mapping(document)
    doors, issuers, clusters = (_mapping(top.get(name)) for name in ("doors", "issuers", "clusters"))
    yield from _doors(doors)
    for name, cluster in clusters.items():
        yield from _cluster(("clusters", name), name, _mapping(cluster))
        if _mapping(cluster).get("mode") == "authorizer" and doors.get("authorizer") is None:
            yield ("clusters", name, "mode"), "mode authorizer needs doors.authorizer, where its API server asks"
    for name, issuer in issuers.items():
        yield from _issuer(("issuers", name), _mapping(issuer), clusters)
    workload_api = top.get("workloadApi") is not None
    yield from _trust_domains(issuers, workload_api=workload_api)
    yield from _svids(doors, clusters, workload_api=workload_api)
    if doors.get("mtls") is not None and not any(_accepts_x509(_mapping(issuer)) for issuer in issuers.values()):
        yield ("doors", "mtls"), "nobody can come in: no issuer of type spiffe accepts X.509-SVIDs"
    yield from _audiences(top, issuers, clusters)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _doors(doors: Plain) -> Iterator[Contradiction]:
    for name in ("grpc", "http"):
        door = _mapping(doors.get(name))
        if door.get("plaintext") is not True:
            continue
        if door.get("tls") is not None:
            yield ("doors", name, "tls"), "tls and plaintext: true exclude each other; take one away"
        host = _host_and_port(door.get("listen"))[0]
        if host and not is_loopback(host):
            # Tokens would pass over the network for everybody to read.
            yield ("doors", name, "plaintext"), f"plaintext is for loopback only, and {host} is not; give tls"
    yield from _same_address(doors)


def _same_address(doors: Plain) -> Iterator[Contradiction]:
    usual = {"grpc": Doors().grpc.listen, "http": Doors().http.listen}
    if doors.get("authorizer") is not None:
        usual["authorizer"] = AuthorizerDoor().listen
    if doors.get("mtls") is not None:
        usual["mtls"] = MutualDoor().listen
    taken: dict[str, tuple[str, str]] = {}
    for name, listen in usual.items():
        host, port = _host_and_port(_mapping(doors.get(name)).get("listen", listen))
        if port in {"", "0"}:
            continue
        other, other_host = taken.setdefault(port, (name, host))
        if other != name and (host == other_host or not _EVERYWHERE.isdisjoint({host, other_host})):
            yield ("doors", name, "listen"), f"doors.{other} listens at port {port} already"


def _cluster(where: Path, name: str, cluster: Plain) -> Iterator[Contradiction]:
    mode, credential, namespaces = cluster.get("mode"), cluster.get("credential"), _texts(cluster.get("namespaces"))
    if name == OWN_CLUSTER:
        yield where, "the name is the daemon's own; choose another"
    if mode == "bindings" and credential is None:
        yield where, "mode bindings needs `credential`, the daemon's own at this cluster"
    if mode == "bindings" and not cluster.get("namespaces"):
        yield (*where, "namespaces"), "mode bindings needs `namespaces`, the namespaces that grants may reach"
    if mode == "authorizer":
        yield from (((*where, key), "belongs to mode bindings") for key in _OF_BINDINGS if cluster.get(key))
    if isinstance(credential, dict):
        yield from _credential((*where, "credential"), credential)
    own = [_text(cluster.get(key, default)) for key, default in _OWN_NAMESPACES.items()]
    if own[0] == own[1]:
        yield (*where, "grantsNamespace"), "holds nothing but grants' accounts, so it cannot be the daemon's too"
    for namespace in namespaces:
        if namespace in own:
            yield (*where, "namespaces"), f"{namespace} is the daemon's own, and closed to every grant"


def _credential(where: Path, credential: Plain) -> Iterator[Contradiction]:
    given = [key for key in ("tokenFile", "kubeconfig", "tls", "svid") if credential.get(key)]
    if len(given) != 1:
        yield where, "give exactly one of tokenFile, kubeconfig, tls and svid: true"
    elif credential.get("context") is not None and credential.get("kubeconfig") is None:
        yield (*where, "context"), "is one of a kubeconfig, and there is none"


def _issuer(where: Path, issuer: Plain, clusters: Plain) -> Iterator[Contradiction]:
    keys = _mapping(issuer.get("keys"))
    if keys.get("jwksUrl") is not None and keys.get("file") is not None:
        yield (*where, "keys", "file"), "give jwksUrl or file, not both"
    if issuer.get("type") != "kubernetes":
        return
    cluster = _text(issuer.get("cluster"))
    verification = _text(issuer.get("verification", KubernetesIssuer.model_fields["verification"].default))
    reviewed = verification in {"tokenreview", "both"}
    if issuer.get("cluster") is None and reviewed:
        yield where, f"verification {verification} needs `cluster`, the cluster to ask"
    elif cluster and cluster not in clusters:
        yield (*where, "cluster"), f"{cluster!r} is not under clusters ({', '.join(clusters)})"
    elif cluster and reviewed and _mapping(clusters[cluster]).get("credential") is None:
        what = f"verification {verification} asks cluster {cluster}, which needs clusters.{cluster}.credential"
        yield (*where, "cluster"), what


def _trust_domains(issuers: Plain, *, workload_api: bool) -> Iterator[Contradiction]:
    domains: dict[str, str] = {}
    for name, plain in issuers.items():
        issuer = _mapping(plain)
        if issuer.get("type") != "spiffe":
            continue
        yield from _bundle(("issuers", name), _mapping(issuer.get("bundle")), workload_api=workload_api)
        domain = _text(issuer.get("trustDomain"))
        other = domains.setdefault(domain, name)
        if other != name and domain:
            yield ("issuers", name, "trustDomain"), f"is that of issuers.{other}; a trust domain is one issuer"


def _bundle(where: Path, bundle: Plain, *, workload_api: bool) -> Iterator[Contradiction]:
    file, endpoint = bundle.get("file"), bundle.get("endpoint")
    if file is not None and endpoint is not None:
        yield (*where, "bundle", "file"), "give file or endpoint, not both"
    if file is None and endpoint is None and not workload_api:
        yield where, "its bundle comes from the Workload API: give workloadApi, or bundle.file or bundle.endpoint"
    if bundle.get("certificateAuthority") is not None and endpoint is None:
        yield (*where, "bundle", "certificateAuthority"), "is of an endpoint, and there is none"
    if bundle.get("refresh") is not None and file is None and endpoint is None and workload_api:
        yield (*where, "bundle", "refresh"), "the Workload API sends what is new by itself; give file or endpoint"


def _svids(doors: Plain, clusters: Plain, *, workload_api: bool) -> Iterator[Contradiction]:
    """Whoever is to show the daemon's own SVID."""
    users: dict[Path, Plain] = {("doors", name): _mapping(door) for name, door in doors.items()}
    for name, cluster in clusters.items():
        users["clusters", name, "credential"] = _mapping(_mapping(cluster).get("credential"))
    for where, user in users.items():
        if user.get("svid") is not True:
            continue
        if not workload_api:
            yield (*where, "svid"), "an SVID comes from the Workload API: give workloadApi"
        if user.get("plaintext") is True:
            yield (*where, "svid"), "plaintext: true and svid: true exclude each other; take one away"
        if user.get("tls") is not None and where[0] == "doors":
            yield (*where, "tls"), "tls and svid: true exclude each other; take one away"


def _accepts_x509(issuer: Plain) -> bool:
    return issuer.get("type") == "spiffe" and "x509" in (_texts(issuer.get("svids")) or ("x509",))


def _audiences(top: Plain, issuers: Plain, clusters: Plain) -> Iterator[Contradiction]:
    """A token that is good at an API server too is a credential there for whoever it is shown to, us included."""
    of_clusters = _of_clusters(top, issuers, clusters)
    places: list[Path] = [("audience",) if top.get("audience") is not None else ("issuer",)]
    places += [("issuers", name, "audience") for name in issuers]
    for place in places:
        value: object = top
        for step in place:
            value = _mapping(value).get(str(step))
        owner = of_clusters.get(_bare(value), "")
        if owner and _bare(value):
            yield place, f"is the audience of {owner}: tokens for us must be good nowhere else"


def _of_clusters(top: Plain, issuers: Plain, clusters: Plain) -> dict[str, str]:
    """Audiences that an API server accepts, each with whose it is."""
    found: dict[str, str] = {}
    for name, issuer in issuers.items():
        if _mapping(issuer).get("type") == "kubernetes":
            # Without --api-audiences, an API server accepts tokens for its own issuer's URL.
            own = _mapping(issuer).get("issuer", KubernetesIssuer.model_fields["issuer"].default)
            found[_bare(own)] = f"the API server of issuers.{name}"
    for name, cluster in clusters.items():
        values = [_mapping(cluster).get(key) for key in ("server", "audience")]
        values.append(f"{_bare(top.get('issuer'))}/clusters/{name}")
        found |= {_bare(value): f"cluster {name}" for value in values if value is not None}
    return found


def _bare(url: object) -> str:
    return _text(url).rstrip("/")


def _mapping(value: object) -> Plain:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _host_and_port(listen: object) -> tuple[str, str]:
    host, _, port = _text(listen).rpartition(":")
    return host.strip("[]"), port
