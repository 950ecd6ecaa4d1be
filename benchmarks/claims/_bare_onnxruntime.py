"""A loop on bare ONNX Runtime: python -P _bare_onnxruntime.py MODEL FOLDER THREADS. It does not use xfer.

FOLDER holds NAME.npy [frames, ...] for each recorded input; an input NAME without a file starts from zeros and is fed
with the output NAME_out. For each line on standard input, a number of seconds, it calls for so long and prints the
seconds of each call as a JSON list.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

model, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
recorded = {path.stem: np.load(path) for path in folder.glob("*.npy")}
states = {i.name: np.zeros([1, *i.shape[1:]], np.float32) for i in session.get_inputs() if i.name not in recorded}
outputs = [output.name for output in session.get_outputs()]
steps = itertools.cycle(range(len(next(iter(recorded.values())))))
for line in sys.stdin:
    times: list[float] = []
    end = time.perf_counter() + float(line)
    while time.perf_counter() < end:
        step = next(steps)
        feed = {name: array[step : step + 1] for name, array in recorded.items()} | states
        start = time.perf_counter()
        results = session.run(None, feed)
        times.append(time.perf_counter() - start)
        states = {name: results[outputs.index(f"{name}_out")] for name in states}
    print(json.dumps(times), flush=True)
