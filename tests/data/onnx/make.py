"""Makes the samples: policies of rsl_rl, exported by rsl_rl, and what rsl_rl itself does on 128 observations.

    pip install 'rsl-rl-lib==5.5.1' torch==2.14.1 onnxscript safetensors
    python make.py          # in this folder

Weights are random, and the statistics of the normalizer those of the observations. `mlp` and `lstm` are written as
``OnPolicyRunner.export_policy_to_onnx`` does: a batch of 1, weights in a file of their own. `lstm_any_batch` is the
same LSTM by PyTorch's older exporter in opset 11, as Isaac Lab writes it, but with a free batch: that of h_in is the
second dimension.
"""

import onnx
import torch
from rsl_rl.models import MLPModel, RNNModel
from safetensors.torch import save_file
from tensordict import TensorDict

STEPS, EPISODE, SEEN, JOINTS = 128, 32, 6, 3
OPTIONS = {
    "obs_groups": {"actor": ["policy"]},
    "obs_set": "actor",
    "output_dim": JOINTS,
    "hidden_dims": (16,),
    "obs_normalization": True,
    "distribution_cfg": {"class_name": "GaussianDistribution"},
}
BATCH = {"obs": {0: "batch"}, "h_in": {1: "batch"}, "c_in": {1: "batch"}}
BATCH |= {"actions": {0: "batch"}, "h_out": {1: "batch"}, "c_out": {1: "batch"}}


def seen(rows: torch.Tensor) -> TensorDict:
    return TensorDict({"policy": rows}, batch_size=[len(rows)])


def write(name: str, model: torch.nn.Module, observations: torch.Tensor) -> torch.nn.Module:
    model.train()
    model.update_normalization(seen(observations))
    model.eval()
    resets = torch.arange(STEPS) % EPISODE == 0
    actions = []
    with torch.inference_mode():
        for row, begins in zip(observations, resets, strict=True):
            if begins:
                model.reset(torch.ones(1, dtype=torch.bool))
            actions.append(model(seen(row[None]))[0].clone())
    tensors = {"observations.obs": observations, "resets": resets, "actions": torch.stack(actions)}
    save_file(tensors, f"{name}.safetensors")
    wrapped = model.as_onnx(verbose=False)
    wrapped.to("cpu")
    wrapped.eval()
    torch.onnx.export(  # word for word as OnPolicyRunner.export_policy_to_onnx calls it
        wrapped,
        wrapped.get_dummy_inputs(),
        f"{name}.onnx",
        export_params=True,
        opset_version=18,
        verbose=False,
        input_names=wrapped.input_names,
        output_names=wrapped.output_names,
    )
    without_paths(f"{name}.onnx")
    return wrapped


def without_paths(file: str) -> None:
    """Drop what PyTorch notes at each node: where in which file of this machine it comes from."""
    model = onnx.load(file, load_external_data=False)
    for value in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    onnx.save(model, file)


def main() -> None:
    torch.manual_seed(0)
    observations = 2 * torch.randn(STEPS, SEEN) + torch.arange(SEEN)
    one = seen(observations[:1])
    write("mlp", MLPModel(one, **OPTIONS), observations)
    recurrent = RNNModel(one, **OPTIONS, rnn_type="lstm", rnn_hidden_dim=8, rnn_num_layers=2)
    lstm = write("lstm", recurrent, observations)
    names = {"input_names": lstm.input_names, "output_names": lstm.output_names}
    file = "lstm_any_batch.onnx"
    torch.onnx.export(lstm, lstm.get_dummy_inputs(), file, opset_version=11, dynamo=False, dynamic_axes=BATCH, **names)
    without_paths(file)


if __name__ == "__main__":
    main()
