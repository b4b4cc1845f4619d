"""What a Workload API answers (SPIFFE_Workload_API.md §5, §6), worked out from trust domains and identities."""

import datetime as dt
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import jwt
from spiffe._proto.workload_pb2 import (
    JWTSVID,
    X509SVID,
    JWTBundlesResponse,
    JWTSVIDRequest,
    JWTSVIDResponse,
    ValidateJWTSVIDRequest,
    ValidateJWTSVIDResponse,
    X509BundlesResponse,
    X509SVIDResponse,
)

from tests.spiffe.endpoint import Refused
from tests.spiffe.pki import Intermediate, Svid, TrustDomain

ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"]
_WORKLOAD_ID = re.compile(r"spiffe://(?P<domain>[a-z0-9._-]+)(/[a-zA-Z0-9._-]+)+")


@dataclass(frozen=True, eq=False, kw_only=True)
class Identity:
    """What the caller is entitled to be."""

    path: str = "/ns/web/sa/deployer"
    hint: str = ""
    dns: tuple[str, ...] = ()
    lifetime: dt.timedelta = dt.timedelta(hours=1)
    jwt_lifetime: dt.timedelta = dt.timedelta(minutes=5)
    under: Intermediate | None = None


Answer = X509SVIDResponse | X509BundlesResponse | JWTSVIDResponse | JWTBundlesResponse


def x509_svids(
    home: TrustDomain, federated: Iterable[TrustDomain], issued: Sequence[tuple[Identity, Svid]]
) -> X509SVIDResponse:
    """All SVIDs and all bundles.

    Raises:
        Refused: there are none.
    """
    _entitled(issued)
    return X509SVIDResponse(
        svids=[
            X509SVID(
                spiffe_id=svid.spiffe_id,
                x509_svid=svid.chain_der,
                x509_svid_key=svid.key_der,
                bundle=home.x509_der,
                hint=identity.hint,
            )
            for identity, svid in issued
        ],
        federated_bundles={each.id: each.x509_der for each in federated},
    )


def x509_bundles(domains: Iterable[TrustDomain]) -> X509BundlesResponse:
    """All X.509 bundles."""
    return X509BundlesResponse(bundles={each.id: each.x509_der for each in domains})


def jwt_bundles(domains: Iterable[TrustDomain]) -> JWTBundlesResponse:
    """All JWT bundles."""
    return JWTBundlesResponse(bundles={each.id: json.dumps(each.jwks()).encode() for each in domains})


def jwt_svids(home: TrustDomain, identities: Iterable[Identity], request: JWTSVIDRequest) -> JWTSVIDResponse:
    """A JWT-SVID for each identity, or for the one that was asked for.

    Raises:
        Refused: no audience, or no such identity.
    """
    if not all(request.audience) or not request.audience:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
    if request.spiffe_id and not _WORKLOAD_ID.fullmatch(request.spiffe_id):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "requested SPIFFE ID is invalid")
    asked = [each for each in identities if request.spiffe_id in {"", home.id + each.path}]
    _entitled(asked)
    return JWTSVIDResponse(
        svids=[
            JWTSVID(
                spiffe_id=home.id + each.path,
                svid=home.jwt(each.path, audience=list(request.audience), lifetime=each.jwt_lifetime),
                hint=each.hint,
            )
            for each in asked
        ]
    )


def validated(domains: Iterable[TrustDomain], request: ValidateJWTSVIDRequest) -> ValidateJWTSVIDResponse:
    """The ID and the claims of a JWT-SVID (JWT-SVID.md §4).

    Raises:
        Refused: something is missing, or the JWT-SVID does not hold.
    """
    if not request.audience or not request.svid:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "audience and svid must be specified")
    try:
        claims = _claims(domains, request.svid, request.audience)
    except (jwt.PyJWTError, LookupError) as error:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
    response = ValidateJWTSVIDResponse(spiffe_id=claims["sub"])
    response.claims.update(claims)
    return response


def _claims(domains: Iterable[TrustDomain], token: str, audience: str) -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    if header.get("typ", "JWT") not in {"JWT", "JOSE"}:
        raise LookupError("token has an unexpected type")
    unverified_subject = str(jwt.decode(token, options={"verify_signature": False}).get("sub"))
    match = _WORKLOAD_ID.fullmatch(unverified_subject)
    bundle = next((each for each in domains if match and each.name == match["domain"]), None)
    if bundle is None:
        raise LookupError("no bundle for the trust domain of the subject")
    keys = [each for each in bundle.jwks()["keys"] if header.get("kid") in {None, each["kid"]}]
    for number, key in enumerate(keys, 1):
        try:
            return jwt.decode(
                token,
                jwt.PyJWK.from_dict(key).key,
                algorithms=ALGORITHMS,
                audience=audience,
                options={"require": ["aud", "exp", "sub"]},
            )
        except jwt.InvalidSignatureError:
            if number == len(keys):
                raise
    raise LookupError("no such key in the bundle")


def _entitled(what: Sequence[object]) -> None:
    if not what:
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
