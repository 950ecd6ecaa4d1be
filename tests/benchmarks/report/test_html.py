import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from benchmarks.report import html
from benchmarks.report.conclusion import conclude
from tests.benchmarks.report.chromium import Chromium, missing
from tests.benchmarks.report.sample_report import sample_report
from tests.conftest import skip_without


@pytest.fixture
def browser():
    skip_without("browser", f"needs a browser: {missing()}" if missing() else "")


@pytest.fixture(scope="module")
def sample():
    return sample_report()


def to_html(report):
    return html.to_html(report, conclude(report))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_names_no_address_and_runs_nothing(sample):
    text = to_html(sample)
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "image"} & set(page.tags)
    loading = [(k, v) for k, v in page.attributes if k in ("src", "href", "xlink:href", "srcset", "data")]
    assert [v for _, v in loading if not v.startswith(("#", "data:"))] == []
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http:" not in without_namespaces
    assert "https:" not in without_namespaces
    assert re.findall(r"@import|url\((?!#)", text) == []


def test_the_page_shows_every_variant_status_and_plot_and_escapes_what_it_was_given(sample):
    text = to_html(sample)
    page = Page(text)
    assert page.tags.count("svg") == 8
    for row in sample.rows:
        assert row.variant in page.text
        assert f'<span class="pill {row.status}">{row.status}</span>' in text
    for words in ("<script>alert(1)</script> & no GPU", "Some <CPU>", "683,072 executed parameters", sample.command):
        assert words in page.text
    assert "<script>" not in text


def test_a_divergence_cannot_smuggle_anything_in(sample):
    place = replace(sample.rows[4].divergence, picture='"><script>alert(1)</script>')
    text = to_html(replace(sample, rows=(*sample.rows[:4], replace(sample.rows[4], divergence=place))))
    assert "<script>" not in text


def test_the_verdict_comes_first_then_the_parts_in_their_order(sample):
    page = Page(to_html(sample))
    parts = (
        "Ship onnx-fp32",
        "onnx-int8 missed 3 of 3,000 deadlines of 5 ms and is not proven to keep it",
        "quick run",
        "Speed-up against eager",
        "Latency against reward",
        "Latency, all raw samples",
        "Control loop at 50 Hz, deadline 5 ms",
        "Reward against eager",
        "Batch sweep",
        "Where the time of onnx-int8 goes",
        "Soak of onnx-int8",
        "first acted differently",
        "What else ran meanwhile",
        "What was timed, and where",
        "Arithmetic limit",
        "250.0 million MACs take at least 4.60 ms in fp32 (54 GMAC/s) and 1.18 ms in int8 (212 GMAC/s)",
        "Repeat it",
        "xfer verify x.bundle --full",
        "A note.",
    )
    places = [page.text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)


def test_the_page_calls_the_reference_by_its_name(sample):
    page = Page(to_html(replace(sample, reference="onnx-fp32")))
    for words in (
        "Speed-up against onnx-fp32",
        "Reward against onnx-fp32",
        "In gray: onnx-fp32.",
        "The reference is onnx-",
    ):
        assert words in page.text
    assert "against eager" not in page.text
    assert "In gray: eager." in Page(to_html(sample)).text


def test_what_was_not_measured_is_left_out(sample):
    rows = tuple(replace(row, returns=(), divergence=None, reward_delta=None) for row in sample.rows)
    measurements = tuple(replace(m, disturbances=()) for m in sample.measurements)
    less = replace(sample, rows=rows, measurements=measurements, loops=(), sweep=(), bundle="")
    page = Page(to_html(replace(less, peaks=(), profile=None, soak=None)))
    for part in (
        "Where the time",
        "Soak",
        "Arithmetic",
        "Latency against",
        "Control loop",
        "Reward against",
        "Batch",
        "differently",
        "meanwhile",
        "verify x",
    ):
        assert part not in page.text
    assert page.tags.count("svg") == 1


def test_an_empty_report_is_a_page_too(sample):
    page = Page(to_html(replace(sample, rows=(), measurements=(), loops=(), sweep=(), partial="no round was over")))
    assert "No variant could be measured" in page.text
    assert "no round was over" in page.text


def test_colors_are_the_page_s_own(sample):
    text = to_html(sample)
    defined = set(re.findall(r"(--[\w-]+):", text))
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= defined


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(sample_report(partial="the connection to robot was lost in round 3")))
    return path


@pytest.mark.usefixtures("browser")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_opens_without_a_request_or_an_error_and_fits_the_window(page, width, dark):
    with Chromium(width, dark) as browser:
        browser.open(page)
        assert browser.requests == []
        assert browser.errors == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.querySelectorAll('svg[role=img][aria-label]').length") == 8
        assert browser.evaluate("document.querySelector('img').naturalWidth") == 600


@pytest.mark.usefixtures("browser")
def test_dark_and_light_are_not_the_same(page):
    background = "getComputedStyle(document.body).backgroundColor"
    seen = []
    for dark in (False, True):
        with Chromium(390, dark) as browser:
            browser.open(page)
            seen.append(browser.evaluate(background))
    assert seen[0] != seen[1]


@pytest.mark.usefixtures("browser")
@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        ("<script>console.error('no')</script>", lambda browser: browser.errors),
        ("<script>undefined.no()</script>", lambda browser: browser.errors),
        ('<img src="http://127.0.0.1:9/x.png" alt="">', lambda browser: browser.requests),
        ("<script>fetch('http://127.0.0.1:9/').catch(() => 0)</script>", lambda browser: browser.requests),
        (
            "<p style='width: 500px'>wide</p>",
            lambda browser: browser.evaluate("document.documentElement.scrollWidth") > 390,
        ),
    ],
    ids=["logged error", "exception", "image", "fetch", "width"],
)
def test_a_damaged_page_is_noticed(page, tmp_path, damage, noticed):
    path = tmp_path / "damaged.html"
    path.write_text(page.read_text().replace("</main>", f"</main>{damage}"))
    with Chromium(390) as browser:
        browser.open(path)
        assert noticed(browser)
