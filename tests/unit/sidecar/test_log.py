"""What is said, as collectors and people read it."""

import json
import logging

import pytest

from sidecar.log import set_up


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_field_may_be_anything(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Lists and mappings are said too; what is empty is left out, and nothing else comes out."""
    set_up(form, "info")
    extra = {"tokens": ["prod"], "more": {"a": 1}, "why": "", "until": None, "rest": 0}
    logging.getLogger("sidecar").info("started", extra=extra)
    (line,) = capsys.readouterr().err.splitlines()
    if form == "json":
        told = json.loads(line)
        assert (told["event"], told["tokens"], told["more"], told["rest"]) == ("started", ["prod"], {"a": 1}, 0)
        assert not {"why", "until"} & set(told)
    else:
        assert line.endswith("""started  tokens=['prod'] more="{'a': 1}" rest=0""")
