import json
import os
import re
import subprocess
from pathlib import Path

from tests.fixtures import Running

PAGE = Path("docs/clients.md").read_text()
SHOWN = "https://exchanged.example"


def test_what_the_page_shows_works(running: Running, tmp_path: Path) -> None:
    """The one command of docs/clients.md for a shell runs as it stands, but for where the daemon is."""
    (command,) = (block for block in re.findall(r"(?:^      .*\n?)+", PAGE, re.MULTILINE) if "curl" in block)
    assert SHOWN in command
    (tmp_path / "ca.crt").write_bytes(running.daemon.ca.read_bytes())
    # With a line break at its end, as people and tools leave it.
    (tmp_path / "token").write_text(running.issuer.github_token() + "\n")
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace(SHOWN, running.daemon.url)],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = json.loads(done.stdout)
    assert told.get("scope") == "read-pods/pods", told
    assert running.post("/introspect", {"token": told["access_token"]}).body["active"]
