import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from exchanged.keys.files import write_private
from exchanged.keys.signing import KeyRing

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Now."""
        return self.time


def _ring(folder: Path, clock: Clock) -> KeyRing:
    return KeyRing(folder=folder, rotate_after=30 * DAY, publish_ahead=DAY, longest_grant=HOUR, clock=clock)


def _published(ring: KeyRing) -> list[str]:
    return [key["kid"] for key in ring.jwks()["keys"]]


def _signer(ring: KeyRing) -> str:
    return str(jwt.get_unverified_header(ring.sign({"a": 1}))["kid"])


def test_what_is_signed_is_verified_by_the_published_key(tmp_path: Path) -> None:
    """A token of the ring's is good for whoever has the key set, and the key set holds nothing private."""
    ring = _ring(tmp_path, Clock())
    ring.load()
    token = ring.sign({"sub": "é", "n": 1})
    (key,) = jwt.PyJWKSet.from_dict(ring.jwks()).keys
    assert jwt.decode(token, key, algorithms=["ES256"]) == {"sub": "é", "n": 1}
    assert "d" not in ring.jwks()["keys"][0]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_a_key_is_published_before_it_signs_and_after(tmp_path: Path) -> None:
    """New keys are seen a day before they sign, old ones until their last token has ended; then they are gone."""
    clock = Clock()
    ring = _ring(tmp_path, clock)
    assert ring.load()
    first = _signer(ring)
    assert not ring.load()
    clock.time += 30 * DAY
    assert ring.load()
    assert _signer(ring) == first
    assert len(_published(ring)) == 2
    clock.time += DAY
    assert ring.load()
    second = _signer(ring)
    assert second != first
    assert first in _published(ring)
    clock.time += 2 * HOUR
    assert ring.load()
    assert _published(ring) == [second]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_restart_goes_on_where_it_stood(tmp_path: Path) -> None:
    """The plan follows from the files: a new process has the same keys, after a long time away it makes a new one."""
    clock = Clock()
    ring = _ring(tmp_path, clock)
    ring.load()
    kid = _signer(ring)
    again = _ring(tmp_path, clock)
    assert not again.load()
    assert _signer(again) == kid
    clock.time += 300 * DAY
    late = _ring(tmp_path, clock)
    assert late.load()
    assert (_signer(late), len(_published(late))) == (kid, 2)


@pytest.mark.parametrize("back", [timedelta(seconds=2), 40 * DAY])
def test_a_clock_that_was_set_back_leaves_a_key(tmp_path: Path, back: timedelta) -> None:
    """A daemon that starts before its keys were made signs with the first of them, and goes on with the plan later."""
    clock = Clock()
    ring = _ring(tmp_path, clock)
    ring.load()
    first = _signer(ring)
    clock.time += 30 * DAY
    ring.load()
    clock.time -= 30 * DAY + back
    again = _ring(tmp_path, clock)
    assert again.load() is False
    assert (_signer(again), len(_published(again))) == (first, 2)
    clock.time += back + 31 * DAY
    assert again.load()
    assert _signer(again) != first


async def test_the_plan_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background rotates, and tells when it did."""
    clock = Clock()
    ring = _ring(tmp_path, clock)
    ring.load()
    looks, told = 0, 0

    async def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        clock.time += 30 * DAY if looks == 2 else timedelta(0)
        if looks == 3:
            raise asyncio.CancelledError

    async def note() -> None:
        nonlocal told
        told += 1

    monkeypatch.setattr("exchanged.keys.signing.asyncio.sleep", sleep)
    on_change: Callable[[], Awaitable[None]] = note
    with pytest.raises(asyncio.CancelledError):
        await ring.run(on_change)
    assert told == 1


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A foreign key in the folder stops the start; signing without a key is a bug."""
    ring = _ring(tmp_path, Clock())
    with pytest.raises(RuntimeError, match="loaded before"):
        ring.sign({})
    foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = foreign.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(tmp_path / "1-x.pem", pem)
    with pytest.raises(ValueError, match="not an EC key"):
        ring.load()


def test_a_private_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing fails the old content stays, and nothing else is left."""
    file = tmp_path / "secret"
    write_private(file, b"old")

    def fails(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("exchanged.keys.files.os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_private(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert file.read_bytes() == b"old"
