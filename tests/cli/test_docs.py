import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exchanged.cli.source import default_audience
from exchanged.config import Configuration, KubernetesIssuer, Settings
from exchanged.config_file import load
from exchanged.keys.certificates import Authority
from tests.cli.command import run

PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
BLOCKS = [(page, block) for page in PAGES for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]
CONFIGURATIONS = [block for _, block in BLOCKS if "kind: Configuration" in block]
POLICIES = [block for _, block in BLOCKS if "kind: Policy" in block]


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """The files that the documents' configurations name, in a folder that stands for the host's root."""
    pair = Authority.open(tmp_path / "ca", "docs", lambda: datetime.now(UTC)).serving(["exchanged.example"])
    etc, token = tmp_path / "etc" / "exchanged", tmp_path / "var" / "run" / "secrets" / "prod" / "token"
    (etc / "policies").mkdir(parents=True)
    (etc / "tls.crt").write_bytes(pair.chain_pem)
    (etc / "tls.key").write_bytes(pair.key_pem)
    (etc / "prod-ca.crt").write_bytes(pair.ca_pem)
    token.parent.mkdir(parents=True)
    token.write_text("a token")
    return tmp_path


def _configured(root: Path, block: str) -> Path:
    file = root / "etc" / "exchanged" / "exchanged.yaml"
    file.write_text(re.sub(r"(?<= )/(?=var|etc)", f"{root}/", block))
    return file


@pytest.mark.parametrize("block", CONFIGURATIONS)
def test_a_configuration_of_the_documents_is_one(made_up: Path, block: str) -> None:
    """Every configuration that a page shows is accepted, with the files that it names."""
    done = run("config", "check", _configured(made_up, block), "-o", "json")
    assert (done.code, done.json["faults"]) == (0, [])


@pytest.mark.parametrize("block", POLICIES)
def test_a_policy_of_the_documents_goes_with_the_configuration(made_up: Path, block: str) -> None:
    """Every policy that a page shows has no fault, and at the documents' clusters nothing of it would be refused."""
    (made_up / "etc" / "exchanged" / "policies" / "policy.yaml").write_text(block)
    config = _configured(made_up, CONFIGURATIONS[0])
    done = run("policy", "check", made_up / "etc" / "exchanged" / "policies", "--config", config, "-o", "json")
    assert (done.code, done.json["faults"]) == (0, [])
    assert [text for text in done.json["warnings"] if "configured" in text or "refused" in text or "name" in text] == []


def test_there_is_something_to_look_at() -> None:
    """The pages do show a configuration and a policy."""
    assert (len(CONFIGURATIONS), len(POLICIES)) == (1, 2)


def test_the_documents_audience_is_the_one_that_the_readme_command_asks_for(made_up: Path) -> None:
    """The daemon of the documents accepts what the README's command asks GitHub for, at the door that it names."""
    made = load(_configured(made_up, CONFIGURATIONS[0]))
    (server,) = re.findall(r"^    exchanged token get --server (\S+)", Path("README.md").read_text(), re.MULTILINE)
    assert made.issuers["github"].audience is None
    assert default_audience(server) == made.own_audience
    assert made.doors.grpc.listen.rpartition(":")[2] == server.rpartition(":")[2]
    assert made.doors.http.listen.rpartition(":")[2] == made.issuer.rpartition(":")[2]
    assert f"--server {server}" in " ".join(Path("docs/configuration.md").read_text().split())


def test_an_issuer_whose_own_url_is_out_of_reach_is_shown_with_its_keys(made_up: Path) -> None:
    """A cluster's workloads are believed by keys from the API server, which wants a CA and a token."""
    made = load(_configured(made_up, CONFIGURATIONS[0]))
    workloads, cluster = made.issuers["prod-workloads"], made.clusters["prod"]
    assert isinstance(workloads, KubernetesIssuer)
    keys = workloads.keys
    assert keys.jwks_url == f"{cluster.server}/openid/v1/jwks"
    assert keys.certificate_authority == cluster.certificate_authority
    assert cluster.credential is not None
    assert keys.bearer_token_file == cluster.credential.token_file


def _keys(model: Any) -> set[str]:
    """Every key that a configuration may have, at any level."""
    found: set[str] = set()
    for field in model.model_fields.values():
        found.add(field.alias)
        for part in _models(field.annotation):
            found |= _keys(part)
    return found


def _models(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    parts = getattr(annotation, "__args__", ())
    return [model for part in parts for model in _models(part)]


def test_every_key_is_explained() -> None:
    """The page on the configuration names every key that there is."""
    page = Path("docs/configuration.md").read_text()
    assert sorted(key for key in _keys(Configuration) if not re.search(rf"\b{key}\b", page)) == []


def test_limits_are_those_of_the_program() -> None:
    """The page says of each limit what holds without it."""
    page = Path("docs/configuration.md").read_text()
    defaults = json.loads(Path("docs/schemas/configuration.json").read_text())["$defs"]["Limits"]["properties"]
    assert [name for name, limit in defaults.items() if f"`{name}` {limit['default']}" not in page] == []


@pytest.mark.parametrize(
    ("page", "folder", "name"), [("configuration", "", "configuration"), ("policy", "policies", "policy")]
)
def test_where_an_editor_finds_the_schema(page: str, folder: str, name: str) -> None:
    """The line that a page tells people to write leads, relative to their file, to the published schema."""
    (path,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", Path(f"docs/{page}.md").read_text(), re.MULTILINE)
    assert Path(folder, path).resolve() == Path(f"docs/schemas/{name}.json").resolve()
    assert Path("docs/schemas", f"{name}.json").exists()
