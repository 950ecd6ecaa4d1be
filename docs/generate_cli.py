"""Writes docs/reference/cli.md from the real command line: ``python docs/generate_cli.py``.

``python docs/generate_cli.py --check`` writes nothing, and fails if the file is stale.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from xfer import cli

PAGE = Path(__file__).parent / "reference" / "cli.md"
COLUMNS = "100"
HEAD = """\
# Command line

<!-- Written by docs/generate_cli.py. Do not edit: run it again. -->

`xfer COMMAND --help` prints the same. Every command takes `--json` (the last line of stdout is one JSON object, see
[json.md](json.md)) and `--debug` (a traceback instead of one line). Exit status: 0; 1 for an error or a check that
failed; 2 for a wrong option or name; 130 when interrupted.
"""


def help_of(command: str) -> str:
    """Return what a command's ``--help`` prints, without the boxes around it."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.run(command, ["--help"])
    lines: list[str] = []
    for line in out.getvalue().splitlines():
        if set(line.strip()) == {"-"}:  # what stands for a box where there is no terminal: its title is above
            title = []
            while lines and lines[-1]:
                title.append(lines.pop().strip().rstrip(":"))
            lines.append(": ".join(reversed(title)) if len(title) > 1 else f"{title[0]}:")
        else:
            lines.append(line.rstrip())
    return "\n".join(lines).strip()


def page() -> str:
    """Return the whole page."""
    os.environ |= {"COLUMNS": COLUMNS, "NO_COLOR": "1"}
    rows = "\n".join(f"| [`{name}`](#xfer-{name}) | {purpose} |" for name, (_, purpose) in cli.COMMANDS.items())
    parts = [HEAD, f"| command | does |\n|---|---|\n{rows}\n"]
    parts += [f"## xfer {name}\n\n```text\n{help_of(name)}\n```\n" for name in cli.COMMANDS]
    return "\n".join(parts)


def main() -> int:
    """Write the page, or check it."""
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
