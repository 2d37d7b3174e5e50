"""What a run was, to be seen: one HTML file that needs nothing else, and its pictures one by one.

`write_report(path, facts)` takes the facts of `mellivora run --json`, with `timeline`, `memory` and
`live` of one decode step where they are known. Each picture also runs alone:
`python -m mellivora.report.roofline`.
"""

from __future__ import annotations

from mellivora.report.html import write_report

__all__ = ["write_report"]
