"""A training run on disk: configuration, rounds, results. It is the only thing that a killed run leaves.

runs/cartpole/
  config.json                    the configuration, and library versions; continuing with another one is refused
  progress.json                  what each finished round measured
  rounds/000-weights.safetensors        the policy after each round, and what the next one needs besides:
         000-frames.safetensors.gz      imitation: what each round collected
         000-trainer.safetensors        PPO: critic and optimizer after the newest round
  policy.safetensors, policy.json    the trained policy
  observations/calibration.safetensors.gz, held-out.safetensors.gz
  result.json                    the last evaluation
  tensorboard/
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save

from xfer import __version__
from xfer.errors import RunError
from xfer.files import from_json, to_json, writable, write_atomically
from xfer.models.checkpoint import load_policy, weights_bytes
from xfer.models.policy import Policy
from xfer.training.imitation import Frames
from xfer.training.run_config import RunConfig, load_config
from xfer.trajectories import MEMORY, Trajectories, load_trajectories
from xfer.trajectories.reading import TensorFile

if TYPE_CHECKING:
    from torch import Tensor

LIBRARIES = ("torch", "torchvision", "gymnasium", "numpy")
FRAMES, TRAINER = "frames.safetensors.gz", "trainer.safetensors"


@dataclass(frozen=True)
class RoundMetrics:
    """What a round measured.

    Attributes:
        frames: Frames collected so far.
        loss: Mean loss of the last epoch.
        eval_return: Mean return of this round's evaluation episodes.
        seconds: How long the round took.
        success: Share of these episodes that succeeded, where the task says what success is.
    """

    frames: int
    loss: float
    eval_return: float
    seconds: float
    success: float | None = None


@dataclass(frozen=True)
class RunResult:
    """How a finished run did.

    Attributes:
        frames: Frames of experience that training used.
        seconds: Time it took, without interruptions.
        returns: Returns of the last evaluation, on seeds that nothing else uses.
    """

    frames: int
    seconds: float
    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return sum(self.returns) / len(self.returns)


@dataclass(frozen=True)
class _Progress:
    rounds: list[RoundMetrics] = field(default_factory=list)


class RunFolder:
    """Reads and writes a run.

    Args:
        path: Its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def check(self, config: RunConfig) -> None:
        """See whether a run can begin or continue here, without writing anything.

        Raises:
            RunError: If something else is here, or another configuration is.
        """
        if (self.path / "config.json").exists():
            difference = _first_difference(_plain(self.config()), _plain(config))
            if difference:
                raise RunError(
                    f"{self.path} holds a run with another configuration ({difference})."
                    " Choose another --output, or delete it."
                )
        elif self.path.exists() and not self._is_unborn():
            raise RunError(f"{self.path} exists and is not a run. Choose another --output.")

    def start(self, config: RunConfig) -> None:
        """Begin a run here, or continue it.

        Raises:
            RunError: If something else is here, another configuration is, or the folder cannot be written to.
        """
        file = self.path / "config.json"
        with writable(self.path, RunError):
            self.check(config)
            if not file.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                write_atomically(file, to_json(replace(config, libraries=installed_libraries())))
            for name in ("rounds", "observations"):
                (self.path / name).mkdir(exist_ok=True)

    def _is_unborn(self) -> bool:
        """Whether there is nothing here but what a start that was killed at once leaves."""
        return self.path.is_dir() and all(e.name.startswith(".config.json.") for e in self.path.iterdir())

    def changed_libraries(self) -> str:
        """Return which libraries have another version than when the run began ("torch 2.13.0 then, 2.14.1 now")."""
        then, now = self.config().libraries, installed_libraries()
        changed = (
            f"{name} {then[name]} then, {now.get(name, 'none')} now" for name in then if then[name] != now.get(name)
        )
        return "; ".join(changed)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training here at the same time.

        Raises:
            RunError: If one does already.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise RunError(f"{self.path} is being trained by another process.") from error

    def config(self) -> RunConfig:
        """Return the configuration.

        Raises:
            RunError: If there is no run here.
        """
        return load_config(self.path / "config.json")

    def rounds(self) -> list[RoundMetrics]:
        """Return what the finished rounds measured."""
        return self._read("progress.json", _Progress).rounds if (self.path / "progress.json").exists() else []

    def save_round(
        self,
        policy: Policy,
        metrics: RoundMetrics,
        kept: Mapping[str, bytes],
        latest: Mapping[str, bytes] | None = None,
    ) -> None:
        """Keep a finished round. The line in progress.json comes last: without it the round did not happen.

        Args:
            policy: Its weights are kept.
            metrics: What the round measured.
            kept: Contents of further files by name, ``FRAMES`` for one.
            latest: The same, of files that are of no use any more once the next round has its own.
        """
        done, latest = self.rounds(), latest or {}
        self.keep(len(done), {**kept, **latest})
        write_atomically(self.weights_file(len(done)), weights_bytes(policy))
        write_atomically(self.path / "progress.json", to_json(_Progress([*done, metrics])))
        for name in latest:
            for index in range(len(done)):
                self._round_file(index, name).unlink(missing_ok=True)

    def keep(self, index: int, files: Mapping[str, bytes]) -> None:
        """Write files of round ``index`` by name; they count once the round is saved."""
        for name, data in files.items():
            write_atomically(self._round_file(index, name), data)

    def frames(self, index: int, name: str = FRAMES) -> Frames:
        """Return what round ``index`` of imitation collected.

        Raises:
            RunError: If the file is damaged.
        """
        return Frames(**self.tensors(index, name))

    def tensors(self, index: int, name: str) -> dict[str, Tensor]:
        """Return what a file of round ``index`` holds.

        Raises:
            RunError: If the file is missing or damaged.
        """
        path = self._round_file(index, name)
        advice = "Delete the run and train again."
        if path.suffix == ".gz":
            return {key: torch.from_numpy(array) for key, array in TensorFile(path, advice).read().items()}
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} is missing or damaged ({error}). {advice}") from error

    def weights_file(self, index: int) -> Path:
        """Where the weights after round ``index`` are."""
        return self._round_file(index, "weights.safetensors")

    def _round_file(self, index: int, name: str) -> Path:
        return self.path / "rounds" / f"{index:03d}-{name}"

    def result(self) -> RunResult | None:
        """Return the last evaluation, or None if the run is not finished."""
        return self._read("result.json", RunResult) if (self.path / "result.json").exists() else None

    def finish(self, result: RunResult) -> None:
        """Mark the run as finished."""
        write_atomically(self.path / "result.json", to_json(result))

    def observations_file(self, name: str) -> Path:
        """Where the observations called ``calibration`` or ``held-out`` are."""
        return self.path / "observations" / f"{name}.safetensors.gz"

    def observations(self, name: str, memory: int = MEMORY) -> Trajectories:
        """Return recorded observations of the trained policy.

        Args:
            name: ``calibration`` or ``held-out``.
            memory: Bytes of them that may be in memory at once.

        Raises:
            RunError: If the file is missing or damaged.
        """
        return load_trajectories(self.observations_file(name), memory)

    def policy(self) -> Policy:
        """Return the trained policy.

        Raises:
            RunError: If there is no run here, or it is not finished.
            WeightsError: If its files are damaged.
        """
        self.config()
        if self.result() is None:
            raise RunError(f"{self.path} is not finished. Run its `xfer train` command again to continue it.")
        return load_policy(self.path)

    def _read(self, name: str, kind: type[Any]) -> Any:
        path = self.path / name
        try:
            return from_json(path.read_bytes(), kind)
        except FileNotFoundError as error:
            raise RunError(f"{self.path} is not a run: it has no {name}. Train one with `xfer train`.") from error
        except (OSError, msgspec.DecodeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error


def frames_bytes(frames: Frames) -> bytes:
    """Return frames as compressed safetensors."""
    return gzip.compress(save(frames._asdict()), compresslevel=1, mtime=0)


def installed_libraries() -> dict[str, str]:
    """Return the versions of xfer and of the libraries that decide what training computes."""
    found = {"xfer": __version__}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _plain(config: RunConfig) -> dict[str, Any]:
    """Return what must be equal for a run to be continued."""
    return {"algorithm": config.algorithm, **msgspec.to_builtins(replace(config, libraries={}))}


def _first_difference(old: Any, new: Any, name: str = "") -> str:
    """Describe the first field in which two configurations differ, or return an empty string."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            if found := _first_difference(old[key], new.get(key), key):
                return found
        return ""
    return "" if old == new else f"{name.replace('_', '-')} is {old} there, {new} here"
