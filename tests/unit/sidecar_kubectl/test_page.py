"""The page on kubectl shows what is written and said, and names options that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import cache, execplugin, execplugin_ask, execplugin_options, schedule
from tests.cli.command import run

PAGE = Path("docs/kubectl.md").read_text()
SAID = "".join(Path(f"sidecar/{name}.py").read_text() for name in ("execplugin", "execplugin_ask"))
WORDS = " ".join(PAGE.split())
SAMPLE = ("--server", "exchanged.example:443", "--cluster", "prod", "--scope", "read-pods/pods")


def test_the_kubeconfig(tmp_path: Path) -> None:
    """It is what comes out, but for what it leaves out."""
    (shown,) = re.findall(r"^    apiVersion: v1\n(?:    .*\n)+", PAGE, re.MULTILINE)
    assert f"exchanged kubeconfig {' '.join(SAMPLE)} " in PAGE
    authority = tmp_path / "ca.crt"
    authority.write_text("-----BEGIN CERTIFICATE-----")
    where = ("--api-server", "https://prod.example:6443", "--certificate-authority", authority, "-n", "web")
    written = run("kubeconfig", *SAMPLE, *where).out
    assert _fits(yaml.safe_load(shown), yaml.safe_load(written))


def test_every_option_is_one() -> None:
    """Of the plugin, or of who writes kubeconfigs; the rest is kubectl's."""
    theirs = {"--kubeconfig", "--flatten", "--list"}
    written = run("kubeconfig", "--help", environment={"COLUMNS": "200"}).out
    known = set(re.findall(r"--[a-z][a-z-]+", written + execplugin_options._parser().format_help()))
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) - theirs - known == set()


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of the help."""
    with pytest.raises(SystemExit):
        execplugin_options.options(["--help"])
    (told,) = re.findall(r"Exit codes: [^.]+\.", WORDS)
    assert told in " ".join(capsys.readouterr().out.split())
    assert (execplugin._USAGE, execplugin_ask._REFUSED, execplugin_ask._UNAVAILABLE) == (2, 1, 3)


def test_what_it_says_is_said() -> None:
    """Each message of the table is one of the plugin, or of the daemon; but what client-go says, and the API server."""
    rows = re.findall(r"^\| (.+?) \|", PAGE.partition("## When there is no token")[2], re.MULTILINE)[2:]
    reasons = Path("docs/errors.md").read_text()
    messages = [each for row in rows for each in re.findall("`(.+?)`", row)]
    assert len(messages) >= 6
    for message in messages:
        if message.startswith("["):
            assert f"`{message[1:].partition(',')[0]}`" in reasons
        elif message != "executable sidecar not found":
            assert [part for part in message.split("…") if part not in SAID] == []


def test_figures() -> None:
    """They are those of the code."""
    figures = {
        f"by {cache.MARGIN:.0f} seconds, or by a tenth": cache.MARGIN_SHARE == 0.1,
        "less than a fifth of its life": cache.REFRESH_SHARE == 0.2,
        "four fifths of its life": cache.REFRESH_SHARE == 0.2,
        f"by more than {cache.CLOCK_STEP:.0f} seconds": True,
        f"each has {execplugin_ask.SECONDS_WITH_TOKEN:.0f} seconds": True,
        f"nobody is asked again for {execplugin_ask.PAUSE:.0f} seconds": True,
        "at most for a minute, and for half of what": (schedule.LONGEST_PAUSE, schedule.SHARE_OF_REST) == (60, 0.5),
        f"once in {execplugin.CHECK_SECONDS:.0f} seconds at most": True,
    }
    assert [words for words, holds in figures.items() if not holds or words not in WORDS] == []


def _fits(shown: Any, written: Any) -> bool:
    """Whether all is the same, but for what `…` stands for; at the end of a list, for all the rest."""
    if shown == "…":
        return True
    if isinstance(shown, dict):
        return shown.keys() == written.keys() and all(_fits(shown[key], written[key]) for key in shown)
    if isinstance(shown, list):
        left_out = shown[-1:] == ["…"]
        same = all(_fits(one, other) for one, other in zip(shown, written, strict=False))
        return same and (left_out or len(shown) == len(written))
    return bool(shown == written)
