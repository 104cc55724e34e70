"""The contrastive form of the mixture: one expert a point, chosen for parsimony, groups as teacher.

Of the experts whose share is near the largest the sparsest is taken; its code goes through a small
head, and embeddings of one group are drawn together, those of two groups pushed apart. Where the
choice is only an index the loss does not reach the gate, and where no point is rebuilt it does not
reach the dictionaries either. Here the choice is one-hot forward and the soft gate backward, and
the gated reconstruction is part of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lowdim.structure.experts import choose
from lowdim.structure.moe import StratifiedMoE


class ContrastiveMoE(StratifiedMoE):
    """Which one sparse dictionary suits a point, when known groups should come out apart?

    Parameters
    ----------
    n_pieces, sparsity, n_atoms, query_dim, n_layers, balance, reduce, epochs, batch_size, \
learning_rate, random_state, memory
        See :class:`StratifiedMoE`.
    contrastive : float
        Weight of the contrastive loss, above zero.
    threshold : float
        Experts with at least this times the largest share are eligible.

    Notes
    -----
    ``fit(x, y)`` needs groups; labels of several corpora must come with their corpus, see
    :func:`lowdim.structure.experts.group_ids`. ``gates`` are one-hot, the choice; ``attention`` is
    the soft gate. Trust it to show what groups can be told apart, not that pieces exist: the groups
    were given. To ask what the points themselves say, compare with :class:`StratifiedMoE`.
    """

    def __init__(
        self,
        n_pieces: int = 7,
        *,
        sparsity: int | Sequence[int] | None = None,
        n_atoms: int = 32,
        query_dim: int = 128,
        n_layers: int = 5,
        balance: float = 0.0,
        contrastive: float = 1.0,
        threshold: float = 0.9,
        reduce: int | None = 64,
        epochs: int = 20,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        super().__init__(
            n_pieces, sparsity=sparsity, n_atoms=n_atoms, query_dim=query_dim, n_layers=n_layers,
            loss="gated", balance=balance, contrastive=contrastive, threshold=threshold,
            reduce=reduce, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
            random_state=random_state, memory=memory,
        )  # fmt: skip

    def _shares(self, x: Tensor, codes: Tensor) -> Tensor:
        return choose(self._log_gates(x).exp(), self.sparsity_, self.threshold)
