"""Plain English for an adapt report: the sentences that the page, terminal and notebook share."""

from __future__ import annotations

import shlex
from statistics import median
from typing import Any

from lowdim.core.memory import format_bytes
from lowdim.report.adapt_document import AdaptReport
from lowdim.report.words import count, interval, number, short

GAIN = {
    "gradients": "what the first step can gain",
    "inputs": "what the layers do to their inputs",
}
"""What ranks are given for, by what was measured."""
LIMIT = {
    "gradients": "Nothing was trained: this looks one step ahead.",
    "inputs": "Nothing was trained, and which layers the task needs was not asked.",
}


def sentences(report: AdaptReport) -> list[str]:
    """The things to know, most important first."""
    parts = (
        (report.training, _trained),
        (report.comparison, _compared),
        (report.suggestion, _suggested),
        (report.dimension, _dimension),
    )
    said = [sentence for found, say in parts if found for sentence in say(found) if sentence]
    most = report.source.get("majority")
    if most and report.run != "suggest":
        said.insert(1, f"Always saying {short(most['label'], 30)!r} has {number(most['share'])}.")
    return said


def score(found: dict[str, Any]) -> str:
    """``0.873 [0.85, 0.89]``."""
    return f"{number(found['value'])} {interval(found)}".rstrip()


def spread(value: float | None, half: float | None, digits: str = ".4g") -> str:
    """``0.873 ± 0.004``; a dash where nothing is known."""
    if value is None:
        return "–"
    return f"{value:{digits}}" + ("" if half is None else f" ± {abs(half):.2g}")


def _trained(training: dict[str, Any]) -> list[str]:
    after, before = training["after"], training["before"]
    said = f"{after['name'].capitalize()} {score(after)} on {count(after['n'], training['item'])}"
    said += f" that were not trained on; {before['what']} has {score(before)}."
    return [said, gain(training), size(training), moved(training["rows"])]


def gain(training: dict[str, Any]) -> str:
    """Whether the adapter did anything, by the paired difference."""
    found = training["difference"]
    low, high = found["low"], found["high"]
    said = "The adapter helps" if low > 0 else "The adapter does harm" if high < 0 else ""
    if not said:
        said = "Whether the adapter helps cannot be told from these texts"
    if training["after"]["name"] == "perplexity":
        return f"{said}: the logarithm of the perplexity falls by {score(found)}, text by text."
    return f"{said}: {training['after']['name']} rises by {score(found)}, text by text."


def size(training: dict[str, Any]) -> str:
    """How much trained, of how much, and what is stored."""
    share = training["trainable"] / training["base"]
    beside = f", beside {training['head']:,} of the {training['also']}" * bool(training["head"])
    return (
        f"{training['method']} trained {training['trainable']:,} numbers in "
        f"{count(len(training['rows']), 'tensor')}"
        f"{beside}: {100 * share:.2g}% of the model's {training['base']:,}. On disk the adapter "
        f"takes {format_bytes(training['bytes'])}."
    )


def moved(rows: list[dict[str, Any]]) -> str:
    """Which tensor moved most, and in how many directions."""
    known = [row for row in rows if row["relative"]]
    if not known:
        return ""
    most = max(known, key=lambda row: row["relative"])
    ranks = sorted(row["effective_rank"] for row in known)
    return (
        f"{short(most['name'])} moved most, by {most['relative']:.1%} of its norm; the effective "
        f"rank of an update is {number(median(ranks))} (median), {number(ranks[0])} to "
        f"{number(ranks[-1])}."
    )


def steps(found: dict[str, Any]) -> str:
    """Which step size, and how it was chosen."""
    if not found["tuning"]:
        return f"step size {found['lr']:g}, as given"
    tried = ", ".join(f"{rate}: {number(value)}" for rate, value in found["tuning"].items())
    return f"step size {found['lr']:g}, the best on a fifth of the training texts ({tried})"


def _compared(found: dict[str, Any]) -> list[str]:
    rows = [row for row in found["rows"] if row["value"] is not None]
    if not rows:
        return ["Every run diverged."]
    pick = max if found["higher_is_better"] else min
    best = pick(rows, key=lambda row: row["value"])
    said = (
        f"Best {found['score']}: {spread(best['value'], best['half'])} by {best['method']}, which "
        f"trains {best['trained']:,} numbers."
    )
    return [said, _against(found), how(found)]


def _against(found: dict[str, Any]) -> str:
    """Who is better, worse or not to be told from the baseline."""
    base = [row for row in found["rows"] if row["method"] == found["baseline"]]
    if not base or len(found["rows"]) < 2:
        return ""
    groups: dict[str, list[str]] = {}
    for row in found["rows"]:
        if row["verdict"]:
            groups.setdefault(row["verdict"], []).append(row["method"])
    verdicts = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in groups.items())
    value = spread(base[0]["value"], base[0]["half"])
    return f"Against {found['baseline']} ({value}): {verdicts}." if verdicts else ""


def how(found: dict[str, Any]) -> str:
    """At which budget, with how many seeds."""
    chosen = "chosen on a fifth of the training texts" if found["tuning"] else "as given"
    return (
        f"Each may train {found['budget']:,} numbers; {count(len(found['seeds']), 'seed')}, "
        f"{count(found['epochs'], 'epoch')}, step sizes {chosen}; before training: "
        f"{number(found['untrained'])}."
    )


def _suggested(found: dict[str, Any]) -> list[str]:
    rows = [row for row in found["rows"] if row["rank"]]
    said = (
        f"{found['n_trainable']:,} of {found['budget']:,} numbers on {len(rows)} of "
        f"{count(len(found['rows']), 'tensor')} get {found['captured']:.0%} of {GAIN[found['by']]}"
    )
    if found["uniform"] is not None:
        share = found["uniform"] * found["captured"] / found["gain"]
        said += f"; rank {found['uniform_rank']} everywhere gets {share:.0%}"
    most = sorted(rows, key=lambda row: -row["gain"])[:3]
    names = ", ".join(f"{short(row['name'])} (rank {row['rank']})" for row in most)
    noise = [row["noise"] for row in found["rows"] if row["noise"] is not None]
    doubt = (
        f"Between two halves of {found['batches']} batches {median(noise):.0%} of a gradient "
        "(median) does not repeat: more batches make this surer."
        if noise
        else ""
    )
    limit = f"{LIMIT[found['by']]} --targets measured trains it."
    return [f"{said}.", f"Most goes to {names}.", doubt, limit]


def _dimension(found: dict[str, Any]) -> list[str]:
    target = f"{found['score']} {number(found['target'])}"
    last = found["curve"][-1]["dim"]
    if found["value"] is None:
        said = f"No rung up to d = {last:,} reaches {target}."
    elif found["value"] == 0:
        said = f"d90 = 0: the model reaches {target} as it is."
    else:
        said = f"d90 = {found['value']:,.0f}: so many numbers reach {target}"
        said += f"; above {found['low']:,.0f}"
        said += f" and at most {found['high']:,.0f}" if found["high"] is not None else ""
        said += f" with probability {found['level']:.0%}."
    full, start = found["full"], found["curve"][0]
    return [
        said,
        f"All {full['dim']:,} parameters reach {number(median(full['scores']))}; untrained, the "
        f"model has {number(median(start['scores']))}.",
    ]


def options(row: dict[str, Any]) -> str:
    """``rank=2, terms=16``: what is on; the row names the method, and all share the targets."""
    shown = {k: v for k, v in row["options"].items() if v and k not in ("method", "targets")}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def again(report: AdaptReport) -> str:
    """The command that makes this report again."""
    command = ["lowdim", "adapt", *(["dimension"] if report.run == "dimension" else [])]
    command.append(str(report.source["path"]))
    for name, option in report.options.items():
        flag = f"--{name.replace('_', '-')}"
        if option is True:
            command.append(flag)
        elif isinstance(option, list):
            command += [word for one in option for word in (flag, str(one))]
        elif option is not None and option is not False:
            command += [flag, str(option)]
    return shlex.join(command)
