"""What each target makes of the small policy, exported once for all files and workers."""

import pytest

from export import targets
from export.targets import Exported, ExportOptions, ExportRequest, Variant
from tests.conftest import made_once
from xfer.files import from_json, to_json


@pytest.fixture(scope="session")
def exported(policy, met, tmp_path_factory):
    """Gives a variant's folder, which no test may change, and what its export said; builds it when first asked for."""

    def export(variant: Variant):
        module = targets.load(variant.target)
        if (reason := module.available()) is not None:
            pytest.skip(reason)

        def make(path):
            (path / "files").mkdir(parents=True)
            facts = module.export(
                ExportRequest(policy, policy.spec, met, ExportOptions()), path / "files", variant.precision
            )
            (path / "facts.json").write_bytes(to_json(facts))

        path = made_once(tmp_path_factory, f"exported-{variant}", make)
        return path / "files", from_json((path / "facts.json").read_bytes(), Exported)

    return export
