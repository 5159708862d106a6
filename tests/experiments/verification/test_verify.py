"""The table of identities: every row holds, in every precision; statistical ones detect what they say; all is told."""

import html.parser
import json
import math
import re
from pathlib import Path

import pytest
from matplotlib.mathtext import MathTextParser

from diffusion import perturb
from experiments.commands import verify
from experiments.verification import registry
from experiments.verification.registry import (
    Identity,
    Measured,
    OffBy,
    Row,
    Setting,
    Within,
    WithinChance,
    identities,
    identity,
    run,
)
from experiments.verification.report import page
from experiments.verification.report.html import equation, run_page, table_page
from experiments.verification.report.plots import draw
from experiments.verification.trained.finding import Finding

ROOT = Path(__file__).parents[3]
ALL = identities()
NAMES = [one.name for one in ALL]


def test_the_topics_of_poisson_fields_and_energies_have_their_rows():
    """27 to 34 and 39 to 43, whatever file they are in."""
    rows = {one.row.rstrip("abcdefgh") for one in verify.select("poisson,energy", ALL)}
    assert rows >= {str(row) for row in (*range(27, 35), *range(39, 44))}


@pytest.mark.parametrize("one", ALL, ids=NAMES)
def test_the_identity_holds(one):
    """A statistical one has power, too: the seeded error is seen, so that it does not pass for want of samples.

    Both runs are in one test, while the programs that they share are alive.
    """
    row = run(one, Setting())
    assert row.passed, row.report()
    if one.kind == "statistical":
        assert run(one, Setting(seeded=one.detects)).measured.error > one.bound.tolerance


EXACT = [one for one in ALL if one.kind == "exact"]


@pytest.mark.parametrize("one", EXACT, ids=[one.name for one in EXACT])
def test_its_error_floor_is_as_stated(one):
    """In float32, or with a network's answers in bfloat16, which is float32 for everything else."""
    row = run(one, Setting("bfloat16" if one.answers else "float32"))
    assert row.passed, row.report()


@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize("name", ["fokker-planck-log-density", "probability-flow"])
def test_other_dimensions(name, dim):
    one = next(one for one in ALL if one.name == name)
    assert run(one, Setting(dim=dim)).passed


@pytest.mark.parametrize("one", ALL, ids=NAMES)
def test_every_row_says_what_it_is(one):
    MathTextParser("path").parse(f"${one.latex}$")
    for function in one.functions:
        assert callable(function)
        assert page.public_name(function).startswith(("diffusion.", "samplers."))
    assert one.functions
    assert all((one.title, one.compared, one.oracle, one.source, one.bound.why))
    assert re.fullmatch(r"N?\d+[a-h]?", one.row)
    assert not one.test or (ROOT / one.test).exists()
    assert one.bound.tolerance > 0


def test_all_rows_of_the_list_are_there():
    """All but 45, autoregression with a diffusion head, which has no module yet."""
    wanted = set(range(1, 45))
    assert wanted <= {int(re.sub(r"\D", "", one.row)) for one in ALL if not one.row.startswith("N")}
    assert {one.row for one in ALL if one.kind == "false"} == {f"N{i}" for i in range(1, 10)}


def test_the_page_of_equations_is_that_of_the_table():
    """Else: python -m experiments.verification.report.page docs/equations.md"""
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    assert text == page.page()
    for link in re.findall(r"\]\(\.\./([^)]+)\)", text):
        assert (ROOT / link).exists(), link


def made(**facts):
    given = {
        "row": "99",
        "name": "made-up",
        "topics": ("none",),
        "title": "t",
        "latex": "x = y",
        "compared": "c",
        "oracle": "o",
        "source": "arXiv:1234.56789",
        "bound": Within(1e-12, "w"),
        "functions": (perturb,),
    }
    return Identity(**given | facts)


def test_what_fails_is_said_and_the_status_is_1(run_command, monkeypatch, tmp_path):
    """A number out of tolerance, one that is none, and an exception in the measurement: each is a failed row."""

    def broken(setting):
        raise ZeroDivisionError("of this kind")

    rows = [
        made(measure=lambda setting: Measured(1e-13), name="good"),
        made(measure=lambda setting: Measured(2e-12), name="bad"),
        made(measure=lambda setting: Measured(float("nan")), name="lost"),
        made(measure=broken, name="broken"),
        made(measure=lambda setting: Measured(0.5), name="untrue", bound=OffBy(0.1, "w")),
        made(measure=lambda setting: Measured(0.05), name="true-after-all", bound=OffBy(0.1, "w")),
    ]
    monkeypatch.setattr(verify, "applicable", lambda setting: rows)
    monkeypatch.setattr(verify, "identities", lambda: rows)
    outcome = run_command("verify", "--html", tmp_path / "report.html")
    assert outcome.status == 1
    assert "2 of 6 hold" in outcome.out
    assert outcome.out.count("FAIL") == 4
    assert "ZeroDivisionError: of this kind" in outcome.out
    assert "4 of 6 identities fail" in (tmp_path / "report.html").read_text()
    outcome = run_command("verify", "--json")
    assert (outcome.status, [row["passed"] for row in outcome.value]) == (1, [True, False, False, False, True, False])
    assert {"id", "name", "measured", "tolerance", "passed", "seconds"} <= set(outcome.value[0])
    assert run_command("verify", "--only", "good,untrue").status == 0


class Page(html.parser.HTMLParser):
    """The ids of a page, its anchors, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.anchors, self.fetched = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.ids += [told["id"]] if "id" in told else []
        if tag == "a" and told["href"].startswith("#"):
            self.anchors.append(told["href"][1:])
        links = [told.get(name) or "" for name in ("src", "href", "xlink:href")] if tag != "a" else []
        self.fetched += [link for link in links if link and not link.startswith(("#", "data:"))]


def test_the_report_is_one_file_with_every_equation_and_plot():
    one = next(one for one in ALL if one.name == "heat-kernel")
    rows = [run(one, Setting()), Row(made(measure=lambda setting: Measured(0.0)), "float64", Measured(0.0), 0.1)]
    text = table_page(rows, {"device": "a <b>"})
    found = Page(text)
    assert len(found.ids) == len(set(found.ids))
    assert set(found.anchors) <= set(found.ids)
    assert found.fetched == []
    assert "a &lt;b&gt;" in text
    assert text.count("<svg") == 4  # two equations and two plots
    assert "https://arxiv.org/abs/1234.56789" in text
    assert "<title>x = y</title>" in equation("x = y")


def test_the_report_fits_a_narrow_window():
    """An equation shrinks to 0.6 of its width, and scrolls below that; the tolerance stands under the number."""
    row = Row(made(measure=lambda setting: Measured(0.0)), "float64", Measured(0.0), 0.1)
    text = table_page([row], {})
    short, long = (float(re.search(r"--w: ([\d.]+)pt", equation(latex))[1]) for latex in ("x", "x = y + z"))
    assert 0 < short < long
    assert ".equation svg { flex: none; width: clamp(.6 * var(--w), 100%, var(--w)); height: auto }" in text
    assert re.search(r"\.scroll, \.equation \{\s+overflow-x: auto", text)
    overview = text[text.index("<table>") : text.index("</table>")]
    assert overview.count("≤ 1.0e-12") == 2  # in a column of its own, and where that has no room
    assert '<span class="narrow soft">≤ 1.0e-12</span>' in overview
    untold = Finding("loss", "A title", "", "", "not applicable: 1 training image, 2 are needed", "")
    page = run_page([untold], {})
    assert "1 training image, 2 are needed" in page
    assert '<div class="equation">' not in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "foker-planck"], "did you mean 'fokker-planck'?"),
        (["--only", ","], "--only is empty"),
        (["--dim", "0"], "--dim = 0; give 1 to 64"),
        (["--only", "22", "--samples", "30"], "--samples goes with --run"),
        (["--run", "{folder}", "--dim", "2"], "--dim goes with the identities"),
        (["--run", "{folder}/none"], "none does not exist; give the folder"),
        (["--html", "{folder}"], "is a folder; name a file"),
        (["--html", "{folder}/none/x.html"], "does not exist; make it first"),
        (["--html", "{folder}/link"], "is a link, and a report is written through none; name the file itself"),
        (["--precision", "float16"], "float16"),
        (["--run", "{folder}", "--only", "ddim"], "leave one of them out"),
        (["--run", "{folder}", "--samples", "3"], "--samples is 3; give at least 16"),
        (["--run", "{folder}"], "holds no checkpoint that can be trusted"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(run_command, tmp_path, arguments, words):
    (tmp_path / "precious").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    outcome = run_command("verify", *(argument.format(folder=tmp_path) for argument in arguments))
    assert outcome.status in (2, 4)
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_topic_a_name_and_a_number_choose(run_command):
    for word in ("heat-kernel", "23B", "23"):
        outcome = run_command("verify", "--only", word, "--json")
        assert "heat-kernel" in [row["name"] for row in outcome.value]


def test_a_row_that_is_taken_or_without_power_is_refused():
    facts = {key: value for key, value in vars(made(measure=None)).items() if key not in ("name", "measure")}

    def made_up(setting):
        return Measured(0.0)

    with pytest.raises(ValueError, match="is there already"):
        identity(**facts | {"row": "23b"})(made_up)
    with pytest.raises(TypeError, match="detects"):
        WithinChance("4 standard errors")
    assert "made-up" not in registry._REGISTRY


def test_a_row_without_a_test_file_takes_the_one_that_mirrors_its_first_function():
    found = {one.name: one.test for one in ALL}
    assert found["posterior"] == "tests/diffusion/test_process.py"  # of diffusion/process.py
    assert found["mean-of-conditional-scores"] == ""  # said to have none
    assert registry._mirrored_test("samplers.no_such_module") == ""


def test_one_nan_of_several_errors_is_the_largest():
    """Which Python's own max may pass over; the picture shows it as a bar of its own."""
    for values in ((0.0, float("nan")), (float("nan"), 0.0)):
        assert math.isnan(registry.largest(*values))
        assert math.isnan(registry.largest(values))
        measured = registry.worst_of(dict(zip("ab", values, strict=True)))
        assert math.isnan(measured.error)
        assert not registry.Identity.passes(made(measure=None), measured.error, "float64")
        assert draw(measured.plot).startswith("<svg")
    for path in (ROOT / "experiments" / "verification" / "identities").glob("*.py"):
        assert not re.search(r"(?<![.\w\\])(max|min)\((?!counts)", path.read_text()), path


def test_an_infinite_error_is_valid_json():
    row = run(made(measure=lambda setting: Measured(float("inf"))), Setting())
    assert json.loads(json.dumps(row.report(), allow_nan=False))["measured"] is None
