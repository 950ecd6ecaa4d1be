from pathlib import Path

import jsonschema
import msgspec
import pytest

from benchmarks.report import schema, write
from benchmarks.report.conclusion import conclude
from tests.benchmarks.report.sample_report import sample_report

WRITTEN = Path(__file__).parents[3] / "docs/report.schema.json"


def test_the_documented_schema_is_today_s():
    assert schema.text() == WRITTEN.read_text(), "python -m benchmarks.report.schema docs/report.schema.json"


@pytest.fixture
def plain():
    report = sample_report()
    return msgspec.json.decode(write.to_json(report, conclude(report)))


def test_a_report_is_valid(plain):
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    jsonschema.validate(plain, schema.schema())


def test_the_schema_names_every_key_of_a_report_and_of_its_rows(plain):
    told = schema.schema()
    assert set(plain) == set(told["properties"])
    for row in plain["rows"]:
        assert set(row) == set(told["$defs"]["Row"]["properties"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda plain: plain.pop("measurements"),
        lambda plain: plain.update(schema=[2, 0]),
        lambda plain: plain["rows"][0].update(p50_ms="fast"),
        lambda plain: plain["measurements"][0]["rounds"].append("slow"),
        lambda plain: plain["findings"]["loops"][0].pop("missed"),
    ],
    ids=["no measurements", "another version", "text for a time", "text for a sample", "no misses"],
)
def test_a_damaged_report_is_not_valid(plain, damage):
    damage(plain)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema.schema())


def test_most_keys_are_described():
    told = schema.schema()
    classes = {"report": told, **told["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, one in classes.items()
        for key, value in one["properties"].items()
        if "description" not in value and name not in ("RewardScale", "Interval") and not key.endswith("_ms")
    ]
    assert bare == ["report.findings"]
