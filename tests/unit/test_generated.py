from pathlib import Path

from tests.generate import generate


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """exchanged/v1 is what proto/ makes."""
    generate(tmp_path)
    made = sorted(path.name for path in (tmp_path / "exchanged" / "v1").iterdir())
    assert made
    for name in made:
        committed = Path("exchanged/v1", name).read_text()
        assert (tmp_path / "exchanged" / "v1" / name).read_text() == committed, f"{name}: run `make generate`"
