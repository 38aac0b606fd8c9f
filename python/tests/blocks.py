"""Blocks of code in the documents, which are run as they stand there."""

from __future__ import annotations

import re
from typing import Any

from in_process import PEOPLE, ROOT, Site

# A schema that the blocks speak of: each customer is a person.
CUSTOMERS = {**PEOPLE, "name": "customers"}
_BLOCK = re.compile(r"<!-- run: (\S+?)(?:, after: \S+)? -->\n```(sh|python)\n(.*?)```", re.DOTALL)


def take_schema(site: Site) -> None:
    """Puts the blocks' schema in the place of all others."""
    for other in (site.folder / "schemas").iterdir():
        other.unlink()
    site.document(CUSTOMERS)


def run(code: str, names: dict[str, Any]) -> None:
    """Runs a block, whose names stand in ``names`` before and after."""
    exec(compile(code, "block", "exec", dont_inherit=True), names)


def blocks(document: str) -> dict[str, tuple[str, str]]:
    """The language and the text of each block of a document that is to run, by its name."""
    text = (ROOT / "docs" / document).read_text()
    found = {name: (language, code) for name, language, code in _BLOCK.findall(text)}
    assert len(found) == text.count("<!-- run: "), "a mark stands before no block"
    return found
