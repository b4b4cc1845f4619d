"""A token in the cache is for one ask and one proof: with another there is an exchange."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar import exchange, execplugin
from sidecar.model import Ask, Credential, Subject
from tests.unit.sidecar_kubectl.plugin import Plugin, token_of


def test_another_proof_is_another_token(plugin: Plugin, tmp_path: Path) -> None:
    """A token is for whom the proof is of: with another proof in its file there is another exchange."""
    file = tmp_path / "proof"
    file.write_text(plugin.issuer.github_token())
    own = ("--source=file", f"--subject-token-file={file}")
    first = plugin.token(*own)
    assert plugin.token(*own) == first
    file.write_text(plugin.issuer.github_token())
    assert plugin.token(*own) != first
    file.write_text("nothing")
    assert plugin.run(*own).returncode == 1
    file.unlink()
    done = plugin.run(*own)
    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot be read" in done.stderr


def test_a_proof_that_is_swapped_meanwhile_has_no_token(
    plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token is kept for what was shown, not for what lies there when the daemon has answered."""
    file, other = tmp_path / "proof", plugin.issuer.github_token()
    file.write_text(plugin.issuer.github_token())

    class Slow(exchange.Daemon):
        async def exchange(self, ask: Ask, subject: Subject) -> Credential:
            """What the daemon gives, while somebody brings another proof."""
            granted = await super().exchange(ask, subject)
            file.write_text(other)
            return granted

    for name, value in plugin.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(exchange, "Daemon", Slow)
    own = ("--source=file", f"--subject-token-file={file}")
    assert execplugin.main(plugin.arguments(*own)) == 0
    assert plugin.token(*own) != token_of(capsys.readouterr().out)


def test_what_narrows_counts_by_what_it_says(plugin: Plugin, tmp_path: Path) -> None:
    """A file of details that asks for less has another token, by the same name."""
    file = tmp_path / "details=narrow.json"
    ask = (f"--authorization-details=@{file}",)
    file.write_text(_reading("get", "list"))
    wide = plugin.token(*ask)
    assert plugin.token(*ask) == wide
    file.write_text(_reading("get"))
    assert plugin.token(*ask) != wide
    assert plugin.token("--authorization-details", f"@{file}") != wide


def test_a_command_is_one_where_it_runs(plugin: Plugin, tmp_path: Path) -> None:
    """The same words in another folder may show another proof."""
    asked: dict[str, Any] = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "proof").write_text(plugin.issuer.github_token())
        own = ("--source=command", "--subject-token-command=cat proof")
        asked[name] = plugin.token(*own, cwd=tmp_path / name)
        assert plugin.token(*own, cwd=tmp_path / name) == asked[name]
    assert asked["one"] != asked["two"]


def _reading(*verbs: str) -> str:
    return json.dumps([{"type": "kubernetes", "apiGroups": [""], "resources": ["pods"], "verbs": verbs}])
