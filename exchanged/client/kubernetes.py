"""Configurations for the `kubernetes` package, whose token is looked at before each request and replaced when due."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from exchanged.client.model import Grant

if TYPE_CHECKING:
    from kubernetes import aio, client


def configuration(first: Grant, grant: Callable[[], Grant]) -> "client.Configuration":
    """For `kubernetes.client`, from any number of threads."""
    from kubernetes.client import Configuration  # noqa: PLC0415 - heavy, and not everybody's

    # A function and no method: a configuration is copied, and its copies share the token.
    def show(made: Any) -> None:
        made.api_key = _key(grant())

    made = Configuration(**_settings(first))
    made.refresh_api_key_hook = show  # type: ignore[assignment] # theirs says None
    return made


def aio_configuration(first: Grant, grant: Callable[[], Awaitable[Grant]]) -> "aio.client.Configuration":
    """For `kubernetes.aio`."""
    from kubernetes.aio.client import Configuration  # noqa: PLC0415 - heavy, and not everybody's

    async def show(made: Any) -> None:
        made.api_key = _key(await grant())

    made = Configuration(**_settings(first))
    made.refresh_api_key_hook = show  # type: ignore[assignment] # theirs says None
    return made


def _settings(grant: Grant) -> dict[str, Any]:
    # The key has to be there, or the package never asks for it.
    return {"host": grant.server, "ca_cert_data": grant.certificate_authority or None, "api_key": _key(grant)}


def _key(grant: Grant) -> dict[str, str]:
    return {"BearerToken": f"Bearer {grant.token}"}
