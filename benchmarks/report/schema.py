"""The JSON schema of ``report.json``, from the dataclasses that write it and their docstrings.

``python -m benchmarks.report.schema docs/report.schema.json`` writes it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import docstring_parser
import msgspec

from benchmarks.report.conclusion import Findings
from benchmarks.report.data import SCHEMA, Report
from export.bundle.latencies import Latency
from export.bundle.verdicts import Verification


def schema() -> dict[str, Any]:
    """Return the schema, as JSON Schema 2020-12."""
    references, components = msgspec.json.schema_components([Report, Findings], ref_template="#/$defs/{name}")
    row = components["Row"]
    row["description"] += "".join((kind.__doc__ or "").partition("Attributes:")[2] for kind in (Verification, Latency))
    row["required"] = [*row["properties"]]
    for component in components.values():
        _describe(component)
    report = components.pop("Report")
    first = {
        "schema": {"const": list(SCHEMA), "description": "Major and minor version; a minor one only adds keys."},
        "verdict": {"type": "string", "description": "Which variant to ship and why, and the deadlines missed."},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **report,
        "title": "report.json",
        "properties": {**first, **report["properties"], "findings": references[1]},
        "required": [*first, *report["properties"], "findings"],
        "$defs": components,
    }


def _describe(component: dict[str, Any]) -> None:
    """Give a class and its properties the descriptions that its docstring has of them."""
    told = docstring_parser.parse(component.get("description", ""), docstring_parser.DocstringStyle.GOOGLE)
    component["description"] = _line(told.description)
    for value in component.get("properties", {}).values():
        value.pop("default", None)  # of the class; a report holds every key
    for param in told.params:
        if param.arg_name in component.get("properties", {}):
            component["properties"][param.arg_name]["description"] = _line(param.description)


def _line(text: str | None) -> str:
    return re.sub(r"\bNone\b", "null", " ".join((text or "").replace("``", "").split()))


def text() -> str:
    """Return the schema as the file has it."""
    return msgspec.json.format(msgspec.json.encode(schema())).decode() + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
