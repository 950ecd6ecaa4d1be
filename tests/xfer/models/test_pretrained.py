import os
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from xfer import tasks
from xfer.errors import UsageError, WeightsError
from xfer.models.backbones import BACKBONES, STAGES, build
from xfer.models.checkpoint import save_policy
from xfer.models.config import PolicyConfig
from xfer.models.contract import make_spec
from xfer.models.policy import Policy
from xfer.models.pretrained import load_weights
from xfer.spec import ActionSpec, ImageConfig

SMALL = ImageConfig(crop=(160, 320, 0, 600), shrink=4, frames=1, gray=False)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small gain nothing from a second one, and lose much when somebody else has the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_policy(backbone="resnet18", tap="layer1", head="spatial-softmax", actions=2, seed=0, keypoints=8, memory=0):
    torch.manual_seed(seed)
    task = tasks.load("cartpole")
    names = tuple(f"action {i}" for i in range(actions))
    spec = replace(make_spec(task, SMALL, "values", memory), action=ActionSpec("discrete", names))
    config = PolicyConfig(
        backbone, tap, head, keypoints, SMALL, memory="gru" if memory else "none", memory_size=memory or 64
    )
    return Policy(config, spec).eval()


def randomize(net, seed=3):
    """Weights and batch-norm statistics that differ from one layer to the next, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight.data, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return net.eval()


@pytest.fixture(scope="module")
def nets():
    return {name: randomize(torchvision.models.get_model(name, weights=None)) for name in BACKBONES}


@pytest.fixture(scope="module")
def resnet(nets):
    return nets["resnet18"]


@pytest.fixture(scope="module")
def files(nets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, net in nets.items():
        torch.save(net.state_dict(), folder / f"{name}.pth")
    return folder


@pytest.mark.parametrize("name", BACKBONES)
def test_every_stage_gives_what_torchvision_computes_up_to_there(name, nets, files):
    expected = {}

    def keep(stage):
        return lambda module, args, output: expected.update({stage: output.clone()})

    hooks = [nets[name].get_submodule(paths[-1]).register_forward_hook(keep(s)) for s, paths in BACKBONES[name].items()]
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        nets[name](image)
    for hook in hooks:
        hook.remove()
    policy = make_policy(name, STAGES[name][-1])
    loaded = load_weights(policy, str(files / f"{name}.pth"))
    assert len(loaded.taken) == len(policy.trunk.state_dict())
    with torch.no_grad():
        for stage, module in policy.trunk.named_children():
            image = module(image)
            assert torch.equal(image, expected[stage]), stage


def test_the_stages_end_where_torchvisions_pooling_begins(nets):
    """All that a whole trunk leaves out is the last pooling and the classifier."""
    for name, net in nets.items():
        used = {path for paths in BACKBONES[name].values() for path in paths}
        names = {path for path, module in net.named_modules() if not list(module.children())}
        left = {path for path in names if not any(path == u or path.startswith(u + ".") for u in used)}
        assert {path.split(".")[0] for path in left - {"features.12"}} <= {"avgpool", "fc", "classifier"}, name


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "mobilenet_v3_small"])
def test_a_tap_cuts_off_what_comes_later(name):
    for count, tap in enumerate(STAGES[name], start=1):
        assert [stage for stage, _ in build(name, tap).named_children()] == list(STAGES[name][:count])


@pytest.mark.parametrize("name", BACKBONES)
def test_every_policy_can_be_cut_at_every_stage_and_deployed(name):
    policy = make_policy(name, STAGES[name][-1])
    seen = torch.rand(2, 3, *SMALL.size)
    frames = torch.randint(0, 255, (2, 400, 600, 3), dtype=torch.uint8)
    with torch.no_grad():
        scores = policy.scores(seen)
        for line in ("all", *STAGES[name][1:], "head"):
            frozen, trainable = policy.split(line)
            torch.testing.assert_close(trainable(frozen(seen)), scores)
        action, deployed = policy.deploy()(frames)
        torch.testing.assert_close(deployed, policy.scores(policy.preprocess(frames)))
    assert torch.equal(action, deployed.argmax(1))
    assert torch.isfinite(deployed).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_training_above_the_line_does_not_write_into_the_kept_features(name):
    """They are computed once a frame and used in every epoch, and some layers work in place."""
    policy = make_policy(name, STAGES[name][-1], head="average")
    seen = torch.rand(2, 3, *SMALL.size)
    for line in STAGES[name][1:]:
        frozen, trainable = policy.split(line)
        with torch.no_grad():
            features = frozen.eval()(seen)
        before = features.clone()
        trainable.train()(features).sum().backward()
        assert torch.equal(features, before), line


@pytest.mark.parametrize(
    ("name", "tap"),
    [("resnet18", "layer2"), ("resnet50", "layer1"), ("alexnet", "conv3"), ("mobilenet_v3_small", "layer2")],
)
def test_every_kind_of_block_goes_through_onnx(name, tap, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'xfer-policy[onnx]'")
    from export.onnx_graph import export_onnx

    policy = make_policy(name, tap)  # a ResNet-34 has the blocks of a ResNet-18
    module = policy.deploy()
    export_onnx(module, tmp_path / "policy.onnx")
    frames = np.random.default_rng(0).integers(0, 255, (3, 400, 600, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    _, scores = session.run(["action", "scores"], {"frame": frames})
    with torch.no_grad():
        np.testing.assert_allclose(scores, module(torch.from_numpy(frames))[1].numpy(), rtol=1e-3, atol=1e-5)


def test_names_in_checkpoints_of_resnet18_stay_what_they_were():
    names = list(build("resnet18", "layer1").state_dict())
    assert names[:2] == ["stem.conv1.weight", "stem.bn1.weight"]
    assert names[-2:] == ["layer1.1.bn2.running_var", "layer1.1.bn2.num_batches_tracked"]
    assert len(build("resnet18", "layer4").state_dict()) == 120


@pytest.mark.parametrize(("name", "tap"), [("vgg16", "layer1"), ("alexnet", "layer1"), ("resnet18", "conv1")])
def test_an_unknown_backbone_or_stage_is_refused_with_what_there_is(name, tap):
    with pytest.raises(UsageError, match="Choose from"):
        build(name, tap)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_understood(resnet, tmp_path, prefix):
    save_file({prefix + k: v for k, v in resnet.state_dict().items()}, tmp_path / "r.safetensors")
    policy = make_policy()
    loaded = load_weights(policy, str(tmp_path / "r.safetensors"))
    assert torch.equal(policy.trunk.stem.conv1.weight, resnet.conv1.weight)
    assert len(loaded.taken) == len(policy.trunk.state_dict())
    assert "layer4.1.bn2.bias" in loaded.left_out


def test_loading_says_what_was_taken_and_what_was_left_out(files):
    loaded = load_weights(make_policy("mobilenet_v3_small", "layer2"), str(files / "mobilenet_v3_small.pth"))
    assert str(loaded).startswith("took 58 tensors (stem, layer1, layer2) from ")
    assert str(loaded).endswith("left out: layer3, layer4, last_conv, classifier")


@pytest.mark.parametrize(("name", "tap"), [("resnet18", "layer1"), ("resnet50", "stem"), ("alexnet", "conv5")])
def test_weights_of_another_architecture_are_refused_by_name(files, name, tap):
    source = files / "resnet34.pth" if name == "alexnet" else files / "alexnet.pth"
    with pytest.raises(WeightsError, match=rf"{source.name} does not hold the weights of {name}"):
        load_weights(make_policy(name, tap), str(source))


def test_weights_of_a_wider_network_are_refused_with_both_shapes(files):
    with pytest.raises(WeightsError, match=r"'layer1.0.conv1.weight' has shape \[64, 64, 1, 1\], expected \[64, 64, 3"):
        load_weights(make_policy("resnet18"), str(files / "resnet50.pth"))


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_that_holds_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Bomb()}, "bomb.pth")
    with pytest.raises(WeightsError, match=r"bomb\.pth is not .* refers to posix.system, .* nothing of it was run"):
        load_weights(make_policy(tap="stem"), "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def damaged(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", [lambda data: b"garbage", lambda data: data[: len(data) // 2]])
def test_a_damaged_file_is_refused_by_name(resnet, tmp_path, name, damage):
    save = save_file if name.endswith("safetensors") else torch.save
    save(resnet.state_dict(), tmp_path / name)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(WeightsError, match=rf"{name} is not a readable weights file"):
        load_weights(make_policy(tap="stem"), str(tmp_path / name))


def test_one_flipped_bit_is_found(files, tmp_path):
    (tmp_path / "w.pth").write_bytes(damaged((files / "resnet18.pth").read_bytes()))
    torch.load(tmp_path / "w.pth", weights_only=True)  # which PyTorch does not notice
    with pytest.raises(WeightsError, match=r"w\.pth is not a readable weights file: .* is damaged"):
        load_weights(make_policy(tap="stem"), str(tmp_path / "w.pth"))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_training_checkpoint_gives_its_state_dict(resnet, tmp_path, key):
    torch.save({key: resnet.state_dict(), "epoch": 90}, tmp_path / "c.pth")
    policy = make_policy()
    load_weights(policy, str(tmp_path / "c.pth"))
    assert torch.equal(policy.trunk.stem.conv1.weight, resnet.conv1.weight)


def test_a_source_that_does_not_exist_says_what_can_be_given(tmp_path):
    for source in ("imagnet", str(tmp_path)):
        with pytest.raises(UsageError, match="Choose imagenet, none"):
            load_weights(make_policy(tap="stem"), source)


def test_none_leaves_the_weights_as_they_are():
    policy = make_policy()
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    assert load_weights(policy, "none").taken == ()
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch.hub's cache, empty, on a machine whose network is down."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the port of "discard", where nothing listens
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxy of the first request
    return tmp_path / "hub" / "checkpoints"


def hub_name(backbone):
    return torchvision.models.get_model_weights(backbone).DEFAULT.url.rsplit("/", 1)[-1]


@pytest.mark.parametrize("name", BACKBONES)
def test_imagenet_weights_are_taken_from_the_hub_cache(name, nets, files, cache):
    cache.mkdir(parents=True)
    (cache / hub_name(name)).symlink_to(files / f"{name}.pth")
    policy = make_policy(name, STAGES[name][1])
    loaded = load_weights(policy, "imagenet")
    assert loaded.source == hub_name(name)
    assert len(loaded.taken) == len(policy.trunk.state_dict())
    assert "not torchvision's own file" in str(loaded)
    assert torch.equal(next(policy.trunk.parameters()), next(nets[name].parameters()))


def test_a_file_in_the_cache_whose_hash_fits_needs_no_remark(resnet, cache, monkeypatch):
    """torchvision's own file cannot be made here, so its name is made to fit what can."""
    import hashlib

    cache.mkdir(parents=True)
    torch.save(resnet.state_dict(), cache / "whole.pth")
    digest = hashlib.sha256((cache / "whole.pth").read_bytes()).hexdigest()
    (cache / "whole.pth").rename(cache / f"resnet18-{digest[:8]}.pth")
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    renamed = torchvision.models.Weights(f"https://example.org/resnet18-{digest[:8]}.pth", weights.transforms, {})
    monkeypatch.setattr(weights, "_value_", renamed)
    assert load_weights(make_policy(), "imagenet").note == ""


def test_a_damaged_file_in_the_cache_is_refused_by_name(resnet, files, cache):
    cache.mkdir(parents=True)
    file = cache / hub_name("resnet18")
    file.write_bytes(damaged((files / "resnet18.pth").read_bytes()))
    with pytest.raises(WeightsError, match=rf"{file.name} is not a readable weights file: .* is damaged"):
        load_weights(make_policy(), "imagenet")
    torch.save(resnet.state_dict(), file, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=rf"{file.name} is damaged: its SHA-256 does not begin with f37072fd"):
        load_weights(make_policy(), "imagenet")


def test_a_wrong_file_in_the_cache_is_refused_by_name(files, cache, monkeypatch):
    cache.mkdir(parents=True)
    file = cache / hub_name("resnet18")
    file.symlink_to(files / "alexnet.pth")
    with pytest.raises(WeightsError, match=rf"{file.name} does not hold the weights of resnet18"):
        load_weights(make_policy(), "imagenet")
    file.unlink()
    monkeypatch.chdir(cache)
    torch.save({"conv1.weight": Bomb()}, file)
    with pytest.raises(WeightsError, match=rf"{file.name} is not a readable .* nothing of it was run"):
        load_weights(make_policy(), "imagenet")
    assert not (cache / "exploded").exists()


@pytest.mark.parametrize("name", BACKBONES)
def test_imagenet_weights_without_a_network_say_which_file_to_put_where(name, cache):
    with pytest.raises(WeightsError, match=rf"Put {hub_name(name)} into {cache}, or use --weights FILE"):
        load_weights(make_policy(name, STAGES[name][0]), "imagenet")
    assert not list(cache.glob("*"))


def saved(folder, **config):
    """A finished run's policy, as another run reads it."""
    policy = make_policy(seed=7, **config)
    policy.standardize.mean.fill_(0.5)
    folder.mkdir()
    save_policy(policy, folder)
    return policy


READOUT = ["head.2.bias", "head.2.weight"]


def moved(policy, before):
    return {key for key, value in policy.state_dict().items() if not torch.equal(value, before.state_dict()[key])}


def test_another_run_of_the_same_form_gives_its_head_too(tmp_path):
    source = saved(tmp_path / "run")
    policy = make_policy()
    loaded = load_weights(policy, str(tmp_path / "run"))
    assert moved(policy, source) == set()
    assert loaded.left_out == ()
    assert "standardize, head.0.maps, head.1" in str(loaded)


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"actions": 3}, ["head.1.bias", "head.1.weight"]),
        ({"memory": 6}, [*(f"head.1.{w}_{s}" for w in ("bias", "weight") for s in ("hh", "ih")), *READOUT]),
        ({"keypoints": 5}, ["head.0.maps.bias", "head.0.maps.weight", "head.1.bias", "head.1.weight"]),
        ({"head": "average"}, ["head.2.bias", "head.2.weight", "standardize.mean", "standardize.std"]),
    ],
)
def test_a_head_that_does_not_fit_is_left_out_and_named(tmp_path, changes, left_out):
    source = saved(tmp_path / "run", **changes)
    policy = make_policy()
    loaded = load_weights(policy, str(tmp_path / "run"))
    assert sorted(loaded.left_out) == left_out
    for key, value in source.trunk.state_dict().items():
        assert torch.equal(value, policy.trunk.state_dict()[key])
    assert moved(policy, make_policy()) == {key for key in policy.state_dict() if key in _own(loaded)} - UNMOVED


UNMOVED = {f"trunk.{key}" for key in build("resnet18", "layer1").state_dict() if "bn" in key} | {"standardize.std"}
"""Equal in every new network: batch norm starts from 0 and 1."""


def _own(loaded):
    return {key if key.startswith(("head", "standardize")) else f"trunk.{key}" for key in loaded.taken}


def test_a_head_on_other_features_is_left_out_even_if_the_shapes_are_equal(tmp_path):
    """The stem and layer1 of a ResNet-18 both have 64 maps."""
    saved(tmp_path / "run", tap="layer1")
    loaded = load_weights(make_policy(tap="stem"), str(tmp_path / "run"))
    assert {name.split(".")[0] for name in loaded.left_out} == {"layer1", "standardize", "head"}


def test_a_file_of_a_policy_gives_its_trunk(tmp_path):
    source = saved(tmp_path / "run", actions=3)
    policy = make_policy(tap="stem")
    loaded = load_weights(policy, str(tmp_path / "run" / "policy.safetensors"))
    assert torch.equal(policy.trunk.stem.conv1.weight, source.trunk.stem.conv1.weight)
    assert "head.1.weight" in loaded.left_out
    assert all(key.startswith("stem.") for key in loaded.taken)


@pytest.mark.parametrize(
    ("source", "fix"),
    [({"tap": "stem"}, "--tap stem"), ({"backbone": "alexnet", "tap": "conv2"}, "--backbone alexnet")],
)
def test_a_run_that_cannot_be_continued_from_says_which_option_to_change(tmp_path, source, fix):
    saved(tmp_path / "run", **source)
    with pytest.raises(WeightsError, match=fix):
        load_weights(make_policy(), str(tmp_path / "run"))


def test_half_a_module_is_never_taken(tmp_path):
    """A bias of the right length belongs to the weight beside it."""
    saved(tmp_path / "run", keypoints=5)
    assert load_file(tmp_path / "run" / "policy.safetensors")["head.1.bias"].shape == (2,)
    loaded = load_weights(make_policy(), str(tmp_path / "run"))
    assert "head.1.bias" in loaded.left_out
