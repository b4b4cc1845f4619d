import pytest
from pydantic import BaseModel, ConfigDict

from exchanged import strict_yaml
from exchanged.strict_yaml import Faulty


class Inner(BaseModel):
    """A nested thing."""

    model_config = ConfigDict(extra="forbid")
    names: tuple[str, ...]


class Outer(BaseModel):
    """A thing."""

    model_config = ConfigDict(extra="forbid")
    count: int
    inner: Inner


def _faults(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(Faulty) as faulty:
        strict_yaml.validate(strict_yaml.parse(text, "f.yaml"), Outer)
    assert all(fault.file == "f.yaml" for fault in faulty.value.faults)
    assert str(faulty.value).count("f.yaml:") == len(faulty.value.faults)
    return [(fault.line, fault.where, fault.what) for fault in faulty.value.faults]


def test_words_are_words() -> None:
    """What YAML of old took for truth values, times and octal numbers stays text; plain numbers are numbers."""
    text = "[yes, no, on, 2026-01-01, 012, 0x1f, 1_000, 12:30, -7, 1.5, true, false, null, ~, '1', \"true\", 1e3]"
    assert strict_yaml.parse(text, "f").value == [
        "yes", "no", "on", "2026-01-01", "012", "0x1f", "1_000", "12:30", -7, 1.5, True, False, None, None, "1", "true",
        "1e3",
    ]  # fmt: skip


def test_every_fault_at_once_with_its_line() -> None:
    """Unknown keys (with what may have been meant), wrong types and missing keys are told together, in order."""
    assert _faults("cuont: 3\ninner:\n  names:\n  - a\n  - {b: c}\n  more: 1\n") == [
        (1, "count", "is required"),
        (1, "cuont", "unknown key; did you mean 'count'?"),
        (5, "inner.names[1]", "must be a string"),
        (6, "inner.more", "unknown key"),
    ]


def test_a_model_that_fits_comes_out() -> None:
    """A good document becomes the model."""
    document = strict_yaml.parse("count: 3\ninner: {names: [a]}\n", "f.yaml")
    assert strict_yaml.validate(document, Outer) == Outer(count=3, inner=Inner(names=("a",)))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: [", 3, "did not find expected node content"),
        ("a: 1\na: 2", 2, "repeated key"),
        ("a: &x 1\nb: *x", 2, "anchors"),
        ("a: &x b\n*x : c", 1, "anchors"),
        ("a: !!python/object:os.system x", 1, "tags"),
        ("? [a]\n: b", 1, "plain word"),
        ("a: 1\n---\nb: 2", 1, "one document expected, 2 found"),
        ("", 1, "one document expected, 0 found"),
        ("x" * 600_000, 1, "longer than"),
        ("[" * 40 + "]" * 40, 1, "nested deeper"),
        ("- " * 5_000, 1, "nesting"),
        ("a: \x07", 1, "control characters"),
    ],
)
def test_what_this_yaml_leaves_out(text: str, line: int, what: str) -> None:
    """Syntax errors, repeated keys, anchors, tags, odd keys, several documents and monsters are faults with a line."""
    with pytest.raises(Faulty) as faulty:
        strict_yaml.parse(text, "f.yaml")
    fault = faulty.value.faults[0]
    assert (fault.line, what in fault.what) == (line, True), fault


def test_empty_documents_are_left_out() -> None:
    """A separator at the end makes no policy of nothing."""
    assert [document.value for document in strict_yaml.parse_all("a: 1\n---\n---\nb: 2\n---\n", "f")] == [
        {"a": 1},
        {"b": 2},
    ]
