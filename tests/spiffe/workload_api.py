"""The Workload API (SPIFFE_Workload_API.md) as its caller sees it, and how that changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from spiffe._proto.workload_pb2 import JWTSVIDRequest, ValidateJWTSVIDRequest

from tests.spiffe import answers
from tests.spiffe.answers import Answer, Identity
from tests.spiffe.endpoint import Endpoint
from tests.spiffe.malformed import Malformed, spoil
from tests.spiffe.pki import Svid, TrustDomain


class WorkloadApi(Endpoint):
    """The API and what it knows of its caller, who is the same whoever calls.

    What a method changes is sent at once; after changing an attribute or a trust domain, `push`.
    """

    def __init__(
        self,
        path: Path,
        home: TrustDomain,
        *,
        federated: list[TrustDomain] | None = None,
        identities: list[Identity] | None = None,
    ) -> None:
        super().__init__(path)
        self.home = home
        self.federated = federated or []
        self.identities = [Identity()] if identities is None else identities
        self._issued: dict[Identity, Svid] = {}
        self._malformed: Malformed | None = None

    @classmethod
    @contextmanager
    def served(cls, path: Path, home: TrustDomain, **settings: Any) -> Iterator["WorkloadApi"]:
        """The API on this socket."""
        api = cls(path, home, **settings)
        api.start()
        try:
            yield api
        finally:
            api.stop()

    @property
    def domains(self) -> list[TrustDomain]:
        """All whose bundles the caller gets."""
        return [self.home, *self.federated]

    def svid(self, identity: Identity | None = None) -> Svid:
        """The X.509-SVID that this identity has now; that of the first unless another is named."""
        wanted = identity or self.identities[0]
        with self._changed:
            if wanted not in self._issued:
                self._issued[wanted] = self._issue(wanted)
            return self._issued[wanted]

    def rotate_svid(self, **faults: Any) -> None:
        """New X.509-SVIDs for all identities, with what `TrustDomain.svid` can make different."""
        with self._changed:
            self._issued = {each: self._issue(each, **faults) for each in self.identities}
            self.push()

    def rotate_authorities(self, *, drop_old: bool = False) -> None:
        """A new CA and JWT key, and new SVIDs from them."""
        with self._changed:
            self.home.rotate()
            if drop_old:
                self.home.drop_old()
            self.rotate_svid()

    def add_federated(self, domain: TrustDomain) -> None:
        """Hands out this trust domain's bundles too."""
        with self._changed:
            self.federated = [*self.federated, domain]
            self.push()

    def remove_federated(self, name: str) -> None:
        """Redacts this trust domain's bundles."""
        with self._changed:
            self.federated = [each for each in self.federated if each.name != name]
            self.push()

    def malformed(self, kind: Malformed) -> None:
        """From now on all answers are wrong in this one thing."""
        with self._changed:
            self._malformed = kind
            self.push()

    def recover(self) -> None:
        """Ends `fail`, `hang` and `malformed`, and sends what holds."""
        with self._changed:
            self._malformed = None
            super().recover()

    def state(self, method: str) -> Message:
        """What a stream of this method says now, in full.

        Raises:
            Refused: the caller has no identity.
        """
        if method == "FetchX509SVID":
            issued = [(each, self.svid(each)) for each in self.identities]
            return self._spoilt(answers.x509_svids(self.home, self.federated, issued))
        if method == "FetchX509Bundles":
            return self._spoilt(answers.x509_bundles(self.domains))
        return self._spoilt(answers.jwt_bundles(self.domains))

    def reply(self, request: Message) -> Message:
        """The answer to a call.

        Raises:
            Refused: the request asks for what there is not.
        """
        if isinstance(request, JWTSVIDRequest):
            return self._spoilt(answers.jwt_svids(self.home, self.identities, request))
        assert isinstance(request, ValidateJWTSVIDRequest)
        return answers.validated(self.domains, request)

    def _spoilt(self, answer: Answer) -> Answer:
        if self._malformed is not None:
            spoil(self._malformed, answer, self.home)
        return answer

    def _issue(self, identity: Identity, **faults: Any) -> Svid:
        usual: dict[str, Any] = {"lifetime": identity.lifetime, "dns": identity.dns, "under": identity.under}
        return self.home.svid(identity.path, **(usual | faults))
