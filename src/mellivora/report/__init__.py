"""What a run was, to be seen: one HTML file that needs nothing else, and its pictures one by one.

`write_report(path, facts)` takes the facts of `mellivora run --json`, with `timeline`, `memory` and
`live` of one decode step (`report.step`) where they are known. Each picture also runs alone:
`python -m mellivora.report.roofline`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["write_report"]


def write_report(path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
    """Write the report of a run, whole or not at all. Raises HostError MV0980 if that fails.

    What is not in the facts is left out of the page.
    """
    from mellivora.report import html  # here, so that its parts can be run by `python -m`

    html.write_report(path, facts)
