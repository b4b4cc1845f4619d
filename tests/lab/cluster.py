"""One cluster: etcd, kube-apiserver and kube-controller-manager on loopback, with its own CA."""

import json
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.lab.build import SERVER, built, tool
from tests.lab.pki import Authority
from tests.lab.process import Program, ProgramFailed, free_ports

READY_SECONDS = 90
"""A loaded machine takes ten times as long as an idle one."""
AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What an API server is told. The configurations are YAML text; None leaves the flag out."""

    authentication_config: str | None = None
    authorization_config: str | None = None
    audit_policy: str = AUDIT_POLICY
    service_account_issuer: str | None = None
    controller_manager: bool = True
    extra_flags: tuple[str, ...] = ()


@dataclass(slots=True)
class Cluster:
    """A running cluster; a context manager that stops it."""

    folder: Path
    options: ClusterOptions
    authority: Authority = field(default_factory=lambda: Authority("lab"))
    admin_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    port: int = 0
    _ports: dict[str, int] = field(default_factory=dict)
    _programs: dict[str, Program] = field(default_factory=dict)

    @classmethod
    def start(cls, folder: Path, options: ClusterOptions | None = None) -> Self:
        """A cluster with its data in `folder`, ready to use.

        Raises:
            ProgramFailed: a program did not come up; with the last lines of its output.
            BuildError: the programs could not be built.
        """
        binary = built(SERVER)
        cluster = cls(folder=folder, options=options or ClusterOptions())
        folder.mkdir(parents=True, exist_ok=True)
        try:
            cluster._prepare()
            cluster._start_etcd(binary)
            cluster.start_apiserver()
            if cluster.options.controller_manager:
                cluster._start_controllers(binary)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def issuer(self) -> str:
        """The `iss` of its service account tokens, and its API audience."""
        return self.options.service_account_issuer or self.server

    @property
    def ca_file(self) -> Path:
        """The CA that vouches for the API server, and for client certificates."""
        return self.folder / "ca.crt"

    @property
    def ca_pem(self) -> str:
        """The same as text."""
        return self.authority.pem.decode()

    @property
    def admin_kubeconfig(self) -> Path:
        """A kubeconfig of system:masters."""
        return self.folder / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """The audit log: a JSON event a line."""
        return self.folder / "audit.log"

    def stop_apiserver(self) -> None:
        """The API server ends; etcd keeps its data."""
        self._programs.pop("kube-apiserver").stop()

    def start_apiserver(self, options: ClusterOptions | None = None) -> None:
        """The API server starts at the same port, with other options if given."""
        if options is not None:
            self.options = options
        flags = self._apiserver_flags()
        self._programs["kube-apiserver"] = Program.start("kube-apiserver", built(SERVER), flags, self.folder)
        self._wait("kube-apiserver", self._is_ready)

    def stop(self) -> None:
        """Stops what runs, the last started first. Data and logs stay in the folder."""
        for name in reversed(list(self._programs)):
            self._programs.pop(name).stop()

    @property
    def pids(self) -> list[int]:
        """The processes of this cluster."""
        return [program.process.pid for program in self._programs.values()]

    # What a test does with it

    def kubectl(
        self,
        *arguments: str,
        token: str | None = None,
        kubeconfig: Path | None = None,
        stdin: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl, as administrator unless a token or a kubeconfig says otherwise."""
        if token is not None:
            kubeconfig = self.kubeconfig_for(token, self.folder / f"{secrets.token_hex(4)}.kubeconfig")
        done = subprocess.run(
            [tool("kubectl"), "--kubeconfig", kubeconfig or self.admin_kubeconfig, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"HOME": str(self.folder)},
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done

    def kubeconfig_for(self, token: str, path: Path, namespace: str = "default") -> Path:
        """Writes a kubeconfig with this bearer token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "lab", "cluster": {"server": self.server, "certificate-authority": str(self.ca_file)}}
            ],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": namespace}}],
            "current-context": "lab",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def apply(self, manifests: str) -> None:
        """Applies YAML as administrator."""
        self.kubectl("apply", "--server-side", "-f", "-", stdin=manifests)

    def request(
        self, method: str, path: str, *, token: str | None = None, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        """One request with a bearer token; status and JSON (or {"text": …})."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, method=method)  # noqa: S310 - https, ours
        request.add_header("Authorization", f"Bearer {token or self.admin_token}")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._tls()) as reply:  # noqa: S310 - as above
                return reply.status, _json(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read())

    def service_account_token(
        self, namespace: str, name: str, audience: str, seconds: int = 3600, pod: dict[str, str] | None = None
    ) -> str:
        """A token of a service account, as a kubelet projects it; `pod` is a bound object's name and uid."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": seconds}
        if pod is not None:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", **pod}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        status, reply = self.request("POST", path, body=body)
        assert status == 201, reply
        return str(reply["status"]["token"])

    # How it comes up

    def _prepare(self) -> None:
        self.port, *others = free_ports(4)
        self._ports = dict(zip(("etcd", "peer", "controllers"), others, strict=True))
        self.ca_file.write_bytes(self.authority.pem)
        self.authority.server("kubernetes", "kubernetes.default.svc").write(self.folder, "server")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "service-accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (self.folder / "tokens.csv").write_text(f'{self.admin_token},admin,admin,"system:masters"\n')
        self.kubeconfig_for(self.admin_token, self.admin_kubeconfig)

    def _start_etcd(self, binary: Path) -> None:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "peer"))
        flags = [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        self._programs["etcd"] = Program.start("etcd", binary, flags, self.folder)

    def _apiserver_flags(self) -> list[str]:
        folder = self.folder
        (folder / "audit-policy.yaml").write_text(self.options.audit_policy)
        flags = [
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={folder / 'server.crt'}",
            f"--tls-private-key-file={folder / 'server.key'}",
            f"--client-ca-file={folder / 'ca.crt'}",
            f"--cert-dir={folder / 'pki'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            f"--service-account-issuer={self.issuer}",
            f"--api-audiences={self.issuer}",
            f"--service-account-key-file={folder / 'service-accounts.key'}",
            f"--service-account-signing-key-file={folder / 'service-accounts.key'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            f"--audit-policy-file={folder / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            *self.options.extra_flags,
        ]
        if self.options.authentication_config is not None:
            path = self.write_config("authentication", self.options.authentication_config)
            flags.append(f"--authentication-config={path}")
        if self.options.authorization_config is not None:
            path = self.write_config("authorization", self.options.authorization_config)
            flags.append(f"--authorization-config={path}")
        else:
            flags.append("--authorization-mode=RBAC")
        return flags

    def write_config(self, kind: str, text: str) -> Path:
        """Writes the authentication or authorization configuration; a running API server takes it up by itself."""
        path = self.folder / f"{kind}.yaml"
        scratch = path.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(path)
        return path

    def _start_controllers(self, binary: Path) -> None:
        flags = [
            f"--kubeconfig={self.admin_kubeconfig}",
            f"--authentication-kubeconfig={self.admin_kubeconfig}",
            f"--authorization-kubeconfig={self.admin_kubeconfig}",
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            f"--root-ca-file={self.ca_file}",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports['controllers']}",
            f"--cert-dir={self.folder / 'pki'}",
        ]
        name = "kube-controller-manager"
        self._programs[name] = Program.start(name, binary, flags, self.folder)
        self._wait(name, self._is_complete)

    def _is_ready(self) -> bool:
        return self.request("GET", "/readyz")[0] == 200

    def _is_complete(self) -> bool:
        """Whether the controllers have made what every cluster has: roles that add up, default service accounts."""
        roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
        edit, account = f"{roles}/edit", "/api/v1/namespaces/default/serviceaccounts/default"
        return bool(self.request("GET", edit)[1].get("rules")) and self.request("GET", account)[0] == 200

    def _wait(self, name: str, holds: Any) -> None:
        until = time.monotonic() + READY_SECONDS
        while True:
            for program in self._programs.values():
                program.check()
            try:
                if holds():
                    return
            except OSError:
                pass
            if time.monotonic() > until:
                raise ProgramFailed(f"{name} was not ready in {READY_SECONDS} s:\n{self._programs[name].last_lines()}")
            time.sleep(0.05)

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.ca_pem)


def _json(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {"text": raw.decode(errors="replace")}
    return value if isinstance(value, dict) else {"value": value}
