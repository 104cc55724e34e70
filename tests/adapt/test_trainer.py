"""The Hugging Face Trainer trains adapters as any model: with checkpoints, resumed, in bfloat16."""

from __future__ import annotations

import pytest
import torch

from lowdim import adapt
from lowdim.adapt import adaptation_methods
from tests.conftest import tiny_config

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")


def base():
    """A tiny BERT with a classifier of two classes."""
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(tiny_config("Bert", num_labels=2))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


IDS = torch.randint(4, 23, (32, 8), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": row, "labels": int(row[0] % 2)} for row in IDS]


def trainer(model, folder, **options):
    arguments = transformers.TrainingArguments(
        **{
            "output_dir": str(folder),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        | options
    )
    return transformers.Trainer(model, arguments, train_dataset=DATA, eval_dataset=DATA)


def outputs(model):
    return model.eval()(IDS).logits


@pytest.mark.parametrize("name", ["lsr", "mos", "bora"])
def test_training_saves_loads_and_merges(name, tmp_path):
    method = adaptation_methods()[name]()
    model = base()
    adapt.attach(model, method, ["query", "value"], also=["classifier"])
    before = {n: p.clone() for n, p in model.named_parameters()}
    trainer(model, tmp_path / "run").train()
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad, n
    expected = outputs(model)
    adapt.save(model, tmp_path / "kept")
    again = base()
    adapt.load(again, tmp_path / "kept")
    assert torch.equal(outputs(again), expected)
    torch.testing.assert_close(outputs(adapt.merge(again)), expected)


@pytest.mark.parametrize("name", ["lsr", "mos", "svfit"])
def test_a_checkpoint_of_the_trainer_resumes(name, tmp_path):
    method = adaptation_methods()[name]()

    def fresh():
        model = base()
        adapt.attach(model, method, ["query", "value"], also=["classifier"])
        return model

    whole = fresh()
    run = trainer(whole, tmp_path / "run", save_strategy="epoch")
    run.train()
    first = min((tmp_path / "run").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    resumed = fresh()
    trainer(resumed, tmp_path / "other").train(resume_from_checkpoint=str(first))
    torch.testing.assert_close(outputs(resumed), outputs(whole), rtol=1e-5, atol=1e-6)


def test_the_best_checkpoint_is_put_back(tmp_path):
    model = base()
    adapt.attach(model, adapt.SVFit(4), ["query"], also=["classifier"])
    run = trainer(
        model,
        tmp_path,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    run.train()
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_bfloat16_and_gradient_checkpointing(tmp_path):
    model = base()
    adapt.attach(model, adapt.LSR(terms=4), ["query", "value"], also=["classifier"])
    before = [p.clone() for p in adapt.attached(model).adapter_parameters()]
    trainer(model, tmp_path, bf16=True, gradient_checkpointing=True).train()
    after = adapt.attached(model).adapter_parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.isfinite(outputs(model)).all()
