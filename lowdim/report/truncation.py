"""Advice on a model's weights: truncate by activation-weighted rank, put in place, measure."""

from __future__ import annotations

from collections.abc import Sequence
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
HELD_OUT_TEXTS = 128
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
    def acceptable(self) -> bool:
        """Mean cosine of at least 0.99, or perplexity up by at most 2%."""
        if self.name == "perplexity":
            return self.after <= MOST_PERPLEXITY * self.before
        return self.after >= LEAST_COSINE


def truncation_advice(
    model: Model, texts: Sequence[str], *, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Which weights use few directions of their output, and what truncating them costs."""
    order = permutation(len(texts), seed=seed).tolist()
    held_out = [texts[i] for i in order[:HELD_OUT_TEXTS]]
    calibration = [texts[i] for i in order[HELD_OUT_TEXTS:][:CALIBRATION_TEXTS]]
    if len(calibration) < 16:
        return []
    progress.task("inputs of the weights")
    moments = input_moments(model, calibration)
    spectra = {
        name: output_spectrum(model.weight(name), moment.second_moment(center=False))
        for name, moment in moments.items()
    }
    spectra = {name: outputs for name, outputs in spectra.items() if outputs.total > 0}
    trial = _Trial(model, held_out)
    report, advice = progress.task("truncations"), []
    for step, energy in enumerate(ENERGIES):
        report(step, len(ENERGIES))
        factors = _factors(model, spectra, energy)
        if not factors:
            continue
        everything = trial.run(factors)
        if everything.acceptable and len(factors) > 1:
            advice.append(_many(model, factors, everything, energy, len(held_out)))
            break
    factors = _factors(model, spectra, ENERGIES[0])
    for name in sorted(factors, key=lambda n: -factors[n].saved)[:3]:
        outcome = trial.run({name: factors[name]})
        if outcome.acceptable:
            advice.append(_one(name, factors[name], outcome, len(held_out)))
            break
    report(len(ENERGIES), len(ENERGIES))
    return advice


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

    def run(self, factors: dict[str, LowRank]) -> Outcome:
        with ExitStack() as stack:
            for name, factor in factors.items():
                stack.enter_context(replaced_weight(self.model, name, factor.weight))
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
        "moment of its outputs; those that would not shrink by a tenth were left alone. All "
        "stand-ins were in place at once when the figure was measured.",
        "measured": {outcome.name: outcome.after, "parameters": model.n_parameters - saved},
        "baseline": {outcome.name: outcome.before, "parameters": model.n_parameters},
        "how": _HOW.format(name=next(iter(factors)), energy=energy),
    }


def _one(name: str, factor: LowRank, outcome: Outcome, n: int) -> dict[str, Any]:
    rows, cols = factor.left.shape[0], factor.right.shape[1]
    return {
        "kind": "compress",
        "title": f"{name}: rank {factor.rank} of {min(rows, cols)} holds {factor.energy:.1%} of "
        f"its activation-weighted energy; {_result(outcome)} with it in place",
        "text": f"The largest saving of a single weight that held: {factor.saved:,} of "
        f"{rows * cols:,} parameters less, measured on {n} held-out texts.",
        "measured": {outcome.name: outcome.after, "parameters": factor.rank * (rows + cols)},
        "baseline": {outcome.name: outcome.before, "parameters": rows * cols},
        "how": _HOW.format(name=name, energy=ENERGIES[0]),
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
