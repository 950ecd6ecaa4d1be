"""PPO learns to reach a goal from pixels, with every seed; it draws the learning curves."""

from __future__ import annotations

from benchmarks.claims import Options, Outcome, _learning_curves, cell

SHOWS_PROGRESS = True
TASK, SUCCESS, SEEDS = "navigation:empty", 0.9, 3
CLAIM = (
    f"PPO reaches {SUCCESS:.0%} success in {TASK} (MiniGrid-Empty-8x8), from pixels and random weights, with each of"
    f" {SEEDS} seeds."
)


def reproduce(options: Options) -> Outcome:
    """Train what is not trained yet with the task's own defaults, and judge the finished policies.

    Raises:
        UnavailableError: If MiniGrid is missing.
    """
    from xfer.models.torch_session import set_threads
    from xfer.tasks import load
    from xfer.training.run_folder import RunFolder

    if options.threads:
        set_threads(options.threads)
    least = load(TASK).success
    assert least is not None
    curves, rows = [], []
    for seed in range(options.seed, options.seed + (options.runs or SEEDS)):
        path = options.folder / f"seed-{seed}"
        curve = _learning_curves.learn(path, "PPO", task=TASK, algorithm="ppo", weights="none", seed=seed)
        result = RunFolder(path).result()
        assert result is not None
        success = sum(value >= least for value in result.returns) / len(result.returns)
        figures = {"frames": result.frames, "seconds": round(result.seconds), "success": success}
        rows.append({"seed": seed, **figures, "episodes": len(result.returns), "holds": success >= SUCCESS})
        curves.append(curve)
    shown = {f"seed {row['seed']}": f"{cell(row['success'])} after {row['frames']} frames" for row in rows}
    notes = (
        "Success is that of the finished policy over fresh episodes; the curve's are the rounds' own.",
        _learning_curves.where(options.folder),
    )
    _learning_curves.write(options.folder, curves, SUCCESS, CLAIM, shown, notes)
    return Outcome(tuple(rows), notes)
