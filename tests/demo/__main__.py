"""`make demo`: a CI token goes in, a cluster token comes out; everything shown comes from the running daemon."""

import argparse
import base64
import json
import ssl
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.policies import demo

console = Console(highlight=False, width=110 if not sys.stdout.isatty() else None)


class Unexpected(Exception):
    """Something did not come out as the demo says it does."""


def main() -> int:
    """Plays the demo; 0 if everything came out as told."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--cluster", action="store_true", help="against the lab cluster, with kubectl at the end")
    arguments = parser.parse_args()
    try:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exchanged-demo-")))
            if arguments.cluster:
                _with_cluster(scratch, stack)
            else:
                _alone(scratch, stack)
    except (Unexpected, AssertionError) as error:
        console.print(f"\n[bold red]The demo did not come out as told:[/] {error}")
        return 1
    return 0


def _alone(scratch: Path, stack: ExitStack) -> None:
    issuer = stack.enter_context(FakeIssuer.served(scratch / "issuer"))
    daemon = Daemon.make(
        scratch / "daemon",
        issuers={"github": issuer.settings(profile="github")},
        clusters={"prod": {"mode": "authorizer", "server": "https://prod.example:6443", "allow": ["workloads"]}},
        policies={"deploy-web.yaml": demo()},
    )
    _told("A policy: who may have what, in a file", daemon.folder / "policies" / "deploy-web.yaml")
    stack.enter_context(daemon.running())
    _started(daemon)
    _exchanges(daemon, issuer)
    _records(daemon)
    _say("Next: make demo CLUSTER=1 does this with a real API server, and lets kubectl say who may do what.")


def _with_cluster(scratch: Path, stack: ExitStack) -> None:
    from tests.lab.worlds import world  # noqa: PLC0415 - only this needs what the lab needs

    _say("Starting etcd and kube-apiserver, a daemon, and applying what `exchanged cluster setup` prints …")
    mode = {"mode": "authorizer", "allow": ["workloads"]}
    made = stack.enter_context(world(scratch, {"prod": mode}, {"deploy-web.yaml": demo()}))
    daemon, issuer, cluster = made.daemon, made.issuer, made.cluster
    _told("A policy: who may have what, in a file", daemon.folder / "policies" / "deploy-web.yaml")
    _started(daemon)
    reply = _exchanges(daemon, issuer)
    token = reply["access_token"]
    _title("kubectl, with the token that came out of a CI token")

    def kubectl(*arguments: str, allowed: bool) -> None:
        done = cluster.kubectl(*arguments, token=token, check=False)
        _command("kubectl " + " ".join(arguments))
        console.print(Text((done.stdout or done.stderr).strip(), style="green" if allowed else "red"))
        _expect((done.returncode == 0) == allowed, f"kubectl {arguments}: {done.stderr}")

    kubectl("get", "deployment/web", "-n", "web", allowed=True)
    kubectl("label", "deployment/web", "release=7", "-n", "web", allowed=True)
    kubectl("get", "deployment/beside", "-n", "web", allowed=False)
    kubectl("get", "secrets", "-n", "web", allowed=False)
    _run(daemon, "grants", "revoke", reply["grant_id"], "--why", "the demo is over")
    kubectl("get", "deployment/web", "-n", "web", allowed=False)
    _records(daemon)


def _started(daemon: Daemon) -> None:
    _title("The daemon")
    _command("exchanged serve --config exchanged.yaml")
    _run(daemon, "status")


def _exchanges(daemon: Daemon, issuer: FakeIssuer) -> Any:
    job = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": issuer.request_token,
        "ACTIONS_ID_TOKEN_CA": str(issuer.certificate_authority),
        "EXCHANGED_AUDIENCE": issuer.audience,
    }
    wanted = ("token", "get", "--source", "github", "--cluster", "prod", "--scope", "deploy-web/rollout", "-o", "json")

    _title("A CI job exchanges its OIDC token, over gRPC")
    _command("exchanged " + " ".join(wanted))
    reply = json.loads(daemon.run(*wanted, environment=job).stdout)
    _shown(reply)

    _title("The same over HTTP (RFC 8693), by a client that knows OAuth and nothing of exchanged")
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": "prod",
        "scope": "deploy-web/rollout",
        "authorization_details": json.dumps([{"type": "kubernetes", "verbs": ["get"]}]),
    }
    _command("curl " + f"{daemon.url}/token " + " ".join(f"-d {name}=…" for name in (*form, "subject_token")))
    status, answer = _post(daemon, "/token", {**form, "subject_token": issuer.github_token()})
    _expect(status == 200, str(answer))
    _shown(answer)
    status, _ = _post(daemon, "/revoke", {"token": answer["access_token"]})
    _expect(status == 200, "revocation")
    _, told = _post(daemon, "/introspect", {"token": answer["access_token"]})
    console.print(f"Given back (RFC 7009); introspection (RFC 7662) says: [bold]{json.dumps(told)}[/]")
    _expect(told == {"active": False}, str(told))

    _title("Refused: another branch, and a token that was used before")
    feature = issuer.github_token(ref="refs/heads/feature")
    _refused(daemon, feature, "CONDITION_FALSE")
    used = issuer.github_token()
    daemon.exchange(used, scope="deploy-web/rollout", cluster="prod")
    _refused(daemon, used, "TOKEN_REPLAYED")
    return reply


def _refused(daemon: Daemon, token: str, reason: str) -> None:
    wanted = ("token", "get", "--source", "stdin", "--cluster", "prod", "--scope", "deploy-web/rollout")
    _command("exchanged " + " ".join(wanted))
    done = daemon.run(*wanted, stdin=token, check=False)
    console.print(Text(done.stderr.strip(), style="red"))
    _expect(done.returncode == 1 and reason in done.stderr, done.stderr)


def _records(daemon: Daemon) -> None:
    _title("The record of all that, written before anything was released")
    _run(daemon, "records", "list")


def _shown(reply: dict[str, Any]) -> None:
    """What came back: of the token only what it says, never what proves it."""
    header, claims, _ = reply["access_token"].split(".")
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in ("scope", "expires_in", "grant_id", "token_type", "issued_token_type"):
        table.add_row(name, f"[bold]{reply[name]}[/]")
    table.add_row("authorization_details", json.dumps(reply["authorization_details"]))
    table.add_row("access_token", f"{json.dumps(_decoded(header))}\n{json.dumps(_decoded(claims), indent=1)}")
    console.print(table)
    _expect(reply["scope"] == "deploy-web/rollout", str(reply))


def _decoded(segment: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))


def _post(daemon: Daemon, path: str, form: dict[str, str]) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=daemon.ca)
    request = urllib.request.Request(daemon.url + path, urllib.parse.urlencode(form).encode())  # noqa: S310 - https
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as reply:  # noqa: S310 - https
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def _run(daemon: Daemon, *arguments: str) -> None:
    _command("exchanged " + " ".join(arguments))
    width = {"COLUMNS": str(console.width)}
    console.print(Text(daemon.run(*arguments, environment=width).stdout.rstrip()))


def _told(title: str, file: Path) -> None:
    _title(title)
    console.print(Syntax(file.read_text(), "yaml", background_color="default"))


def _title(text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/]")


def _command(text: str) -> None:
    console.print(Text(f"$ {text}", style="yellow"))


def _say(text: str) -> None:
    console.print(f"\n[dim]{text}[/]")


def _expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - it reads as a sentence
    if not holds:
        raise Unexpected(otherwise)


if __name__ == "__main__":
    sys.exit(main())
