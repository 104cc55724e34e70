"""Two small finders of pieces and a planted input, so that the report is tested by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from lowdim import registry
from lowdim.core.strata import Strata
from lowdim.datasets import PlantedStrata, strata
from lowdim.errors import require
from lowdim.registry import pieces
from lowdim.structure.base import PieceFinder
from lowdim.structure.ranks import bic_rank


class Means(PieceFinder):
    """Which K balls hold the points?"""

    def __init__(self, n_pieces=4, random_state=0, memory=None):
        self.n_pieces = n_pieces
        self.random_state = random_state
        self.memory = memory

    def _fit(self, source, job):
        x = source.read(self.memory)
        means = KMeans(self.n_pieces, n_init=2, random_state=self.random_state)
        labels = torch.from_numpy(means.fit_predict(x.numpy())).long()

        def rank(spectrum):
            return bic_rank(spectrum.values, spectrum.shape[0], x.shape[1])

        return Strata.of_labels(x, labels, rank=rank, n_pieces=self.n_pieces)


class Soft(Means):
    """Which K balls share the points?"""

    def _fit(self, source, job):
        hard = super()._fit(source, job)
        mixture = GaussianMixture(
            self.n_pieces, covariance_type="spherical", random_state=self.random_state
        ).fit(source.read().numpy())
        shares = torch.from_numpy(mixture.predict_proba(source.read().numpy())).to(hard.weights)
        order = torch.cdist(
            torch.from_numpy(mixture.means_).double(),
            torch.stack([p.center for p in hard.pieces]).double(),
        ).argmin(1)
        return Strata(tuple(hard.pieces[i] for i in order.tolist()), shares)


class Missing(Means):
    """Which K pieces does a package find that is not there?"""

    def _fit(self, source, job):
        require("lowdim_no_such_package", "faiss")


@contextmanager
def registered() -> Iterator[None]:
    """The finders under ``structure/test-...``, for a while."""
    registry.methods()
    found = {"means": Means, "soft": Soft, "missing": Missing}
    for name, finder in found.items():
        registry.method(
            f"structure/test-{name}", needs=pieces(), paper="Lloyd 1982", cost="O(nKd)"
        )(finder)
    try:
        yield
    finally:
        for name in found:
            registry._METHODS.pop(f"structure/test-{name}")


def planted(n: int = 360, *, separation: float = 3.0, seed: int = 1) -> PlantedStrata:
    """Three pieces of dimension 2, 5 and 9 in 20 columns, well apart."""
    return strata(n, (2, 5, 9), 20, separation=separation, noise=0.1, seed=seed)


WORDS = (("cat", "dog", "paw"), ("bread", "salt", "soup"), ("step", "jump", "turn"))


def labelled(x: PlantedStrata) -> tuple[list[str], list[str]]:
    """A label and a text a point: words that tell the piece, and one that does not."""
    names = ("animal", "food", "motion")
    labels = [names[k] for k in x.labels.tolist()]
    texts = [
        f"{WORDS[k][i % 3]} {WORDS[k][(i + 1) % 3]} plain thing number{i}"
        for i, k in enumerate(x.labels.tolist())
    ]
    return labels, texts
