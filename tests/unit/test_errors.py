from __future__ import annotations

import doctest

import pytest

from ptycho_bluesky import errors


def test_the_examples_in_the_text_are_true() -> None:
    result = doctest.testmod(errors)
    assert result.attempted >= 1
    assert result.failed == 0


@pytest.mark.parametrize(
    ("faults", "text"),
    [(["a"], "scan (1 fault): a"), (["a", "b"], "scan (2 faults): a; b"), ([], "scan (0 faults): ")],
)
def test_report_counts(faults: list[str], text: str) -> None:
    assert errors.report("scan", faults) == text


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_is_one_of_ours_and_named_in_the_overview(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.PtychoError)
    assert name in (errors.__doc__ or "")
    assert getattr(errors, name).__doc__
