"""Owen values of hierarchies: against all orders that interrupt no part, and what a budget leaves unopened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from scipy.cluster.hierarchy import linkage
from torch import Tensor
from torch.nn.functional import dropout
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Groups
from torchwhy.engines.masks import KEPT, channels
from torchwhy.methods.partition import PartitionShap, Tree, _halves, _places, correlated
from torchwhy.methods.shapley import ShapleyValues

M = 7


def double(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def ones(m: int = M) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


def game(seed: int, m: int = M) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    worth = torch.randn(2**m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bits = 2 ** torch.arange(m)
    return worth, lambda x: worth[(x.long() * bits).sum(1)]


def orders(tree: Tree) -> Iterator[list[int]]:
    """All orders in which no part of the hierarchy is interrupted."""
    if tree.halves is None:
        yield tree.features
        return
    for one, other in product(*map(orders, tree.halves)):
        yield [*one, *other]
        yield [*other, *one]


def brute_force(worth: Tensor, tree: Tree) -> Tensor:
    total, number = torch.zeros(M, dtype=torch.float64), 0
    for order in orders(tree):
        there = 0
        for i in order:
            total[i] += worth[there + 2**i] - worth[there]
            there += 2**i
        number += 1
    assert number == 2 ** (M - 1)
    return total / number


def shape(tree: Tree) -> object:
    return tree.features[0] if tree.halves is None else tuple(map(shape, tree.halves))


def hierarchy(*tensors: Tensor, mask: Tensor | None = None) -> object:
    groups = Groups(Tensors(tensors), mask)
    return shape(_halves(_places(groups)[0], list(range(groups.count))))


# -- hierarchies ---------------------------------------------------------------------------------------------


def test_vectors_are_halved() -> None:
    assert hierarchy(torch.zeros(1, 5)) == ((0, 1), (2, (3, 4)))


def test_maps_are_halved_along_their_longer_side_and_channels_last() -> None:
    assert hierarchy(torch.zeros(1, 2, 2, 3)) == (((0, 6), (3, 9)), (((1, 7), (2, 8)), ((4, 10), (5, 11))))


def test_the_tensors_of_a_tuple_are_taken_apart_first() -> None:
    assert hierarchy(torch.zeros(1, 2), torch.zeros(1, 3)) == ((0, 1), (2, (3, 4)))


def test_features_lie_where_their_elements_do() -> None:
    assert hierarchy(torch.zeros(1, 6), mask=torch.tensor([2, 0, 0, 1, 1, 3])) == ((2, 0), (1, 3))
    assert hierarchy(torch.zeros(1, 3, 2, 2), mask=channels(torch.zeros(1, 3, 2, 2))) == (0, (1, 2))
    assert hierarchy(torch.zeros(1, 4), mask=torch.tensor([0, 1, 1, 0])) == (0, 1)  # at the same place


def test_correlated_columns_come_together() -> None:
    table = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    table = torch.cat([table, -2 * table + 0.01 * torch.randn(40, 3)], 1)
    assert {frozenset(step) for step in correlated(table)[:3, :2].int().tolist()} == {
        frozenset(pair) for pair in ((0, 3), (1, 4), (2, 5))
    }
    with pytest.raises(TorchwhyError, match=r"a table \(N, D\), N > 1 and D > 1, not \(1, 6\)"):
        correlated(table[:1])


# -- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_all_orders_that_interrupt_nothing(seed: int) -> None:
    worth, model = game(seed)
    tree = _halves(_places(Groups(Tensors([ones()])))[0], list(range(M)))
    found = PartitionShap(model).explain(ones())
    assert_close(found.values[0], brute_force(worth, tree))
    assert found.provenance["exact"]
    assert not torch.allclose(found.values, ShapleyValues(model).attribute(ones()))


@pytest.mark.parametrize("method", ["single", "average"])
def test_a_given_hierarchy_is_used(method: str) -> None:
    worth, model = game(9)
    given = linkage(torch.randn(M, 2, generator=torch.Generator().manual_seed(1)).numpy(), method=method)
    trees: list[Tree] = [Tree([i]) for i in range(M)]
    for a, b in given[:, :2].astype(int):
        trees.append(Tree.join(trees[a], trees[b]))
    found = PartitionShap(model, partition=given).attribute(ones())
    assert_close(found[0], brute_force(worth, trees[-1]))
    assert not torch.allclose(found, PartitionShap(model).attribute(ones()))


def test_two_features_have_shapley_values() -> None:
    _, model = game(0, 2)
    assert_close(PartitionShap(model).attribute(ones(2)), ShapleyValues(model).attribute(ones(2)))


def test_a_long_chain_has_a_limit_of_its_own() -> None:
    """Deeper than Python's stack."""
    m = 1500
    chain = torch.tensor([[0 if k == 0 else m + k - 1, k + 1, k, k + 2] for k in range(m - 1)])
    weights = torch.linspace(-1, 1, m, dtype=torch.float64)
    found = PartitionShap(lambda x: x @ weights, partition=chain, budget=300).explain(ones(m))
    assert not found.provenance["exact"]
    assert_close(found.values.sum(), weights.sum())


def test_linear_models_are_exact_where_all_is_opened() -> None:
    x, weights = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    found = PartitionShap(lambda z: (z * weights).sum((1, 2, 3)), budget=5000).attribute(x, 0.5)
    assert_close(found, weights * (x - 0.5))


# -- budgets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [2, 3, 4, 11, 40, 63, 400])
def test_values_always_add_up_and_the_budget_is_kept(budget: int) -> None:
    worth, model = game(2, 9)
    found = PartitionShap(model, budget=budget).explain(ones(9))
    assert_close(found.values.sum(), worth[-1] - worth[0])
    assert found.provenance["evaluations"] <= budget
    assert found.provenance["forward_rows"] <= budget + 1


def test_without_a_budget_for_more_all_share_equally() -> None:
    worth, model = game(2, 9)
    found = PartitionShap(model, budget=2).attribute(ones(9))
    assert_close(found, ((worth[-1] - worth[0]) / 9).expand(1, 9))


def test_the_budget_goes_where_the_score_moves() -> None:
    x = torch.ones(1, 1, 16, 16, dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        return 5 * z[:, 0, 3, 12] * z[:, 0, 2, 12] - 2 * z[:, 0, 9, 4]

    known = torch.zeros_like(x)
    known[0, 0, 3, 12] = known[0, 0, 2, 12] = 2.5
    known[0, 0, 9, 4] = -2
    assert_close(PartitionShap(model, budget=1600).attribute(x), known)
    assert not torch.allclose(PartitionShap(model, budget=400).attribute(x), known)


def test_examples_open_what_is_theirs() -> None:
    x = torch.zeros(3, 1, 16, 16, dtype=torch.float64)
    for i, (row, column) in enumerate([(0, 0), (5, 9), (15, 3)]):
        x[i, 0, row, column] = i + 1

    def model(z: Tensor) -> Tensor:
        return z.sum((1, 2, 3))

    method = PartitionShap(model, budget=600)  # all would take 43,692
    assert_close(method.attribute(x), x)
    assert_close(method.attribute(x[1:2]), x[1:2])


def test_each_example_may_have_features_of_its_own() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
    weights = double([1, 2, 3, 4])
    for budget in (None, 20):
        found = PartitionShap(lambda z: z @ weights, feature_mask=mask, budget=budget).attribute(ones(4).repeat(2, 1))
        assert_close(found, double([[3, 3, 7, 7], [1, 2, 3, 4]]))


# -- interrupts ----------------------------------------------------------------------------------------------


class Impatient:
    """A game whose user presses Ctrl-C at a chosen pass."""

    def __init__(self, m: int) -> None:
        _, self.model = game(4, m)
        self.calls, self.stop = 0, -1

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return self.model((x > 0.5) & (x < 1.5)) + self.model(x > 1.5)


def examples(m: int) -> Tensor:
    return torch.cat([ones(m), 2 * ones(m), torch.where(torch.arange(m) % 2 == 0, 1.0, 2.0).double()[None]])


@pytest.mark.parametrize("budget", [None, 150])  # all is opened; each example opens what is its own
def test_an_interrupt_is_the_end_of_the_budget(budget: int | None) -> None:
    m = 9
    x, whole = examples(m), PartitionShap(Impatient(m), budget=budget).explain(examples(m))
    model = Impatient(m)
    model.stop = 24
    method = PartitionShap(model, budget=budget, batch_size=8)
    part = method.explain(x)
    assert part.memories is not None
    done, planned = part.provenance["evaluations"], whole.provenance["evaluations"]
    assert 10 < done < planned
    assert not part.provenance["exact"]
    assert part.evidence[0].name == "completion"
    assert f"stopped by hand after {done} of " in part.evidence[0].reason[0]
    assert_close(part.values.sum(1), whole.values.sum(1))
    assert not torch.allclose(part.values, whole.values)
    assert (part.values.std(1) > 0).all()  # every example has opened something
    before = model.calls
    rest = method.explain(x, resume=part)
    assert torch.equal(rest.values, whole.values)
    assert rest.memories is None
    assert rest.provenance["evaluations"] == planned
    assert rest.provenance["forward_rows"] <= whole.provenance["forward_rows"] - 3 * (done - 32)
    assert model.calls > before


def test_parts_that_were_evaluated_before_an_interrupt_are_opened() -> None:
    """What is left of a step is as if the budget had ended there."""
    m = 9
    model = Impatient(m)
    model.stop = 8
    part = PartitionShap(model, batch_size=4).explain(ones(m))
    done = part.provenance["evaluations"]
    assert done % 4 != 2  # in the middle of a step
    assert_close(part.values, PartitionShap(Impatient(m), budget=done).attribute(ones(m)))


def test_a_long_way_is_gone_in_several_pieces() -> None:
    m = 9
    model, x = Impatient(m), examples(m)
    method = PartitionShap(model, budget=120, batch_size=8)
    model.stop = 15
    found = method.explain(x)
    for _ in range(20):
        if found.memories is None:
            break
        model.stop = model.calls + 12
        found = method.explain(x, resume=found)
    assert found.memories is None
    assert torch.equal(found.values, PartitionShap(Impatient(m), budget=120).attribute(x))


@pytest.mark.parametrize("budget", [None, 150])
def test_other_features_are_not_gone_on_with(budget: int | None) -> None:
    model = Impatient(9)
    model.stop = 24
    method = PartitionShap(model, budget=budget, batch_size=8)
    part = method.explain(examples(9))
    with pytest.raises(TorchwhyError, match="the features, the fill or the seed changed"):
        method.explain(examples(9), resume=part, feature_mask=torch.arange(9) // 2)


def test_before_anything_is_known_an_interrupt_ends() -> None:
    model = Impatient(9)
    model.stop = 3
    with pytest.raises(KeyboardInterrupt):
        PartitionShap(model, batch_size=1).explain(ones(9))


def test_several_targets_open_what_is_theirs() -> None:
    m = 9
    first, second = game(1, m)[1], game(2, m)[1]

    def model(x: Tensor) -> Tensor:
        return torch.stack([first(x), second(x)], 1)

    each = PartitionShap(model, budget=60).explain_each(ones(m))
    for found, alone in zip(each, (first, second), strict=True):
        assert_close(found.values, PartitionShap(alone, budget=60).attribute(ones(m)))


def test_a_model_that_draws_random_numbers_is_told() -> None:
    for budget in (None, 40):
        with pytest.raises(TorchwhyError, match="functional dropout left on"):
            PartitionShap(lambda x: dropout(x, 0.5).sum(1), budget=budget).attribute(ones(9))


@pytest.mark.parametrize("budget", [None, 20])
def test_what_is_kept_has_no_part_in_it(budget: int | None) -> None:
    weights, mask = double([1, 2, 3, 4]), torch.tensor([[0, KEPT, 1, 2], [KEPT, 0, 1, 2]])
    for given in (mask[0], mask):
        method = PartitionShap(lambda z: z @ weights, feature_mask=given, budget=budget)
        found = method.attribute(ones(4).repeat(2, 1))
        assert_close(found, (weights * (given != KEPT)).expand(2, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget is a whole number of at least 1"),
        ({"budget": 1}, "budget=1 is too small for 4 features: the least that works is 2"),
        ({"partition": torch.zeros(4, 4)}, r"partition of shape \(4, 4\) is no linkage matrix of 4 features"),
        ({"partition": [[0, 1], [2, 2], [3, 4]]}, "step 1 of the partition joins 2 and 2"),
        ({"partition": [[0, 1], [0, 2], [3, 4]]}, "step 1 of the partition joins 0 and 2"),
        ({"partition": [[0, 1], [2, 9], [3, 4]]}, "step 1 of the partition joins 2 and 9"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        PartitionShap(lambda x: x.sum(1), **options).attribute(ones(4))
