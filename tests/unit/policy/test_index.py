import pytest

from exchanged.policy import compiled
from exchanged.policy.index import SMALL
from tests.grants import identity
from tests.policies import policy, reading
from tests.world import Policies


def _names(live: Policies, scope: str | None = None) -> list[str]:
    return sorted(found.name for found, _ in live.current.matching(identity(), scope))


def test_putting_replaces_and_removing_removes() -> None:
    """A policy put again is there once, with its new content; a removed one is gone; an unknown one never was."""
    live = Policies()
    live.put(policy("a"))
    before = live.current.digest
    live.put(policy("a", lifetime={"default": "1m", "max": "1m"}))
    assert live.current.digest != before
    live.put(policy("a"))
    assert live.current.digest == before
    assert (_names(live), len(live.current), [each.name for each in live.current]) == (["a"], 1, ["a"])
    live.current.remove("a")
    live.current.remove("a")
    assert (_names(live), live.current.named("a"), live.current.digest_of("a")) == ([], None, None)


def test_the_digest_does_not_depend_on_the_order() -> None:
    """The same policies are the same set."""
    texts = [policy(f"p{number}") for number in range(20)]
    first, second = Policies(), Policies()
    for text in texts:
        first.put(text)
    for text in reversed(texts):
        second.put(text)
    assert first.current.digest == second.current.digest


def test_a_full_bucket_is_found_by_scope() -> None:
    """Many policies of one subject: those with the scope are found, before and after changes."""
    live = Policies()
    for number in range(SMALL * 2):
        live.put(policy(f"p{number}"))
    live.put(reading("r0"))
    assert _names(live, "pods") == ["r0"]
    live.put(reading("r1"))
    assert _names(live, "pods") == ["r0", "r1"]
    assert len(_names(live, "rollout")) == SMALL * 2
    live.current.remove("r0")
    assert _names(live, "pods") == ["r1"]
    assert _names(live, "nothing") == []


def test_one_policy_may_have_several_keys() -> None:
    """A list of values is found by each of them, and leaves nothing behind when it goes."""
    live = Policies()
    subjects = [{"issuer": "github", "claims": {"repository_id": ["1", "4711", "3"]}}] * 2
    live.put(policy("a", subjects=subjects))
    assert _names(live) == ["a", "a"]
    live.current.remove("a")
    assert live.current._by_issuer == {"github": {}}


def test_what_is_not_in_the_index_is_compared_all_the_same() -> None:
    """A list that was too large for the index still has to match."""
    live = Policies()
    claims = {"repository_id": ["4711", *map(str, range(40))], "ref": [f"r{number}" for number in range(40)]}
    live.put(policy("a", subjects=[{"issuer": "github", "claims": claims}]))
    who = identity(claims={"repository_id": "4711", "ref": "r1"})
    assert [found.name for found, _ in live.current.matching(who, None)] == ["a"]
    assert not list(live.current.matching(identity(claims={"repository_id": "4711", "ref": "x"}), None))


def test_what_is_shared_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values remembered for sharing are forgotten when they are many."""
    monkeypatch.setattr(compiled, "MAX_SHARED", 1)
    live = Policies()
    live.put(policy("a"))
    assert len(live.compiler._shared) <= 2
    assert _names(live) == ["a"]


@pytest.mark.parametrize(("listed", "claimed"), [(5, "\x005"), (True, "\x00True"), ("\x005", 5), (True, 1), ("1", 1)])
def test_no_text_is_taken_for_a_value_of_another_type(listed: object, claimed: object) -> None:
    """A claim of one type never matches a policy's value of another, whatever characters it has."""
    live = Policies()
    live.put(policy("a", subjects=[{"issuer": "github", "claims": {"n": listed}}]))
    assert [found.name for found, _ in live.current.matching(identity(claims={"n": listed}), None)] == ["a"]
    assert not list(live.current.matching(identity(claims={"n": claimed}), None))
