"""`mellivora doctor`: what this machine has and lacks, and what to do about it."""

from __future__ import annotations

import argparse
from typing import Any

from mellivora.doctor import examine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`doctor` has no options of its own."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print each finding; `ok` is false if `mellivora run smollm2` cannot work here."""
    findings = examine()
    for finding in findings:
        print(finding.line())
    ok = all(finding.ok for finding in findings if finding.needed)
    print("all that is needed is here" if ok else "something needed is missing: see the NO lines")
    return {"ok": ok, "findings": [finding.as_dict() for finding in findings]}
