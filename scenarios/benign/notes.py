#!/usr/bin/env python3
"""A harmless task: counts the lines of a few system files and notes them in its home. LAVA must find nothing."""

from pathlib import Path

FILES = ["/etc/os-release", "/etc/hosts", "/etc/passwd", "/proc/meminfo"]


def main() -> None:
    notes = Path.home() / "notes"
    notes.mkdir(exist_ok=True)
    lines = []
    for name in FILES:
        try:
            lines.append(f"{name}: {len(Path(name).read_text().splitlines())} lines\n")
        except OSError as error:
            lines.append(f"{name}: {error.strerror}\n")
    (notes / "line-counts.txt").write_text("".join(lines))
    print("".join(lines), end="")


if __name__ == "__main__":
    main()
