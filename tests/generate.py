"""`python -m tests.generate`: what is generated from proto/. A test generates again and compares."""

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
PROTO = ROOT / "proto"


def generate(target: Path) -> None:
    """Writes the generated modules under `target`, by their package path.

    Raises:
        RuntimeError: protoc refused.
    """
    files = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTO}", f"-I{well_known}"]
    for file in files:
        # Messages without a service have no stubs.
        kinds = ("python", "pyi", *(["grpc_python"] if "\nservice " in (PROTO / file).read_text() else []))
        if protoc.main([*arguments, *(f"--{kind}_out={target}" for kind in kinds), file]) != 0:
            raise RuntimeError("protoc refused; its reasons are above")


if __name__ == "__main__":
    generate(ROOT)
    sys.exit(0)
