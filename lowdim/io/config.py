"""What a model folder says of itself, read as plain JSON: no transformers, no code run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowdim.errors import InputError

LARGEST_JSON = 2**28


def read_json(path: Path) -> Any:
    """The content of a JSON file, or an error that names it."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(f"{path} is larger than any JSON file of a model: check it")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a JSON {type(found).__name__}: an object is needed")
    return found


@dataclass(frozen=True)
class ModelConfig:
    """The few facts of ``config.json`` that the layout of the weights depends on.

    Every fact is looked up under the names that model families use, at the top and then in
    ``text_config``; one that is not there is None.
    """

    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """The configuration in a folder; empty where there is none."""
        path = folder / "config.json"
        return cls(read_object(path)) if path.exists() else cls()

    def _parts(self) -> tuple[dict[str, Any], ...]:
        text = self.values.get("text_config")
        return (self.values, text) if isinstance(text, dict) else (self.values,)

    def get(self, *names: str) -> Any:
        """The first of these that is set."""
        for values in self._parts():
            for name in names:
                if values.get(name) is not None:
                    return values[name]
        return None

    def count(self, *names: str) -> int | None:
        """The first of these that is set, where it is a positive whole number."""
        value = self.get(*names)
        return value if type(value) is int and value > 0 else None

    @property
    def model_types(self) -> set[str]:
        """``{"gpt2"}``; two where a language model is part of a larger one."""
        return {str(v["model_type"]) for v in self._parts() if v.get("model_type")}

    @property
    def architecture(self) -> str | None:
        """The class that the weights were saved from, e.g. ``LlamaForCausalLM``."""
        names = self.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else None

    @property
    def dim(self) -> int | None:
        """Width of the hidden states."""
        return self.count("hidden_size", "n_embd", "n_embed", "d_model", "dim")

    @property
    def n_heads(self) -> int | None:
        """Number of attention heads."""
        return self.count("num_attention_heads", "n_head", "n_heads")

    @property
    def head_dim(self) -> int | None:
        """Width of one attention head."""
        found = self.count("head_dim")
        if found is None and self.dim and self.n_heads:
            found = self.dim // self.n_heads
        return found
