"""Damaged bundles are refused in C++ as in Python, with a code and a message.

`export/runtime/tests/damage_test.cpp` does the same without Python and without an inference library.
"""

import hashlib
import json
import random
import shutil
from pathlib import Path

from export.bundle.reader import Bundle
from tests.export.runtime.xfer_c import CError, Library
from xfer.errors import XferError


def python_says(path: Path) -> str:
    """Why Python refuses a bundle's onnx-fp32, or nothing."""
    try:
        bundle = Bundle(path)
        bundle.check(bundle.build("onnx-fp32"))
    except XferError as error:
        return str(error)
    return ""


def c_says(library: Library, path: Path, onnxruntime_library: Path) -> str:
    """Why C++ refuses it, or nothing."""
    try:
        library.open(path, "onnx-fp32", library=onnxruntime_library).__exit__()
    except CError as error:
        return str(error)
    return ""


def test_both_readers_refuse_the_same_bundles(library, bundles, onnxruntime_library, tmp_path):
    """Flipped bits, truncation, exchanged and deleted files, anywhere in the bundle: C++ opens it where Python does."""
    path = Path(shutil.copytree(bundles / "recurrent.bundle", tmp_path / "copy.bundle"))
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != ".lock")
    rng, refused, opened = random.Random(1), 0, 0
    for number in range(300):
        victim, other = rng.sample(files, 2)
        whole = victim.read_bytes()
        at = rng.randrange(len(whole))
        damage = rng.choice(["flip", "flip", "truncate", "exchange", "delete", "append"])
        victim.unlink()
        if damage != "delete":
            flipped = whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
            changed = {"flip": flipped, "truncate": whole[:at], "exchange": other.read_bytes(), "append": whole + b" "}
            victim.write_bytes(changed[damage])
        python, c = python_says(path), c_says(library, path, onnxruntime_library)
        assert bool(python) == bool(c), f"{victim.name}, damage {number} ({damage}): Python '{python}', C++ '{c}'"
        assert not c or c.startswith("bundle: ")
        refused, opened = refused + bool(c), opened + (not c)
        victim.write_bytes(whole)
    assert refused > 50
    assert opened > 20


def hostile(rng: random.Random, manifest: dict) -> bytes:
    """A manifest with a right digest, and one thing in it that no bundle says."""
    build = next(build for build in manifest["builds"] if build["variant"] == "onnx-fp32")
    fact = build["files"]["policy.onnx"]
    huge = rng.choice([-rng.randrange(1, 2**63), rng.randrange(2**62, 2**64), 10.0 ** rng.randrange(20, 300)])
    dots = "../" * rng.randrange(1, 9)

    def rename(name: str) -> None:
        build["files"] = {name: fact}

    def put(holder: dict | list, key: str | int, value: object) -> None:
        holder[key] = value

    rng.choice(
        [
            lambda: rename(f"{dots}policy.onnx"),
            lambda: rename(rng.choice(["/etc/passwd", "", ".", f"x/{dots}policy.onnx", "policy.onnx\0"])),
            lambda: put(build, "folder", f"variants/{dots}{build['folder']}"),
            lambda: put(build, "folder", rng.choice(["/etc", "", ".", "..", dots, "x" * rng.randrange(300, 9000)])),
            lambda: put(fact, "size", huge),
            lambda: put(fact, "sha256", f"{rng.randrange(2**256):064x}"),
            lambda: put(build, "max_batch", huge),
            lambda: put(manifest["golden"], "size", huge),
            lambda: put(manifest["schema"], 0, huge),
            lambda: put(manifest["spec"]["observations"][0]["shape"], 0, huge),
            lambda: put(manifest["spec"]["states"][0], "shape", [2**20, 2**20, rng.randrange(2**20, 2**40)]),
        ]
    )()
    manifest["digest"] = "0" * 64
    blank = json.dumps(manifest, indent=2).encode()
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def test_a_thousand_damaged_bundles_are_refused(library, bundles, onnxruntime_library, tmp_path):
    """Every one with the bundle's code and a message, by the process that also opens the whole one."""
    path = Path(shutil.copytree(bundles / "recurrent.bundle", tmp_path / "copy.bundle"))
    manifest = path / "manifest.json"
    read = [manifest, path / Bundle(path).build("onnx-fp32").folder / "policy.onnx"]
    rng, whole = random.Random(2), {file: file.read_bytes() for file in read}
    for number in range(1000):
        victim, other = rng.sample(read, 2)
        at = rng.randrange(len(whole[victim]))
        damage = rng.choice(["flip", "flip", "truncate", "exchange", "hostile"])
        if damage == "hostile":
            victim, damaged = manifest, hostile(rng, json.loads(whole[manifest]))
        elif damage == "flip":
            flipped = whole[victim][at] ^ 1 << rng.randrange(8)
            damaged = whole[victim][:at] + bytes([flipped]) + whole[victim][at + 1 :]
        else:
            damaged = whole[victim][:at] if damage == "truncate" else whole[other]
        victim.unlink()
        victim.write_bytes(damaged)
        said = c_says(library, path, onnxruntime_library)
        assert said.startswith("bundle: "), f"{victim.name}, damage {number} ({damage}): '{said}'"
        assert len(said) > 30
        victim.write_bytes(whole[victim])
    assert c_says(library, path, onnxruntime_library) == ""


def test_the_manifests_that_are_damaged_are_whole_but_for_the_damage(library, bundles, onnxruntime_library, tmp_path):
    """Else the test above would hold for any bundle."""
    path = Path(shutil.copytree(bundles / "recurrent.bundle", tmp_path / "copy.bundle"))
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["digest"] = "0" * 64
    blank = json.dumps(manifest, indent=2).encode()
    (path / "manifest.json").write_bytes(blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1))
    assert c_says(library, path, onnxruntime_library) == ""
