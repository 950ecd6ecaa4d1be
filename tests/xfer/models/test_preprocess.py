import numpy as np
import pytest
import torch

from xfer.errors import UsageError
from xfer.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, LUMA, Preprocess
from xfer.spec import ImageConfig, TensorSpec


def by_hand(frame, image):
    """Crop, average, luma, scale and normalize in float64, one after the other."""
    top, bottom, left, right = image.crop
    height, width = image.size
    pixels = frame[top:bottom, left:right].astype(float) / 255
    pooled = pixels.reshape(height, image.shrink, width, image.shrink, 3).mean(axis=(1, 3))
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    if image.gray:
        pooled, mean, std = pooled @ np.array(LUMA)[:, None], mean @ LUMA, std @ LUMA
    return ((pooled - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("shrink", [1, 4])
def test_one_convolution_is_crop_pool_luma_scale_and_normalize(gray, shrink):
    image = ImageConfig((8, 24, 4, 36), shrink, gray, frames=1)
    frame = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    found = Preprocess(TensorSpec("frame", "uint8", frame.shape, color_order="RGB"), image)(
        torch.from_numpy(frame[None])
    )
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), by_hand(frame, image), atol=1e-5)


def test_a_bgr_camera_gives_what_an_rgb_one_does():
    image = ImageConfig((0, 8, 0, 8), 2, gray=True)
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8))
    rgb = Preprocess(TensorSpec("frame", "uint8", (8, 8, 3), color_order="RGB"), image)(frame)
    bgr = Preprocess(TensorSpec("frame", "uint8", (8, 8, 3), color_order="BGR"), image)(frame.flip(-1))
    torch.testing.assert_close(rgb, bgr)


@pytest.mark.parametrize(("crop", "shrink"), [((0, 33, 0, 40), 1), ((8, 8, 0, 40), 1), ((0, 30, 0, 40), 4)])
def test_a_crop_that_does_not_fit_is_refused(crop, shrink):
    with pytest.raises(UsageError, match="Crop"):
        Preprocess(TensorSpec("frame", "uint8", (32, 40, 3)), ImageConfig(crop, shrink))
