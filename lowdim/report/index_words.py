"""Plain English for an index report: the sentences that the page, terminal and notebook share."""

from __future__ import annotations

import re
import shlex
from typing import Any

from lowdim.core.memory import format_bytes
from lowdim.report import page
from lowdim.report.index_document import IndexReport
from lowdim.report.words import count, number, short
from lowdim.retrieval.configurations import Configuration

NEAR = {"cosine": "cosine", "dot": "dot product", "euclidean": "Euclidean distance"}

BREAK = " \\\n    "


def sentences(report: IndexReport) -> list[str]:
    """The things to know, the answer first."""
    if (plan := report.plan) is None:
        return []
    said = [answer(plan), stored(plan), grows(plan), fitted(plan), shape(plan)]
    return [sentence for sentence in said if sentence]


def asked(plan: dict[str, Any]) -> str:
    """What was wanted."""
    if plan["keep_recall"] is not None:
        return (
            f"The fewest bytes that keep {100 * plan['keep_recall']:g}% of recall@{plan['k']} "
            "with 95% confidence"
        )
    if plan["budget"] is not None:
        return f"The best recall@{plan['k']} in {count(plan['budget'], 'byte')} a vector"
    return f"Recall@{plan['k']} at every size"


def answer(plan: dict[str, Any]) -> str:
    """What gives it."""
    measure = f"recall@{plan['k']}"
    if (best := plan["best"]) is not None:
        return (
            f"{count(best['bytes'], 'byte')} a vector keep {share(best['recall'])} of {measure} "
            f"(at least {share(best['bound'])} with 95% confidence), {smaller(best)} smaller than "
            f"float32: {named(best)}."
        )
    if plan["keep_recall"] is not None:
        most = max(plan["rows"], key=lambda row: row["bound"])
        return (
            f"Nothing that was tried keeps {100 * plan['keep_recall']:g}% of {measure} with 95% "
            f"confidence; {named(most)} comes nearest with {share(most['recall'])}, surely "
            f"{share(most['bound'])}."
        )
    if plan["budget"] is not None:
        least = min(row["bytes"] for row in plan["rows"])
        return f"Nothing that was tried fits {plan['budget']} bytes: the least is {least}."
    ends = sorted((r for r in plan["rows"] if r["frontier"]), key=lambda row: row["bytes"])
    low, high = ends[0], ends[-1]
    return (
        f"From {low['bytes']:,} to {count(high['bytes'], 'byte')} a vector, {share(low['recall'])} "
        f"to {share(high['recall'])} of {measure}: ask for --keep-recall or a --budget."
    )


def promised(row: dict[str, Any]) -> str:
    """``98.4% [97.6%, 98.9%]``."""
    return f"{share(row['recall'])} {ends(row)}"


def ends(row: dict[str, Any]) -> str:
    """``[97.6%, 98.9%]``."""
    return f"[{share(row['low'])}, {share(row['high'])}]"


def share(value: float) -> str:
    """``98.4%``; 100% only where all of it is."""
    return "100%" if value == 1 else f"{min(100 * value, 99.9):.1f}%"


def brief(value: float) -> str:
    """A time in two digits."""
    return f"{float(f'{value:.2g}'):g}"


def smaller(row: dict[str, Any]) -> str:
    """``32 times``."""
    return f"{row['ratio']:.3g} times"


def named(row: dict[str, Any]) -> str:
    """``pca 128, int8``."""
    return short(Configuration(**row["configuration"]))


def family(row: dict[str, Any]) -> str:
    """Codes of one kind share a colour: ``float``, ``int``, ``binary``, ``pq`` ..."""
    code = row["configuration"]["code"]
    return "float" if "float" in code else re.sub(r"\d+$", "", code)


def stored(plan: dict[str, Any]) -> str:
    """What all of it takes, and how long a query does."""
    if (best := plan["best"]) is None:
        return ""
    exact, once = plan["exact"], ""
    if best["overhead"]:
        once = f", of which {format_bytes(best['overhead'])} once for map and codebooks"
    return (
        f"All {plan['n_index']:,} take {format_bytes(best['stored'])}{once}, in place of "
        f"{format_bytes(plan['n_index'] * exact['bytes'])}; a query alone takes "
        f"{brief(best['query_ms'])} ms, one of many {brief(best['batch_ms'])} ms (exact search: "
        f"{brief(exact['query_ms'])} ms)."
    )


def grows(plan: dict[str, Any]) -> str:
    """How the answer moves."""
    if not (growth := plan["growth"]):
        return ""
    ahead = ", ".join(f"{share(recall)} at {size:,}" for size, recall in growth["forecast"])
    whose = "this recall" if plan["best"] else "the recall of what comes nearest"
    now, size = share(growth["measured"][-1]), growth["sizes"][-1]
    return (
        f"As the index grows {whose}, {now} at {size:,} on {growth['queries']:,} of the queries, "
        f"is forecast to be {ahead} vectors; so foretold from fewer rows, it was off by at most "
        f"{100 * growth['error']:.2g} points."
    )


def fitted(plan: dict[str, Any]) -> str:
    """What is lost on vectors that the codes were not fitted to."""
    if not (gap := plan["fit_gap"]):
        return ""
    return (
        f"Fitted to {gap['rows']:,} rows, the choice keeps {share(gap['own'])} among these and "
        f"{share(gap['others'])} among as many others, as most of {plan['n_index']:,} will be."
    )


def shape(plan: dict[str, Any]) -> str:
    """How many of the dimensions are in use, in all and around a point."""
    if not (found := plan["structure"]):
        return ""
    local = f"; around a point {number(found['mle']['value'])} (MLE)" if "mle" in found else ""
    parts = ""
    if pieces := found.get("strata"):
        low, high = (number(value) for value in pieces["dimension"])
        parts = (
            f" Cut into {pieces['pieces']} pieces, each has 90% of its variance in "
            f"{number(pieces['rank_90'])} directions (random sets as large: "
            f"{number(pieces['rank_90_random'])}) and a local dimension of {low} to {high}."
        )
    return (
        f"Of the {plan['dim']:,} dimensions {number(found['effective_rank'])} are in use "
        f"(effective rank){local}; 99% of the variance is in {found['rank_99']:,}.{parts}"
    )


def how(plan: dict[str, Any], *, held_out: bool) -> str:
    """What a reader has to know to believe the figures."""
    said = [
        f"Recall is the share of the {plan['k']} best rows of an exact float32 search, by "
        f"{NEAR[plan['metric']]}, that is found. Half of the queries, drawn at random, say which "
        "configurations are measured on all rows and which of those nothing as small beats: the "
        "frontier. The other half, which none of this was chosen by, give recall and its interval "
        "(Wilson's, for as many trials as their spread is worth)."
    ]
    if plan["keep_recall"] is not None:
        said.append(
            "The frontier is tested from the largest down, each at level 5%, until the first that "
            "fails, and the last that passed is the choice: the chance of choosing one whose "
            "recall is below what was asked is at most 5%."
        )
    if held_out:
        said.append(
            "Queries are rows that were left out of what is searched: real queries of another kind "
            "may find less."
        )
    said.append("Times are of this machine, with as many threads as are named below.")
    return " ".join(said)


def again(report: IndexReport) -> str:
    """The command that makes this report again."""
    return page.again(report).replace("index-plan", "index plan", 1)


def next_commands(report: IndexReport) -> list[list[str]]:
    """Build what was chosen, search in it, and hand it to another store."""
    if report.plan is None or report.plan["best"] is None:
        return []
    given = report.options
    found = ["--queries", given["queries"] or "q.npy", "-k", str(given["k"])]
    return [
        _build(report, "--plan", f"{given['out']}/plan.json"),
        ["lowdim", "index", "search", "index/", *found],
        ["lowdim", "index", "export", "index/", "--to", "faiss", "--out", "export/"],
    ]


def build_command(report: IndexReport, row: dict[str, Any]) -> list[str]:
    """Build another row of the plan."""
    c, metric = row["configuration"], report.options["metric"]
    reduction = ["--reduction", c["reduction"]] if c["reduction"] != "none" else []
    dims = ["--dims", str(c["dims"])] if c["dims"] else []
    return _build(report, "--code", c["code"], *reduction, *dims, "--metric", metric)


def _build(report: IndexReport, *codec: str) -> list[str]:
    column = ["--column", report.options["column"]] if report.options["column"] else []
    vectors = report.source["path"]
    return ["lowdim", "index", "build", vectors, *column, *codec, "--out", "index/"]


def typed(words: list[str], width: int = 78) -> str:
    """What a shell reads as these words, an option a line where they do not fit in one."""
    line = shlex.join(words)
    if len(line) <= width:
        return line
    return shlex.quote(words[0]) + "".join(
        f"{BREAK if word.startswith('-') else ' '}{shlex.quote(word)}" for word in words[1:]
    )
