import asyncio

from exchanged.ending.pauses import FIRST_PAUSE, LONGEST_PAUSE, Pauses


async def test_pauses_grow_to_the_longest_and_end_with_success() -> None:
    """Each failure doubles the pause up to the longest; success and a clear end it; others are not touched."""
    pauses, now = Pauses(), asyncio.get_running_loop().time()
    assert pauses.is_over("a")
    lengths = []
    for _ in range(10):
        pauses.put_off("a")
        lengths.append(pauses._pauses["a"][1] - now)
    assert FIRST_PAUSE / 2 <= lengths[0] <= FIRST_PAUSE + 1
    assert LONGEST_PAUSE / 2 <= lengths[-1] <= LONGEST_PAUSE + 1
    assert (pauses.is_over("a"), pauses.is_over("b"), len(pauses)) == (False, True, 1)
    pauses.forget("a")
    pauses.forget("never put off")
    assert (pauses.is_over("a"), len(pauses)) == (True, 0)
    pauses.put_off("a")
    pauses.clear()
    assert pauses.is_over("a")
