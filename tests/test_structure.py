"""The shape of the source: what may import what, how large folders get, and that its words and file names hold."""

import ast
import graphlib
import importlib
import re
import subprocess
from collections import defaultdict
from pathlib import Path, PurePosixPath

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("xfer", "export", "benchmarks")
PLUGINS = ("xfer/tasks", "export/targets", "export/importers", "export/formats", "benchmarks/claims")
"""Folders in which a new file is a new plug-in."""
LARGEST = {
    "benchmarks/report": 20,
    "export/runtime/plugins": 99,
    **dict.fromkeys(PLUGINS, 99),
}
"""Entries that a folder may have, where that is not 15."""


def tracked() -> list[str]:
    """Files of the checkout that git knows or would add."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this is no git checkout: {done.stderr.strip()}")
    return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]


FILES = tracked()
SOURCE = [name for name in FILES if name.startswith(tuple(f"{package}/" for package in PACKAGES))]
MODULES = [name for name in SOURCE if name.endswith(".py")]
TEXT = (".py", ".md", ".cpp", ".hpp", ".h", ".c", ".cmake", ".txt", ".toml", ".css", ".j2", ".sh", ".yaml")
PROSE = [name for name in FILES if name.endswith(TEXT) and not name.startswith("tests/data/")]


def lines(name: str) -> list[str]:
    return (ROOT / name).read_text().splitlines()


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports; an import for types alone never runs, and does not count."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_no_modules_import_one_another_in_a_circle(imports):
    graphlib.TopologicalSorter(imports).prepare()  # CycleError names the circle


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugins_import_helpers_of_their_folder_but_no_other_plugin(folder, imports):
    package = folder.replace("/", ".")
    plugins = {m for m in imports if m.startswith(f"{package}.") and "._" not in m.removeprefix(package)}
    assert plugins
    assert {plugin: imports[plugin] & plugins for plugin in plugins if imports[plugin] & plugins} == {}


def test_folders_stay_small_enough_to_take_in():
    entries = defaultdict(set)
    for name in SOURCE:
        parts = PurePosixPath(name).parts
        for depth in range(1, len(parts)):
            entries["/".join(parts[:depth])].add(parts[depth])
    too_large = {folder: len(names) for folder, names in entries.items() if len(names) > LARGEST.get(folder, 15)}
    assert too_large == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_offers_is_listed_and_described(package):
    module = importlib.import_module(package)
    offered = {name: getattr(module, name) for name in module.__all__}
    assert list(offered) == sorted(offered)
    for name, member in offered.items():
        assert member.__module__.startswith(f"{package}."), name
        assert member.__doc__, name
    own = {n for n, v in vars(module).items() if getattr(v, "__module__", "").startswith(f"{package}.")}
    assert {name for name in own if not name.startswith("_")} <= set(offered)


RETIRED = re.compile(r"\b(evidences|Evidence|Mistake|climb|acted_by|mistaken_graphs)\b|xfer evidence")


def found(pattern: re.Pattern[str], names: list[str]) -> list[str]:
    hits = ((name, number, line) for name in names for number, line in enumerate(lines(name), 1))
    return [f"{name}:{number}: {match[0]}" for name, number, line in hits for match in pattern.finditer(line)]


def test_retired_words_do_not_come_back():
    assert found(RETIRED, MODULES) == []


def in_the_terminals_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in whatever encoding this machine's locale has."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in ("read_text", "write_text") or (name == "open" and not isinstance(call.func, ast.Attribute)):
        modes = [value.value for value in (*call.args, *given.values()) if isinstance(value, ast.Constant)]
        return "encoding" not in given and not any("b" in str(mode) for mode in modes if mode)
    return getattr(given.get("text"), "value", False) is True and "encoding" not in given


def test_text_is_read_and_written_as_utf_8_whatever_the_locale():
    calls = [
        f"{name}:{node.lineno}"
        for name in (*MODULES, "docs/generate_cli.py")
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.Call) and in_the_terminals_encoding(node)
    ]
    assert calls == []


def test_every_module_says_what_it_is():
    silent = []
    for name in MODULES:
        text = ast.get_docstring(ast.parse((ROOT / name).read_text())) or ""
        if len(text.split()) < 4 or re.search(r"\b(TODO|FIXME|placeholder)\b", text):
            silent.append(name)
    assert silent == []


PATH = re.compile(r"(?<![\w./<{$*-])(?:[\w.-]+/)*[\w-]+\.(?:py|cpp|hpp|cmake|j2|css|md)\b")
NOT_HERE = re.compile(  # files of users and of other projects, and those that commands write
    r"#include|nlohmann/|openvino/openvino|/(?:NAME|my_\w+)\.py|Privacy\.md|\breport\.md|libtorch\.cpp|args\.cpp"
)


def named_files() -> dict[str, list[str]]:
    """Files that comments, docstrings and documents name, and where; code that writes a file is no such place."""
    found = defaultdict(list)
    for name in PROSE:
        if name.startswith(("tests/", "examples/")) and name.endswith(".py"):
            continue  # they write files of users
        for number, line in enumerate(lines(name), 1):
            if not NOT_HERE.search(line):
                for match in PATH.finditer(line):
                    found[re.sub(r"^(\.{1,2}/)+", "", match[0])].append(f"{name}:{number}")
    return found


def test_files_that_comments_and_documents_name_exist():
    known = {
        "/".join(parts[start:]) for parts in (PurePosixPath(n).parts for n in FILES) for start in range(len(parts))
    }
    named = named_files()
    assert "export/targets/__init__.py" in known
    assert {name: places for name, places in named.items() if name not in known} == {}
