import pytest

from exchanged.spiffe_id import MAX_LENGTH, SCHEME, SpiffeId

DOMAIN = "acme.example"


@pytest.mark.parametrize(
    ("text", "trust_domain", "path", "segments"),
    [
        ("spiffe://acme.example", "acme.example", "", ()),
        ("spiffe://acme.example/web", "acme.example", "/web", ("web",)),
        (
            "spiffe://acme.example/ns/web/sa/deployer",
            "acme.example",
            "/ns/web/sa/deployer",
            ("ns", "web", "sa", "deployer"),
        ),
        ("spiffe://a_b-c.9/A.b_c-D/...", "a_b-c.9", "/A.b_c-D/...", ("A.b_c-D", "...")),
        ("spiffe://10.0.0.1/web", "10.0.0.1", "/web", ("web",)),
        (f"spiffe://{'a' * 255}/web", "a" * 255, "/web", ("web",)),
    ],
)
def test_parts(text: str, trust_domain: str, path: str, segments: tuple[str, ...]) -> None:
    """An ID has a trust domain, a path and its segments, and is written as it was read (SPIFFE-ID §2)."""
    parsed = SpiffeId.parse(text)
    assert (parsed.trust_domain, parsed.path, parsed.segments) == (trust_domain, path, segments)
    assert str(parsed) == text


def test_the_longest_id() -> None:
    """2,048 characters are read, also where they are one segment (§2.3); one more is not."""
    longest = f"{SCHEME}{DOMAIN}/".ljust(MAX_LENGTH, "x")
    assert str(SpiffeId.parse(longest)) == longest
    with pytest.raises(ValueError, match="not a SPIFFE ID"):
        SpiffeId.parse(longest + "x")


WRONG = {
    "nothing": "",
    "no scheme": "acme.example/web",
    "another scheme": "https://acme.example/web",
    "a scheme with more": "spiffes://acme.example/web",
    "a scheme in upper case": "SPIFFE://acme.example/web",
    "a scheme alone": "spiffe://",
    "one slash": "spiffe:/acme.example/web",
    "no slash": "spiffe:acme.example/web",
    "three slashes": "spiffe:///web",
    "a trust domain in upper case": "spiffe://Acme.example/web",
    "a trust domain that is too long": f"spiffe://{'a' * 256}/web",
    "a trust domain of IPv6": "spiffe://[::1]/web",
    "a trust domain with a space": "spiffe://acme example/web",
    "a percent-encoded trust domain": "spiffe://acme%2eexample/web",
    "another alphabet": "spiffe://\u0430cme.example/web",
    "digits of another alphabet": "spiffe://acme.example/\u0661",
    "letters that fold to ours": "spiffe://acme.example/\u017f",
    "a port": "spiffe://acme.example:443/web",
    "an empty port": "spiffe://acme.example:/web",
    "a user": "spiffe://root@acme.example/web",
    "an empty user": "spiffe://@acme.example/web",
    "a query": "spiffe://acme.example/web?a=b",
    "an empty query": "spiffe://acme.example/web?",
    "a fragment": "spiffe://acme.example/web#a",
    "a query without a path": "spiffe://acme.example?a",
    "a root path": "spiffe://acme.example/",
    "a slash at the end": "spiffe://acme.example/web/",
    "an empty segment": "spiffe://acme.example/web//a",
    "an empty segment at the beginning": "spiffe://acme.example//web",
    "a segment that stays": "spiffe://acme.example/web/./a",
    "a segment that goes up": "spiffe://acme.example/web/../admin",
    "a last segment that goes up": "spiffe://acme.example/web/..",
    "a percent-encoded segment": "spiffe://acme.example/%61dmin",
    "a plus": "spiffe://acme.example/a+b",
    "a tilde": "spiffe://acme.example/~a",
    "a back slash": "spiffe://acme.example\\web",
    "a star": "spiffe://acme.example/*",
    "a space before": " spiffe://acme.example/web",
    "a line end": "spiffe://acme.example/web\n",
    "a line end in the trust domain": "spiffe://acme.example\n/web",
    "a zero byte": "spiffe://acme.example/web\0",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_id(name: str) -> None:
    """Whatever is not an ID in its one spelling is refused."""
    with pytest.raises(ValueError, match="not a SPIFFE ID"):
        SpiffeId.parse(WRONG[name])
