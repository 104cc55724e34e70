"""Ways of adapting at an equal budget, on real tasks: score, numbers trained, difference from LoRA.

Sentences of film reviews through MiniLM (SST-2 and Rotten Tomatoes), clinical cases through
stories15M, and Fashion-MNIST through a small network that was trained on the digits of MNIST. The
budget is what peft's LoRA trains at rank 4 on the same layers. Each method's step size is the
best of four over a factor of 30, chosen with one seed on a fifth of the training data. Where that
range lies was settled by short runs of one or two seeds; those were scored on other images of
Fashion-MNIST, and on some of the same held-out texts. Training sets are small, because five seeds
of sixteen methods run on two cores: what a table of such a size cannot tell apart, it says so.

Every training is kept in the cache as it is finished, and a second call goes on where the first was
stopped; several calls may train different tasks at once (``--no-record``, each with
OMP_NUM_THREADS=1), and a last one without it writes the record of all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import inputs_tasks
from benchmarks.harness import Row, report
from benchmarks.inputs import cache, finished, stories15m
from benchmarks.inputs_images import mnist
from lowdim import adapt
from lowdim.adapt import Comparison, Contender, Task
from lowdim.adapt.peft_methods import peft_count
from lowdim.adapt.targets import find_targets
from lowdim.core.progress import bars
from lowdim.datasets import minilm
from lowdim.report.adapt_document import AdaptReport

RANK = 4  # of the LoRA that sets the budget
GRID = (3e-3, 1e-2, 3e-2, 1e-1)
GRIDS = {
    "full": (1e-4, 3e-4, 1e-3, 3e-3),
    "lora-ga": (3e-4, 1e-3, 3e-3, 1e-2),  # both of its factors start far from zero
    "pissa": (3e-4, 1e-3, 3e-3, 1e-2),  # and so do those of pissa
    "svfit": (3e-2, 1e-1, 3e-1, 1.0),  # of singular values, which are larger than weights
}
"""Step sizes that are tried, a factor of 30 for each method."""

METHODS = (
    "head", "full", "lora", "lora half", "dora", "pissa", "lsr", "lsr half", "lora-sb", "lora-ga",
    "svfit", "mos", "bora", "flora", "sltrain", "strata", "random-subspace",
)  # fmt: skip
LINEAR_ONLY = ("dora", "pissa", "strata")
"""Methods that a convolution cannot have here."""
CONVOLUTIONS_ONLY = ("flora",)
"""Methods that are LoRA with more numbers on a matrix."""
ONCE = (*CONVOLUTIONS_ONLY, "dora", "pissa", "mos", "bora", "sltrain", "strata", "random-subspace")
"""Methods that two of the four tasks do without, for time."""


@dataclass(frozen=True)
class Problem:
    """A task of the benchmark and how much of it is used."""

    title: str
    make: Callable[[int, str], Task]
    n_train: int
    epochs: int
    without: Sequence[str]


class Digits(nn.Module):
    """Three convolutions and a head of ten classes: 93,000 numbers, of which 92,500 in the body."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 128)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.classifier = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.max_pool2d(torch.relu(layer(x)), 2)
        return self.classifier(x.mean((2, 3)))


def digits() -> Digits:
    """The network after two epochs on 20,000 digits of MNIST, with a head drawn anew."""
    path = cache() / "mnist-cnn.safetensors"
    torch.manual_seed(0)
    model = Digits()
    if not path.exists():
        x, y = (part[:25_000] for part in mnist())
        images = x.view(-1, 1, 28, 28)
        pairs = (images[:20_000], y[:20_000]), (images[20_000:], y[20_000:])
        found = adapt.fit(model, adapt.module_task(model, *pairs), epochs=2)
        print(f"digits: {found.score.value:.3f} of 5,000 held out", flush=True)
        with finished(path) as unfinished:
            save_file(model.state_dict(), unfinished)
    model.load_state_dict(load_file(path))
    torch.manual_seed(0)
    model.classifier.reset_parameters()
    return model


def sst2(n_train: int, device: str) -> Task:
    split = inputs_tasks.sst2(n_train)
    print(split, flush=True)
    return adapt.text_classification(minilm(), split.train, split.held_out, device=device)


def rotten(n_train: int, device: str) -> Task:
    split = inputs_tasks.rotten_tomatoes(n_train, 1_000)
    print(split, flush=True)
    return adapt.text_classification(minilm(), split.train, split.held_out, device=device)


def clinic(n_train: int, device: str) -> Task:
    split = inputs_tasks.domain_text("clinic", n_train, 100)
    print(split, flush=True)
    train, held_out = ([text for (text,) in items] for items in (split.train, split.held_out))
    return adapt.causal_lm(
        stories15m(), train, held_out, batch_size=4, max_length=96, device=device
    )


def clothes(n_train: int, device: str) -> Task:
    train, held_out = inputs_tasks.clothes(n_train, 2_000)
    print(f"Fashion-MNIST: train {n_train:,}; held out 2,000", flush=True)
    return adapt.module_task(
        digits().to(device),
        train,
        held_out,
        also=["classifier"],
        targets=["layers.1", "layers.2"],  # the first has no more numbers than an adapter of it
    )


PROBLEMS = {
    "sst2": Problem("SST-2", sst2, 500, 2, CONVOLUTIONS_ONLY),
    "rotten": Problem("Rotten Tomatoes", rotten, 800, 1, ONCE),
    "clinic": Problem("clinical text", clinic, 200, 1, (*ONCE, "head")),
    "clothes": Problem("Fashion-MNIST", clothes, 4_000, 4, LINEAR_ONLY),
}
"""About a quarter to a third of the time each: the two of MiniLM the longest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train", type=int, help="training items, in place of each task's own")
    parser.add_argument("--epochs", type=int, help="in place of each task's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-record", action="store_true", help="train, and write no result")
    parser.add_argument("--pages", type=Path, help="folder for a report of each task")
    args = parser.parse_args()
    rows = []
    for name in args.task:
        problem, start = PROBLEMS[name], time.perf_counter()
        n_train, epochs = args.train or problem.n_train, args.epochs or problem.epochs
        methods = [method for method in args.methods if method not in problem.without]
        found = compared(name, problem.make(n_train, args.device), methods, args.seeds, epochs)
        print(f"\n{problem.title}, {time.perf_counter() - start:.0f} s\n{found}\n", flush=True)
        rows += figures(problem.title, found)
        if args.pages:
            print(page(problem.title, found, args.pages / name))
    if not args.no_record:
        settings = {k: v for k, v in vars(args).items() if k not in ("no_record", "pages") and v}
        report("adapt_quality", rows, **settings)


def compared(name: str, task: Task, methods: Sequence[str], seeds: int, epochs: int) -> Comparison:
    """The methods on one task, its finished runs kept and found again in the cache."""
    shapes = [target.shape for target in find_targets(task.fresh(), task.targets)]
    budget = peft_count("lora", shapes, RANK)
    contenders = [
        Contender(method.removesuffix(" half"), method, budget // 2 if "half" in method else None)
        for method in methods
    ]
    with bars() as progress:
        return adapt.compare(
            task,
            contenders,
            budget=budget,
            seeds=range(seeds),
            epochs=epochs,
            lr={method: GRIDS.get(method, GRID) for method in methods},
            out=cache() / "adapt-quality" / name,
            resume=True,
            progress=progress,
        )


def page(title: str, found: Comparison, folder: Path) -> Path:
    """The report of ``lowdim adapt --compare`` on these runs."""
    n, item = len(found.runs[0].per_item), "image" if title == "Fashion-MNIST" else "text"
    report = AdaptReport(source={"name": title, "path": title}, run="compare", complete=True)
    report.comparison = found.to_dict() | {"n": n, "item": item}
    return report.save(folder)


def figures(title: str, found: Comparison) -> list[Row]:
    """A row for each figure of each method: ``method | task | figure``."""
    rows = [Row(f"untrained | {title} | {found.score}", found.untrained)]
    for line in found.rows:
        values = {
            found.score: line.value,
            "its interval, half": line.half,
            "trained": line.trained,
            "minus lora": line.difference,
            "its interval, half, minus lora": line.reach,
            "step size": line.lr,
            "seconds": line.seconds,
        }
        rows += [
            Row(f"{line.method} | {title} | {what}", float(value))
            for what, value in values.items()
            if value is not None
        ]
    return rows


if __name__ == "__main__":
    main()
