# SPDX-License-Identifier: Apache-2.0
"""The table of keywords in the README is the one the code has."""

from __future__ import annotations

from pathlib import Path

from sgl_constrain.schema.keywords.table import keyword_table


def test_the_readme_has_the_table_of_keywords() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    table = readme.split("<!-- keywords -->\n")[1].split("\n<!-- /keywords -->")[0]
    assert table == keyword_table(), f"put this into the README:\n{keyword_table()}"
