"""Permission bits that hold for root too, as they do for everybody else."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CAP_DAC_OVERRIDE = 1
"""The capability by which root writes wherever it likes."""

VERSION = 0x20080522
"""Of what capget(2) and capset(2) are given: three words for the lower 32 capabilities, three for the upper ones."""


class Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take everybody's right to write away from a folder and all below it."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        with _bits_that_hold():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextlib.contextmanager
def _bits_that_hold() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("permission bits do not hold for root here")
    libc, header, words = ctypes.CDLL(None, use_errno=True), Header(VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(ctypes.byref(header), words) == 0
    effective = words[0]
    words[0] &= ~(1 << CAP_DAC_OVERRIDE)
    assert libc.capset(ctypes.byref(header), words) == 0
    try:
        yield
    finally:
        words[0] = effective
        assert libc.capset(ctypes.byref(header), words) == 0
