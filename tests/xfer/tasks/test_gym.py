import pytest

from xfer import tasks
from xfer.errors import UsageError
from xfer.tasks._gymnasium import image


def test_the_contract_comes_from_the_environment():
    task = tasks.load("gym:Acrobot-v1")
    assert task.observations[0].shape == (500, 500, 3)
    assert task.control_hz == 15
    assert (task.action.kind, task.action.elements) == ("discrete", ("0", "1", "2"))
    assert (task.reward, task.expert) == (None, None)
    pendulum = tasks.load("gym:Pendulum-v1").action
    assert (pendulum.kind, pendulum.low, pendulum.high) == ("continuous", (-2.0,), (2.0,))


@pytest.mark.parametrize(
    ("height", "width", "shrink", "size"), [(500, 500, 6, (83, 83)), (210, 160, 2, (105, 80)), (60, 90, 1, (60, 90))]
)
def test_a_picture_is_shrunk_to_about_84_pixels(height, width, shrink, size):
    config = image(height, width)
    assert (config.shrink, config.size) == (shrink, size)


def test_an_environment_that_does_not_render_is_refused():
    import gymnasium

    gymnasium.register("Blind-v0", lambda **options: (_ for _ in ()).throw(TypeError("no render_mode here")))
    with pytest.raises(UsageError, match=r"gym:Blind-v0: .*no render_mode here"):
        tasks.load("gym:Blind-v0")
