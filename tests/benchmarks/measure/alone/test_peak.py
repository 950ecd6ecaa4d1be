import sys

import numpy as np
import pytest

from benchmarks.measure.alone import peak
from benchmarks.measure.protocol import usable_cores


def test_a_machine_reaches_some_rate_and_int8_is_told_apart():
    found = {one.precision: one for one in peak.measure(1, usable_cores()[:1])}
    assert set(found) == {"fp32", "int8"}
    for one in found.values():
        assert 1e8 < one.macs_per_second < 1e14
        assert one.library.startswith("ONNX Runtime ")
        assert one.threads == 1


@pytest.mark.parametrize("library", ["onnxruntime", "torch", "numpy"])
def test_what_multiplies_computes_products_of_matrices(monkeypatch, library):
    hidden = {"onnxruntime": [], "torch": ["onnxruntime"], "numpy": ["onnxruntime", "torch"]}[library]
    find = peak.importlib.util.find_spec
    monkeypatch.setattr(peak.importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    random = np.random.default_rng(0)
    for precision, _, multiply, first, second in peak.products(1):
        a, b = random.integers(0, 9, (32, 32)).astype(first), random.integers(-9, 9, (32, 32)).astype(second)
        product = multiply(a, b)
        product = np.asarray(product[0] if isinstance(product, list) else product)
        np.testing.assert_array_equal(product, a.astype(np.int64) @ b.astype(np.int64), err_msg=precision)


def test_where_it_cannot_be_measured_there_is_none(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert peak.measure.__wrapped__(1, ()) == ()
