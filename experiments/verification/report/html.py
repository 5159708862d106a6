"""The report as one file of HTML, with equations and plots drawn into it: nothing is fetched."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.verification.registry import Identity, Row, shown
from experiments.verification.report.page import public_name
from experiments.verification.report.plots import Bars, Plot, draw
from experiments.verification.trained.finding import number

if TYPE_CHECKING:
    from experiments.verification.trained.checks import Finding

STYLE = """
:root { color-scheme: light; --ink: #222; --soft: #666; --line: #ddd; --good: #2b6e2f; --bad: #b3161d; --card: #fff }
* { box-sizing: border-box }
body { margin: 0; background: #f6f6f4; color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 1.2rem }
h1 { font-size: 1.5rem; margin: .4rem 0 } h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem }
h3 { margin: 0; font-size: 1rem; font-weight: 600 } a { color: inherit }
.soft, dt { color: var(--soft) } .good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
table { border-collapse: collapse; width: 100% }
.scroll, .equation {
  overflow-x: auto; scrollbar-width: thin; background:
    linear-gradient(to right, var(--card) 40%, transparent) left / 2.4rem 100% no-repeat local,
    linear-gradient(to left, var(--card) 40%, transparent) right / 2.4rem 100% no-repeat local,
    linear-gradient(to right, transparent 1px, #0003 1px, transparent) left / .8rem 100% no-repeat scroll,
    linear-gradient(to left, transparent 1px, #0003 1px, transparent) right / .8rem 100% no-repeat scroll, var(--card)
}
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
.number { text-align: right !important; font-variant-numeric: tabular-nums }
td.what { white-space: normal; width: 100% }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 1rem; min-width: 0 }
.card header { display: flex; justify-content: space-between; gap: 1rem; align-items: baseline }
.card header span { white-space: nowrap }
.equation { padding: .9rem 0 .5rem; display: flex; flex-wrap: wrap; gap: .6rem 1.6rem }
.equation svg { flex: none; width: clamp(.6 * var(--w), 100%, var(--w)); height: auto }
.plot svg { max-width: 100%; height: auto; display: block; margin: .6rem auto 0 }
dl { display: grid; grid-template-columns: 6.2rem 1fr; gap: .15rem .8rem; margin: .4rem 0 0; font-size: .9rem }
dd:has(.levels) { grid-column: 1 / -1 }
.levels td { padding: .1rem .3rem .1rem 0; font-size: .8em; line-height: 1.3 }
.levels td:first-child { position: sticky; left: 0; background: var(--card); white-space: normal; min-width: 5.2rem }
.narrow { display: none }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0 } code { font-size: .85em }
@media (max-width: 480px) {
  main { padding: .7rem } .wide { display: none } .narrow { display: block } th, td { padding: .3rem .35rem }
  dl { grid-template-columns: 1fr } dt { margin-top: .3rem }
}
"""


def table_page(rows: Sequence[Row], about: Mapping[str, str]) -> str:
    """The report on identities, as HTML."""
    failed = sum(not row.passed for row in rows)
    lead = f"All {len(rows)} identities hold." if not failed else f"{failed} of {len(rows)} identities fail."
    body = [_summary("The equations of score-based models, measured", lead, not failed, about), _overview(rows)]
    for topic in dict.fromkeys(row.identity.topic for row in rows):
        cards = "\n".join(_card(row) for row in rows if row.identity.topic == topic)
        body.append(f'<h2>{html.escape(topic)}</h2>\n<div class="cards">\n{cards}\n</div>')
    return _page("scorefield verify", "\n".join(body))


def run_page(findings: Sequence[Finding], about: Mapping[str, str]) -> str:
    """The report on a trained model, as HTML."""
    out = sum(finding.out_of_line for finding in findings)
    lead = "Nothing is out of line." if not out else f"{out} of {len(findings)} checks are out of line."
    cards = "\n".join(_finding(finding) for finding in findings)
    body = _summary("A trained model under the equations", lead, not out, about)
    return _page("scorefield verify --run", f'{body}\n<div class="cards">\n{cards}\n</div>')


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _summary(title: str, lead: str, good: bool, about: Mapping[str, str]) -> str:
    facts = " · ".join(f"{html.escape(name)} {html.escape(value)}" for name, value in about.items())
    return f'<h1>{title}</h1>\n<p class="{"good" if good else "bad"}">{lead}</p>\n<p class="soft">{facts}</p>'


def _overview(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        one = row.identity
        tolerance = f"{_sign(one)} {shown(one.allowed(row.precision))}"
        cells = [
            f"<td>{one.row}</td>",
            _verdict(row, "td"),
            f'<td class="what"><a href="#{one.name}">{html.escape(one.title)}</a></td>',
            f'<td class="number">{shown(row.measured.error)}<span class="narrow soft">{tolerance}</span></td>',
            f'<td class="number wide">{tolerance}</td>',
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    names = ("", "", "identity", 'measured<span class="narrow">tolerance</span>', "tolerance")
    classes = ("", "", "", "number", "number wide")
    head = (
        "<tr>" + "".join(f'<th class="{kind}">{name}</th>' for name, kind in zip(names, classes, strict=True)) + "</tr>"
    )
    return f'<div class="scroll"><table>\n{head}\n' + "\n".join(lines) + "\n</table></div>"


def _sign(one: Identity) -> str:
    return "≥" if one.kind == "false" else "≤"


def _verdict(row: Row, tag: str = "span") -> str:
    good = "refuted" if row.identity.kind == "false" else "holds"
    return f'<{tag} class="{"good" if row.passed else "bad"}">{good if row.passed else "fails"}</{tag}>'


def _card(row: Row) -> str:
    one, measured = row.identity, row.measured
    unit = " standard errors" if one.kind == "statistical" else ""
    found = f"{shown(measured.error)}{unit} {_sign(one)} {shown(one.allowed(row.precision))}"
    if row.failure:
        found = f'<span class="bad">{html.escape(row.failure)}</span>'
    elif measured.detail:
        found += f' <span class="soft">({html.escape(measured.detail)})</span>'
    facts = {
        "statement": "false; the number measured is its error" if one.kind == "false" else "",
        "compared": html.escape(one.compared),
        "oracle": html.escape(one.oracle),
        "measured": found,
        "because": html.escape(one.bound.why),
        "detects": f"a relative error of {one.detects:g}" if one.detects is not None else "",
        "source": _linked(one.source),
        "functions": ", ".join(f"<code>{html.escape(public_name(each))}</code>" for each in one.functions),
    }
    return _frame(one.name, f"{one.row} · {html.escape(one.title)}", _verdict(row), one.latex, facts, _plot(row))


def _plot(row: Row) -> Plot | None:
    """The check's own plot, or else its number beside the tolerance."""
    if row.failure:
        return None
    return row.measured.plot or Bars({"measured": row.measured.error, "tolerance": row.identity.allowed(row.precision)})


def _finding(finding: Finding) -> str:
    word, _, reason = finding.verdict.partition(": ")
    facts = {
        "compared": html.escape(finding.compared),
        "measured": _quantities(finding),
        "limit": html.escape(finding.limit),
        "meaning": html.escape(finding.meaning if finding.applicable else reason),
    }
    kind = "bad" if finding.out_of_line else "good" if finding.applicable else "soft"
    mark = f'<span class="{kind}">{html.escape(word)}</span>'
    return _frame(finding.name, html.escape(finding.title), mark, finding.latex, facts, finding.plot)


def _quantities(finding: Finding) -> str:
    """The quantities measured once, as words, and those measured at each noise level, as a table."""
    once = "<br>".join(html.escape(f"{name} {quantity}") for name, quantity in finding.values.items())
    if not finding.rows:
        return once
    head = "".join(f'<td class="number">{level:.3g}</td>' for level in finding.levels)
    lines = [f'<tr class="soft"><td>σ/α</td>{head}</tr>']
    for name, row in finding.rows.items():
        cells = "".join(
            f'<td class="number">{number(one.value)}<br><span class="soft">± {number(one.standard_error)}</span></td>'
            for one in row
        )
        lines.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return f'<div class="scroll"><table class="levels">{"".join(lines)}</table></div>{once}'


def _frame(name: str, title: str, mark: str, latex: str, facts: Mapping[str, str], plot: object) -> str:
    equations = f'<div class="equation">{_equations(latex, name)}</div>\n' if latex else ""
    rows = "\n".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts.items() if value)
    picture = f'<div class="plot">{_unique(draw(plot), name)}</div>' if plot is not None else ""  # type: ignore[arg-type]
    return (
        f'<section class="card" id="{name}">\n<header><h3>{title}</h3>{mark}</header>\n'
        f"{equations}<dl>\n{rows}\n</dl>\n{picture}\n"
        "</section>"
    )


def _equations(latex: str, name: str) -> str:
    """The parts of an equation, one picture each, so that a narrow window can stack them."""
    parts = [part.strip() for part in latex.split(r"\quad") if part.strip()]
    return "".join(_unique(equation(part), f"{name}-equation-{i}") for i, part in enumerate(parts))


def equation(latex: str) -> str:
    """The equation as the text of an SVG, with its LaTeX as the title for screen readers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import mathtext
    from matplotlib.font_manager import FontProperties

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "scorefield", "mathtext.fontset": "cm"}):
        mathtext.math_to_image(f"${latex}$", buffer, FontProperties(size=15), 72, "svg")
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    width = re.search(r'width="([\d.]+)pt"', text)
    assert width is not None  # matplotlib writes it
    text = text.replace("<svg ", f'<svg style="--w: {width[1]}pt" ', 1)
    return text.replace(">", f' role="img"><title>{html.escape(latex)}</title>', 1)


def _unique(svg: str, name: str) -> str:
    """The SVG with ids that no other picture of the page has."""
    for found in sorted(set(re.findall(r'id="([^"]+)"', svg)), key=len, reverse=True):
        svg = svg.replace(f'id="{found}"', f'id="{name}-{found}"').replace(f"#{found}", f"#{name}-{found}")
    return svg


def _linked(source: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', html.escape(source))
