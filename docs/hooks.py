"""Fills the page of methods from the registry when the site is built."""

from __future__ import annotations

from typing import Any

from lowdim.registry import methods


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the marker in methods.md by a section a room."""
    if page.file.src_uri != "methods.md":
        return markdown
    lines: list[str] = []
    room = ""
    for m in methods():
        if m.room != room:
            room = m.room
            lines += [f"## {room}", ""]
        source = f"[{m.paper}]({m.link})" if m.link else m.paper
        lines += [
            f"### {m.id}",
            "",
            f"**{m.question}**",
            "",
            f"Source: {source} · cost: {m.cost} · reads: {', '.join(map(str, m.needs))} · "
            f"unchanged by: {', '.join(sorted(m.invariant)) or 'nothing'} · "
            f"checked against: {m.oracle or 'closed forms'}",
            "",
            f"::: {m.function.__module__}.{m.function.__name__}",
            "    options: {show_root_heading: false, show_root_toc_entry: false}",
            "",
        ]
    return markdown.replace("<!-- methods -->", "\n".join(lines))
