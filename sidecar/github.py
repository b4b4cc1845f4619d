"""The token of a GitHub Actions job, over HTTPS: a client and TLS that nobody else in the sidecar needs."""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request


def id_token(audience: str, seconds: float) -> str:
    """The job's OIDC token for this audience.

    Raises:
        OSError, ValueError, KeyError, TypeError: there is none.
    """
    url, bearer = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}", "") for name in ("URL", "TOKEN"))
    if not url.startswith("https://") or not bearer:
        raise ValueError("not in GitHub Actions, or the job lacks `permissions: id-token: write`")
    mark = "&" if "?" in url else "?"
    request = urllib.request.Request(  # noqa: S310 - https, checked above
        f"{url}{mark}{urllib.parse.urlencode({'audience': audience})}", headers={"Authorization": f"Bearer {bearer}"}
    )
    context = ssl.create_default_context(cafile=os.environ.get("ACTIONS_ID_TOKEN_CA") or None)
    try:
        with urllib.request.urlopen(request, timeout=seconds, context=context) as reply:  # noqa: S310 - as above
            return str(json.loads(reply.read(1 << 20))["value"])
    except urllib.error.HTTPError as error:
        with error:
            raise ValueError(f"HTTP {error.code}") from error
    except http.client.HTTPException as error:
        raise ValueError(f"the answer broke off, or is none: {error!r}") from error
