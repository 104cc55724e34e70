"""Which matrices are several in one, and where are the parts? Mostly q, k and v of attention.

Every layout in use is one picture: the rows are G groups, each of some rows of the first part,
then of the second, then of the third. Stacked projections have one group; GPT-NeoX, BLOOM and
Falcon one group for each head; grouped-query Falcon one for each key head.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lowdim.io.config import ModelConfig

FUSED = frozenset(["query_key_value", "qkv_proj", "c_attn", "Wqkv", "in_proj_weight", "qkv"])
"""Last part of the names that fused attention projections go by."""

STACKED = frozenset(["c_attn", "Wqkv", "in_proj_weight", "qkv"])
"""Names under which a (3 d, d) matrix is always q, k and v on top of each other."""

INTERLEAVED_TYPES = {"gpt_neox", "gpt_neox_japanese", "bloom", "persimmon"}
STACKED_TYPES = {"phi3", "dbrx"}
MULTI_QUERY_TYPES = {"falcon", "gpt_bigcode"}
CONV1D_TYPES = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
CONV1D = frozenset(["c_attn", "q_attn", "c_proj", "c_fc"])
"""Modules that models of these types store as (in, out)."""


@dataclass(frozen=True)
class Split:
    """The parts of a fused matrix: ``groups`` times ``sizes`` rows."""

    names: tuple[str, ...]
    groups: int
    sizes: tuple[int, ...]

    def part(self, weight: Tensor, index: int) -> Tensor:
        """(groups * sizes[index], in) the rows of one part."""
        grouped = weight.unflatten(0, (self.groups, sum(self.sizes)))  # (groups, rows, in)
        return grouped.split(self.sizes, 1)[index].flatten(0, 1)


def is_transposed(module: str, shape: tuple[int, ...], config: ModelConfig) -> bool:
    """Whether a weight is stored as (in, out): transformers' Conv1D of the GPT-2 family."""
    if config.model_types:
        return module in CONV1D and bool(config.model_types & CONV1D_TYPES)
    return module == "c_attn" and shape[1] == 3 * shape[0]


def split_of(module: str, shape: tuple[int, int], config: ModelConfig) -> Split | None:
    """How a (out, in) matrix splits, or None where it is one matrix or the layout is not known."""
    rows, cols = shape
    if module == "gate_up_proj" and rows % 2 == 0:
        return Split(("gate", "up"), 1, (rows // 2, rows // 2))
    if module not in FUSED:
        return None
    groups, heads = _query_heads(module, config) or (0, 0)
    if groups and config.head_dim:
        queries = heads * config.head_dim
        rest, odd = divmod(rows - groups * queries, 2 * groups)  # keys and values share the rest
        fits = rest > 0 and not odd
        return Split(("q", "k", "v"), groups, (queries, rest, rest)) if fits else None
    if module in STACKED and rows == 3 * cols:
        return Split(("q", "k", "v"), 1, (cols, cols, cols))
    return None


def _query_heads(module: str, config: ModelConfig) -> tuple[int, int] | None:
    """Groups, and query heads in each; None where the type of the model says nothing."""
    types, heads = config.model_types, config.n_heads
    if heads is None:
        return None
    if types & INTERLEAVED_TYPES and module == "query_key_value":
        return heads, 1
    if types & STACKED_TYPES and module in ("qkv_proj", "Wqkv"):
        return 1, heads
    if "falcon" in types and config.get("new_decoder_architecture"):
        key_heads = config.count("num_kv_heads", "n_head_kv") or heads
        return key_heads, heads // key_heads
    if types & MULTI_QUERY_TYPES:  # one key head unless the configuration says otherwise
        return (heads, 1) if config.get("multi_query") is False else (1, heads)
    return None
