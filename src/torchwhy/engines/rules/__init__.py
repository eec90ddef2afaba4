"""Rules on operations: a modified backward pass that is right on any code."""

from torchwhy.engines.rules.composite import Composite, On, Prepared, Rule, on
from torchwhy.engines.rules.decompose import Refused
from torchwhy.engines.rules.engine import Interceptor, same_constants
from torchwhy.engines.rules.local import Local
from torchwhy.engines.rules.operations import Operation, operation
from torchwhy.engines.rules.passes import Compared, Ruled
from torchwhy.engines.rules.place import Place
from torchwhy.engines.rules.step import Step
from torchwhy.engines.rules.trace import Trace, account, trace

__all__ = [
    "Compared",
    "Composite",
    "Interceptor",
    "Local",
    "On",
    "Operation",
    "Place",
    "Prepared",
    "Refused",
    "Rule",
    "Ruled",
    "Step",
    "Trace",
    "account",
    "on",
    "operation",
    "same_constants",
    "trace",
]
