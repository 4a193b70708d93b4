"""docs/troubleshooting.rst quotes texts as they are raised or logged."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import asgiref
import channels
import django
import pytest

import channels_redis.exceptions

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.rst"

#: The headings that are a text, as those of other sections have no literal.
QUOTED = re.findall(r"^``(.+)``\n~+$", PAGE.read_text(), re.M)
SOURCES = [
    *Path(channels_redis.__file__).parent.rglob("*.py"),
    *Path(channels.__file__).parent.rglob("*.py"),
    *Path(asgiref.__file__).parent.rglob("*.py"),
    *Path(django.__file__).parent.joinpath("core", "management").glob("*.py"),
]


def texts() -> Iterator[str]:
    """Yield every string in the sources, with "…" for each part that is filled in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sr]|%\.\df|\{\w*\}", "…", node.value)


TEXTS = "\n".join(texts())


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_text_that_is_quoted_is_one_that_somebody_sees(quoted: str) -> None:
    """Whoever searches for the text of an error finds it."""
    assert quoted.replace("\\\\", "\\") in TEXTS


def test_the_page_quotes_texts() -> None:
    """The test above does not pass by finding nothing."""
    assert len(QUOTED) >= 20
    assert "no text of anybody's …" not in TEXTS


def test_the_traceback_of_a_wrong_setting_names_the_page() -> None:
    """Its address is that of the documentation, and is no part of the text."""
    error = channels_redis.exceptions.ConfigurationError("wrong")
    assert str(error) == "wrong"
    settings = (PAGE.parents[1] / "setup.cfg").read_text()
    (site,) = re.findall(r"^ +Documentation = (.+)$", settings, re.M)
    page = f"{site}{PAGE.stem}.html"
    if sys.version_info >= (3, 11):
        assert traceback.format_exception_only(error)[-1].endswith(f"{page}\n")
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert copied.__notes__ == error.__notes__ == [f"Errors by their texts: {page}"]
