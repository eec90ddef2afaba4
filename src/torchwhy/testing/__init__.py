"""Models with known answers, to test an explainer against: one of this library, or your own.

>>> import torch
>>> def explainer(model, inputs, target):
...     inputs = inputs.clone().requires_grad_()
...     model(inputs)[:, target].sum().backward()
...     return inputs * inputs.grad
>>> report = score(explainer, claims=("input x gradient",))
>>> report.ok, report.computes
(True, ('input x gradient',))
>>> score(explainer, claims=("completeness",)).failed[0].case
'additive'

See `torchwhy.testing.cases` for the cases, and `torchwhy selftest` for the methods of this library.
"""

from torchwhy.testing.cases import AXIOMS, CONCEPTS, FORMS, Case, cases
from torchwhy.testing.judge import Report, Row, score
from torchwhy.testing.registered import selftest

__all__ = ["AXIOMS", "CONCEPTS", "FORMS", "Case", "Report", "Row", "cases", "score", "selftest"]
