"""A loop on bare ONNX Runtime: python -P bare_onnxruntime.py MODEL FOLDER THREADS SECONDS. It knows nothing of xfer.

FOLDER holds NAME.npy [frames, ...] for each recorded input; an input NAME without a file starts from zeros and is fed
with the output NAME_out. Prints a JSON list: the seconds of each call, after as many seconds of warm-up.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

model, folder, threads, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
recorded = {path.stem: np.load(path) for path in folder.glob("*.npy")}
states = {i.name: np.zeros([1, *i.shape[1:]], np.float32) for i in session.get_inputs() if i.name not in recorded}
outputs = [output.name for output in session.get_outputs()]
frames = len(next(iter(recorded.values())))
times: list[tuple[bool, float]] = []
begun = time.perf_counter()
while (now := time.perf_counter()) < begun + 2 * seconds:
    frame = len(times) % frames
    feed = {name: array[frame : frame + 1] for name, array in recorded.items()} | states
    start = time.perf_counter()
    results = session.run(None, feed)
    times.append((now < begun + seconds, time.perf_counter() - start))
    states = {name: results[outputs.index(f"{name}_out")] for name in states}
print(json.dumps([elapsed for warming, elapsed in times if not warming]))
