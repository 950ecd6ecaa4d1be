"""What `xfer run` does: drive the task's environment with one variant, without torch where that needs none."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from export.bundle.reader import Bundle
from export.libraries.cores import default_threads
from xfer import tasks
from xfer.commands import Episodes, truncates
from xfer.errors import UnavailableError, UsageError
from xfer.runner import Action, Arrays, Runner

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True)
class Args(Episodes):
    """Drive the environment with one variant of a bundle.

    Example commands:
      xfer run runs/cartpole.bundle --variant onnx-int8 --episodes 3
      xfer run runs/cartpole.bundle --variant eager-fp32 --video cartpole.mp4
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    """The bundle."""
    variant: str
    """TARGET-PRECISION, or TARGET-PRECISION@PLACE."""
    episodes: int = 3
    """How many."""
    seed: int = 0
    """Seed of the first; the next ones count up."""
    threads: int = 0
    """Threads inside an operation. 0: one for each of the fastest physical cores of one node, at most 8."""
    video: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Write the policy's images: .mp4 or .gif."""
    task: Annotated[str | None, tyro.conf.arg(metavar="MODULE:FUNCTION")] = None
    """The bundle's task, where that is somebody's own module:function: it is imported only if you name it here."""


class TimedRunner(Runner):
    """A runner that keeps how long each inference took, in seconds, and (if asked) each frame."""

    def __init__(self, runner: Runner, keep_frames: bool) -> None:
        super().__init__(runner.session, runner.spec, runner.batch)
        self.seconds: list[float] = []
        self.frames: list[np.ndarray] | None = [] if keep_frames else None

    def act(self, observations: Arrays) -> Action:
        """Time one action."""
        start = time.perf_counter()
        action = super().act(observations)
        if self.inferred:  # what was planned takes next to nothing
            self.seconds.append(time.perf_counter() - start)
        if self.frames is not None:
            frame = next(o for o in self.spec.observations if o.dtype == "uint8" and len(o.shape) == 3)
            self.frames.append(observations[frame.name].reshape(frame.shape))
        return action


@truncates
def main(args: Args) -> dict[str, Any]:
    """Run episodes, and return the object that ``--json`` prints."""
    import numpy as np
    from rich.console import Console

    if args.episodes < 1:
        raise UsageError("--episodes must be at least 1.")
    if args.video:
        _check_video(args.video)
    bundle = Bundle(args.bundle)
    if args.video and not any(o.dtype == "uint8" and len(o.shape) == 3 for o in bundle.spec.observations):
        raise UsageError("--video: this policy has no image observation.")
    tasks.trust(args.task)
    task = tasks.load_recorded(bundle.spec.task)
    from xfer.evaluate import episode_returns

    console = Console()
    threads = args.threads or default_threads()
    returns = []
    with bundle.runner(args.variant, threads=threads, spin=True) as plain:
        runner = TimedRunner(plain, keep_frames=args.video is not None)
        seeds = range(args.seed, args.seed + args.episodes)
        for seed, value in episode_returns(task, runner, seeds):
            returns.append(value)
            console.print(f"episode {seed - args.seed + 1}: return {value:g}")
    p50 = float(np.median(runner.seconds)) * 1e3
    timed = "action" if runner.spec.action.execute == 1 else f"inference, for {runner.spec.action.execute} actions,"
    console.print(f"{args.variant}: mean return {np.mean(returns):.1f}, median {timed} {p50:.2f} ms")
    if args.video and runner.frames:
        write_video(args.video, np.stack(runner.frames), bundle.spec.control_hz)
        console.print(f"wrote {args.video}")
    return {"variant": args.variant, "episodes": args.episodes, "returns": returns, "action_p50_ms": p50}


def write_video(path: Path, frames: np.ndarray, rate_hz: float) -> None:
    """Write frames, uint8 [T, H, W, 3], as .mp4 or .gif, under a temporary name until it is whole."""
    import imageio.v3

    timing: dict[str, Any] = {"duration": 1000 / rate_hz} if path.suffix == ".gif" else {"fps": rate_hz}
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        imageio.v3.imwrite(temporary, frames, **timing)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_video(path: Path) -> None:
    try:
        import imageio.v3  # noqa: F401
    except ImportError as error:
        raise UnavailableError("--video needs imageio: pip install 'xfer-policy[video]'") from error
    if path.suffix not in (".mp4", ".gif"):
        raise UsageError(f"--video {path}: choose a name that ends in .mp4 or .gif.")
    if not path.parent.is_dir():
        raise UsageError(f"--video {path}: the folder {path.parent} does not exist.")
