"""What a writer of bundles follows and deletes: nothing of anybody's."""

import os
import time
from pathlib import Path

import pytest

from export.build import export_policy
from export.bundle import access
from export.bundle.manifest import GOLDEN, HELD_OUT, MANIFEST, RECORDS, VARIANTS, Build, Provenance
from export.bundle.reader import Bundle
from export.bundle.writer import ABANDONED_AFTER_S, BundleWriter
from export.targets import expand
from tests.conftest import drive
from xfer.errors import BundleError

TEMPORARY = ".building-k3_x9a2f"


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def unnamed(bundle_path):
    """The name of a build that no manifest names."""
    folder = bundle_path / VARIANTS / "onnx-fp32-000000"
    folder.mkdir()
    (folder / "policy.onnx").write_text("replaced", encoding="utf-8")
    return f"{VARIANTS}/{folder.name}"


@pytest.mark.parametrize(
    "name", [VARIANTS, MANIFEST, GOLDEN, HELD_OUT, RECORDS, access.LOCK, TEMPORARY, "build", "unnamed"]
)
def test_a_link_in_a_bundle_is_refused_by_name_and_what_it_leads_to_stays(bundle_path, tmp_path, unnamed, policy, name):
    """Also of what a writer would delete."""
    name = {"build": Bundle(bundle_path).build("onnx-fp32").folder, "unnamed": unnamed}.get(name, name)
    place, theirs = bundle_path / name, tmp_path / "theirs"
    if place.exists():
        place.rename(theirs)
    elif name == access.LOCK:
        theirs.write_text("a thesis", encoding="utf-8")
    else:
        theirs.mkdir()
        (theirs / "thesis.tex").write_text("years of work", encoding="utf-8")
    if theirs.is_dir():
        os.utime(theirs, (1, 1))  # long ago: abandoned, as it seems
    place.symlink_to(theirs)
    before = everything_below(tmp_path), theirs.is_file() and theirs.read_bytes()
    for act in (lambda: BundleWriter(bundle_path).sweep(), lambda: export_again(policy, bundle_path)):
        with pytest.raises(BundleError, match=f"{name} is a symbolic link"):
            act()
    assert (everything_below(tmp_path), theirs.is_file() and theirs.read_bytes()) == before
    assert place.is_symlink()


def export_again(policy, path):
    seen = drive(6, 9)
    return export_policy(policy, policy.spec, seen, seen, expand("eager"), path, run="nowhere")


def test_a_bundle_may_itself_be_reached_by_a_link(bundle_path, tmp_path, unnamed):
    (tmp_path / "latest.bundle").symlink_to(bundle_path)
    BundleWriter(tmp_path / "latest.bundle").sweep()
    assert not (bundle_path / unnamed).exists()


def test_a_link_that_is_put_there_while_the_writer_works_is_refused(bundle_path, tmp_path):
    writer = BundleWriter(bundle_path)
    (bundle_path / VARIANTS).rename(tmp_path / "theirs")
    (bundle_path / VARIANTS).symlink_to(tmp_path / "theirs")
    before = everything_below(tmp_path)
    with writer.temporary_folder() as folder, pytest.raises(BundleError, match="variants is a symbolic link"):
        writer.add(Build("onnx-fp32", "built", key="0" * 12), folder)
    with pytest.raises(BundleError, match="variants is a symbolic link"):
        writer.sweep()
    assert everything_below(tmp_path) == before


def test_only_what_a_writer_made_is_swept_away(bundle_path, unnamed):
    kept = [
        f"{VARIANTS}/notes",
        f"{VARIANTS}/onnx-fp32-mine",
        f"{VARIANTS}/onnx-fp32-0000000",
        f"{VARIANTS}/photos-of-decade",
        f"{VARIANTS}/onnx-fp32@cpu-000000",
        ".building-plans",
        "paper",
    ]
    for name in kept:
        (bundle_path / name).mkdir()
        (bundle_path / name / "thesis.tex").write_text("years of work", encoding="utf-8")
    (bundle_path / VARIANTS / "onnx-int8-000000").write_text("a file", encoding="utf-8")
    (bundle_path / TEMPORARY).mkdir()
    (bundle_path / ".building-freshone").mkdir()
    long_ago = time.time() - 2 * ABANDONED_AFTER_S
    for name in (*kept, TEMPORARY):
        os.utime(bundle_path / name, (long_ago, long_ago))
    before = everything_below(bundle_path)
    BundleWriter(bundle_path).sweep()
    gone = before.keys() - everything_below(bundle_path).keys()
    assert gone == {f"{unnamed}/policy.onnx"}
    assert not (bundle_path / unnamed).exists()
    assert not (bundle_path / TEMPORARY).exists()
    assert (bundle_path / ".building-freshone").exists()


def test_links_inside_of_what_is_deleted_are_deleted_alone(bundle_path, tmp_path, unnamed):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("years of work", encoding="utf-8")
    (bundle_path / unnamed / "more").symlink_to(tmp_path / "theirs")
    BundleWriter(bundle_path).sweep()
    assert not (bundle_path / unnamed).exists()
    assert (tmp_path / "theirs" / "thesis.tex").exists()


def test_what_a_policy_raises_at_a_new_bundle_is_not_blamed_on_the_folder(shared_bundle, tmp_path):
    def references():
        raise FileNotFoundError(2, "No such file or directory", "weights.bin")

    path, spec = tmp_path / "new.bundle", Bundle(shared_bundle).spec
    provenance = Provenance("", "", "", "", "", 0, 0, "")
    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        BundleWriter(path).begin(spec, provenance, references, "eager-fp32")
    assert not path.exists()
    path.mkdir()
    (path / VARIANTS).mkdir()
    (path / VARIANTS / "notes").mkdir()  # of somebody else: it and the error itself are left
    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        BundleWriter(path).begin(spec, provenance, references, "eager-fp32")
    assert (path / VARIANTS / "notes").exists()
