"""What is wrong with a configuration: with the file itself, and with the files that it names."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from exchanged import config_file, strict_yaml
from exchanged.authenticate.bundles import bundle_of
from exchanged.authenticate.jwk import ALGORITHMS, public_keys
from exchanged.config import Configuration
from exchanged.strict_yaml import Document, Fault, Faulty

_UNUSABLE = (OSError, ValueError, TypeError, UnsupportedAlgorithm, yaml.YAMLError)
"""What reading a file as something that it is not comes to; TypeError is a key that wants a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReport:
    """The configuration, if it can be used, or else everything that is wrong with it."""

    configuration: Configuration | None
    faults: tuple[Fault, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        made = self.configuration
        return {
            "faults": [fault.as_json() for fault in self.faults],
            "issuers": list(made.issuers) if made else [],
            "clusters": list(made.clusters) if made else [],
        }


def check(path: Path) -> ConfigReport:
    """Everything that is wrong, at once, by line.

    Raises:
        OSError, UnicodeError: the file cannot be read.
    """
    folder = path.resolve().parent
    try:
        document = config_file.read(path)
        made = config_file.settled(document, folder, also=file_faults(document, folder))
    except Faulty as faulty:
        return ConfigReport(configuration=None, faults=faulty.faults)
    return ConfigReport(configuration=made)


def file_faults(document: Document, folder: Path) -> Iterator[Fault]:
    """What is wrong with the files and folders that a document names, but for those that the daemon makes."""
    for place, name in _texts(document.value, ()):
        look = _LOOKS.get(".".join(str(step) for step in place[-2:])) or _LOOKS.get(str(place[-1]))
        if look is not None:
            try:
                look(folder / name)
            except _UNUSABLE as error:
                yield document.fault(place, f"{folder / name} {_said(error)}")
    for place, tls in _pairs(document.value, ()):
        try:
            belongs = _chain(folder / tls["certificate"])[0].public_key() == _key(folder / tls["key"]).public_key()
        except _UNUSABLE:
            continue  # each is told above
        if not belongs:
            yield document.fault((*place, "key"), f"{folder / tls['key']} is not the key of {tls['certificate']}")


def _texts(value: object, place: strict_yaml.Path) -> Iterator[tuple[strict_yaml.Path, str]]:
    """Every key with a text, at any level."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, str):
            yield (*place, key), item
        yield from _texts(item, (*place, key))


def _pairs(value: object, place: strict_yaml.Path) -> Iterator[tuple[strict_yaml.Path, dict[str, str]]]:
    """Every certificate with its key."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if (
            key == "tls"
            and isinstance(item, dict)
            and all(isinstance(item.get(n), str) for n in ("certificate", "key"))
        ):
            yield (*place, key), item
        yield from _pairs(item, (*place, key))


def _chain(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def _key(path: Path) -> Any:
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


def _is_chain(path: Path) -> None:
    try:
        chain = _chain(path)
    except ValueError as error:
        raise ValueError("holds no certificate (PEM)") from error
    end = min(certificate.not_valid_after_utc for certificate in chain)
    if end < datetime.now(UTC):
        raise ValueError(f"ended on {end:%Y-%m-%d}")


def _is_key(path: Path) -> None:
    try:
        _key(path)
    except ValueError as error:
        raise ValueError("holds no private key (PEM)") from error
    except TypeError as error:
        raise ValueError("wants a password; the daemon has none to give") from error


def _is_key_set(path: Path) -> None:
    try:
        keys = public_keys(json.loads(path.read_bytes()), ALGORITHMS)
    except (ValueError, AttributeError) as error:
        raise ValueError("is no JWK Set (RFC 7517)") from error
    if not keys:
        raise ValueError("holds no key that a token could be verified with")


def _is_bundle(path: Path) -> None:
    try:
        bundle = bundle_of(json.loads(path.read_bytes()), ALGORITHMS)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"is no bundle of a trust domain: {error}") from error
    if not bundle.authorities and not bundle.jwt_keys:
        raise ValueError("holds no key that an SVID could be verified with")


def _is_kubeconfig(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not document.get("clusters"):
        raise ValueError("is no kubeconfig")


def _is_token(path: Path) -> None:
    if not path.read_text(encoding="utf-8").strip():
        raise ValueError("is empty")


def _is_folder(path: Path) -> None:
    next(path.iterdir(), None)


def _may_become_state(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError("is not a folder")


_LOOKS: Mapping[str, Callable[[Path], None]] = {
    "certificate": _is_chain,
    "key": _is_key,
    "certificateAuthority": _is_chain,
    "clientCertificateAuthority": _is_chain,
    "keys.file": _is_key_set,
    "bundle.file": _is_bundle,
    "kubeconfig": _is_kubeconfig,
    "tokenFile": _is_token,
    "bearerTokenFile": _is_token,
    "policies": _is_folder,
    "state": _may_become_state,
}
"""How the file behind a key is looked at; by the key above it too, where that tells more."""


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be used: {error.strerror}"
    return "is not text" if isinstance(error, UnicodeError) else str(error)
