"""What raises, dies or cannot be loaded is that variant's failure, with a status and a reason of its own."""

import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from export import Bundle, verify
from export.bundle.manifest import MANIFEST
from export.bundle.precedence import stronger
from export.bundle.record import Verification
from export.bundle.writer import file_facts
from export.libraries.pytorch import TRACE
from export.targets import eager, torchscript
from export.verification import pairs, reward
from export.verification.reward import run_gate
from tests import chance_task
from tests.chance_task import REFERENCE, SAME, Sign, exchange, met, small_bundle
from xfer import tasks
from xfer.errors import ExecutionError, UnavailableError, XferError
from xfer.files import write_atomically

OTHER = "eager-fp32@channels_last"
"""A variant that is the reference once more: nothing is wrong with it."""


class Raises(Sign):
    """Looks up a table that is too short, once a joint is large."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1))

    def forward(self, joints):
        action, scores = super().forward(joints)
        return action, scores + self.table[(joints[:, :1] > 1.0).long()]


class Hungry(Sign):
    """Wants more memory than there is, once a joint is large."""

    def forward(self, joints):
        action, scores = super().forward(joints)
        wanted = (joints[:, 0] > 1.0).long().sum() * 2**50
        return action, scores + torch.zeros(1).repeat(1 + wanted)[:1]


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv(tasks.TRUSTED, chance_task.seeded().name)


def gate(bundle, most_pairs=10):
    found = {name: Verification("provisional", rung="actions") for name in (REFERENCE, SAME, OTHER)}
    return run_gate(bundle, found, most_pairs, 2, lambda done, verdicts: None)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Raises(), r"episode of seed \d+: at step \d+: (IndexError|RuntimeError): index 1 is out of bounds"),
        (Hungry(), r"episode of seed \d+: at step \d+: out of memory: RuntimeError: .*alloc"),
    ],
)
def test_what_a_runtime_raises_in_an_episode_ends_that_variants_pairs_and_no_others(tmp_path, module, said):
    found = gate(exchange(small_bundle(tmp_path / "raises.bundle"), module), most_pairs=4)
    assert (found[SAME].status, found[SAME].rung) == ("failed", "reward")
    assert re.search(said, found[SAME].reason), found[SAME].reason
    assert "\n" not in found[SAME].reason
    assert (found[OTHER].status, found[OTHER].pairs) == ("provisional", 4)
    assert found[REFERENCE].pairs == 4


def test_a_variant_that_ends_its_process_has_failed_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "MAX_DEATHS", 0)
    monkeypatch.setenv(tasks.TRUSTED, chance_task.deadly().name)
    bundle = exchange(small_bundle(tmp_path / "deadly.bundle", task=chance_task.deadly().name), Sign(-99.0))
    found = gate(bundle, most_pairs=4)
    assert found[SAME].status == "failed"
    assert "its process died, perhaps because memory ran out" in found[SAME].reason
    assert (found[OTHER].status, found[OTHER].pairs, found[REFERENCE].pairs) == ("provisional", 4, 4)
    assert len(found[REFERENCE].returns) == 4


def test_a_reference_that_fails_in_an_episode_is_blamed_by_name_and_not_the_environment(tmp_path):
    class Broken(Raises):
        def forward(self, joints):
            action, scores = Sign.forward(self, joints)
            return action, scores + self.table[(joints[:, :1] > 9.5).long()]

    bundle = small_bundle(tmp_path / "reference.bundle", Broken())
    monkey = {"joints": [[99.0, 0.0]]}
    runner = pairs._reference_runner(bundle.path)
    with pytest.raises(ExecutionError, match=f"{REFERENCE}, which the others are compared with, failed in an episode"):
        runner.act({name: torch.tensor(value).numpy() for name, value in monkey.items()})


def test_one_that_cannot_be_loaded_where_pairs_are_run_is_not_everybodys_end(tmp_path):
    bundle = small_bundle(tmp_path / "garbage.bundle")
    build = bundle.builds[SAME]
    (bundle.path / build.folder / TRACE).write_bytes(b"no trace")
    builds = (bundle.builds[REFERENCE], replace(build, files=file_facts(bundle.path / build.folder)))
    write_atomically(bundle.path / MANIFEST, replace(bundle.manifest, builds=builds).encode())
    found = gate(Bundle(bundle.path), most_pairs=4)
    assert (found[SAME].status, found[OTHER].pairs) == ("rejected", 4)
    assert "PyTorch cannot read it" in found[SAME].reason


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("failures") / "plain.bundle")


ERRORS = [
    (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "failed", "numbers: out of memory: "),
    (MemoryError("std::bad_alloc"), "failed", "numbers: out of memory: "),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), "failed", "numbers: the GPU failed: "),
    (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), "failed", "numbers: the GPU failed: "),
    (RuntimeError("Found no NVIDIA driver on your system."), "built", "not run here: there is no NVIDIA GPU"),
    (RuntimeError("CUDA failure 100: no CUDA-capable device is detected"), "built", "not run here: there is no NVIDIA"),
    (
        RuntimeError("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0"),
        "built",
        "not run here: NVIDIA's driver is too old",
    ),
    (
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        "built",
        "not run here: this library has no code for the GPU at hand",
    ),
    (UnavailableError("it was built for AVX512"), "built", "not run here: it was built for AVX512"),
    (ValueError("a library's\nown words"), "failed", "numbers: ValueError: a library's own words"),
    (XferError("these files are wrong"), "rejected", "numbers: these files are wrong"),
]


@pytest.mark.parametrize("where", ["loading", "acting", "looking"])
@pytest.mark.parametrize(("error", "status", "reason"), ERRORS, ids=lambda value: str(value)[:24])
def test_an_exception_has_one_status_and_reason_wherever_it_is_raised(plain, monkeypatch, error, status, reason, where):
    def fail(*args, **options):
        raise error

    if where == "looking":
        monkeypatch.setattr(torchscript, "runnable", fail)
        status, reason = "built", reason.partition(": ")[2]  # a library that cannot say so cannot run either
    elif where == "loading":
        monkeypatch.setattr(torchscript, "load", fail)
    else:

        @contextmanager
        def load(folder, spec, place):
            yield type("Session", (), {"step": fail})()

        monkeypatch.setattr(torchscript, "load", load)
    found = verify(plain, pairs=0, keep=False)
    assert found[SAME].status == status
    assert reason in found[SAME].reason
    assert "\n" not in found[SAME].reason
    assert found[REFERENCE].status == "provisional"


def test_a_reference_that_cannot_act_on_the_observations_is_one_line(plain, monkeypatch):
    @contextmanager
    def load(folder, spec, place):
        raise RuntimeError("a library's\nown words")
        yield

    monkeypatch.setattr(eager, "load", load)
    with pytest.raises(XferError, match=f"{REFERENCE}, which the others are compared with, .*: a library's own words"):
        verify(plain, held_out=met(2), pairs=0, keep=False)


def test_recordings_are_judged_of_those_that_can_act(plain, monkeypatch):
    from export.verification import agreement

    replayed = agreement._replayed

    def some(bundle, name, held_out):
        if name == SAME:
            raise RuntimeError("CUDA error: out of memory")
        return replayed(bundle, name, held_out)

    monkeypatch.setattr(agreement, "_replayed", some)
    monkeypatch.setattr(reward, "run_gate", None)
    monkeypatch.setattr("export.verification.verify.no_reward_gate", lambda bundle: "no simulator")
    found = verify(plain, [REFERENCE, SAME, OTHER], held_out=met(3), keep=False)
    assert (found[SAME].status, found[SAME].rung) == ("failed", "recordings")
    assert found[SAME].reason.startswith("recordings: out of memory: ")
    assert (found[OTHER].status, found[OTHER].rung) == ("provisional", "recordings")


def test_a_failure_replaces_a_verdict_and_gives_way_to_any_later_one(plain):
    verified, failed = Verification("verified", "reward", pairs=160), Verification("failed", "numbers", "out of memory")
    assert stronger(verified, failed) is failed
    passed = Verification("provisional", "actions")
    assert stronger(failed, passed) is passed


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("CUDA error: out of memory", "failed"),
        ("no CUDA-capable device is detected", "built"),
        ("PytorchStreamReader failed", "rejected"),
    ],
)
def test_a_library_that_cannot_load_a_file_for_want_of_a_device_does_not_blame_the_file(
    plain, monkeypatch, said, status
):
    def fail(*args, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(torch.jit, "load", fail)
    assert verify(plain, SAME, pairs=0, keep=False)[SAME].status == status
