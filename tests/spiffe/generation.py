"""What a trust domain issues with between two rotations."""

import base64
import datetime as dt
import secrets
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.issuers import Kind, PrivateKey
from tests.spiffe.certificates import AUTHORITY_USAGE, certificate, new_key, now, organization


class Generation:
    """A CA and a JWT key that were made together."""

    def __init__(self, domain: str, kind: Kind) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid = secrets.token_hex(16)
        self._kind = kind
        serial = x509.NameAttribute(NameOID.SERIAL_NUMBER, str(secrets.randbits(128)))
        name = x509.Name([*organization(domain), serial])
        days = dt.timedelta(days=30)
        self.certificate = certificate(
            subject=name,
            issuer=name,
            key=self.key,
            signer=self.key,
            validity=(now() - days, now() + days),
            alternatives=[x509.UniformResourceIdentifier(f"spiffe://{domain}")],
            basic=x509.BasicConstraints(ca=True, path_length=None),
            usage=AUTHORITY_USAGE,
        )

    @cached_property
    def jwt_key(self) -> PrivateKey:
        """What signs JWT-SVIDs."""
        return new_key(self._kind)

    def jwt_jwk(self) -> dict[str, Any]:
        """Its public half as bundles carry it."""
        return {**_jwk(self.jwt_key), "use": "jwt-svid", "kid": self.kid}

    def x509_jwk(self) -> dict[str, Any]:
        """The CA as bundles carry it."""
        der = base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()
        return {**_jwk(self.key), "use": "x509-svid", "x5c": [der]}


def _jwk(key: PrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        jwk.pop("key_ops")
        return jwk
    return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
