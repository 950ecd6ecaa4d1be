"""The plug-in folder of formats: its listing is the choice of `xfer pack --format`."""

import subprocess
import sys
from pathlib import Path

import pytest

from export import Bundle, formats
from xfer.errors import UsageError


def test_the_listing_is_the_list_of_formats_and_of_choices():
    folder = Path(formats.__file__).parent
    assert sorted(formats.names()) == sorted(path.stem for path in folder.glob("[!_]*.py"))
    assert formats.names()[0] == "xfer"
    assert all(formats.load(name).SUFFIX.startswith(".") for name in formats.names())
    words = [sys.executable, "-m", "xfer.cli", "pack", "--help"]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"--format {{{','.join(formats.names())}}}" in answer.stdout


def test_a_format_that_does_not_exist_is_refused_with_the_closest(shared_bundle):
    with pytest.raises(UsageError, match=r"Unknown format 'leap'\. Did you mean 'leapp'"):
        formats.pack(Bundle(shared_bundle), "onnx-fp32", format="leap")
