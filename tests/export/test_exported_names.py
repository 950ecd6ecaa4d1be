"""What `from export import ...` offers, and what it costs."""

import subprocess
import sys

import pytest

import export


def test_the_four_names_import_neither_torch_nor_a_runtime():
    program = (
        "import sys; from export import Bundle, Deployable, export, verify\n"
        "assert export.__module__ == 'export.build', export\n"
        "assert verify.__module__ == 'export.verification.verify', verify\n"
        "heavy = {'torch', 'torchvision', 'gymnasium', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'rich.console'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_names_are_listed_and_others_are_refused():
    assert export.__all__ == ["Bundle", "Deployable", "export", "verify"]
    assert set(export.__all__) <= set(dir(export))
    assert all(getattr(export, name).__name__ == name for name in export.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'exprot'"):
        _ = export.exprot
