"""What metrics say of methods and of controls, and how far each method gets from random towards the best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.recommendation.statistics import LEVEL, bootstrap, holm


@dataclass(eq=False)
class Scores:
    """Of C methods and of the controls on the same N examples, by several metrics; higher is better.

    Attributes:
        methods: by metric, (C, N); NaN where a metric is not defined.
        controls: by metric and by control, (N,).
    """

    methods: dict[str, Tensor]
    controls: dict[str, dict[str, Tensor]]

    def of(self, chosen: list[int]) -> Scores:
        """Of some of the methods."""
        return Scores({name: table[chosen] for name, table in self.methods.items()}, self.controls)

    def settled(self) -> Scores:
        """Without holes.

        Where a metric is defined for some attributions of an example and not for others, such as those that are zero
        everywhere, these have failed there: they get the worst value of the example. Examples for which it is defined
        for none say nothing and get 0 for all.
        """
        methods, controls = {}, {}
        for name, table in self.methods.items():
            rivals = self.controls[name]
            every = torch.cat([table, *(v[None] for v in rivals.values())])
            worst = torch.where(every.isnan(), torch.inf, every).amin(0)
            worst = torch.where(worst.isinf(), 0, worst)
            methods[name] = torch.where(table.isnan(), worst, table)
            controls[name] = {rival: torch.where(v.isnan(), worst, v) for rival, v in rivals.items()}
        return Scores(methods, controls)

    def rival(self, metric: str) -> str:
        """The control that is best by a metric."""
        return max(self.controls[metric], key=lambda rival: float(self.controls[metric][rival].mean()))

    def telling(self) -> list[str]:
        """Metrics by which the best method is above every control, on average."""
        return [
            name
            for name, table in self.methods.items()
            if len(table) and table.mean(1).amax() > self.controls[name][self.rival(name)].mean()
        ]

    def merits(self, metrics: list[str]) -> Tensor:
        r"""(C, N) how far each method gets, on average over some metrics: random attributions are 0, the best method 1.

        .. math:: \frac{1}{|M|} \sum_{m \in M} \frac{s_m - \bar s_m^{\text{random}}}{\bar s_m^{\text{best}} -
            \bar s_m^{\text{random}}}

        with means over the examples.
        """
        shares = []
        for name in metrics:
            table, zero = self.methods[name], self.controls[name]["random"].mean()
            way = table.mean(1).amax() - zero
            shares.append((table - zero) / way if way > 0 else torch.zeros_like(table))
        return torch.stack(shares).mean(0)


@dataclass(frozen=True)
class Judgement:
    """Whether a metric tells methods from what knows nothing of the model.

    Attributes:
        metric: its name.
        informative: it counts.
        leader: the method that did best on the examples for tuning.
        value: its mean on the others, as the metric gives it.
        control: the control that does best.
        control_value: its mean.
        p: how often chance would put the leader as far above every control, adjusted for all metrics (Holm).
        values: means of all controls.
    """

    metric: str
    informative: bool
    leader: str
    value: float
    control: str
    control_value: float
    p: float
    values: dict[str, float]


def judgements(
    scores: Scores, leaders: dict[str, int], names: list[str], signs: dict[str, int], seed: int
) -> list[Judgement]:
    """Does the leader of each metric beat every control by more than chance?

    The leader was chosen on other examples. It has to beat all controls, so its p-value is that against the one that it
    beats least (an intersection-union test); Holm's correction then holds for all metrics together.

    Args:
        scores: without holes.
        leaders: by metric, the row of its leader.
        names: of the rows.
        signs: by metric, -1 where lower is better.
        seed: of the bootstrap.
    """
    found = {}
    for metric, leader in leaders.items():
        rivals = torch.stack(list(scores.controls[metric].values()))
        above = (scores.methods[metric][leader] - rivals).T
        found[metric] = float(bootstrap(above, seed).p_above().amax())
    adjusted = holm(torch.tensor(list(found.values()), dtype=torch.float64)).tolist()
    made = []
    for (metric, leader), p in zip(leaders.items(), adjusted, strict=True):
        rival = scores.rival(metric)
        means = {name: signs[metric] * float(v.mean()) for name, v in scores.controls[metric].items()}
        value = signs[metric] * float(scores.methods[metric][leader].mean())
        made.append(Judgement(metric, p <= LEVEL, names[leader], value, rival, means[rival], p, means))
    return made
