"""`lowdim adapt` as a user meets it: what it writes and prints, and one line for a mistake."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lowdim import adapt
from lowdim.io.models import load_model
from lowdim.report.adapt_setup import rebuilt
from tests.conftest import WORDS
from tests.test_cli import ctrl_c, run

ROOT = Path(__file__).parent.parent

SLOW = """
import sys, time, torch
torch.set_num_threads(1)
from lowdim.adapt import text_tasks
evaluate = text_tasks.TextClassification.evaluate
def slowly(self, model):
    time.sleep(0.3)
    return evaluate(self, model)
text_tasks.TextClassification.evaluate = slowly
from lowdim.cli import main
main(sys.argv[1:])
"""


def lines(n, seed):
    """Texts with a cat in them are of the label cat."""
    draw = random.Random(seed)
    for i in range(n):
        words = draw.choices([w for w in WORDS if w != "cat"], k=6)
        words[draw.randrange(6)] = "cat" if i % 2 else "dog"
        yield {"text": " ".join(words), "label": "cat" if i % 2 else "none", "other": "a mat"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def files(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    rows = list(lines(60, 0))
    write(folder / "train.jsonl", rows)
    write(folder / "valid.jsonl", lines(24, 1))
    write(folder / "plain.jsonl", [{"text": row["text"]} for row in rows])
    write(folder / "one.jsonl", [row | {"label": "cat"} for row in rows])
    write(folder / "strange.jsonl", [row | {"label": "bird"} for row in rows])
    write(folder / "few.jsonl", rows[:4])
    write(folder / "rare.jsonl", [row | {"label": row["text"]} for row in rows])
    write(folder / "empty.jsonl", [])
    (folder / "bert").symlink_to(tiny_folder("BertModel"))
    (folder / "llama").symlink_to(tiny_folder("LlamaForCausalLM"))
    return folder


BERT = ["adapt", "bert", "--train", "train.jsonl", "--valid", "valid.jsonl", "--lr", "1e-2"]


def test_a_training_writes_an_adapter_a_page_and_the_figures(capsys, here):
    code, printed, err = run(
        capsys, *BERT, "--method", "svfit", "--budget", "64", "--epochs", "2", "--out", "out"
    )
    assert (code, err) == (0, "")
    shown = printed.strip().splitlines()
    assert shown[-1] == "out/report.html"
    assert max(len(line) for line in shown) <= 80
    assert len(shown) <= 25
    names = {"report.html", "adapt.json", "adapter.json", "adapter.safetensors"}
    assert {f.name for f in Path("out").iterdir()} == names
    found = json.loads(Path("out/adapt.json").read_text())
    assert found["complete"]
    assert found["training"]["trainable"] == 64
    assert len(found["training"]["scores"]) == 2
    facts = json.loads(Path("out/adapter.json").read_text())
    model = rebuilt(facts["about"], "bert")
    assert adapt.load(model, "out").n_trainable == 64
    assert facts["about"]["command"].startswith("lowdim adapt bert --train train.jsonl")
    rows = found["training"]["rows"]
    update = adapt.attached(model).pairs()[0][1].delta()
    assert rows[0]["norm"] == pytest.approx(float(update.detach().norm()), rel=1e-5)


def test_what_it_says_can_be_typed_again(capsys, here):
    run(capsys, *BERT, "--method", "svfit", "--rank", "4", "--epochs", "1", "--out", "out")
    first = json.loads(Path("out/adapt.json").read_text())["training"]
    command = json.loads(Path("out/adapter.json").read_text())["about"]["command"].split()
    code, _, _ = run(capsys, *command[1:])
    assert code == 0
    again = json.loads(Path("out/adapt.json").read_text())["training"]
    assert {k: v for k, v in first.items() if k != "seconds"} == {
        k: v for k, v in again.items() if k != "seconds"
    }


def test_without_valid_a_fifth_is_held_out_and_said(capsys, here):
    start = ["adapt", "--train", "plain.jsonl", "llama", "--rank", "2", "--method", "svfit"]
    code, printed, _ = run(capsys, *start, "--epochs", "1", "--lr", "1e-3", "--out", "lm")
    assert code == 0
    assert "12 of the 60 of plain.jsonl" in " ".join(printed.split())
    found = json.loads(Path("lm/adapt.json").read_text())
    assert (found["source"]["n"], found["source"]["n_valid"]) == (48, 12)
    assert found["training"]["after"]["name"] == "perplexity"


def test_pairs_of_texts_are_read_together(capsys, here):
    code, _, _ = run(
        capsys, *BERT, "--second", "other", "--method", "svfit", "--epochs", "1", "--out", "pairs"
    )
    assert code == 0
    found = json.loads(Path("pairs/adapt.json").read_text())
    assert found["options"]["second"] == "other"
    code, _, _ = run(capsys, *BERT, "--method", "svfit", "--epochs", "1", "--out", "alone")
    alone = json.loads(Path("alone/adapt.json").read_text())
    assert alone["training"]["losses"] != found["training"]["losses"]


def test_of_several_step_sizes_the_best_is_taken(capsys, here):
    code, _, _ = run(
        capsys, *BERT[:-1], "1e-5,3e-2", "--method", "svfit", "--rank", "8", "--epochs", "2",
        "--out", "out", "--targets", "linear",
    )  # fmt: skip
    assert code == 0
    found = json.loads(Path("out/adapt.json").read_text())["training"]
    assert set(found["tuning"]) == {"1e-05", "0.03"}
    best = max(found["tuning"], key=lambda rate: found["tuning"][rate])
    assert float(best) == found["lr"]


def test_measured_targets_and_suggestions_agree(capsys, here):
    shared = ["--budget", "1k", "--out"]
    code, printed, _ = run(capsys, *BERT, "--suggest", *shared, "suggested")
    assert code == 0
    assert "Nothing was trained" in printed
    code, by_inputs, _ = run(capsys, *BERT, "--suggest", "--method", "svfit", *shared, "inputs")
    assert code == 0
    assert "what the layers do to their inputs" in " ".join(by_inputs.split())
    told = json.loads(Path("suggested/adapt.json").read_text())["suggestion"]
    code, _, _ = run(
        capsys, *BERT, "--method", "lora-ga", "--targets", "measured", "--epochs", "1",
        *shared, "trained",
    )  # fmt: skip
    assert code == 0
    done = json.loads(Path("trained/adapt.json").read_text())["training"]
    ranks = {f"{r['name']}.weight": r["rank"] for r in told["rows"] if r["rank"]}
    assert {row["name"]: row["options"]["rank"] for row in done["rows"]} == ranks
    assert done["trainable"] == told["n_trainable"] <= 1_000


def test_a_comparison_is_a_table(capsys, here):
    code, printed, _ = run(
        capsys, *BERT, "--compare", "svfit,head", "--budget", "100", "--seeds", "2",
        "--epochs", "1", "--out", "cmp",
    )  # fmt: skip
    assert code == 0
    assert max(len(line) for line in printed.splitlines()) <= 80
    rows = json.loads(Path("cmp/adapt.json").read_text())["comparison"]["rows"]
    assert [row["method"] for row in rows] == ["svfit", "head"]
    assert rows[0]["trained"] == 100


def test_json_is_what_is_written(capsys, here):
    code, printed, _ = run(capsys, *BERT, "--suggest", "--out", "s", "--json")
    assert code == 0
    shown = json.loads(printed[: printed.rindex("}") + 1])
    assert shown == json.loads(Path("s/adapt.json").read_text())


def test_the_ladder_of_dimensions_is_resumable(capsys, here):
    ladder = ["adapt", "dimension", *BERT[1:], "--seeds", "1", "--epochs", "1", "--out", "d"]
    code, printed, _ = run(capsys, *ladder, "--dims", "3,30")
    assert code == 0
    assert "d90" in printed or "No rung" in printed
    before = (here / "d/d3-seed0/adapter.safetensors").stat().st_mtime_ns
    code, _, _ = run(capsys, *ladder, "--dims", "3,30,60", "--resume")
    assert code == 0
    assert (here / "d/d3-seed0/adapter.safetensors").stat().st_mtime_ns == before
    rungs = json.loads(Path("d/adapt.json").read_text())["dimension"]["curve"]
    assert [rung["dim"] for rung in rungs] == [0, 3, 30, 60]


# --- what is shipped ----------------------------------------------------------------------------


@pytest.fixture
def trained(capsys, here):
    run(capsys, *BERT, "--method", "svfit", "--rank", "3", "--epochs", "2", "--out", "out")
    model = rebuilt(json.loads(Path("out/adapter.json").read_text())["about"], "bert")
    adapt.load(model, "out")
    return model.eval()


IDS = torch.tensor([[2, 5, 6, 7, 9, 3], [2, 4, 8, 11, 6, 3]])


def test_export_to_peft_gives_the_same_states(capsys, trained):
    peft = pytest.importorskip("peft")
    code, printed, _ = run(capsys, "adapt", "export", "out", "--to", "peft", "lora")
    assert code == 0
    assert "stock LoRA of rank 3 on 4 modules" in printed
    base = load_model("bert").module
    base.add_module("classifier", torch.nn.Linear(32, 2))
    served = peft.PeftModel.from_pretrained(base, "lora").eval()
    with torch.no_grad():
        expected = trained(IDS).last_hidden_state
        torch.testing.assert_close(served(IDS).last_hidden_state, expected, atol=1e-5, rtol=0)
    head = served.base_model.model.classifier.modules_to_save["default"]
    assert torch.equal(head.weight, trained.classifier.weight)


def test_export_merged_is_a_model_folder_and_a_head(capsys, trained):
    from safetensors import safe_open

    code, _, err = run(capsys, "adapt", "export", "out", "--to", "merged", "plain")
    assert (code, err) == (0, "")
    merged = load_model("plain").module
    with torch.no_grad():
        expected = trained(IDS).last_hidden_state
        torch.testing.assert_close(merged(IDS).last_hidden_state, expected, atol=1e-5, rtol=0)
    with safe_open("plain/classifier.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("weight"), trained.classifier.weight)
        assert json.loads(file.metadata()["labels"]) == ["cat", "none"]


def test_export_merged_of_a_causal_model_continues_text_as_trained(capsys, here):
    start = ["adapt", "llama", "--train", "plain.jsonl", "--method", "svfit", "--rank", "4"]
    run(capsys, *start, "--epochs", "1", "--lr", "1e-2", "--out", "out")
    code, _, err = run(capsys, "adapt", "export", "out", "--to", "merged", "plain")
    assert (code, err) == (0, "")
    trained = rebuilt(json.loads(Path("out/adapter.json").read_text())["about"], "llama").eval()
    untrained = trained(IDS).logits
    adapt.load(trained, "out")
    merged = load_model("plain")
    assert merged.kind == "causal"
    with torch.no_grad():
        torch.testing.assert_close(
            merged.module(IDS).logits, trained(IDS).logits, atol=1e-5, rtol=0
        )
        assert (trained(IDS).logits - untrained).abs().max() > 1e-3


def test_export_says_what_it_cannot(capsys, trained, here):
    Path("bare").mkdir()
    adapt.save(trained, "bare")
    for arguments, word in (
        (["out", "--to", "onnx", "x"], "peft or merged"),
        (["missing", "--to", "peft", "x"], "does not exist"),
        (["bare", "--to", "peft", "x"], "lowdim adapt did not write it"),
        (["out", "--to", "peft", "x", "--model", "gone"], "--model"),
        (["out", "--to", "peft", "x", "--model", "llama"], "architecture"),
        (["out", "--to", "merged", "x", "--rank", "2"], "--rank"),
        (["out", "--to", "peft", "train.jsonl"], "train.jsonl"),
    ):
        one_line(run(capsys, "adapt", "export", *arguments), arguments, word)


# --- mistakes -----------------------------------------------------------------------------------


def one_line(result, arguments, word):
    code, _, err = result
    assert code == 2, (arguments, err)
    assert err.count("\n") == 1, (arguments, err)
    assert err.startswith("lowdim: ")
    assert word in err, (arguments, err)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--method", "svfitt"], "did you mean svfit"),
        (["--method", "lora"], "method of peft"),
        (["--budget", "1"], "smallest size"),
        (["--budget", "many"], "50k"),
        (["--budget", "50k", "--size", "3"], "give one of them"),
        (["--option", "rank"], "name=value"),
        (["--option", "rang=3"], "no option 'rang'"),
        (["--method", "svfit", "--rank", "0"], "rank=0"),
        (["--targets", "querry"], "did you mean query"),
        (["--targets", "LayerNorm"], "of kind other"),
        (["--train", "plain.jsonl", "--valid", "plain.jsonl"], "predicts no next token"),
        (["--train", "plain.jsonl", "--task", "classification"], "plain.jsonl has no labels"),
        (["--valid", "plain.jsonl"], "plain.jsonl has no labels"),
        (["--train", "one.jsonl"], "'cat'"),
        (["--valid", "strange.jsonl"], "'bird'"),
        (["--train", "empty.jsonl"], "empty.jsonl"),
        (["--train", "missing.jsonl"], "missing.jsonl"),
        (["--task", "regression"], "classification or causal-lm"),
        (["--second", "third"], "third"),
        (["--epochs", "0"], "epochs=0"),
        (["--lr", "fast"], "--lr"),
        (["--lr", "1e30"], "lower lr"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--suggest", "--memory", "lots"], "memory"),
        (["--out", "train.jsonl"], "train.jsonl"),
        (["--compare", "svfit,loraa"], "loraa"),
        (["--compare", "svfit", "--size", "3"], "--size"),
        (["--compare", "svfit", "--suggest"], "--compare"),
        (["--suggest", "--resume"], "--resume"),
        (["--suggest", "--method", "lsr"], "terms"),
        (["--suggest", "--budget", "1"], "cheapest rank"),
        (["--compare", "svfit", "--targets", "measured"], "same targets"),
        (["--compare", "svfit", "--seeds", "0"], "seeds=0"),
        (["--seeds", "3"], "--seeds"),
        (["--memory", "1GiB"], "--memory"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_every_mistake_ends_in_one_line_and_code_2(capsys, here, arguments, word):
    start = [*BERT, "--epochs", "1", "--out", "out"]
    one_line(run(capsys, *start, *arguments), arguments, word)


def test_a_mistake_leaves_an_older_report_as_it_was(capsys, here):
    assert run(capsys, *BERT, "--suggest", "--out", "out")[0] == 0
    before = Path("out/adapt.json").read_text()
    assert run(capsys, *BERT, "--method", "nothing", "--out", "out")[0] == 2
    assert Path("out/adapt.json").read_text() == before


def test_mistakes_of_the_files_alone(capsys, here):
    one_line(run(capsys, "adapt", "bert", "--train", "few.jsonl"), "few", "--valid")
    one_line(run(capsys, "adapt", "bert", "--train", "rare.jsonl"), "rare", "all its texts")
    one_line(run(capsys, "adapt", "gone", "--train", "train.jsonl"), "model", "gone")
    one_line(run(capsys, "adapt", "dimension", *BERT[1:], "--dims", "9,3"), "dims", "ascend")


def test_without_peft_a_comparison_says_what_to_install(capsys, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    one_line(run(capsys, *BERT, "--compare", "lora,svfit", "--out", "c"), "peft", "lowdim[peft]")


def test_help_is_there_for_the_group_and_for_a_model(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, group, _ = run(capsys, "adapt", "--help")
    assert all(name in group for name in ("train", "dimension", "export"))
    _, whole, _ = run(capsys, "adapt", "some-model", "--help")
    assert "--compare" in whole
    light = "import sys, lowdim.cli; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True, cwd=ROOT)
    assert max(map(len, whole.splitlines())) <= 80


def test_ctrl_c_keeps_checkpoints_and_resume_continues(capsys, here):
    options = [*BERT, "--method", "svfit", "--rank", "2", "--epochs", "6", "--out"]
    kept = here / "out/.adapt"
    ctrl_c(
        [sys.executable, "-c", SLOW, *options, "out"],
        lambda: (kept / "adapter/checkpoint.safetensors").exists(),
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert not json.loads(Path("out/adapt.json").read_text())["complete"]
    assert run(capsys, *options, "out", "--resume")[0] == 0
    assert not kept.exists()
    assert run(capsys, *options, "fresh")[0] == 0
    resumed, whole = (
        json.loads(Path(f"{name}/adapt.json").read_text())["training"] for name in ("out", "fresh")
    )
    assert len(resumed["losses"]) == len(whole["losses"]) == resumed["steps"]
    for a, b in zip(resumed["losses"], whole["losses"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert resumed["after"] == pytest.approx(whole["after"])
