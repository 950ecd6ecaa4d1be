"""ACT for inference, with LeRobot's names of parameters (``lerobot.policies.act.modeling_act`` of LeRobot 0.6.1).

Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware"
(https://arxiv.org/abs/2304.13705). What differs from LeRobot's own is how it is written, not what it computes:

- the latent is zero at inference, so its token is a bias; the variational encoder is left out;
- a camera's feature map becomes tokens by one reshape, and position embeddings are buffers of the images' sizes;
- frozen batch normalization is folded into the convolutions;
- what the decoder begins with, zeros, is one row until it meets an observation, so that runtimes compute it once.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d

from export.importers._lerobot.config import BACKBONES, ENVIRONMENT_STATE, STATE, ACTConfig
from xfer.errors import UsageError, WeightsError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": functional.relu, "gelu": functional.gelu}
PROJECTIONS = {STATE: "encoder_robot_state_input_proj", ENVIRONMENT_STATE: "encoder_env_state_input_proj"}
PREFIX = "model."
"""What names of ACT's weights begin with in a policy's file."""
UNUSED = "vae_encoder"
"""What names of weights begin with that make a latent in training, of which inference has no use."""
IN_WEIGHTS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Where LeRobot before 0.4 kept statistics."""


class Attention(nn.Module):
    """``nn.MultiheadAttention``'s parameters and arithmetic, without its dropout, masks and averaged weights.

    Shape:
        query [B or 1, T, D], key and value [B, S, D], to [B, T, D].
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * size))
        self.out_proj = nn.Linear(size, size)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what the queries find."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(x, weight, bias).unflatten(-1, (self.heads, self.size // self.heads)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        found = (q @ k.transpose(2, 3) / math.sqrt(self.size // self.heads)).softmax(-1) @ v
        projected: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return projected


class Layer(nn.Module):
    """A layer of the encoder; or (``crossed``) one of the decoder, which also looks at the encoder's tokens."""

    def __init__(self, config: ACTConfig, crossed: bool) -> None:
        super().__init__()
        size = config.dim_model
        self.self_attn = Attention(size, config.n_heads)
        self.multihead_attn = Attention(size, config.n_heads) if crossed else None
        self.linear1, self.linear2 = nn.Linear(size, config.dim_feedforward), nn.Linear(config.dim_feedforward, size)
        for i in range(3 if crossed else 2):
            self.add_module(f"norm{i + 1}", nn.LayerNorm(size))
        self.activation, self.pre_norm = ACTIVATIONS[config.feedforward_activation], config.pre_norm

    def forward(self, x: Tensor, positions: Tensor, seen: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        """Return the tokens [B, T, D] after this layer.

        Args:
            x: Tokens [B, T, D].
            positions: Their embedding [1, T, D].
            seen: The encoder's tokens [B, S, D].
            where: Their embedding [1, S, D].
        """

        def attend(x: Tensor) -> Tensor:
            query = x + positions
            return self.self_attn(query, query, x)  # type: ignore[no-any-return]

        def look(x: Tensor) -> Tensor:
            assert self.multihead_attn is not None
            assert seen is not None
            assert where is not None
            return self.multihead_attn(x + positions, seen + where, seen)  # type: ignore[no-any-return]

        def think(x: Tensor) -> Tensor:
            return self.linear2(self.activation(self.linear1(x)))  # type: ignore[no-any-return]

        steps = [attend, *([look] if self.multihead_attn is not None else []), think]
        for i, step in enumerate(steps):
            norm = self.get_submodule(f"norm{i + 1}")
            x = x + step(norm(x)) if self.pre_norm else norm(x + step(x))
        return x


class Layers(nn.Module):
    """The layers of the encoder or of the decoder, and the normalization after them, if there is one."""

    def __init__(self, config: ACTConfig, count: int, crossed: bool, normed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, crossed) for _ in range(count))
        self.norm = nn.LayerNorm(config.dim_model) if normed else nn.Identity()

    def forward(self, x: Tensor, positions: Tensor, seen: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        """Return the tokens [B, T, D]; see ``Layer``."""
        for layer in self.layers:
            x = layer(x, positions, seen, where)
        normed: Tensor = self.norm(x)
        return normed


class ACT(nn.Module):
    """From normalized observations to a chunk of normalized actions.

    Args:
        config: The policy's configuration.
    """

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        size = config.dim_model
        self.projections = [PROJECTIONS[key] for key in config.vectors]
        for name, vector in zip(self.projections, config.vectors.values(), strict=True):
            self.add_module(name, nn.Linear(vector.shape[0], size))
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, size)
        self.encoder_1d_feature_pos_embed = nn.Embedding(1 + len(config.vectors), size)
        if config.images:
            self.backbone = trunk(config)
            self.encoder_img_feat_input_proj = nn.Conv2d(BACKBONES[config.vision_backbone], size, 1)
        for i, image in enumerate(config.images.values()):
            height, width = map_size(image.shape[1:], bool(config.replace_final_stride_with_dilation))
            self.register_buffer(f"positions_{i}", position_embedding(height, width, size), persistent=False)
        self.encoder = Layers(config, config.n_encoder_layers, False, config.pre_norm)
        self.decoder = Layers(config, config.n_decoder_layers, True, True)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, size)
        self.action_head = nn.Linear(size, config.action.shape[0])

    def forward(self, images: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
        """Return actions [B, chunk_size, A], normalized.

        Args:
            images: One [B, 3, H, W] for each camera, normalized.
            vectors: State [B, D], environment's state [B, E], as far as the network sees them; normalized.
        """
        batch = (images[0] if images else vectors[0]).shape[0]
        tokens = [self.encoder_latent_input_proj.bias.expand(batch, 1, -1)]
        for name, vector in zip(self.projections, vectors, strict=True):
            tokens.append(self.get_submodule(name)(vector).unsqueeze(1))
        positions = [self.encoder_1d_feature_pos_embed.weight.unsqueeze(0)]
        for i, image in enumerate(images):
            tokens.append(self.encoder_img_feat_input_proj(self.backbone(image)).flatten(2).transpose(1, 2))
            positions.append(self.get_buffer(f"positions_{i}"))
        where = torch.cat(positions, 1)
        seen = self.encoder(torch.cat(tokens, 1), where)
        queries = self.decoder_pos_embed.weight.unsqueeze(0)
        actions: Tensor = self.action_head(self.decoder(torch.zeros_like(queries), queries, seen, where))
        return actions


def trunk(config: ACTConfig) -> nn.Module:
    """Return the ResNet up to its last feature map, with torchvision's names."""
    make = getattr(torchvision.models, config.vision_backbone)
    dilation = [False, False, bool(config.replace_final_stride_with_dilation)]
    whole = make(weights=None, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=dilation)
    parts = OrderedDict((name, part) for name, part in whole.named_children() if name not in ("avgpool", "fc"))
    return nn.Sequential(parts)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each frozen batch normalization into the convolution before it."""
    for parent in list(module.modules()):
        convolution: nn.Conv2d | None = None
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Conv2d):
                convolution = part
            elif isinstance(part, FrozenBatchNorm2d):
                assert convolution is not None
                tensors = [part.running_mean, part.running_var, part.eps, part.weight, part.bias]
                weight, bias = fuse_conv_bn_weights(convolution.weight, None, *tensors)
                convolution.weight, convolution.bias = weight, bias
                setattr(parent, name, nn.Identity())


def map_size(size: Sequence[int], dilated: bool) -> tuple[int, int]:
    """Return height and width of a ResNet's last feature map: five halvings, or four, each rounded up."""
    stride = 16 if dilated else 32
    return -(-size[0] // stride), -(-size[1] // stride)


def position_embedding(height: int, width: int, size: int) -> Tensor:
    """Return the sinusoidal embedding [1, height * width, size] of a feature map, its rows one after the other."""

    def waves(count: int) -> Tensor:
        place = torch.arange(1, count + 1, dtype=torch.float32, device="cpu")
        place = place / (place[-1] + 1e-6) * (2 * math.pi)
        half = size // 2
        angles = place[:, None] / 10000 ** (2 * (torch.arange(half, dtype=torch.float32, device="cpu") // 2) / half)
        return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), -1).flatten(1)

    rows, columns = waves(height)[:, None].expand(-1, width, -1), waves(width)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), 2).reshape(1, height * width, size)


def loaded(config: ACTConfig, tensors: Mapping[str, Tensor], file: object) -> ACT:
    """Return the network with its weights.

    Args:
        config: The policy's configuration.
        tensors: What is in its file, by LeRobot's names.
        file: The file, for messages.

    Raises:
        UsageError: If statistics are in it, as LeRobot before 0.4 wrote them.
        WeightsError: If a weight is missing, of another shape, or left over.
    """
    if old := [name for name in tensors if name.startswith(IN_WEIGHTS)]:
        raise UsageError(
            f"{file} holds statistics ({old[0]}), as LeRobot before 0.4 wrote them. Convert the policy with LeRobot's"
            " own `python -m lerobot.processor.migrate_policy_normalization --pretrained-path FOLDER`, and export"
            " what that writes."
        )
    given = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    with torch.device("meta"):  # no weight is drawn that is replaced at once
        network = ACT(config)
    wanted = network.state_dict()
    unused = [name for name in given if name.startswith(UNUSED) or name.endswith(".num_batches_tracked")]
    left = [name for name in tensors if name not in {PREFIX + name for name in (*wanted, *unused)}]
    for name, weight in wanted.items():
        if name not in given:
            raise WeightsError(f"{file} lacks the weight {PREFIX}{name}, which the policy of its config.json has.")
        if given[name].shape != weight.shape:
            raise WeightsError(
                f"{file}: the weight {PREFIX}{name} is {list(given[name].shape)}; that of its config.json's policy is"
                f" {list(weight.shape)}."
            )
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise WeightsError(f"{file} holds a weight {left[0]}{more}, which the policy of its config.json has not.")
    network.load_state_dict({name: given[name] for name in wanted}, assign=True)
    fold_batch_norms(network)
    return network.eval()
