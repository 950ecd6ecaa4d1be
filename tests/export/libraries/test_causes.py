"""A failed build says what went wrong, where in the user's code, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import Deployable
from export.libraries import causes
from export.libraries.pytorch import trace
from export.targets import ExportOptions, ExportRequest, aotinductor
from xfer.errors import UsageError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

SPEC = PolicySpec(
    "", 50.0, (TensorSpec("joints", "float32", (2,)),), (), ActionSpec("discrete", ("left", "right")), "logits"
)


class Branching(nn.Module):
    def forward(self, joints):
        if joints.sum() > 0:
            joints = joints + 1
        return joints.argmax(1), joints


class FixedBatch(nn.Module):
    def forward(self, joints):
        scores = joints.reshape(2, 2)
        return scores.argmax(1), scores


def caught(function, *arguments):
    with pytest.raises(Exception) as found:  # noqa: PT011
        function(*arguments)
    return found.value


def test_a_failure_in_the_users_module_names_its_line_and_prints_no_graph(tmp_path, capfd):
    met = Trajectories({"joints": np.zeros((1, 2), np.float32)}, np.ones(1, bool))
    request = ExportRequest(Deployable(Branching(), SPEC), SPEC, met, ExportOptions())
    said = causes.reason(caught(aotinductor.export, request, tmp_path, "fp32"))
    line = Path(__file__).read_text().splitlines().index("        if joints.sum() > 0:") + 1
    assert said.startswith("GuardOnDataDependentSymNode: Could not guard on data-dependent expression")
    assert said.endswith(f"(test_causes.py:{line}, in forward: if joints.sum() > 0:)")
    assert capfd.readouterr() == ("", "")


def test_of_torchscripts_traceback_the_last_line_is_kept():
    traced = trace(Deployable(FixedBatch(), SPEC).deploy(), SPEC)
    said = causes.reason(caught(traced, torch.zeros(3, 2)))
    assert said == "RuntimeError: shape '[2, 2]' is invalid for input of size 6"


def test_the_error_that_began_it_is_told_and_not_the_advice_around_it():
    def convert():
        try:
            raise KeyError("no operation 'fold'")
        except KeyError as error:
            raise RuntimeError(f"\x1b[96mThis is step 1/3\x1b[0m of exporting. {'Next steps: ' * 100}") from error

    assert causes.reason(caught(convert)) == "KeyError: \"no operation 'fold'\""


def test_an_error_of_ours_speaks_for_itself():
    error = UsageError("Unknown layer 'stm'.\nDid you mean 'stem'?")
    error.__cause__ = KeyError("stm")
    assert causes.reason(error) == "Unknown layer 'stm'. Did you mean 'stem'?"


def test_a_long_message_is_cut_after_its_first_paragraph_and_between_words():
    pages = RuntimeError("the\x1b[31m cause\x1b[0m\n\n" + "advice " * 200)
    assert causes.reason(pages) == "RuntimeError: the cause"
    said = causes.reason(RuntimeError("word " * 200))
    assert len(said) < causes.LONGEST + 30
    assert said.endswith("word ...")


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (
            "Exception from src/core/src/model.cpp:12:\nCheck 'x' failed at src/pass.cpp:3:\nshapes differ: 2 and 3\n",
            "RuntimeError: shapes differ: 2 and 3",
        ),
        (
            "C++ compile error\n\nCommand:\ng++ -O3 x.cpp\n\nOutput:\nx.cpp:3:1: error: no type 'half'\nx.cpp:4: note",
            "RuntimeError: x.cpp:3:1: error: no type 'half'",
        ),
        ("", "RuntimeError"),
    ],
)
def test_openvinos_and_a_compilers_cause_is_found(message, kept):
    assert causes.reason(RuntimeError(message)) == kept
