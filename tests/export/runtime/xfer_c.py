"""The C interface of the runtime (``xfer/xfer.h``), driven through ctypes: what any language with an FFI does."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint8, c_void_p
from pathlib import Path

import numpy as np

DTYPES = {1: np.dtype(np.uint8), 2: np.dtype(np.int64), 3: np.dtype(np.float32)}
CODES = ["ok", "usage", "bundle", "unavailable", "observation", "not finite", "failed"]


class CError(Exception):
    """An error code other than XFER_OK, by its name, with the library's message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{CODES[code]}: {message}")


class _Options(Structure):
    _fields_ = [
        ("size", c_size_t),
        ("threads", c_int32),
        ("spin", c_int32),
        ("plugin_dir", c_char_p),
        ("library", c_char_p),
    ]


class _Tensor(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_size_t),
        ("shape", POINTER(c_int64)),
        ("row_bytes", c_size_t),
        ("unit", c_char_p),
        ("color_order", c_char_p),
        ("element_count", c_size_t),
        ("elements", POINTER(c_char_p)),
        ("low", POINTER(c_double)),
        ("high", POINTER(c_double)),
    ]


class _Buffer(Structure):
    _fields_ = [("data", c_void_p), ("bytes", c_size_t)]


class Tensor:
    """A tensor of the spec, read out of C."""

    def __init__(self, raw: _Tensor) -> None:
        self.name = raw.name.decode()
        self.dtype = DTYPES[raw.dtype]
        self.shape = tuple(raw.shape[: raw.rank])
        self.elements = tuple(raw.elements[i].decode() for i in range(raw.element_count))
        self.unit, self.color_order = raw.unit.decode(), raw.color_order.decode()
        bounded = bool(raw.low) and bool(raw.high)
        self.low = tuple(raw.low[: raw.element_count]) if bounded else ()
        self.high = tuple(raw.high[: raw.element_count]) if bounded else ()
        assert raw.row_bytes == int(np.prod(self.shape)) * self.dtype.itemsize

    def empty(self, batch: int) -> np.ndarray:
        return np.full((batch, *self.shape), 77, self.dtype)


class Library:
    """libxfer.so."""

    def __init__(self, folder: Path) -> None:
        self.c = ctypes.CDLL(str(folder / "libxfer.so"))
        for name in ("version", "error", "policy_task", "policy_score_kind", "policy_library"):
            getattr(self.c, f"xfer_{name}").restype = c_char_p
        self.c.xfer_policy_control_hz.restype = c_double
        self.c.xfer_policy_max_batch.restype = c_int64
        for name in ("policy_observation", "policy_state", "policy_action", "policy_scores"):
            getattr(self.c, f"xfer_{name}").restype = POINTER(_Tensor)
        for name in ("policy_observation_count", "policy_state_count", "golden_steps"):
            getattr(self.c, f"xfer_{name}").restype = c_size_t
        for name in ("golden_observation", "golden_action", "golden_scores"):
            getattr(self.c, f"xfer_{name}").restype = c_void_p
        self.c.xfer_runner_act.argtypes = [c_void_p, c_void_p, _Buffer, _Buffer]
        self.c.xfer_runner_reset.argtypes = [c_void_p, c_void_p, c_size_t]
        self.c.xfer_runner_open.argtypes = [c_void_p, c_size_t, c_void_p]
        self.c.xfer_policy_step.argtypes = [c_void_p, c_size_t, c_void_p, c_void_p, _Buffer, _Buffer, c_void_p]

    def check(self, code: int) -> None:
        if code:
            raise CError(code, self.c.xfer_error().decode())

    def open(self, bundle: Path, variant: str, *, threads: int = 1, library: Path | None = None) -> CPolicy:
        options = _Options(ctypes.sizeof(_Options), threads, 0, None, str(library).encode() if library else None)
        handle = c_void_p()
        self.check(self.c.xfer_policy_open(str(bundle).encode(), variant.encode(), byref(options), byref(handle)))
        return CPolicy(self, handle)


class CPolicy:
    """An opened variant; closed by ``with``."""

    def __init__(self, library: Library, handle: c_void_p) -> None:
        self.library, self.c, self.handle = library, library.c, handle
        self.observations = [
            Tensor(self.c.xfer_policy_observation(handle, c_size_t(i)).contents)
            for i in range(self.c.xfer_policy_observation_count(handle))
        ]
        self.states = [
            Tensor(self.c.xfer_policy_state(handle, c_size_t(i)).contents)
            for i in range(self.c.xfer_policy_state_count(handle))
        ]
        self.action = Tensor(self.c.xfer_policy_action(handle).contents)
        self.scores = Tensor(self.c.xfer_policy_scores(handle).contents)

    def __enter__(self) -> CPolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.c.xfer_policy_close(self.handle)

    def runs_with(self) -> str:
        return self.c.xfer_policy_library(self.handle).decode()

    def step(self, batch: int, observations: Mapping[str, np.ndarray], states: Mapping[str, np.ndarray]):
        """Return action, scores and the next states by name."""
        action, scores = self.action.empty(batch), self.scores.empty(batch)
        nexts = {state.name: state.empty(batch) for state in self.states}
        self.library.check(
            self.c.xfer_policy_step(
                self.handle,
                batch,
                buffers([observations[o.name] for o in self.observations]),
                buffers([states[s.name] for s in self.states]),
                buffer(action),
                buffer(scores),
                buffers(list(nexts.values())),
            )
        )
        return action, scores, nexts

    def runner(self, batch: int = 1) -> CRunner:
        handle = c_void_p()
        self.library.check(self.c.xfer_runner_open(self.handle, batch, byref(handle)))
        return CRunner(self, handle, batch)

    def golden(self) -> dict[str, np.ndarray]:
        """Return the golden trajectories as the arrays that ``Trajectories`` has."""
        handle = c_void_p()
        self.library.check(self.c.xfer_golden_open(self.handle, byref(handle)))
        steps = self.c.xfer_golden_steps(handle)

        def rows(tensor: Tensor, address) -> np.ndarray:
            size = int(np.prod(tensor.shape)) * tensor.dtype.itemsize
            data = b"".join(ctypes.string_at(address(t), size) for t in range(steps))
            return np.frombuffer(data, tensor.dtype).reshape(steps, *tensor.shape)

        found = {
            tensor.name: rows(tensor, lambda t, i=i: self.c.xfer_golden_observation(handle, c_size_t(t), c_size_t(i)))
            for i, tensor in enumerate(self.observations)
        }
        found["actions"] = rows(self.action, lambda t: self.c.xfer_golden_action(handle, c_size_t(t)))
        found["scores"] = rows(self.scores, lambda t: self.c.xfer_golden_scores(handle, c_size_t(t)))
        found["resets"] = np.array([self.c.xfer_golden_begins(handle, c_size_t(t)) for t in range(steps)], bool)
        self.c.xfer_golden_close(handle)
        return found


class CRunner:
    """A runner of C, with the interface of ``xfer.runner.Runner``."""

    def __init__(self, policy: CPolicy, handle: c_void_p, batch: int) -> None:
        self.policy, self.handle, self.batch = policy, handle, batch
        self.action, self.scores = policy.action.empty(batch), policy.scores.empty(batch)

    def close(self) -> None:
        self.policy.c.xfer_runner_close(self.handle)

    def reset(self, mask: np.ndarray | None = None) -> None:
        rows = None if mask is None else np.ascontiguousarray(mask, np.uint8)
        address = None if rows is None else rows.ctypes.data_as(POINTER(c_uint8))
        count = self.batch if rows is None else len(rows)
        self.policy.library.check(self.policy.c.xfer_runner_reset(self.handle, address, count))

    def act(self, observations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of action [B, ...] and scores [B, A]."""
        given = buffers([observations[o.name] for o in self.policy.observations])
        self.policy.library.check(
            self.policy.c.xfer_runner_act(self.handle, given, buffer(self.action), buffer(self.scores))
        )
        return self.action.copy(), self.scores.copy()


def buffer(array: np.ndarray) -> _Buffer:
    assert array.flags.c_contiguous
    return _Buffer(array.ctypes.data, array.nbytes)


def buffers(arrays: list[np.ndarray]) -> ctypes.Array[_Buffer]:
    return (_Buffer * len(arrays))(*(buffer(array) for array in arrays))
