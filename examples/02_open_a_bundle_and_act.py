"""Open a bundle and act, without torch: python 02_open_a_bundle_and_act.py BUNDLE [VARIANT]."""

import sys

from export import Bundle

bundle = Bundle(sys.argv[1])  # checks the manifest's digest and schema
variant = sys.argv[2] if len(sys.argv) > 2 else "onnx-fp32"
golden = bundle.golden()  # recorded raw observations, with what the policy did when the bundle was made

with bundle.runner(variant) as policy:  # checks the SHA-256 of every file that it reads
    for t, (begins, observations) in enumerate(golden.steps()):
        if begins:
            policy.reset()  # an episode starts from zero states
        action, scores = policy.act(observations)
        print(f"step {t}: action {action}, scores {scores.round(3)}, recorded {golden.actions[t]}")
