"""The steps of a comparison: what runs, tuning on one half of the examples, scoring on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.explanation import fingerprint
from torchwhy.core.guard import module_of
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.core.versions import versions
from torchwhy.engines.noise import draws
from torchwhy.metrics import Metric
from torchwhy.recommendation.bench import JUDGEMENTS, RIVALS, Bench, Candidate, Spent, name_of
from torchwhy.recommendation.planted import Plant
from torchwhy.recommendation.race import FINALISTS, Round, race
from torchwhy.recommendation.result import Contender, Recommendation, Screened, Standing
from torchwhy.recommendation.scores import Judgement, Scores, judgements
from torchwhy.recommendation.statistics import Pairs, all_pairs, cheapest_within_error, front

LEAST = 5  # examples to tune on, and as many to score on
WANTED = 16  # to score on, before another finalist is worth its price
STABLE = 4  # of those to score on, at most, for metrics that explain again
PLANTED = 2  # of those to score on, for the planted term
TRIALS, TUNING = 0.2, 0.4  # shares of the budget: to find out what runs, and of the rest to tune
TOO_DEAR = "too many for the budget"
DEAREST = 1 / (4 * 2 * LEAST)  # share of the budget that explaining one example may take
STREAM = 94  # of random numbers


@dataclass(frozen=True)
class Prices:
    """Model evaluations that metrics take.

    Attributes:
        shared: for one example, whatever is judged.
        each: for one explanation more.
        again: metrics that explain again, per evaluation of an explanation.
    """

    shared: float
    each: float
    again: float

    def example(self, costs: Iterable[float]) -> float:
        """To explain, judge and compare with controls."""
        return self.shared + JUDGEMENTS * self.each + sum(cost + self.each for cost in costs)


@dataclass(eq=False)
class Search:
    """The steps of a comparison, in their order."""

    bench: Bench
    faithful: list[Metric]
    steady: list[Metric]
    budget: float
    seed: int
    refused: dict[str, str]
    unasked: dict[str, str] = field(default_factory=dict)

    def run(self, made: list[Candidate]) -> Recommendation:
        """All steps, one after the other."""
        order = torch.randperm(self.bench.p.size, generator=draws(self.seed, stream=STREAM))
        order = order.to(self.bench.p.inputs.device)
        half = len(order) // 2
        first, second = order[:half], order[half:]
        self.bench.p.base_scores()
        candidates, prices = self._try(made, first)
        finalists, screened, tuned = self._tune(candidates, prices, first)
        scored, examples = self._afford(finalists, tuned, prices, second)
        return self._score(scored, screened, tuned.of([finalists.index(c) for c in scored]), examples)

    # -- what runs here -----------------------------------------------------------------------------------------------

    def _try(self, made: list[Candidate], examples: Tensor) -> tuple[list[Candidate], Prices]:
        """Those that run, with their costs, and what the metrics cost."""
        bench, question = self.bench, self.bench.question(examples[:1])
        shared, each = self._price(examples)
        least = bench.evaluations + 2 * LEAST * (shared + (JUDGEMENTS + 1) * (each + 1))
        if self.budget < least:
            raise TorchwhyError(
                f"a budget of {self.budget:,} model evaluations is too small to compare anything here: give at least "
                f"{math.ceil(least / (1 - TRIALS) / (1 - TUNING)):,}, or other metrics"
            )
        runs: list[Candidate] = []
        tried: set[str] = set()
        # The first setting of every method, those with gradients first, then the others.
        again = {}
        for c in made:
            again[id(c)] = c.name in tried
            tried.add(c.name)
        order = sorted(made, key=lambda c: (again[id(c)], c.method.facts.needs != "gradients"))
        limit = bench.evaluations + TRIALS * self.budget
        with bench.p.progress.task("trying methods", len(order)) as advance:
            for c in order:
                most = min(limit - bench.evaluations, DEAREST * self.budget)
                # A dearer setting is not tried where a cheaper one was too dear, but where it did not run at all.
                if self.refused.get(c.name, "").endswith(TOO_DEAR):
                    continue
                why = self._trial(c, question, most)
                if why is None:
                    runs.append(c)
                    self.refused.pop(c.name, None)
                elif not any(c.name == other.name for other in runs):
                    self.refused[c.name] = why
                advance(1)
        if not runs:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(self.refused.items())[:3])
            raise TorchwhyError(f"no method runs here: {reasons}")
        runs = [c for c in made if c in runs]
        return runs, Prices(shared, each, self._price_again(min(runs, key=lambda c: c.cost), question))

    def _trial(self, candidate: Candidate, question: Problem, most: float) -> str | None:
        """Why it does not run, None where it does."""
        if candidate.method.facts.form == "pairs":
            return "it gives values of pairs, and the metrics judge a value per element"
        if most <= 0:
            return "the budget leaves nothing to try it with"
        try:
            self.bench.try_out(candidate, question, most)
        except Spent:
            return f"one example takes more than {most:,.0f} model evaluations, {TOO_DEAR}"
        except TorchwhyError as error:
            return str(error)
        return None

    def _price(self, examples: Tensor) -> tuple[float, float]:
        """What metrics take for one example, and for one explanation more."""
        part = self.bench.part(examples[:1])
        taken = []
        for number in range(2):
            generator = draws(self.seed, stream=STREAM + 1, number=number)
            values = part.p.point.map(lambda t: torch.randn(t.shape, generator=generator).to(t.device))  # noqa: B023  used at once
            before = self.bench.evaluations
            self.bench.judge(part, self.faithful, values, signed=True)
            taken.append(self.bench.evaluations - before)
        return max(0, taken[0] - taken[1]), taken[1]

    def _price_again(self, cheapest: Candidate, question: Problem) -> float:
        """What the metrics that explain again take; those that cannot be asked here are left out."""
        before = self.bench.evaluations
        for metric in list(self.steady):
            try:
                self.bench.judge_method(cheapest, metric, question)
            except TorchwhyError as error:
                self.steady.remove(metric)
                self.unasked[name_of(metric)] = str(error)
        return (self.bench.evaluations - before) / max(1, cheapest.cost)

    # -- tuning -------------------------------------------------------------------------------------------------------

    def _tune(
        self, candidates: list[Candidate], prices: Prices, examples: Tensor
    ) -> tuple[list[Candidate], list[Screened], Scores]:
        """The finalists in their settings, those left behind, and the scores of the finalists there."""
        table = Table(self.bench, self.faithful, candidates, examples)
        with self.bench.p.progress.task("tuning", len(candidates) * len(examples)) as advance:
            rounds = race(
                [c.cost + prices.each for c in candidates],
                len(examples),
                lambda alive, part: table.look(alive, part, advance),
                table.merits,
                shared=prices.shared + JUDGEMENTS * prices.each,
                budget=TUNING * (self.budget - self.bench.evaluations),
            )
        if not rounds:
            needed = prices.example(c.cost for c in candidates) / TUNING + self.bench.evaluations
            raise TorchwhyError(
                f"a budget of {self.budget:,} model evaluations is too small to try {len(candidates)} settings: give "
                f"at least {2 * math.ceil(needed):,}, or name fewer methods"
            )
        alive, seen = self._sound(table, list(rounds[-1].left)), rounds[-1].examples
        merits = table.each_merit(alive, seen)
        chosen = {}
        for name in dict.fromkeys(candidates[i].name for i in alive):
            rows = [k for k, i in enumerate(alive) if candidates[i].name == name]
            best = cheapest_within_error(merits[rows].T, [candidates[alive[k]].cost for k in rows])
            chosen[alive[rows[best]]] = float(merits[rows[best]].mean())
        ranked = sorted(chosen, key=lambda i: -chosen[i])
        points = torch.tensor([[chosen[i], -candidates[i].cost] for i in ranked], dtype=torch.float64)
        kept = sorted({*range(min(FINALISTS, len(ranked))), *front(points)})
        finalists = [ranked[k] for k in kept]
        left = self._left_behind(table, rounds, {candidates[i].name for i in finalists})
        return [candidates[i] for i in finalists], left, table.scores(finalists, seen)

    def _sound(self, table: Table, alive: list[int]) -> list[int]:
        """Those that ran on all examples; the others are told of."""
        kept = [i for i in alive if i not in table.failed]
        running = {table.candidates[i].name for i in kept}
        for i, why in table.failed.items():
            if table.candidates[i].name not in running:
                self.refused[table.candidates[i].name] = f"it does not run on all examples: {why}"
        if not kept:
            raise TorchwhyError(f"no method runs on all examples: {next(iter(table.failed.values()))}")
        return kept

    def _left_behind(self, table: Table, rounds: list[Round], kept: set[str]) -> list[Screened]:
        """Of every other method the setting that came furthest."""
        found: dict[str, Screened] = {}
        for one in rounds:
            means = table.merits(list(one.alive), one.examples)
            for k in means.argsort(descending=False, stable=True).tolist():  # the best, and later rounds, have the word
                c = table.candidates[one.alive[k]]
                if c.name not in kept and one.alive[k] not in table.failed:
                    found[c.name] = Screened(c.told, c.cost, float(means[k]), one.examples)
        return sorted(found.values(), key=lambda s: (-s.examples, -s.merit))

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _afford(
        self, finalists: list[Candidate], tuned: Scores, prices: Prices, examples: Tensor
    ) -> tuple[list[Candidate], Tensor]:
        """Finalists and examples that the rest of the budget pays for.

        Where it does not pay for enough examples, the dearest finalists are left out: few examples tell nobody apart.
        The one that would be chosen after tuning stays.
        """
        left = self.budget - self.bench.evaluations
        merits = tuned.merits(tuned.telling() or list(tuned.methods))
        first = finalists[cheapest_within_error(merits.T, [c.cost for c in finalists])]
        kept = list(finalists)
        while True:
            costs = [c.cost for c in kept]
            fixed = (STABLE * prices.again + 3 * PLANTED) * sum(costs) + 4 * PLANTED * len(kept) + _ROOM
            affordable = (left - fixed) / max(1.0, prices.example(costs))
            others = [c for c in kept if c is not first]
            if affordable >= min(WANTED, len(examples)) or not others:
                break
            dearest = max(others, key=lambda c: c.cost)
            self.refused[dearest.name] = "the budget was too small to score it on enough examples"
            kept.remove(dearest)
        if affordable < LEAST:
            raise TorchwhyError(
                f"a budget of {self.budget:,} model evaluations leaves too little to score on {LEAST} examples: give "
                f"more, or name fewer or cheaper methods"
            )
        return kept, examples[: int(min(affordable, len(examples)))]

    def _score(
        self,
        finalists: list[Candidate],
        screened: list[Screened],
        tuned: Scores,
        examples: Tensor,
    ) -> Recommendation:
        bench = self.bench
        table = Table(bench, self.faithful, finalists, examples)
        every = list(range(len(finalists)))
        with bench.p.progress.task("scoring", len(finalists) * len(examples)) as advance:
            table.look(every, slice(0, len(examples)), advance)
        every = self._sound(table, every)
        finalists, tuned, scores = [finalists[i] for i in every], tuned.of(every), table.scores(every, len(examples))
        stable = {name_of(m): self._stability(m, finalists, examples) for m in self.steady}
        plant = Plant.of(bench, bench.question(examples[:PLANTED]), self.seed)
        missed = [None if plant is None else plant.error(bench, c) for c in finalists]
        signs = {name_of(m): 1 if m.direction == "higher" else -1 for m in (*self.faithful, *self.steady)}
        leaders = {name: int(values.mean(1).argmax()) for name, values in tuned.methods.items()}
        judged = judgements(scores, leaders, [c.told for c in finalists], signs, self.seed)
        means = {name: scores.methods[name].mean(1) for name in scores.methods} | stable
        values = [{name: signs[name] * float(mean[i]) for name, mean in means.items()} for i in range(len(finalists))]
        contenders = contenders_of(finalists, scores, judged, values, stable, missed, self.seed)
        return Recommendation(
            contenders=tuple(contenders),
            judgements=tuple(judged),
            screened=tuple(screened),
            refused=dict(sorted(self.refused.items())),
            stability=tuple(stable),
            directions={name: "higher" if sign > 0 else "lower" for name, sign in signs.items()},
            tuned=next(iter(tuned.methods.values())).shape[1],
            scored=len(examples),
            evaluations=bench.evaluations,
            budget=None if math.isinf(self.budget) else int(self.budget),
            seed=self.seed,
            at=None if bench.p.site is None else str(bench.p.site),
            unasked=self.unasked,
            provenance={
                "model": type(module_of(bench.model) or bench.model).__name__,
                "fingerprint": fingerprint(bench.model),
                **versions(),
            },
        )

    def _stability(self, metric: Metric, finalists: list[Candidate], examples: Tensor) -> Tensor:
        """(C,) means; NaN where there is none."""
        question = self.bench.question(examples[:STABLE])

        def mean(c: Candidate) -> Tensor:
            try:
                return self.bench.judge_method(c, metric, question).nanmean().cpu()
            except TorchwhyError:  # it does not run on the changed copies
                return torch.tensor(math.nan, dtype=torch.float64)

        return torch.stack([mean(c) for c in finalists])


_ROOM = 64  # evaluations that a pass may take more than was foreseen


class Table:
    """Scores of candidates on examples, as far as these have been looked at."""

    def __init__(self, bench: Bench, metrics: list[Metric], candidates: list[Candidate], examples: Tensor) -> None:
        self.bench, self.metrics, self.candidates, self.examples = bench, metrics, candidates, examples
        empty = torch.full((len(candidates), len(examples)), math.nan, dtype=torch.float64)
        self.values = {name_of(m): empty.clone() for m in metrics}
        self.controls = {name_of(m): {rival: empty[0].clone() for rival in RIVALS} for m in metrics}
        self.failed: dict[int, str] = {}  # those that did not run on an example, and why

    def look(self, alive: list[int], part: slice, advance: Callable[[int], None]) -> None:
        """Explain and judge."""
        judged = self.bench.part(self.examples[part])
        for metric, controls in self.bench.controls(judged, self.metrics).items():
            for rival, value in controls.items():
                self.controls[metric][rival][part] = value.cpu()
        for i in alive:
            c = self.candidates[i]
            advance(part.stop - part.start)
            try:
                values: Tensors = self.bench.explain(c, judged.p)
            except TorchwhyError as error:
                self.failed[i] = str(error)
                continue
            found = self.bench.judge(judged, self.metrics, values, signed=c.method.facts.signed)
            for metric, value in found.items():
                self.values[metric][i, part] = value.cpu()

    def scores(self, alive: list[int], seen: int) -> Scores:
        """Without holes, on the first examples."""
        controls = {m: {rival: v[:seen] for rival, v in rivals.items()} for m, rivals in self.controls.items()}
        return Scores({m: table[alive, :seen] for m, table in self.values.items()}, controls).settled()

    def each_merit(self, alive: list[int], seen: int) -> Tensor:
        """(C, N) by the metrics that may be worth something."""
        scores = self.scores(alive, seen)
        return scores.merits(scores.telling() or list(scores.methods))

    def merits(self, alive: list[int], seen: int) -> Tensor:
        """(C,)."""
        return self.each_merit(alive, seen).mean(1)


def contenders_of(
    finalists: list[Candidate],
    scores: Scores,
    judged: list[Judgement],
    values: list[dict[str, float]],
    stable: dict[str, Tensor],
    missed: list[float | None],
    seed: int,
) -> list[Contender]:
    """The finalists beside each other, of most merit first."""
    counted = [j.metric for j in judged if j.informative]
    costs = [float(c.cost) for c in finalists]
    merits = scores.merits(counted) if counted else None
    pairs = all_pairs(merits.T, seed) if merits is not None else None
    chosen = cheapest_within_error(merits.T, costs) if merits is not None else None
    rows = [-torch.tensor(costs, dtype=torch.float64), *(v.nan_to_num(-math.inf).cpu() for v in stable.values())]
    undominated = front(torch.stack([*([] if merits is None else [merits.mean(1)]), *rows], 1))
    made = []
    for i, c in enumerate(finalists):
        behind = margin = merit = error = None
        if merits is not None and pairs is not None and chosen is not None:
            merit = float(merits[i].mean())
            error = float(merits[i].std() / merits.shape[1] ** 0.5)
            behind = float(pairs.difference[chosen, i])
            margin = behind - float(pairs.low[chosen, i])
        made.append(
            Contender(
                name=c.name,
                told=c.told,
                method=c.method.with_options(progress=None),
                options=c.options,
                cost=c.cost,
                merit=merit,
                error=error,
                behind=behind,
                margin=margin,
                values=values[i],
                planted=missed[i],
                standing=_standing(pairs, chosen, i),
                front=i in undominated,
            )
        )
    return sorted(made, key=lambda c: (-(c.merit or 0), c.cost))


def _standing(pairs: Pairs | None, chosen: int | None, i: int) -> Standing:
    if pairs is None or chosen is None:
        return "unjudged"
    if i == chosen:
        return "chosen"
    return "worse" if pairs.better[chosen, i] else "better" if pairs.better[i, chosen] else "ties"
