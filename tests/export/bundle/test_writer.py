"""Writing a bundle: through no link, to the disk before it counts, and never at the cost of what was good."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.bundle import records
from export.bundle.manifest import MANIFEST, Build
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter
from export.targets import torchscript
from export.verification.verify import verify
from xfer.cli import main
from xfer.errors import BundleError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["variants", "records", MANIFEST, "golden.safetensors.gz"])
def test_a_bundle_with_a_link_in_it_is_refused_and_nothing_is_deleted(bundle_path, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    if (bundle_path / name).exists():
        shutil.move(bundle_path / name, elsewhere)
    else:
        elsewhere.mkdir()
    (bundle_path / name).symlink_to(elsewhere)
    if elsewhere.is_dir():
        (elsewhere / "onnx-fp32-abcdef").mkdir()
        (elsewhere / "onnx-fp32-abcdef" / "mine").touch()
    with pytest.raises(BundleError, match=f"{name} is a symbolic link"):
        BundleWriter(bundle_path).sweep()
    assert elsewhere.exists()
    assert elsewhere.is_file() or (elsewhere / "onnx-fp32-abcdef" / "mine").is_file()


def test_only_folders_that_are_named_as_builds_are_swept(bundle_path):
    variants = bundle_path / "variants"
    for name in ("notes", "onnx-fp32", "onnx-fp32-abcdef", "my-onnx-fp32-abcdef.bak"):
        (variants / name).mkdir()
    before = {entry.name for entry in variants.iterdir()}
    BundleWriter(bundle_path).sweep()
    assert before - {entry.name for entry in variants.iterdir()} == {"onnx-fp32-abcdef"}


def test_a_link_that_is_named_as_a_build_is_refused(bundle_path, tmp_path):
    (tmp_path / "mine").mkdir()
    (bundle_path / "variants" / "onnx-fp32-abcdef").symlink_to(tmp_path / "mine")
    with pytest.raises(BundleError, match="onnx-fp32-abcdef is a symbolic link"):
        BundleWriter(bundle_path).sweep()
    assert (tmp_path / "mine").is_dir()


def test_files_reach_the_disk_before_their_folders_and_the_manifest_last(bundle_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        order.append(os.path.relpath(Path(f"/proc/self/fd/{handle}").readlink(), bundle_path))
        fsync(handle)

    def renamed(source, target, **options):
        order.append(f"rename to {os.path.relpath(target, bundle_path)}")
        replace(source, target, **options)

    writer = BundleWriter(bundle_path)
    with writer.temporary_folder() as folder:
        (folder / "policy.bin").write_bytes(b"1234")
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", renamed)
        monkeypatch.setattr(os, "rename", renamed)
        writer.add(Build("onnx-fp16", "built", key="0123456789ab"), folder)
    building = folder.name
    wanted = [
        f"{building}/policy.bin",
        building,
        "rename to variants/onnx-fp16-012345",
        "variants",
        "rename to manifest.json",
        ".",
    ]
    places = [order.index(one) for one in wanted]
    assert places == sorted(places), order
    assert order[places[3] + 1].startswith(".manifest.json.")  # the manifest's own bytes, before its name


def test_a_rebuild_that_fails_keeps_the_good_build(bundle_path):
    before = Bundle(bundle_path).build("torchscript-fp32")
    kept = BundleWriter(bundle_path).add(Build("torchscript-fp32", "failed", "no memory"))
    assert kept == before == Bundle(bundle_path).build("torchscript-fp32")


def test_a_damaged_build_is_no_good_build(bundle_path):
    build = Bundle(bundle_path).build("torchscript-fp32")
    next(iter((bundle_path / build.folder).iterdir())).write_bytes(b"")
    BundleWriter(bundle_path).add(Build("torchscript-fp32", "failed", "no memory"))
    assert Bundle(bundle_path).builds["torchscript-fp32"].status == "failed"


def test_an_export_that_rebuilds_nothing_says_so_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XFER_TASK", "")
    source, output = "tests.xfer.test_environment:make", tmp_path / "own.bundle"
    words = ["export", source, "--task", "env:tests.xfer.test_environment:Faulty-v0", "--output", str(output)]
    assert main([*words, "--targets", "torchscript"]) == 0

    def fails(*args):
        raise RuntimeError("no memory")

    monkeypatch.setattr(torchscript, "export", fails)
    monkeypatch.setattr(torchscript, "libraries", lambda: {"torch": "newer"})
    capsys.readouterr()
    assert main([*words, "--targets", "torchscript"]) == 1
    assert "no memory" in "".join(capsys.readouterr())
    assert Bundle(output).build("torchscript-fp32").status == "built"


@pytest.fixture
def read_only(bundle_path):
    """A bundle that takes no records: as root, a test is let through by permission bits."""
    (bundle_path / "records").write_text("no folder", encoding="utf-8")
    return bundle_path


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_read_only_bundle_is_refused_before_the_work_with_the_option(read_only, command, capsys):
    assert main([command, str(read_only)]) == 1
    said = capsys.readouterr().err
    assert "cannot be written to" in said
    assert "--records DIR" in said


def test_records_of_a_read_only_bundle_go_to_a_folder_of_their_own(read_only, tmp_path, capsys):
    folder = tmp_path / "kept"
    verify(Bundle(read_only, folder), "torchscript-fp32", pairs=0)
    found = records.load(Bundle(read_only, folder))["torchscript-fp32"].verification
    assert found is not None
    assert found.status == "verified" or found.status == "provisional"
    assert (read_only / "records").is_file()
    assert main(["recommend", str(read_only), "--records", str(folder)]) == 1  # nothing was measured
    assert "torchscript" in "".join(capsys.readouterr())


def test_records_of_another_policy_are_refused(read_only, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / records.POLICY).write_bytes(b"another")
    with pytest.raises(BundleError, match="another policy"):
        verify(Bundle(read_only, folder), "torchscript-fp32", pairs=0)


def test_files_of_the_users_that_are_named_as_modules_are_in_nobodys_way(bundle_path, tmp_path):
    folder = tmp_path / "users"
    folder.mkdir()
    for name in ("export", "xfer", "benchmarks", "numpy", "random", "queue", "torch"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong file')\n", encoding="utf-8")
    script = tmp_path / "bin" / "xfer"
    script.parent.mkdir()
    script.write_text("import sys\nfrom xfer.cli import main\nsys.exit(main())\n", encoding="utf-8")
    paths = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["verify", str(bundle_path), "--variants", "torchscript-fp32", "--pairs", "1", "--task"]
    words += ["tests.small_task:task"]
    done = subprocess.run(
        [sys.executable, script, *words], cwd=folder, env=paths, capture_output=True, text=True, encoding="utf-8"
    )
    assert "the wrong file" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
