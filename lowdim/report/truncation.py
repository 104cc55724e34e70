"""Advice on a model's weights: truncate by activation-weighted rank, put in place, measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from lowdim.compress.low_rank import LowRank, low_rank, output_spectrum
from lowdim.core.progress import Progress
from lowdim.core.random import permutation
from lowdim.core.spectrum import Spectrum
from lowdim.io.activations import embed, input_moments, perplexity, replaced_weight
from lowdim.io.models import Model

ENERGIES = (0.99, 0.999)
CALIBRATION_TEXTS = 256
CHOICE_TEXTS = 64
HELD_OUT_TEXTS = 128
LEAST_TEXTS = 16
CANDIDATES = 12
LEAST_SAVING = 0.1
LEAST_COSINE = 0.99
MOST_PERPLEXITY = 1.02


@dataclass(frozen=True)
class Outcome:
    """What a change of weights did to the model's output on held-out text."""

    name: str
    before: float
    after: float

    @property
    def damage(self) -> float:
        """Zero for no change: nats a token of a causal model, one minus the cosine otherwise."""
        if self.name == "perplexity":
            return math.log(self.after / self.before)
        return self.before - self.after

    @property
    def acceptable(self) -> bool:
        """Mean cosine of at least 0.99, or perplexity up by at most 2%."""
        if self.name == "perplexity":
            return self.after <= MOST_PERPLEXITY * self.before
        return self.after >= LEAST_COSINE


def truncation_advice(
    model: Model, texts: Sequence[str], *, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Which weights use few directions of their output, and what truncating them costs.

    Directions come from some texts, how many weights to truncate from others, and the figure that
    is reported from a third set.
    """
    order = permutation(len(texts), seed=seed).tolist()
    held_out, choice, calibration = (
        [texts[i] for i in order[start : start + size]]
        for start, size in (
            (0, HELD_OUT_TEXTS),
            (HELD_OUT_TEXTS, CHOICE_TEXTS),
            (HELD_OUT_TEXTS + CHOICE_TEXTS, CALIBRATION_TEXTS),
        )
    )
    if len(calibration) < LEAST_TEXTS:
        return []
    moments = input_moments(model, calibration, progress=progress.task("inputs of the weights"))
    spectra = {
        name: output_spectrum(model.weight(name), moment.second_moment(center=False))
        for name, moment in moments.items()
    }
    spectra = {name: outputs for name, outputs in spectra.items() if outputs.total > 0}
    choose, measure = _Trial(model, choice), _Trial(model, held_out)
    report, advice = progress.task("truncations"), []
    for step, energy in enumerate(ENERGIES):
        report(step, len(ENERGIES))
        factors = _factors(model, spectra, energy)
        largest = sorted(factors, key=lambda name: -factors[name].saved)[:CANDIDATES]
        price = {n: choose.run(factors, [n]).damage / factors[n].saved for n in largest}
        names = sorted(largest, key=price.__getitem__)  # cheapest parameters first

        def holds(n: int, factors: dict[str, LowRank] = factors, names: list[str] = names) -> bool:
            return choose.run(factors, names[:n]).acceptable

        count = _most(len(names), holds)
        for n in sorted({count, min(count, 1)} - {0}, reverse=True):
            outcome = measure.run(factors, names[:n])
            if outcome.acceptable and n > 1:
                chosen = {name: factors[name] for name in names[:n]}
                advice.append(_many(model, chosen, outcome, energy, len(held_out)))
            elif outcome.acceptable:
                advice.append(_one(names[0], factors[names[0]], outcome, energy, len(held_out)))
        if advice:
            break
    report(len(ENERGIES), len(ENERGIES))
    return advice


def _most(n: int, holds: Callable[[int], bool]) -> int:
    """The largest count up to n that holds, if fewer always hold as well; log n trials."""
    low = 0
    while low < n:
        middle = (low + n + 1) // 2
        low, n = (middle, n) if holds(middle) else (low, middle - 1)
    return low


def _factors(model: Model, spectra: dict[str, Spectrum], energy: float) -> dict[str, LowRank]:
    """Stand-ins that save at least a tenth of their weight's parameters."""
    found = {}
    for name, outputs in spectra.items():
        weight = model.weight(name)  # (out, in)
        factor = low_rank(weight, outputs, energy=energy)
        if factor.saved >= LEAST_SAVING * weight.numel():
            found[name] = factor
    return found


class _Trial:
    """Runs the model on held-out text with some weights replaced."""

    def __init__(self, model: Model, texts: Sequence[str]) -> None:
        self.model, self.texts = model, texts
        self.reference = self._output()

    def _output(self) -> Any:
        if self.model.kind == "causal":
            return perplexity(self.model, self.texts).value
        return embed(self.model, self.texts)

    def run(self, factors: dict[str, LowRank], names: Sequence[str]) -> Outcome:
        """What happens with the stand-ins of these weights in place, all at once?"""
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(replaced_weight(self.model, name, factors[name].weight))
            output = self._output()
        if self.model.kind == "causal":
            return Outcome("perplexity", self.reference, output)
        cosine = torch.nn.functional.cosine_similarity(self.reference, output)
        return Outcome("embedding cosine", 1.0, float(cosine.mean()))


def _many(
    model: Model, factors: dict[str, LowRank], outcome: Outcome, energy: float, n: int
) -> dict[str, Any]:
    saved = sum(f.saved for f in factors.values())
    share = saved / model.n_parameters
    return {
        "kind": "compress",
        "title": f"Factor {len(factors)} weights at {energy:.1%} activation-weighted energy: "
        f"{share:.1%} fewer parameters, {_result(outcome)} on {n} held-out texts",
        "text": "Each weight W is replaced by U U'W with U the leading eigenvectors of the second "
        "moment of its outputs. Those that save most for what they cost were taken as far as other "
        "held-out texts allowed; all were in place at once when the figure was measured.",
        "measured": {outcome.name: outcome.after, "parameters": model.n_parameters - saved},
        "baseline": {outcome.name: outcome.before, "parameters": model.n_parameters},
        "how": _HOW.format(name=next(iter(factors)), energy=energy),
    }


def _one(name: str, factor: LowRank, outcome: Outcome, energy: float, n: int) -> dict[str, Any]:
    rows, cols = factor.left.shape[0], factor.right.shape[1]
    return {
        "kind": "compress",
        "title": f"{name}: rank {factor.rank} of {min(rows, cols)} holds {factor.energy:.1%} of "
        f"its activation-weighted energy; {_result(outcome)} with it in place",
        "text": f"It saves most for what it costs: {factor.saved:,} of {rows * cols:,} "
        f"parameters less, measured on {n} held-out texts.",
        "measured": {outcome.name: outcome.after, "parameters": factor.rank * (rows + cols)},
        "baseline": {outcome.name: outcome.before, "parameters": rows * cols},
        "how": _HOW.format(name=name, energy=energy),
    }


def _result(outcome: Outcome) -> str:
    if outcome.name == "perplexity":
        return f"perplexity {outcome.before:.2f} -> {outcome.after:.2f}"
    return f"{outcome.name} {outcome.after:.4f}"


_HOW = """from lowdim.compress import low_rank, output_spectrum
from lowdim.io.activations import input_moments
from lowdim.io.models import load_model
model, name = load_model(path), "{name}"
moment = input_moments(model, texts)[name].second_moment(center=False)
weight = model.weight(name)
factors = low_rank(weight, output_spectrum(weight, moment), energy={energy})"""
