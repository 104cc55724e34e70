"""Shared inputs: tiny random models of the main families, and real ones where there are any."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

TEXT = "the a cat dog sat ran on under mat tree big small red old and then it was very happy"
WORDS = TEXT.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SENTENCES = [
    "the cat sat on the mat",
    "a dog",
    "it was very very happy and then the old red dog ran under the big tree and sat",
    "the small cat ran",
    "old",
    "the big dog was happy and the small cat sat under a tree",
    "a red mat",
    "then it ran",
]


def tiny_config(family: str, **changes: object) -> object:
    """A configuration of width 32 with two layers and four heads."""
    import transformers

    common = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    if family == "GPT2":
        common["n_inner"] = common.pop("intermediate_size")
    if family == "T5":
        common = {k: common[k] for k in ("vocab_size", "pad_token_id")}
        common |= {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return getattr(transformers, f"{family}Config")(**common | changes)


def save_tokenizer(folder: Path, *, template: str | None, pad: bool = True) -> None:
    """A tokenizer of whole words; ``template`` says where special tokens go."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    index = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(index, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        model_max_length=32,
        **({"pad_token": "[PAD]"} if pad else {}),
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random model by the name of its class, e.g. ``LlamaForCausalLM``."""
    transformers = pytest.importorskip("transformers")
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            family = re.sub("(LMHeadModel|Model|For(Causal|Masked)LM)$", "", name)
            torch.manual_seed(0)
            model = getattr(transformers, name)(tiny_config(family))
            for parameter in model.parameters():  # far from the small weights of a fresh model
                parameter.data += 0.2 * torch.randn_like(parameter)
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
            causal = name.endswith(("ForCausalLM", "LMHeadModel"))
            bos = "[CLS] $A" if family == "Llama" else None
            save_tokenizer(
                made[name], template=bos if causal else "[CLS] $A [SEP]", pad=family != "GPT2"
            )
        return made[name]

    return make


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: one of its own, with what the module's ``files`` holds in it."""
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2."""
    pytest.importorskip("transformers")
    from lowdim.datasets import minilm
    from lowdim.errors import MissingExtraError

    try:
        return minilm()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def stories15m_folder() -> Path:
    """A causal model of 15 million parameters that tells stories."""
    pytest.importorskip("transformers")
    from benchmarks.inputs import Unavailable, stories15m

    try:
        return stories15m()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct."""
    pytest.importorskip("transformers")
    from benchmarks.inputs import Unavailable, smollm2

    try:
        return smollm2()
    except Unavailable as error:
        pytest.skip(str(error))
