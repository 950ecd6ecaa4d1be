"""What a bundle's verification needs besides the variant itself, and whether it is here. It imports no simulator."""

from __future__ import annotations

from export.bundle.reader import Bundle, why_not
from xfer import tasks
from xfer.errors import UnavailableError, UsageError
from xfer.spec import PolicySpec


def no_reference(bundle: Bundle) -> str | None:
    """Return why the bundle's reference cannot act here, or None if it can."""
    build = bundle.builds.get(bundle.reference)
    if build is None:
        return f"the bundle has no {bundle.reference} to compare with"
    if build.status != "built":
        return f"the bundle has no {bundle.reference} to compare with ({build.reason})"
    return why_not(bundle, bundle.reference)


def no_environment(spec: PolicySpec) -> str | None:
    """Return why episodes of a policy cannot be run here, or None if they can."""
    if not spec.task:
        return "the spec names no task, so there is no environment"
    try:
        tasks.load_recorded(spec.task)
    except UsageError:
        return f"no environment for task '{spec.task}' here"
    except UnavailableError as error:
        return str(error)
    return None


def no_reward_gate(bundle: Bundle) -> str | None:
    """Return why pairs of episodes cannot be run here, or None if they can."""
    if (missing := no_environment(bundle.spec)) is not None:
        return missing
    if bundle.spec.reward is None:
        return "the spec has no reward scale"
    return no_reference(bundle)
