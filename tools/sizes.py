"""Prints the size of each part; refuses files too long for one concept. Run: tools/sizes.py"""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mellivora"
LIMIT_LINES = 400

# Files that may be longer, each with its limit and the reason. The list should shrink.
EXCEPTIONS: dict[str, tuple[int, str]] = {}


def lines_by_file(package: Path = PACKAGE) -> dict[str, int]:
    """Lines of each source file (Python and C++), by path inside the package."""
    paths = sorted(path for end in ("py", "cpp", "h", "hpp") for path in package.rglob(f"*.{end}"))
    return {
        str(path.relative_to(package)): len(path.read_text("utf-8").splitlines()) for path in paths
    }


def too_long(sizes: dict[str, int]) -> list[str]:
    """One line for each file over its limit, and each exception that is no longer needed."""
    faults: list[str] = []
    for name, count in sizes.items():
        limit, _ = EXCEPTIONS.get(name, (LIMIT_LINES, ""))
        if count > limit:
            faults.append(f"{name}: {count} lines, at most {limit}: one concept a file")
    for name in EXCEPTIONS:
        if sizes.get(name, 0) <= LIMIT_LINES:
            faults.append(f"{name}: {LIMIT_LINES} lines or fewer: remove the exception")
    return faults


def table(sizes: dict[str, int]) -> str:
    """Files, lines and the longest file of each part."""
    rows = [f"{'part':12s} {'files':>5s} {'lines':>6s}  longest"]
    parts = sorted({name.split("/")[0] for name in sizes})
    for part in parts:
        mine = {name: n for name, n in sizes.items() if name.split("/")[0] == part}
        longest = max(mine, key=lambda name: mine[name])
        rows.append(f"{part:12s} {len(mine):5d} {sum(mine.values()):6d}  {longest} {mine[longest]}")
    rows.append(f"{'all':12s} {len(sizes):5d} {sum(sizes.values()):6d}")
    return "\n".join(rows)


def main() -> int:
    """Print the table and the faults; status 1 if there are any."""
    sizes = lines_by_file()
    print(table(sizes))
    faults = too_long(sizes)
    print("\n".join(faults) or "sizes: no file is too long")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
