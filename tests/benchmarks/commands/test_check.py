import json
import platform
from pathlib import Path

import pytest

from benchmarks.bench import bench
from benchmarks.commands.check import lines
from benchmarks.measure.conditions import check
from export.libraries.cores import by_preference, usable_cores
from tests import machines
from xfer.cli import main
from xfer.errors import UnavailableError


def test_this_machine_is_checked_without_a_bundle(capsys):
    assert main(["bench", "--check", "--json"]) == 0
    shown = capsys.readouterr().out.splitlines()
    found = {one["name"]: one for one in json.loads(shown[-1])["conditions"]}
    assert {"cores", "container", "governor", "turbo", "SMT", "isolation", "temperature", "power mode"} <= set(found)
    assert set(found["governor"]) == {"name", "state", "found", "mend"}
    assert all(len(line) <= 80 for line in shown[:-1])
    assert not Path("report").exists()


@pytest.mark.parametrize("machine", [machines.hybrid, machines.jetson, machines.two_sockets, machines.raspberry])
def test_the_table_fits_80_columns_and_cuts_no_command(tmp_path, machine):
    root = machine(tmp_path)
    found = check(by_preference(root)[:2], 2, root=root, gpu="none")
    table = lines(found)
    assert all(len(line) <= 80 for line in table)
    whole = " ".join(line.strip().removesuffix("\\").strip() for line in table)
    for one in found:
        assert one.mend in whole


def test_what_cannot_be_had_fails_with_one_line(capsys):
    assert main(["bench", "--check", "--threads", "4096"]) == 2
    assert "--threads 4096 does not fit" in capsys.readouterr().err
    core = usable_cores()[0]
    assert main(["bench", "--check", "--cores", str(core), "--threads", "1"]) == 0


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA GPU")
def test_a_gpu_that_is_not_there_fails_and_the_answer_is_printed_all_the_same(capsys):
    assert main(["bench", "--check", "--variants", "onnx-fp32@cuda", "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("xfer: GPU: no NVIDIA GPU with a driver")
    assert len(shown.err.splitlines()) == 1
    assert json.loads(shown.out.splitlines()[-1])["conditions"][-1]["state"] == "impossible"


def test_without_a_bundle_and_without_check_it_asks_for_one(capsys):
    assert main(["bench"]) == 2
    assert "Which bundle?" in capsys.readouterr().err
    assert main(["bench", "--check", "--host", "robot"]) == 2
    assert "ssh robot xfer bench --check" in capsys.readouterr().err


def test_elsewhere_than_on_linux_one_line_says_what_is_needed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(UnavailableError, match=r"needs Linux .*; this is Darwin"):
        bench(tmp_path / "any.bundle")
    commands = (["bench", "--check"], ["reproduce", "crosscheck", "x.bundle"], ["reproduce", "overhead", "x.bundle"])
    for words in commands:
        assert main(words) == 1
        shown = capsys.readouterr().err.splitlines()
        assert len(shown) == 1
        assert "needs Linux" in shown[0]
