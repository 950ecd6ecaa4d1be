import gzip
import json
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests import processes
from tests.xfer.training.two_ranks import fitted, joint_frames
from xfer.cli import main
from xfer.training import distributed
from xfer.training.run_folder import RunFolder

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes had after training together, by freeze line; and what they printed."""
    folder = tmp_path_factory.mktemp("ranks")
    words = [*TORCHRUN, "-m", "tests.xfer.training.two_ranks", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    weights = {
        line: [load_file(folder / f"{line}-{rank}.safetensors") for rank in (0, 1)]
        for line in ("head", "layer1", "memory")
    }
    return weights, done.stdout


@pytest.mark.parametrize("line", ["head", "layer1", "memory"])
def test_ranks_hold_the_same_weights_and_statistics(ranks, line):
    first, second = ranks[0][line]
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_step_is_one_on_the_joint_batch(ranks):
    """Steps of plain SGD on all frames at once end in the same weights only if the gradient is the joint mean."""
    alone = fitted(*joint_frames(), "head").state_dict()
    half = fitted(*(part[::2] for part in joint_frames()), "head").state_dict()
    together = ranks[0]["head"][0]
    torch.testing.assert_close(together["head.1.weight"], alone["head.1.weight"], atol=1e-6, rtol=1e-5)
    assert (half["head.1.weight"] - alone["head.1.weight"]).abs().max() > 1e-4


def test_only_the_first_rank_speaks(ranks):
    assert "rank 0 speaks" in ranks[1]
    assert "rank 1 speaks" not in ranks[1]


def test_without_torchrun_nothing_changes():
    module = torch.nn.Linear(2, 2)
    with distributed.group("cpu"):
        assert (distributed.rank(), distributed.size()) == (0, 1)
        assert distributed.parallel(module) is module
        assert distributed.own_seed(7) == 7
        assert distributed.mean({"loss": 2.0}) == {"loss": 2.0}


SMALL = "--weights none --tap layer1 --train-from layer1 --head flatten --rounds 2 --eval-episodes 2 --json"
COMMANDS = {
    "imitation": "train tests.xfer.training.two_ranks:signs --frames 16 --steps 5 --environments 2",
    "ppo": "train tests.xfer.training.toys:signs --total-frames 96 --rollout-steps 8 --environments 4",
}


def run_as_two(*words):
    """Run a command in two processes, each told what ``torchrun`` would tell it; return what they printed."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [processes.start(*words, RANK=rank, LOCAL_RANK=rank, **together) for rank in "01"]
    assert [rank.wait(200) for rank in ranks] == [0, 0], ranks[0].stderr + ranks[1].stderr
    return [rank.stdout for rank in ranks]


@pytest.mark.parametrize("algorithm", COMMANDS)
def test_a_run_of_two_processes_is_one_run_that_can_be_continued(algorithm, tmp_path, capsys):
    words = [*f"{COMMANDS[algorithm]} {SMALL}".split(), "--output", str(tmp_path / "run")]
    said, nothing = run_as_two(*words)
    result = json.loads(said.splitlines()[-1])
    assert '{"run"' not in nothing
    folder = RunFolder(tmp_path / "run")
    assert folder.config().processes == 2
    assert result["frames"] == folder.rounds()[-1].frames == (64 if algorithm == "imitation" else 192)
    if algorithm == "imitation":
        kept = [folder.path / "rounds" / f"001-{name}frames.safetensors.gz" for name in ("", "rank1-")]
        assert gzip.decompress(kept[0].read_bytes()) != gzip.decompress(kept[1].read_bytes())  # seeds of their own
        # As if it had been killed in its last round:
        weights = (folder.path / "policy.safetensors").read_bytes(), folder.weights_file(1).read_bytes()
        progress = json.loads((folder.path / "progress.json").read_text())
        (folder.path / "progress.json").write_text(json.dumps({"rounds": progress["rounds"][:1]}))
        (folder.path / "result.json").unlink()
        run_as_two(*words)
        assert weights == ((folder.path / "policy.safetensors").read_bytes(), folder.weights_file(1).read_bytes())
    assert main(words) == 1
    assert "processes is 2 there, 1 here" in capsys.readouterr().err
