"""What ``xfer export`` says, and its exit status, where a build of before stays: with a policy, and with ``--into``."""

import json

import numpy as np
import onnx
import pytest

from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter
from export.targets import eager, tensorrt
from tests.export.importers.test_module import OWN, met
from xfer import cli

GRAPH = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["": 18]> g (float[1] x) => (float[1] y) { y = Identity(x) }'
).SerializeToString()
VARIANTS = ("tensorrt-fp32", "tensorrt-fp16")


@pytest.fixture
def words(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"policies_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    met().save(tmp_path / "met.safetensors.gz")
    return ["export", f"{name}:make", "--targets", "eager", "--observations", "met.safetensors.gz", "--json"]


def test_a_failed_rebuild_is_one_line_and_an_exit_status_and_the_good_build_stays(words, monkeypatch, capsys):
    assert cli.main(words) == 0
    before = Bundle("make.bundle").manifest
    capsys.readouterr()

    def explode(request, folder, precision):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(eager, "export", explode)
    assert cli.main([*words, "--max-batch", "4"]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("xfer: eager-fp32 was not built anew: RuntimeError: no such operation")
    assert line.endswith("the build of before is kept")
    (row,) = json.loads(captured.out.splitlines()[-1])["variants"]
    assert (row["variant"], row["status"], row["cached"]) == ("eager-fp32", "failed", False)
    bundle = Bundle("make.bundle")
    assert bundle.manifest == before
    with bundle.runner("eager-fp32") as runner:
        runner.act({"joints": np.zeros(4, np.float32)})


def test_a_rebuild_on_the_device_that_fails_keeps_the_engine_and_goes_on_with_the_others(
    bundle_path, monkeypatch, capsys
):
    writer = BundleWriter(bundle_path)
    for variant in VARIANTS:
        with writer.temporary_folder() as folder:
            (folder / tensorrt.ONNX).write_bytes(GRAPH)
            (folder / tensorrt.ENGINE).write_bytes(b"engine")
            writer.add(Build(variant, "built", key="0" * 12), folder)
    before = Bundle(bundle_path).builds

    def explode(folder, spec, precision, *more):
        (folder / "half").write_text("half", encoding="utf-8")
        raise RuntimeError(f"no engine in {precision}\nbecause of the driver")

    monkeypatch.setattr(tensorrt, "library_name", lambda: "tensorrt_rtx")
    monkeypatch.setattr(tensorrt, "build_engine", explode)
    assert cli.main(["export", "--targets", ",".join(VARIANTS), "--into", str(bundle_path)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    for variant in VARIANTS:
        assert f"{variant} was not built anew: RuntimeError: no engine in {variant[-4:]}" in line
    bundle = Bundle(bundle_path)
    assert bundle.builds == before
    for variant in VARIANTS:
        bundle.check(bundle.build(variant))
    assert not list(bundle_path.glob(".building-*"))
