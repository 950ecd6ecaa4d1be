"""README and docs: commands are ones that the command line knows, code runs, links and layouts lead somewhere."""

import dataclasses
import gzip
import hashlib
import importlib
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from export.bundle.record import Latency, Verification
from tests import small_task
from xfer import cli, errors, tasks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
REFERENCE = DOCS / "reference" / "cli.md"
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "export/runtime/README.md",
    *DOCS.rglob("*.md"),
]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


class Block(NamedTuple):
    """A fenced block: its page, its language, what the comment above it says of running it, and its text."""

    page: Path
    language: str
    run: str
    text: str


def blocks(page: Path) -> list[Block]:
    pattern = r"(?:<!-- run(?:: (?P<with>\w+))? -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```"
    found = re.finditer(pattern, page.read_text(), re.DOTALL | re.MULTILINE)
    return [
        Block(page, one["language"], (one["with"] or "run") if one[0].startswith("<!--") else "", one["text"])
        for one in found
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands() -> list[str]:
    """Every command of a shell block, and every example that a command's help gives."""
    found = []
    for block in BLOCKS:
        if block.page == REFERENCE:
            text = re.sub(r"( \\)?\n {3,}(?=--)", " ", block.text)
            lines = re.findall(r"^  (xfer .*)$", text, re.MULTILINE)
            found += [re.split(r"\s{2,}\(", line)[0] for line in lines]
        elif block.language in ("sh", "text"):
            prompt = "" if block.language == "sh" else r"\$ "
            text = block.text.replace("python -m xfer.cli", "xfer").replace("-m xfer.cli", "xfer")
            found += re.findall(rf"^{prompt}(?:ssh \S+ |torchrun .*? )?(xfer [a-z].*?)\s*(?:#.*)?$", text, re.MULTILINE)
    return sorted(set(found))


def in_prose() -> list[str]:
    """What pages quote of commands in running text, often only a part of one."""
    texts = [re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE) for page in PAGES]
    history = re.compile(r"evidence|--self-test")  # what CHANGELOG says of names of before
    found = {one for text in texts for one in re.findall(r"`(xfer [a-z][^`]*)`", text) if not history.search(one)}
    return sorted(found)


@pytest.fixture
def somebodys_modules(tmp_path, monkeypatch):
    """A folder with the modules that the pages speak of."""
    shutil.copy(ROOT / "examples/04_own_task.py", tmp_path / "my_robot.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_robot", None)


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one_that_the_command_line_knows(command, monkeypatch, somebodys_modules):
    _, name, *words = shlex.split(command)
    module = importlib.import_module(cli.COMMANDS[name][0])
    seen = []
    monkeypatch.setattr(module, "main", lambda args: seen.append(args) or {})
    try:
        cli.run(name, words)
    except SystemExit as refused:
        pytest.fail(f"{command}: the command line refuses it ({refused})")
    except errors.XferError as error:
        if "config.json" not in str(error):  # it was read, as that file would be
            raise
    else:
        assert seen


@pytest.mark.parametrize("quoted", in_prose())
def test_options_in_prose_exist(quoted):
    name = quoted.split()[1]
    assert name in cli.COMMANDS or name.isupper(), quoted
    section = re.search(rf"^## xfer {name}\n(.*?)(?=^## |\Z)", REFERENCE.read_text(), re.DOTALL | re.MULTILINE)
    if section is not None:
        known = {*re.findall(r"--[a-z0-9-]+", section[1]), "--help", "--json", "--debug"}
        assert set(re.findall(r"--[a-z0-9-]+", quoted)) <= known, quoted


def test_the_command_line_reference_is_what_the_command_line_says():
    words = [sys.executable, str(DOCS / "generate_cli.py"), "--check"]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0, "stale: run python docs/generate_cli.py"


QUICK = {
    "xfer doctor": 0,
    "xfer verify runs/cartpole.bundle --variants onnx-int8 --pairs 0 --json": 0,
    "xfer recommend runs/cartpole.bundle --deadline-ms 20 --allow-provisional": 1,  # nothing was measured
    "xfer pack runs/cartpole.bundle --variant onnx-int8": 0,
    "xfer pack runs/cartpole.bundle --variant onnx-fp32 --format leapp": 0,
}
"""Commands of the pages that take seconds, and their exit status on a bundle that was not measured."""


@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command_runs(command, bundle_path, tmp_path, monkeypatch, capsys):
    assert command in commands()
    (tmp_path / "runs").mkdir()
    bundle_path.rename(tmp_path / "runs" / "cartpole.bundle")
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(command)[1:]) == QUICK[command], capsys.readouterr().err


@pytest.fixture
def small_cartpole(monkeypatch):
    """Whoever loads CartPole gets it in 32 x 32 pixels."""
    small, load = small_task.task(), tasks.load
    monkeypatch.setattr(tasks, "load", lambda name: small if name == "cartpole" else load(name))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python" and b.run], ids=lambda b: b.page.name)
def test_python_of_the_pages_runs(block, shared_bundle, tmp_path, monkeypatch, capsys, small_cartpole):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cartpole.bundle").symlink_to(shared_bundle)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block.page), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.page.name)
def test_python_of_the_pages_compiles(block):
    compile(block.text, str(block.page), "exec")


def test_readme_and_package_say_that_this_is_for_linux():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [name for name in project["classifiers"] if "Operating System" in name] == [
        "Operating System :: POSIX :: Linux"
    ]
    assert "runs on Linux" in README.read_text()


@pytest.mark.parametrize("page", [README, DOCS / "how-to/cpp.md"], ids=lambda page: page.name)
def test_cpp_of_the_pages_is_the_example_that_is_built(page):
    example = (ROOT / "export/runtime/examples/ten_lines.cpp").read_text()
    (block,) = [b for b in blocks(page) if b.language == "cpp"]
    for line in block.text.splitlines():
        assert line in example


def test_readme_can_be_read():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [README, DOCS / "development.md"], ids=lambda page: page.name)
def test_the_layout_names_what_exists(page):
    tree = re.search(r"^## Layout\n+```text\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)[1]
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name
        assert (folder / name if line.startswith(" ") else folder).exists(), name


def test_every_environment_variable_is_documented():
    page = (DOCS / "reference/environment-variables.md").read_text()
    quoted = re.compile(r"(?:environ(?:\.get|\.setdefault)?[\[(]|getenv\()\s*\"([A-Z_]+)\"")
    files = [
        f
        for folder in ("xfer", "export", "benchmarks")
        for f in (ROOT / folder).rglob("*.[ch]*")
        if f.suffix in (".h", ".hpp", ".cpp")
    ]
    files += [f for folder in ("xfer", "export", "benchmarks") for f in (ROOT / folder).rglob("*.py")]
    read = {name for file in files for name in quoted.findall(file.read_text())}
    assert {"XFER_SSH", "XFER_PLUGIN_DIR"} <= read
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_every_error_is_documented():
    page = (DOCS / "reference/errors.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.XferError)]
    assert [kind.__name__ for kind in kinds if f"{kind.__name__}`" not in page] == []


def test_every_key_of_a_row_is_documented():
    page = (DOCS / "reference/json.md").read_text().replace("`p50_upper_ms` ... `p999_upper_ms`", "`p50_upper_ms`")
    names = [field.name for kind in (Verification, Latency) for field in dataclasses.fields(kind)]
    names = [name for name in names if not re.fullmatch(r"p\d+_upper_ms", name)]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_a_reader_that_knows_only_the_page_opens_a_bundle_and_acts_alike(shared_bundle):
    """docs/explain/bundle-format.md, without a line of xfer."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'xfer-policy[onnx]'")
    raw = (shared_bundle / "manifest.json").read_bytes()
    digest = re.search(rb'"digest": "([0-9a-f]{64})"', raw)
    blank = raw[: digest.start(1)] + b"0" * 64 + raw[digest.end(1) :]
    assert hashlib.sha256(blank).hexdigest().encode() == digest[1]
    manifest = json.loads(raw)
    assert manifest["schema"][0] == 1

    def checked(path, fact):
        data = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (fact["size"], fact["sha256"])
        return data

    data = gzip.decompress(checked(shared_bundle / "golden.safetensors.gz", manifest["golden"]))
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    dtypes = {"U8": np.uint8, "I64": np.int64, "F32": np.float32, "BOOL": np.bool_}
    golden = {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], dtypes[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    assert golden["resets"][0]
    build = next(build for build in manifest["builds"] if build["variant"] == "onnx-fp32")
    files = {name: checked(shared_bundle / build["folder"] / name, fact) for name, fact in build["files"].items()}
    session = onnxruntime.InferenceSession(files["policy.onnx"], providers=["CPUExecutionProvider"])
    spec = manifest["spec"]
    states = {}
    for t, begins in enumerate(golden["resets"]):
        if begins:
            states = {state["name"]: np.zeros((1, *state["shape"]), np.float32) for state in spec["states"]}
        shown = {o["name"]: golden[f"observations.{o['name']}"][t : t + 1] for o in spec["observations"]}
        names = ["action", "scores", *(f"{name}_out" for name in states)]
        action, scores, *following = session.run(names, {**shown, **states})
        states = dict(zip(states, following, strict=True))
        assert action[0] == golden["actions"][t]
        np.testing.assert_allclose(scores[0], golden["scores"][t], atol=1e-3 * golden["scores"].std())


def test_examples_are_short():
    assert EXAMPLES
    for example in EXAMPLES:
        lines = [line for line in example.read_text().splitlines() if line.strip()]
        assert len(lines) <= 30, example.name


def run_example(number: int, monkeypatch, *arguments) -> None:
    (example,) = [path for path in EXAMPLES if path.name.startswith(f"{number:02d}_")]
    monkeypatch.setattr(sys, "argv", [str(example), *map(str, arguments)])
    runpy.run_path(str(example), run_name="__main__")


def test_example_1_trains_and_exports(tmp_path, monkeypatch, capsys, one_thread, small_cartpole, few_recordings):
    run_example(1, monkeypatch, tmp_path)
    assert "onnx-int8: built" in capsys.readouterr().out


def test_example_2_opens_a_bundle_and_acts(shared_bundle, monkeypatch, capsys):
    run_example(2, monkeypatch, shared_bundle)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24
    assert all(re.search(r"action (\d), .*recorded \1$", line) for line in lines)


def test_example_3_exports_somebodys_policy(tmp_path, monkeypatch, capsys, one_thread):
    run_example(3, monkeypatch, tmp_path)
    assert capsys.readouterr().out.strip().endswith("{'eager-fp32': 'provisional', 'onnx-fp32': 'provisional'}")


def test_example_4_is_a_task(monkeypatch, somebodys_modules):
    from xfer import tasks

    task = tasks.load("my_robot:task")
    env = task.make()
    shown, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        assert shown["frame"].shape == task.observations[0].shape
        shown, reward, terminated, truncated, _ = env.step(int(task.expert(env).argmax()))
        total, over = total + reward, terminated or truncated
    assert total > 0.8 * task.reward.reference_return


def test_example_5_verifies_and_chooses(bundle_path, monkeypatch, capsys, one_thread, short_bench):
    run_example(5, monkeypatch, bundle_path)
    assert "Ship" in capsys.readouterr().out
