import json
from typing import Any

import pytest

from exchanged.model import IssuerName
from exchanged.policy.compiled import Compiler, key_of
from exchanged.policy.load import load_text
from exchanged.strict_yaml import Faulty
from tests.grants import identity
from tests.policies import policy, reading, workload
from tests.world import Policies

SEGMENTS = "only whole segments match"


def _put(live: Policies, name: str, **party: Any) -> None:
    live.put(policy(name, subjects=[{"issuer": "workloads", **party}]))


def _names(live: Policies, path: str, **changes: Any) -> list[str]:
    return sorted(found.name for found, _ in live.current.matching(workload(path, **changes), None))


@pytest.mark.parametrize(
    ("pattern", "paths", "others"),
    [
        ("/ns/web", ["/ns/web"], ["/ns/website", "/ns/we", "/ns", "/ns/web/sa", "/ns/Web", "/web/ns", "/x/ns/web"]),
        ("/ns/web/sa/*", ["/ns/web/sa/a", "/ns/web/sa/b-c"], ["/ns/web/sa", "/ns/web/sa/a/b", "/ns/website/sa/a"]),
        ("/ns/*/sa/deployer", ["/ns/web/sa/deployer"], ["/ns/sa/deployer", "/ns/a/b/sa/deployer", "/ns/web/sa/other"]),
        ("/*/web", ["/ns/web"], ["/ns", "/web", "/ns/x/web", "/ns/website"]),
        ("/ns/web/**", ["/ns/web/a", "/ns/web/a/b/c"], ["/ns/web", "/ns/website/a", "/ns/website", "/ns"]),
        ("/ns/*/**", ["/ns/a/b", "/ns/a/b/c"], ["/ns", "/ns/a", "/x/a/b"]),
        ("/a.b/..c/...", ["/a.b/..c/..."], ["/axb/..c/..."]),
        ("/0", ["/0"], ["/1", "/0/0"]),
    ],
)
def test_whole_segments_match(pattern: str, paths: list[str], others: list[str]) -> None:
    """A literal is itself, `*` exactly one segment, `**` one or more; nothing is a prefix, also not within a policy."""
    live = Policies()
    _put(live, "a", path=pattern)
    (party,) = next(iter(live.current)).subjects
    for path in paths + others:
        assert _names(live, path) == (["a"] if path in paths else [])
        assert party.claims_match(workload(path).claims) == (path in paths)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/",
        "ns/web",
        "/ns/",
        "/ns//web",
        "/ns/web*",
        "/ns/*web",
        "/ns/***",
        "/**/web",
        "/ns/**/**",
        "/ns/./web",
        "/ns/..",
        "/.",
        "/ns/we b",
        "/ns/w%65b",
        "/ns/w\u00e9b",
        "/ns/web\n",
        "spiffe://prod.example/ns/web",
        "/a" * 33,
    ],
)
def test_what_is_no_pattern(pattern: str) -> None:
    """A pattern that is none is a fault at its line that says what one is."""
    text = policy("a", subjects=[{"issuer": "workloads", "path": pattern}])
    with pytest.raises(Faulty, match=SEGMENTS) as faulty:
        load_text(text, "p.yaml", Compiler())
    (fault,) = faulty.value.faults
    assert (fault.where, text.splitlines()[fault.line - 1].strip().split(":")[0]) == ("spec.subjects[0].path", '"path"')


def test_every_fault_of_a_file_is_told() -> None:
    """One bad path hides no other."""
    document = json.loads(policy("a", subjects=[{"issuer": "w", "path": path} for path in ("/a*", "/a", "/b/")]))
    document["spec"]["actors"] = [{"issuer": "w", "path": "c"}]
    with pytest.raises(Faulty) as faulty:
        load_text(json.dumps(document), "p.yaml", Compiler())
    assert [fault.where for fault in faulty.value.faults] == [
        "spec.subjects[0].path",
        "spec.subjects[2].path",
        "spec.actors[0].path",
    ]


def test_claims_and_path_must_both_match() -> None:
    """A path is one demand more: on top of exact claims, of lists, of patterns and of a condition."""
    live = Policies()
    _put(live, "exact", path="/**", claims={"trust_domain": "prod.example"})
    _put(live, "kind", path="/ns/web/**", claims={"svid": ["x509", "other"]})
    _put(live, "elsewhere", path="/ns/web/**", claims={"trust_domain": "test.example"})
    many = [f"spiffe://prod.example/ns/web/sa/{number}" for number in range(80)]
    _put(live, "many", path="/ns/*/sa/*", claims={"sub": many, "svid": ["jwt", "x509"]})
    assert _names(live, "/ns/web/sa/a") == ["exact"]
    assert _names(live, "/ns/web/sa/7", kind="x509") == ["exact", "kind", "many"]
    assert _names(live, "/ns/web/sa/80") == ["exact"]


@pytest.mark.parametrize(
    "claims",
    [
        {"segments": None},
        {"segments": "/ns/web"},
        {"segments": {"0": "ns", "1": "web"}},
        {"segments": []},
        {"segments": ["ns", 5]},
        {"segments": ["ns", ["web"]]},
        {"segments": [5, "web"]},
        {"segments": ["\x002", "ns", "web"]},
        {"path": "/ns/web"},
        {},
    ],
)
@pytest.mark.parametrize("pattern", ["/ns/web", "/ns/*", "/ns/**", "/*/web"])
def test_odd_segments_match_nothing(pattern: str, claims: dict[str, Any]) -> None:
    """What is no list of texts, or not there, is no path, whatever an issuer puts into a claim of that name."""
    live = Policies()
    _put(live, "a", path=pattern)
    assert _names(live, "/ns/web") == ["a"]
    assert _names(live, "/ns/web", claims=claims) == []


def test_a_path_is_of_its_issuer() -> None:
    """A path lists nobody of another issuer, and what looks like a place of a path in a claim's name is no place."""
    live = Policies()
    _put(live, "a", path="/ns/web")
    _put(live, "b", claims={"1": "ns", "0": "2"})
    assert _names(live, "/ns/web") == ["a"]
    assert _names(live, "/ns/web", issuer=IssuerName("others")) == []
    assert _names(live, "/ns/web", claims={"1": "ns", "0": "2"}) == ["b"]


def test_literal_segments_are_the_index() -> None:
    """However many patterns of one form there are, one look-up finds the few that can match."""
    live = Policies()
    for number in range(300):
        _put(live, f"one-{number}", path=f"/ns/n{number}/sa/*")
        _put(live, f"all-{number}", path=f"/ns/n{number}/**")
        _put(live, f"longer-{number}", path=f"/ns/n{number}/sa")
    shapes = live.current._by_issuer[IssuerName("workloads")]
    assert shapes.keys() == {(0, 1, 2, 3), (-3, 1, 2)}
    assert {len(bucket.entries) for keys in shapes.values() for bucket in keys.values()} == {1}
    assert key_of((-3, 1, 2), workload("/ns/n7/sa/deployer").claims) == ("", "ns", "n7")
    assert _names(live, "/ns/n7/sa/deployer") == ["all-7", "one-7"]
    for policy_ in list(live.current):
        live.current.remove(policy_.name)
    assert live.current._by_issuer == {"workloads": {}}


def test_an_actor_may_be_a_path() -> None:
    """Actors are listed as subjects are."""
    document = json.loads(reading())
    document["spec"]["actors"] = [{"issuer": "workloads", "path": "/ns/ci/sa/*"}]
    (made,) = load_text(json.dumps(document), "p", Compiler())
    assert made.actors[0].claims_match(workload("/ns/ci/sa/runner").claims)
    assert not made.actors[0].claims_match(workload("/ns/ci-2/sa/runner").claims)
    assert not made.actors[0].claims_match(identity().claims)
