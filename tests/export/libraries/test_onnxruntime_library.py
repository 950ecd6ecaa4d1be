import os
import subprocess
import sys


def test_onnx_runtime_sends_nothing_home_and_leaves_nothing_behind(bundle_path, tmp_path):
    """Its own builds would start a thread that sends usage to its makers, and keep a database of it."""
    code = (
        "import sys; from pathlib import Path; from export import Bundle; bundle = Bundle(sys.argv[1]);"
        "context = bundle.runner('onnx-fp32'); policy = context.__enter__();"
        "policy.act({'frame': bundle.golden().observations['frame'][0]});"
        "print(len([*Path('/proc/self/task').iterdir()]), sys.modules['onnxruntime'].__version__)"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, str(bundle_path)]
    answer = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert answer.stdout.split()[0] == "1"
    assert [*home.iterdir()] == []
