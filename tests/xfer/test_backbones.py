import os

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from xfer.backbones import build, load_weights
from xfer.errors import UsageError, WeightsError


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(3)
    return torchvision.models.resnet18(weights=None).eval()


def test_the_stages_are_torchvisions_network(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "r.pth")
    trunk = build("resnet18", "layer4").eval()
    loaded = load_weights(trunk, "resnet18", str(tmp_path / "r.pth"))
    assert loaded.left_out == ("fc.bias", "fc.weight")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(resnet.fc(trunk(image).mean((2, 3))), resnet(image))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_understood(resnet, tmp_path, prefix):
    save_file({prefix + k: v for k, v in resnet.state_dict().items()}, tmp_path / "r.safetensors")
    trunk = build("resnet18", "layer1")
    loaded = load_weights(trunk, "resnet18", str(tmp_path / "r.safetensors"))
    assert torch.equal(trunk.stem.conv1.weight, resnet.conv1.weight)
    assert loaded.taken == len(trunk.state_dict())
    assert "layer4.1.bn2.bias" in loaded.left_out


def test_weights_of_another_architecture_are_refused_by_name(tmp_path):
    torch.save(torchvision.models.alexnet(weights=None).features.state_dict(), tmp_path / "alexnet.pth")
    with pytest.raises(WeightsError, match=r"alexnet\.pth does not hold the weights of resnet18"):
        load_weights(build("resnet18", "layer1"), "resnet18", str(tmp_path / "alexnet.pth"))


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_that_holds_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Bomb()}, "bomb.pth")
    with pytest.raises(WeightsError, match=r"bomb\.pth is not a readable weights file"):
        load_weights(build("resnet18", "stem"), "resnet18", "bomb.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="not a readable weights file"):
        load_weights(build("resnet18", "stem"), "resnet18", str(tmp_path / name))


def test_a_source_that_does_not_exist_says_what_can_be_given():
    with pytest.raises(UsageError, match="Choose imagenet, none"):
        load_weights(build("resnet18", "stem"), "resnet18", "imagnet")


def test_imagenet_weights_are_taken_from_the_hub_cache(resnet, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    torch.save(resnet.state_dict(), file)
    trunk = build("resnet18", "layer1")
    load_weights(trunk, "resnet18", "imagenet")
    assert torch.equal(trunk.layer1[0].conv1.weight, resnet.layer1[0].conv1.weight)


def test_imagenet_weights_without_a_network_say_which_file_to_put_where(tmp_path, monkeypatch):
    import urllib.error

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError, match=r"Put resnet18-.*\.pth into .*checkpoints, or use --weights FILE"):
        load_weights(build("resnet18", "stem"), "resnet18", "imagenet")
