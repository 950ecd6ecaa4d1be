"""From a raw frame to one network input, as a module: it is exported with the policy, and is the only copy.

Crop, average pooling by an integer factor, luma, scaling to [0, 1] and normalization are all linear, so they
are *one* convolution. It reads the frame as the camera stores it: a row of W RGB pixels is a row of 3 W
numbers, so a kernel of ``shrink`` x ``3 * shrink`` with the same stride sees exactly one output pixel's
worth, and nothing needs to be transposed. Every target has this operation, and none can disagree on it (an
antialiased resize would differ between TensorRT and OpenCV).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from xfer.errors import UsageError
from xfer.spec import ImageConfig, TensorSpec

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue: ITU-R BT.601."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What torchvision's pretrained networks expect, in [0, 1] RGB
(https://docs.pytorch.org/vision/stable/models.html)."""


class Preprocess(nn.Module):
    """Crop, shrink, (gray,) scale and normalize frames.

    Args:
        frame: The raw frame: uint8 [H, W, 3], RGB or BGR, or [H, W, 1] of a gray camera.
        image: What to do to it.

    Raises:
        UsageError: If the crop does not fit the frame, or ``shrink`` does not divide it.

    Shape:
        uint8 [B, H, W, 3 or 1] to float32 [B, C, h, w].
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, frame: TensorSpec, image: ImageConfig) -> None:
        super().__init__()
        height, width, self.colors = self.frame_shape = frame.shape
        top, bottom, left, right = self.crop = image.crop
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise UsageError(
                f"Crop {image.crop} does not fit the {height} x {width} frame '{frame.name}'. Task.images has room for"
                " another one of this camera."
            )
        if (bottom - top) % image.shrink or (right - left) % image.shrink:
            raise UsageError(
                f"Crop {image.crop} of '{frame.name}' cannot be shrunk by {image.shrink}: choose multiples of it."
            )
        self.shrink = image.shrink
        self.cast_first = False
        """Cast the whole frame before it is cropped: slower, the same numbers, and what TensorRT wants."""
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        mix = torch.eye(3)
        if image.gray:
            mix = torch.tensor([LUMA])
            mean, std = mix @ mean, mix @ std
        if frame.color_order == "BGR":
            mix = mix.flip(1)
        if self.colors == 1:
            mix = mix.sum(1, keepdim=True)
        pixel = mix / (255 * image.shrink**2 * std[:, None])
        weight = pixel.repeat(1, image.shrink)[:, None, None, :].expand(-1, 1, image.shrink, -1)
        self.register_buffer("weight", weight.contiguous(), persistent=False)
        self.register_buffer("bias", -mean / std, persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        """Return the network's view of ``frame``."""
        top, bottom, left, right = self.crop
        if self.cast_first:
            frame = frame.float()
        band = frame[:, top:bottom, left:right].float()
        rows = band.reshape(-1, 1, bottom - top, self.colors * (right - left))
        return functional.conv2d(rows, self.weight, self.bias, stride=(self.shrink, self.colors * self.shrink))
