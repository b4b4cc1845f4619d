"""The policies in force, found in the same time whether there are a hundred or a hundred thousand."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from exchanged.model import Identity, IssuerName
from exchanged.policy.compiled import CompiledParty, CompiledPolicy, Key, Place, key_of
from exchanged.policy.conditions import Conditions

SMALL = 8
"""Entries of a bucket up to which looking through is cheaper than a second index."""

Entry = tuple[CompiledPolicy, CompiledParty]


@dataclass(slots=True)
class _Bucket:
    """Entries with one key; those of one scope name are found without the others."""

    entries: list[Entry] = field(default_factory=list)
    by_scope: dict[str, list[Entry]] | None = None

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if self.by_scope is not None:
            for scope in entry[0].scopes:
                self.by_scope.setdefault(scope.name, []).append(entry)

    def remove(self, policy: CompiledPolicy) -> None:
        self.entries = [entry for entry in self.entries if entry[0] is not policy]
        self.by_scope = None

    def with_scope(self, name: str) -> list[Entry]:
        if len(self.entries) <= SMALL:
            return [entry for entry in self.entries if entry[0].scope(name) is not None]
        if self.by_scope is None:
            self.by_scope = {}
            for entry in self.entries:
                for scope in entry[0].scopes:
                    self.by_scope.setdefault(scope.name, []).append(entry)
        return self.by_scope.get(name, [])


class PolicySet:
    """The policies in force.

    It changes in place, between two decisions and never within one: a decision does not wait for anything.
    """

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self._by_name: dict[str, CompiledPolicy] = {}
        self._by_issuer: dict[IssuerName, dict[tuple[Place, ...], dict[Key, _Bucket]]] = {}
        self._digests: list[dict[str, str]] = [{} for _ in range(256)]
        self._branches: list[bytes | None] = [None] * 256

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[CompiledPolicy]:
        return iter(self._by_name.values())

    def named(self, name: str) -> CompiledPolicy | None:
        """The policy of this name."""
        return self._by_name.get(name)

    def digest_of(self, name: str) -> str | None:
        """The digest of the policy of this name, or None if it is not in force."""
        policy = self._by_name.get(name)
        return policy.digest if policy else None

    @property
    def digest(self) -> str:
        """SHA-256 over all policies in force, in hex: a tree of 256 branches, so that a change costs one of them."""
        whole = hashlib.sha256()
        for number, members in enumerate(self._digests):
            branch = self._branches[number]
            if branch is None:
                text = "".join(f"{name}\0{digest}\n" for name, digest in sorted(members.items()))
                branch = self._branches[number] = hashlib.sha256(text.encode()).digest()
            whole.update(branch)
        return whole.hexdigest()

    def put(self, policy: CompiledPolicy) -> None:
        """The policy is in force from the next decision on, in the place of one with its name."""
        self.remove(policy.name)
        self._by_name[policy.name] = policy
        self._note(policy.name, policy.digest)
        for party in policy.subjects:
            keys = self._by_issuer.setdefault(party.issuer, {}).setdefault(party.shape, {})
            for key in party.keys:
                keys.setdefault(key, _Bucket()).add((policy, party))

    def remove(self, name: str) -> None:
        """The policy of this name, if there is one, is not in force any more."""
        policy = self._by_name.pop(name, None)
        if policy is None:
            return
        self._note(name, None)
        for party in policy.subjects:
            shapes = self._by_issuer[party.issuer]
            keys = shapes.get(party.shape, {})
            for key in party.keys & keys.keys():
                keys[key].remove(policy)
                if not keys[key].entries:
                    del keys[key]
            if not keys:
                shapes.pop(party.shape, None)

    def matching(self, who: Identity, scope: str | None) -> Iterator[Entry]:
        """Policies that list this identity's claims, and have a scope of this name if one is given."""
        for shape, keys in self._by_issuer.get(who.issuer, {}).items():
            key = key_of(shape, who.claims)
            bucket = keys.get(key) if key is not None else None
            if bucket is None:
                continue
            for policy, party in bucket.entries if scope is None else bucket.with_scope(scope):
                if party.others_match(who.claims):
                    yield policy, party

    def matching_in(self, policy: CompiledPolicy, who: Identity) -> Iterator[Entry]:
        """The subjects of one policy that list this identity's claims."""
        for party in policy.subjects:
            if party.issuer == who.issuer and party.claims_match(who.claims):
                yield policy, party

    def _note(self, name: str, digest: str | None) -> None:
        number = hashlib.sha256(name.encode()).digest()[0]
        self._branches[number] = None
        if digest is None:
            self._digests[number].pop(name, None)
        else:
            self._digests[number][name] = digest
