"""Train a policy on CartPole from pixels, and make a bundle of it: python 01_train_and_export.py [FOLDER]."""

import sys
from pathlib import Path

from export import export
from xfer import ImitationConfig, tasks, train

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
folder.mkdir(exist_ok=True)
task = tasks.load("cartpole")

# So small that it takes half a minute and learns little. Leave `imitation` out for a policy that balances the pole.
small = ImitationConfig.for_task(task, rounds=1, frames=200, steps=20)
run = train(task, weights="none", output=folder / "cartpole", imitation=small, eval_episodes=2, device="cpu")
print(f"{run.path}: mean return {run.mean:.1f} over {len(run.returns)} episodes")

result = export(run.path, "eager,onnx-fp32,onnx-int8")
for build, _ in result.builds:
    print(f"{build.variant}: {build.status}, {build.size_bytes / 1e6:.1f} MB")
