"""`report.html`: one file that opens anywhere, offline, drawn from a :class:`Report` alone.

What is on the page is said in :mod:`lowdim.report.parts`; what each plot shows in
:mod:`lowdim.report.plots` and :mod:`lowdim.report.plots_model`; how it looks and behaves in
``templates/page.html.j2``, ``page.css`` and ``page.js``.

The page trusts nothing that the scan found. Jinja escapes all text, the data sit in a JSON element
in which ``<`` is spelled out, and a content security policy lets only the two scripts written here
run (by their hashes) and lets nothing reach the network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from lowdim.core.estimate import to_json
from lowdim.errors import require
from lowdim.report import parts, words
from lowdim.report.blocks import Section
from lowdim.report.document import Document, Report


def render(report: Report) -> str:
    """Draw the whole report as one HTML file.

    Parameters
    ----------
    report : Report
        Complete or not: sections that are absent are left out, and a banner says it was stopped.

    Returns
    -------
    str
        About 5 MB, most of it plotly.js; the same text for the same report.

    Raises
    ------
    MissingExtraError
        Where plotly or jinja2 (extra ``report``) is not installed.
    """
    report = Report(**to_json(vars(report)))  # NaN and tensors become what a page can hold
    return draw(
        report,
        parts.sections(report),
        sentences=words.sentences(report),
        again=again(report),
        ladder=parts.ladder(report.embedding),
        advice=[_card(entry) for entry in report.advice],
    )


def draw(report: Document, sections: Sequence[Section], **around: Any) -> str:
    """Draw the sections of any command's report; ``around`` is what else it shows."""
    jinja2 = require("jinja2", "report")
    plotly = require("plotly.offline", "report").get_plotlyjs()
    plotly = plotly.replace("\r\n", "\n").replace("</script", "<\\/script")  # as a browser reads it
    script = _asset("page.js")
    figures = {
        key: f for section in sections for plot in section.all_plots() for key, f in plot.keyed()
    }
    methods = {id: _explained(id, report.methods[id]) for id in words.ordered(report.methods)}
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"breakable": _breakable, "short": words.short}
    page: str = environment.from_string(_asset("page.html.j2")).render(
        report=report,
        title=report.source.get("name") or "points",
        scanned=words.scanned(report),
        ran=words.ran(report),
        sections=sections,
        methods=methods,
        data=_inert({"figures": figures, "methods": methods}),
        style=_asset("page.css"),
        plotly=plotly,
        script=script,
        policy=_policy(script, plotly),
        **around,
    )
    return page


def _card(entry: dict[str, Any]) -> dict[str, Any]:
    """One recommendation: its figures before and after, side by side where both exist."""
    measured, baseline = entry.get("measured") or {}, entry.get("baseline") or {}
    names = list(dict.fromkeys([*measured, *baseline]))
    rows = [(n, words.number(baseline.get(n)), words.number(measured.get(n))) for n in names]
    return entry | {"rows": rows, "compared": bool(baseline)}


def _explained(id: str, method: dict[str, Any]) -> dict[str, Any]:
    """What a tooltip says of a method; only a web address is kept as a link."""
    known = {key: method.get(key) for key in ("question", "paper", "cost", "oracle")}
    return {"label": words.label(id), "link": words.address(method.get("link"))} | known


def again(report: Document) -> str:
    """The command that makes this report again."""
    path = report.source.get("path") or ("POINTS" if report.source["kind"] == "points" else None)
    # without a path: the default input
    command = ["lowdim", report.command] + ([path] if path else [])
    for name, option in report.options.items():
        for value in option if isinstance(option, list) else [option]:
            if value is not None and value is not False:
                command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(command)


def _breakable(text: str) -> Any:
    """Escaped text that may break after dots, slashes and underscores."""
    markup = require("markupsafe", "report").Markup
    return markup(re.sub(r"([./_])(?=\w)", r"\1<wbr>", escape(str(text))))


def _inert(data: Any) -> str:
    """JSON that no HTML parser can take for markup, whatever strings it holds."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy(*scripts: str) -> str:
    """Only these scripts run, and nothing is fetched from anywhere."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (files("lowdim.report") / "templates" / name).read_text(encoding="utf-8")


def render_summary(report: Report) -> str:
    """Draw what matters most as a small HTML fragment, for notebooks; needs no extra."""
    source = report.source.get("name") or "points"
    parts = [f"<h3>{escape(str(source))}</h3>"]
    if not report.complete:
        parts.append("<p><b>Incomplete: the scan was stopped.</b></p>")
    facts = " · ".join([*words.scanned(report), *words.ran(report)])
    parts.append(f"<p><small>{escape(facts)}</small></p>")
    parts.append(_list("ul", words.sentences(report)))
    if report.embedding:
        estimates = report.embedding["estimates"]
        rows = "".join(
            f"<tr><td>{escape(words.label(id))}</td>"
            f"<td>{words.number(estimates[id].get('value'))}</td>"
            f"<td>{words.interval(estimates[id])}</td></tr>"
            for id in words.ordered(estimates)
        )
        parts.append(
            "<table><thead><tr><th>measure</th><th>value</th><th>interval</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )
    if report.advice:
        parts += ["<h4>What you can do</h4>", _list("ol", [a["title"] for a in report.advice])]
    return f"<div>{''.join(parts)}</div>"


def _list(tag: str, items: Sequence[str]) -> str:
    return f"<{tag}>{''.join(f'<li>{escape(item)}</li>' for item in items)}</{tag}>"
