"""Shapley values from a budget of model evaluations: how far from the truth, and in what time.

    python benchmarks/shapley.py [--quick] [tabular] [image]

Every contestant sees the same game, a function of rows of present features that counts how often it is asked; a row
whose gradient is asked for counts as three. The error
is the root mean square distance from the truth over 10 seeds, as a share of the length of the true values. The truth is
ours on 100,000 coalitions. Its standard error is told, below which no error can be seen, and how far plain KernelSHAP
on as many other coalitions is from it, beside the standard error of that.

A model call costs next to nothing here. Last it is told from what cost of a row on `ShapleyValues` takes less time than
the others for the error that they have after some of the budgets.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from captum import attr as captum
from sklearn.datasets import load_breast_cancer, load_sample_images
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import torchwhy as why
from torchwhy.engines.masks import superpixels
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling

BUDGETS = (250, 500, 1000, 2000, 4000)
SEEDS = 10


class CountedGame(nn.Module):
    """Rows of zeros and ones (N, M) to scores (N,): ones are features of x, zeros those of the baseline."""

    def __init__(self, model: nn.Module, x: Tensor, base: Tensor, mask: Tensor, target: int) -> None:
        super().__init__()
        self.model, self.x, self.base, self.mask, self.target = model, x, base, mask, target
        self.count, self.rows = int(mask.max()) + 1, 0

    def forward(self, rows: Tensor) -> Tensor:
        differentiated = torch.is_grad_enabled() and rows.requires_grad
        self.rows += len(rows) * (3 if differentiated else 1)
        with torch.set_grad_enabled(differentiated):
            return self.model(torch.lerp(self.base, self.x, rows.float()[:, self.mask]))[:, self.target]

    def numpy(self, rows: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(np.atleast_2d(rows).astype(np.float32)).split(512)
        return torch.cat([self(part) for part in parts]).double().numpy()


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval().requires_grad_(requires_grad=False)


def tabular(example: int) -> CountedGame:
    """An MLP on breast cancer: 30 columns, against the mean patient."""
    data = load_breast_cancer()
    x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0)).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    fit(model, x, torch.tensor(data.target), 30)
    row = x[example]
    return CountedGame(model, row, torch.zeros_like(row), torch.arange(30), int(model(row[None]).argmax()))


def image(example: int) -> CountedGame:
    """A CNN that tells crops of two photographs apart: 64 superpixels, against the mean colour."""
    photos = [torch.tensor(photo).permute(2, 0, 1) / 255 for photo in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for photo in photos:
        corners = torch.rand(300, 2, generator=generator) * torch.tensor([photo.shape[1] - 96, photo.shape[2] - 96])
        crops.append(torch.stack([photo[:, r : r + 96 : 3, c : c + 96 : 3] for r, c in corners.long().tolist()]))
    x, y = torch.cat(crops), torch.arange(2).repeat_interleave(300)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inside, outside in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = fit(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 2)), x, y, 6)
    crop = x[example]
    mask = superpixels(crop[None], n_segments=60)[0, 0]
    base = crop.mean((1, 2), keepdim=True).expand_as(crop)
    # The mask is the same for all channels.
    return CountedGame(model, crop, base, mask.expand(3, -1, -1), int(model(crop[None]).argmax()))


@dataclass
class Contestant:
    name: str
    run: Callable[[CountedGame, int, int], np.ndarray]  # game, budget, seed to values (M,)


def of(
    method: type[why.Method], option: str, share: Callable[[int, int], int], extra: int
) -> Callable[..., np.ndarray]:
    """Ours, with its budget in an option."""

    def run(game: CountedGame, budget: int, seed: int) -> np.ndarray:
        made = method(game, seed=seed, **{option: share(budget - extra, game.count)})
        return made.attribute(torch.ones(1, game.count))[0].double().numpy()

    return run


def captum_kernel(game: CountedGame, budget: int, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    found = captum.KernelShap(game).attribute(
        torch.ones(1, game.count), n_samples=budget - 3, perturbations_per_eval=256
    )
    return found[0].double().numpy()


def captum_sampling(game: CountedGame, budget: int, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    found = captum.ShapleyValueSampling(game).attribute(
        torch.ones(1, game.count), n_samples=max(1, (budget - 3) // game.count), perturbations_per_eval=256
    )
    return found[0].double().numpy()


def shap_kernel(game: CountedGame, budget: int, seed: int) -> np.ndarray:
    import shap

    np.random.seed(seed)  # noqa: NPY002  the one it draws from
    explainer = shap.KernelExplainer(game.numpy, np.zeros((1, game.count)))
    return explainer.shap_values(np.ones((1, game.count)), nsamples=budget - 3, l1_reg=False, silent=True)[0]


def shap_permutation(game: CountedGame, budget: int, seed: int) -> np.ndarray:
    import shap

    masker = shap.maskers.Independent(np.zeros((1, game.count)))
    explainer = shap.PermutationExplainer(game.numpy, masker, seed=seed)
    per_round = 2 * game.count + 1
    rounds = max(1, budget // per_round)
    return explainer(np.ones((1, game.count)), max_evals=rounds * per_round, silent=True).values[0]


def from_shapiq(name: str) -> Callable[[CountedGame, int, int], np.ndarray]:
    def run(game: CountedGame, budget: int, seed: int) -> np.ndarray:
        import shapiq.approximator as approximators

        options = {} if name == "PermutationSamplingSV" else {"pairing_trick": True}
        made = getattr(approximators, name)(n=game.count, random_state=seed, **options)
        found = made.approximate(budget=budget, game=game.numpy)
        return np.array([found[(i,)] for i in range(game.count)])

    return run


CONTESTANTS = [
    Contestant("torchwhy ShapleyValues", of(ShapleyValues, "budget", lambda n, m: n, 1)),
    Contestant("torchwhy KernelShap", of(KernelShap, "n_samples", lambda n, m: n, 1)),
    Contestant(
        "torchwhy permutations", of(ShapleyValueSampling, "n_samples", lambda n, m: max(1, (n - 2) // (m - 1)), 1)
    ),
    Contestant("captum KernelShap", captum_kernel),
    Contestant("captum permutations", captum_sampling),
    Contestant("shap Kernel", shap_kernel),
    Contestant("shap Permutation", shap_permutation),
    Contestant("shapiq KernelSHAP", from_shapiq("KernelSHAP")),
    Contestant("shapiq SVARM", from_shapiq("SVARM")),
    Contestant("shapiq permutations", from_shapiq("PermutationSamplingSV")),
]


def truth(game: CountedGame, rows: int) -> np.ndarray:
    """The true values, as well as they can be known."""
    x = torch.ones(1, game.count, dtype=torch.float64)
    found = ShapleyValues(game, budget=rows, seed=2**32).explain(x)
    other = KernelShap(game, n_samples=rows, seed=2**33).explain(x)
    size = found.values.norm()
    print(
        f"{game.count} features; standard error of the truth {found.standard_error.norm() / size:.4f}; "
        f"KernelSHAP is {(found.values - other.values).norm() / size:.4f} from it, "
        f"with a standard error of {other.standard_error.norm() / size:.4f}"
    )
    return found.values[0].numpy()


@dataclass
class Reached:
    """What a contestant reached with a budget, on average."""

    error: float
    rows: float
    seconds: float


def measured(
    contestant: Contestant, games: list[CountedGame], known: list[np.ndarray], budget: int, seeds: int
) -> Reached:
    squares, rows, began = [], 0, time.process_time()
    for game, values in zip(games, known, strict=True):
        game.rows = 0
        for seed in range(seeds):
            off = contestant.run(game, budget, seed) - values
            squares.append(float((off**2).sum() / (values**2).sum()))
        rows += game.rows
    seconds = (time.process_time() - began) / len(squares)
    return Reached(float(np.sqrt(np.mean(squares))), rows / len(squares), seconds)


def breaks_even(ours: list[Reached], other: Reached) -> str:
    """From what cost of a row on ours are sooner at the error of the other."""
    errors, rows, seconds = (np.log([getattr(r, name) for r in ours][::-1]) for name in ("error", "rows", "seconds"))
    if not errors[0] <= np.log(other.error):
        return "is never as near with these budgets"
    needed, taken = (float(np.exp(np.interp(np.log(other.error), errors, of))) for of in (rows, seconds))
    least = " or fewer" if other.error > ours[0].error else ""
    told = f"takes {needed:.0f} evaluations{least} for {other.rows:.0f} of theirs, sooner "
    if taken <= other.seconds:
        return told + "whatever a row costs"
    if needed > other.rows - 1:
        return told + "never"
    return told + f"from {1e6 * (taken - other.seconds) / (other.rows - needed):.0f} microseconds a row on"


def main() -> None:
    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")  # the peers' own
    budgets, seeds = (BUDGETS[1:3], 2) if quick else (BUDGETS, SEEDS)
    for title, make, examples in (("MLP, 30 columns", tabular, (3, 40)), ("CNN, superpixels", image, (310,))):
        if {"tabular", "image"} & set(sys.argv) and make.__name__ not in sys.argv:
            continue
        print(f"\n{title}, {seeds} seeds", flush=True)
        games = [make(example) for example in examples[: 1 if quick else None]]
        known = [truth(game, 20_000 if quick else 100_000) for game in games]
        head = "".join(f"{f'{n} evaluations':>26}" for n in budgets)
        print(f"{'':24}{head}   (error, rows asked for, seconds of the processor)")
        found = {}
        for contestant in CONTESTANTS:
            contestant.run(games[0], budgets[0], 0)  # what is imported at first is not counted
            reached = [measured(contestant, games, known, budget, seeds) for budget in budgets]
            line = "".join(f"{r.error:12.4f}{r.rows:7.0f}{r.seconds:7.3f}" for r in reached)
            print(f"{contestant.name:24}{line}", flush=True)
            found[contestant.name] = reached
        ours = found[CONTESTANTS[0].name]
        for name, reached in found.items():
            if not name.startswith("torchwhy"):
                for r in reached[::-2]:
                    print(f"against {name}: {breaks_even(ours, r)}")


if __name__ == "__main__":
    main()
