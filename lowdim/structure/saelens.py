"""Sparse autoencoders on disk in the format of SAELens: two files that hold data and no code.

A folder has ``cfg.json`` (architecture, sizes, how inputs are prepared) and
``sae_weights.safetensors`` (``W_enc`` (d, m), ``W_dec`` (m, d), ``b_dec``, and what the
architecture needs). Read are the architectures standard, topk, gated and jumprelu; batch-top-k is
stored as jumprelu there. Whatever would change the numbers and is not known here is refused.

Formats of before 2025 name the activation function beside the architecture; those are read too.
Where ``reshape_activations`` is ``hook_z``, inputs are (n, heads * head width).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lowdim.errors import InputError
from lowdim.io.config import read_object
from lowdim.io.tensors import FLOATS, SafetensorsFile
from lowdim.io.write import atomic_write, check_writable
from lowdim.structure.sae import SAE, BatchTopKSAE, GatedSAE, JumpReLUSAE, ReLUSAE, TopKSAE

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"

BIASES = {
    "standard": {"b_enc": "encoder_bias"},
    "topk": {"b_enc": "encoder_bias"},
    "jumprelu": {"b_enc": "encoder_bias", "threshold": "threshold"},
    "gated": {"b_gate": "encoder_bias", "b_mag": "magnitude_bias", "r_mag": "log_scale"},
}
"""For each architecture, its (m,) tensors there and their names here."""


class NormalizedSAE(nn.Module):
    """An autoencoder of inputs that are each normalised first, and put back afterwards.

    ``layer_norm`` takes off the mean of a row and divides by its standard deviation;
    ``constant_norm_rescale`` scales a row to length sqrt(d). A code alone does not say how its
    input was scaled, so there is no ``decode``: :meth:`forward` rebuilds the input.
    """

    def __init__(self, sae: SAE, mode: str) -> None:
        super().__init__()
        self.sae, self.mode = sae, mode

    def normalize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Normalised rows, and the scale (n, 1) and shift (n, 1) that bring them back."""
        if self.mode == "constant_norm_rescale":
            scale = torch.linalg.vector_norm(x, dim=1, keepdim=True) / math.sqrt(x.shape[1])
            return x / torch.where(scale > 0, scale, 1), scale, 0.0  # a row of zeros stays one
        shift = x.mean(1, keepdim=True)
        scale = (x - shift).std(1, keepdim=True)
        return (x - shift) / (scale + 1e-5), scale, shift

    def encode(self, x: Tensor) -> Tensor:
        """(n, m) codes of the normalised inputs."""
        return self.sae.encode(self.normalize(x)[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) reconstruction and (n, m) codes."""
        normalized, scale, shift = self.normalize(x)
        rebuilt, codes = self.sae(normalized)
        return rebuilt * scale + shift, codes


def load_saelens(folder: str | Path) -> SAE | NormalizedSAE:
    """Read a dictionary saved by SAELens.

    Parameters
    ----------
    folder : path
        Holds ``cfg.json`` and ``sae_weights.safetensors``.

    Returns
    -------
    SAE or NormalizedSAE
        In evaluation mode, half precision promoted to float32; rows of the decoder as they were
        saved, also where they are not unit vectors, save where the configuration says that
        activations count times their length (``rescale_acts_by_decoder_norm``).

    Raises
    ------
    InputError
        Naming the file and the key: missing, damaged, of another shape, not finite, an
        architecture or an option that is not known.
    """
    folder = Path(folder)
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    for path in (config_path, weights_path):
        if not path.is_file():
            raise InputError(f"{path} does not exist: give a folder with {CONFIG} and {WEIGHTS}")
    config = _Config(config_path, read_object(config_path))
    architecture = config.architecture()
    d, m = config.count("d_in"), config.count("d_sae")
    tensors = _read(weights_path, architecture, d, m)
    center = config.flag("apply_b_dec_to_input", True)
    if config.flag("rescale_acts_by_decoder_norm", False):
        lengths = torch.linalg.vector_norm(tensors["W_dec"], dim=1)
        if not bool((lengths > 0).all()):
            raise InputError(f"{weights_path}: W_dec has a row of zeros, which has no length")
        tensors["W_dec"] = tensors["W_dec"] / lengths[:, None]
        tensors["W_enc"] = tensors["W_enc"] * lengths
        tensors["b_enc"] = tensors["b_enc"] * lengths
    sae: SAE
    if architecture == "topk":
        sae = TopKSAE(d, m, config.k(m), center_input=center)
    else:
        kinds = {"standard": ReLUSAE, "jumprelu": JumpReLUSAE, "gated": GatedSAE}
        sae = kinds[architecture](d, m, center_input=center)
    sae.to(tensors["W_dec"].dtype)
    names = {"W_enc": "encoder", "W_dec": "decoder", "b_dec": "bias", **BIASES[architecture]}
    own = {names[key]: tensor for key, tensor in tensors.items()}
    sae.load_state_dict(sae.state_dict() | own)
    sae.eval()
    return config.normalized(sae)


def save_saelens(sae: SAE, folder: str | Path) -> None:
    """Write a dictionary as SAELens does; a `BatchTopKSAE` becomes the jumprelu that it runs as.

    Parameters
    ----------
    sae : SAE
        One of those of :mod:`lowdim.structure.sae`.
    folder : path
        Made where it is missing; each file appears whole or not at all.
    """
    state = {name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()}
    options: dict[str, Any] = {}
    if isinstance(sae, BatchTopKSAE):
        architecture = "jumprelu"
        if float(sae.threshold) < 0:
            raise InputError("this BatchTopKSAE has no threshold yet: train it first")
        state["threshold"] = state["threshold"].to(sae.decoder).expand(sae.width)
    elif isinstance(sae, TopKSAE):
        architecture, options = "topk", {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    else:
        kinds = {ReLUSAE: "standard", JumpReLUSAE: "jumprelu", GatedSAE: "gated"}
        if type(sae) not in kinds:
            raise InputError(f"SAELens has no architecture for a {type(sae).__name__}")
        architecture = kinds[type(sae)]
    names = {"W_enc": "encoder", "W_dec": "decoder", "b_dec": "bias", **BIASES[architecture]}
    config = {
        "architecture": architecture,
        "d_in": sae.dim,
        "d_sae": sae.width,
        "dtype": str(sae.decoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.center_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {},
        **options,
    }
    folder = check_writable(folder)
    weights = {key: state[name].contiguous() for key, name in names.items()}
    atomic_write(folder / WEIGHTS, save(weights))
    atomic_write(folder / CONFIG, json.dumps(config, indent=1))


class _Config:
    """The configuration; every refusal names the file and the key."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.values = path, values

    def refuse(self, key: str, needed: str) -> InputError:
        return InputError(f"{self.path}: {key} is {self.values.get(key)!r}, {needed}")

    def count(self, key: str) -> int:
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= 2**31:
            raise self.refuse(key, "a positive whole number is needed")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise self.refuse(key, "true or false is needed")
        return value

    def architecture(self) -> str:
        """The architecture, with the activation function of old formats folded into it."""
        found = self.values.get("architecture", "standard")
        function = self.values.get("activation_fn_str", self.values.get("activation_fn", "relu"))
        if found == "standard" and function == "topk":
            found, function = "topk", "relu"
        if not isinstance(found, str) or found not in BIASES:
            raise self.refuse("architecture", f"known are {', '.join(BIASES)}")
        if function not in ("relu", "topk" if found == "topk" else "relu"):
            key = "activation_fn_str" if "activation_fn_str" in self.values else "activation_fn"
            raise self.refuse(key, "which is not known")
        if found != "topk" and self.values.get("rescale_acts_by_decoder_norm"):
            raise self.refuse("rescale_acts_by_decoder_norm", f"which {found} does not have")
        if self.values.get("finetuning_scaling_factor"):
            raise self.refuse("finetuning_scaling_factor", "which is not known")
        return found

    def k(self, m: int) -> int:
        """Features in use, at the top or among the arguments of the activation function."""
        older = self.values.get("activation_fn_kwargs")
        k = self.values.get("k", older.get("k") if isinstance(older, dict) else None)
        if type(k) is not int or not 1 <= k <= m:
            raise InputError(f"{self.path}: k is {k!r}, a whole number from 1 to {m} is needed")
        return k

    def normalized(self, sae: SAE) -> SAE | NormalizedSAE:
        """The autoencoder for inputs as they are, whatever it was trained on."""
        mode = self.values.get("normalize_activations", "none")
        if mode in ("none", None, False):
            return sae
        if mode in ("layer_norm", "constant_norm_rescale"):
            return NormalizedSAE(sae, mode)
        if mode != "expected_average_only_in":
            raise self.refuse("normalize_activations", "which is not known")
        factor = self.values.get("norm_scaling_factor")
        if not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise self.refuse(
                "normalize_activations",
                "and norm_scaling_factor, which inputs are multiplied by, is not there: add it",
            )
        sae.rescale(1 / factor)  # the codes too are then in units of the inputs
        return sae


def _read(path: Path, architecture: str, d: int, m: int) -> dict[str, Tensor]:
    """The tensors of an architecture, their shapes checked before any is read."""
    file = SafetensorsFile(path)
    shapes = {"W_enc": (d, m), "W_dec": (m, d), "b_dec": (d,)}
    shapes |= dict.fromkeys(BIASES[architecture], (m,))
    for key, shape in shapes.items():
        if key not in file.entries:
            raise InputError(f"{path} lacks {key}, which the architecture {architecture} needs")
        stored = file.entries[key]
        if stored.shape != shape or stored.dtype not in FLOATS:
            raise InputError(
                f"{path}: {key} has shape {stored.shape} and dtype {stored.dtype}, floats of "
                f"shape {shape} are needed"
            )
    double = all(file.entries[key].dtype == "F64" for key in shapes)
    tensors = {key: file.read(key).to(torch.float64 if double else torch.float32) for key in shapes}
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {key} holds NaN or Inf")
    return tensors
