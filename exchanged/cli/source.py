"""Where `exchanged token` has its subject token from."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from enum import StrEnum
from pathlib import Path

PROJECTED = Path("/var/run/secrets/exchanged/token")
"""Where the documentation mounts a projected service account token."""
GITLAB_VARIABLE = "EXCHANGED_ID_TOKEN"
"""The name that the documentation gives to a job's token under `id_tokens`."""
SOCKET_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"
"""Where the Workload API is (SPIFFE_Workload_Endpoint §4)."""
GITHUB_SECONDS = 10


class Source(StrEnum):
    """Kinds of sources."""

    AUTO = "auto"
    FILE = "file"
    STDIN = "stdin"
    GITHUB = "github"
    GITLAB = "gitlab"
    JWT_SVID = "jwt-svid"
    X509_SVID = "x509-svid"


class SourceError(Exception):
    """No token could be had; the message says what to do."""


def default_audience(server: str) -> str:
    """The audience of a daemon of which only host and port are known: a URL, without the port that https has anyway."""
    return f"https://{server.removesuffix(':443')}"


def subject_token(source: Source, file: Path | None, audience: str, spiffe_id: str = "") -> str:
    """The token; "" where the certificate of the connection is the proof.

    Raises:
        SourceError: with what to do about it.
    """
    if source is Source.AUTO:
        source = found(file)
    if source is Source.X509_SVID:
        return ""
    if source is Source.JWT_SVID:
        from exchanged.cli.svid import jwt_svid

        return jwt_svid(audience, spiffe_id)
    if source is Source.STDIN:
        return _text(sys.stdin.read(), "standard input")
    if source is Source.GITHUB:
        return _github(audience)
    if source is Source.GITLAB:
        return _text(os.environ.get(GITLAB_VARIABLE, ""), f"the variable {GITLAB_VARIABLE}; see id_tokens in the job")
    path = file or PROJECTED
    try:
        return _text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def found(file: Path | None) -> Source:
    """What this environment offers: a named file, GitHub Actions, GitLab, a mounted token, SPIFFE, a pipe."""
    if file is not None:
        return Source.FILE
    if "ACTIONS_ID_TOKEN_REQUEST_URL" in os.environ:
        return Source.GITHUB
    if GITLAB_VARIABLE in os.environ:
        return Source.GITLAB
    if PROJECTED.exists():
        return Source.FILE
    if SOCKET_VARIABLE in os.environ:
        return Source.JWT_SVID
    if not sys.stdin.isatty():
        return Source.STDIN
    raise SourceError(
        "no subject token: give --subject-token-file, pipe one in, or run in GitHub Actions (permissions: id-token: "
        f"write), in GitLab (id_tokens: {GITLAB_VARIABLE}), in a pod with a token at {PROJECTED}, or with a "
        f"Workload API ({SOCKET_VARIABLE})"
    )


def _github(audience: str) -> str:
    """The job's OIDC token, for our audience."""
    url, bearer = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}", "") for name in ("URL", "TOKEN"))
    if not url.startswith("https://") or not bearer:
        raise SourceError("not in GitHub Actions, or the job lacks `permissions: id-token: write`")
    mark = "&" if "?" in url else "?"
    request = urllib.request.Request(  # noqa: S310 - https, checked above
        f"{url}{mark}{urllib.parse.urlencode({'audience': audience})}", headers={"Authorization": f"Bearer {bearer}"}
    )
    context = ssl.create_default_context(cafile=os.environ.get("ACTIONS_ID_TOKEN_CA") or None)
    try:
        with urllib.request.urlopen(request, timeout=GITHUB_SECONDS, context=context) as reply:  # noqa: S310 - as above
            return _text(str(json.load(reply)["value"]), url)
    except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
        raise SourceError(f"GitHub did not give a token: {error}") from error


def _text(text: str, where: str) -> str:
    token = text.strip()
    if not token:
        raise SourceError(f"no token in {where}")
    return token
