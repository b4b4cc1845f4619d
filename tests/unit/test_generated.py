from pathlib import Path

from tests.generate import generate


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """What is committed is what proto/ makes."""
    generate(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert made
    for path in made:
        assert (tmp_path / path).read_text() == path.read_text(), f"{path}: run `make generate`"
