"""A text model from a folder, ready to be measured: transformers underneath, no code of strangers.

Weights are read from safetensors alone, computed in float32; nothing is downloaded, no code of the
folder is run, and a weight that the folder lacks is an error instead of a random matrix.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowdim.errors import InputError, require
from lowdim.io.config import ModelConfig
from lowdim.io.sentence import SentenceRule, is_sentence_model, read_sentence_rule

UNUSED = ("pooler.", "position_ids", "inv_freq")
"""Weights that may be missing, since no hidden state depends on them."""

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
"""Files that a tokenizer is made from."""


@dataclass(frozen=True)
class Model:
    """A text model and all that is needed to run it on text.

    Attributes
    ----------
    path : Path
        The folder it came from.
    module : torch.nn.Module
        In evaluation mode, float32; with the output head where it is a causal model.
    tokenizer : transformers tokenizer
        Its own.
    kind : str
        ``encoder`` (text in, vector out) or ``causal`` (predicts the next token).
    max_length : int
        Most tokens of a text that it can take.
    pooling : str
        How an encoder makes one vector of a text: ``mean``, ``cls`` or ``last``.
    normalize : bool
        Whether that vector is then scaled to length one.
    notes : tuple of str
        What a careful reader must know.
    """

    path: Path
    module: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    kind: str
    max_length: int
    pooling: str = "mean"
    normalize: bool = False
    notes: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """Class of the network, e.g. ``BertModel``."""
        return type(self.module).__name__

    @property
    def body(self) -> nn.Module:
        """The network without the output head: token numbers in, hidden states out."""
        return self.module.base_model  # type: ignore[return-value]

    @property
    def config(self) -> Any:
        """The configuration of the part that reads text."""
        return self.module.config.get_text_config()  # type: ignore[operator, union-attr]

    @property
    def n_layers(self) -> int:
        """Number of layers; there is one more set of hidden states, the embedding output."""
        return int(self.config.num_hidden_layers)

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def n_parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.module.parameters()).device

    def linears(self) -> dict[str, nn.Module]:
        """Name and module of every matrix product of the body: nn.Linear, and Conv1D of GPT-2."""
        inside = set(self.body.modules())
        return {
            name: module
            for name, module in self.module.named_modules()
            if module in inside and (isinstance(module, nn.Linear) or _is_conv1d(module))
        }

    def weight(self, name: str) -> Tensor:
        """(out, in) weight of one of :meth:`linears`, applied as ``x @ weight.T``."""
        parameter = self.parameter(name)
        return parameter.detach().T if self.is_transposed(name) else parameter.detach()

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter behind :meth:`weight`, as the module stores it."""
        linears = self.linears()
        if name not in linears:
            raise InputError(f"the model has no linear module {name!r}: see model.linears()")
        return linears[name].weight  # type: ignore[return-value]

    def is_transposed(self, name: str) -> bool:
        """Whether the module stores its weight as (in, out)."""
        return _is_conv1d(self.linears()[name])


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def load_model(path: str | Path, *, device: torch.device | str | None = None) -> Model:
    """Which text model lies in this folder? Loads it with its tokenizer, offline.

    Parameters
    ----------
    path : str or Path
        A Hugging Face or sentence-transformers folder with weights in safetensors.
    device : torch.device or str, optional
        Where to run it; the CPU by default.

    Returns
    -------
    Model
        A sentence-transformers folder is an encoder with the pooling that the folder asks for;
        otherwise a causal model where the weights were saved with a head that predicts the next
        token, and an encoder (of an encoder-decoder: its encoder) in all other cases.

    Raises
    ------
    InputError
        No model folder, no tokenizer, no safetensors, an architecture that needs code of its own,
        or weights missing.
    MissingExtraError
        transformers is not installed.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is no folder: give a model folder with config.json")
    if not (path / "config.json").is_file():
        raise InputError(f"{path} is no model folder: it has no config.json")
    config = ModelConfig.read(path)
    transformers = require("transformers", "models")
    _check_known(transformers, config, path)
    if not any(path.glob("*.safetensors")):
        raise InputError(
            f"{path} has no weights in safetensors: save it with save_pretrained of transformers"
        )
    if not any(any(path.glob(pattern)) for pattern in VOCABULARIES):
        raise InputError(f"{path} has no tokenizer: only models that read text can be run on text")
    kind = _kind(config, path)
    loader = transformers.AutoModelForCausalLM if kind == "causal" else transformers.AutoModel
    with quiet(transformers), _loading(path):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        module, info = loader.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    _check_complete(info, path)
    if module.config.is_encoder_decoder:
        module = module.get_encoder()
    module.requires_grad_(False).eval()
    module.to(device or "cpu")
    module.config.get_text_config().use_cache = False  # keys and values are never read again
    rule = read_sentence_rule(path)
    return Model(
        path=path,
        module=module,
        tokenizer=tokenizer,
        kind=kind,
        max_length=_max_length(module.config.get_text_config(), tokenizer, rule),
        pooling=rule.pooling,
        normalize=rule.normalize,
        notes=rule.notes,
    )


def _check_known(transformers: Any, config: ModelConfig, path: Path) -> None:
    name = config.values.get("model_type")
    if name in transformers.CONFIG_MAPPING:
        return
    if "auto_map" in config.values:
        raise InputError(
            f"{path}: {config.architecture or name} needs code of its own, which is never run: "
            "give a folder of an architecture that transformers has"
        )
    raise InputError(
        f"{path}/config.json has model_type {name!r}, unknown to transformers "
        f"{transformers.__version__}: give a model folder, or a newer transformers"
    )


def _check_complete(info: dict[str, Any], path: Path) -> None:
    missing = sorted(k for k in info["missing_keys"] if not any(part in k for part in UNUSED))
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} weights of its architecture, e.g. {missing[0]}: "
            "fetch the folder again"
        )
    if info["mismatched_keys"]:
        raise InputError(f"{path}: shapes differ from config.json: {info['mismatched_keys']}")


def _kind(config: ModelConfig, path: Path) -> str:
    """Encoder or causal? By the head that the weights were saved with."""
    if is_sentence_model(path):
        return "encoder"  # a sentence-transformers model is there to make vectors
    name = config.architecture or ""
    causal = name.endswith(("ForCausalLM", "LMHeadModel")) and name != "BertLMHeadModel"
    return "causal" if causal or config.get("is_decoder") is True else "encoder"


def _max_length(config: Any, tokenizer: Any, rule: SentenceRule) -> int:
    """The least of what the tokenizer, the positions and the sentence rule allow."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = (tokenizer.model_max_length, positions, rule.max_length)
    return int(min([v for v in limits if v and v > 0], default=sys.maxsize))


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """What transformers raises on folders that it cannot use becomes one sentence."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # no contract: tokenizers raises Exception itself
        reason = " ".join(str(error).split())[:300]
        what = "tokenizer" if "okenizer" in reason else "model"
        raise InputError(f"{path}: the {what} cannot be loaded: {reason}") from error


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No bars and no warnings of transformers within; the user's settings come back."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
