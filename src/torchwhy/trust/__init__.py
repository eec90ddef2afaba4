"""Whether to believe an explanation: the checks that cost something.

==========  ==========================================================================================================
level       what is asked besides what is free
==========  ==========================================================================================================
``basic``   does removing what is marked hurt more than removing as much elsewhere? 12 rows per example
``full``    the same with 55 rows; is the model trained, does it decide for what is explained, and firmly; does the
            explanation depend on the weights and on the class, and does it stay under noise and with another baseline?
==========  ==========================================================================================================

What is asked of the weights alone is answered once for a model, what is asked of reference data once for these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchwhy.core.evidence import Check
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.methods.base import Method
from torchwhy.metrics.faithfulness import RANDOM_ORDERS, SHARES
from torchwhy.trust import again, decision, weights
from torchwhy.trust.removal import faithfulness

FEW_SHARES, FEW_ORDERS = (0.05, 0.2), 5  # 12 rows


def basic_checks(p: Problem, method: Method, values: Tensors) -> tuple[Check, ...]:
    """Faithfulness, at the cost of 12 rows per example, whatever the explanation has cost.

    Args:
        p: the problem that was explained.
        method: how.
        values: the attributions.
    """
    return (faithfulness(p, method, values, FEW_SHARES, FEW_ORDERS),)


def full_checks(
    p: Problem, method: Method, values: Tensors, data: tuple[Any, Any] | None = None, names: tuple[str, ...] = ()
) -> Iterator[Check]:
    """All checks, one after the other: of the model, of its decision, and of the explanation.

    Args:
        p: the problem that was explained.
        method: how.
        values: the attributions.
        data: inputs and their classes, to measure the model's accuracy on.
        names: of the classes.
    """
    yield weights.training(p)
    if data is not None:
        yield weights.accuracy(p, data)
    yield decision.agreement(p, names)
    yield decision.steadiness(p)
    yield faithfulness(p, method, values, SHARES, RANDOM_ORDERS)
    yield from again.checks(p, method, values, names)
