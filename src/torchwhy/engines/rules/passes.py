"""A `Problem` whose gradients obey rules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from torchwhy.core.errors import UnsupportedError
from torchwhy.core.guard import module_of
from torchwhy.core.problem import Points, Problem
from torchwhy.core.site import joined
from torchwhy.core.target import Score
from torchwhy.core.tensors import Tensors, for_examples
from torchwhy.engines.rules.composite import Composite
from torchwhy.engines.rules.engine import Interceptor, Recorder
from torchwhy.engines.rules.step import Step

LARGE = 4096  # values of an example, from which on a pass costs more by its rows than by itself


class Ruled(Problem):
    """The same question with the gradients of a composite: ``Ruled.of(p, composite).at_point()``."""

    composite: Composite
    steps: list[Step] | None
    _mode: Interceptor

    @classmethod
    def of(cls, p: Problem, composite: Composite, steps: list[Step] | None = None) -> Self:
        refuse_compiled(p.model, composite.name)
        part = object.__new__(cls)
        part.__dict__.update(p.__dict__)
        part.composite, part.steps = composite, steps
        return part

    def share(self, p: Problem) -> None:
        """Let the problem this was made of know what a pass has shown."""
        p._target, p._scores, p._output, p._point, p._base = (
            self._target, self._scores, self._output, self._point, self._base,
        )  # fmt: skip

    def _run(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Any:
        if not gradients:
            return super()._run(z, rows, gradients)
        self._mode = Interceptor(self.composite, self.model, steps=self.steps)
        with visible():
            return super()._run(z, rows, gradients)

    def _forward(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Any:
        if not gradients:
            return super()._forward(z, rows, gradients)
        with self._mode:
            seen = super()._forward(z, rows, gradients)
        if isinstance(seen.output, Tensor) and seen.output.grad_fn is not None:
            self._mode.check_output(seen.output)
        return seen

    def _score(self, seen: Any, rows: Tensor, gradients: bool) -> Any:
        if gradients and self._by_function:
            with self._mode:
                return super()._score(seen, rows, gradients)
        return super()._score(seen, rows, gradients)

    @property
    def _by_function(self) -> bool:
        """Whether the target computes; otherwise it picks one number, which no rule is needed for."""
        return callable(self._wanted) or isinstance(self._wanted, Score) or self._target_site is not None


class Compared(Ruled):
    """Gradients that explain the difference from the baseline.

    Rows are the points followed by the baselines they are compared with, one after the other in the parts of
    `Tensors`; without them, the examples and `base`. Every pass runs the baselines first, without keeping their
    graph, and once for all examples where they share one.
    """

    _alone: bool = False  # every example has needed its own baseline before

    def slopes(self, bases: Tensors, what: str) -> Iterator[tuple[slice, slice, Tensors]]:
        """Gradients of the examples against each of N baselines (N, 1, ...), or (N, B, ...) for one set per example.

        Yields:
            Examples, baselines, and gradients (K, B, ...) of these examples against these baselines.
        """
        size = bases.size
        alike = all(t.shape[1] == 1 for t in bases) and not self.extra_follows
        large = self.size > 2 and sum(t[0].numel() for t in self.point) >= LARGE

        def pairs(first: int) -> Points:
            def points(es: slice, ks: slice) -> Tensors:
                chosen = bases[first + ks.start : first + ks.stop]
                copies = self.point[es].map(lambda t: t.expand(ks.stop - ks.start, *t.shape))
                return Tensors([*copies, *chosen.map(lambda t: for_examples(t, es))])

            return points

        if not (alike and large):
            for part in self.sweep(pairs(0), size, gradients=True, what=what):
                assert part.gradients is not None
                yield part.examples, part.ks, part.gradients
            return
        # A pass for each baseline is cheaper, since the baseline then runs once for all examples.
        for k in range(size):
            parts = [part.gradients for part in self.sweep(pairs(k), 1, gradients=True, what=what)]
            whole = Tensors.cat([part.merge() for part in parts if part is not None])
            yield slice(0, self.size), slice(k, k + 1), whole.split(1)

    def _run(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Any:
        if not gradients:
            return super()._run(z, rows, gradients)
        if z is None:
            # Of several layers, what one does to another is not its own: all are put there together.
            point, base = self.point[rows] if joined(self.site) else None, self.base
        else:
            half = len(z) // 2
            point, base = Tensors(z.parts[:half]), Tensors(z.parts[half:])
        # Rows that are one row repeated need not run again and again.
        alike = not self.extra_follows and self._one_question and all(t.ndim > 0 and t.stride(0) == 0 for t in base)
        if alike and len(rows) > 1 and not self._alone:
            random = torch.get_rng_state()
            try:
                return self._compare(point, base[:1], rows, rows[:1])
            except torch.OutOfMemoryError:
                raise
            except Exception:  # noqa: BLE001  whatever one row for all has brought about, rows of their own may not
                self._alone = True
                torch.set_rng_state(random)
                if self.steps is not None:
                    self.steps.clear()
        return self._compare(point, base[rows] if z is None else base, rows, rows)

    @property
    def _one_question(self) -> bool:
        """Whether the baseline is asked the same for every example."""
        return not isinstance(self._wanted, Score) or all(bool((g == g[:1]).all()) for g in self.target.given)

    def _compare(self, z: Tensors | None, base: Tensors, rows: Tensor, base_rows: Tensor) -> Any:
        if isinstance(self._wanted, Score) or self._target_site is not None:
            # It is resolved at the point, not at the baseline; and both passes end where the target is read.
            self.target  # noqa: B018
        recorder = Recorder(self.composite, self.model, everything=self.steps is not None)
        random = torch.get_rng_state()
        with visible(), saved_tensors_hooks(_forget, _forgotten):
            self._mode = recorder
            first = self._forward(base, base_rows, gradients=True)
            if self._by_function:
                self._score(first, base_rows, gradients=True)
        del first
        torch.set_rng_state(random)
        self._mode = Interceptor(
            self.composite,
            self.model,
            recorded=recorder.operations,
            shared=len(base_rows) < len(rows),
            steps=self.steps,
        )
        with visible():
            done = Problem._run(self, z, rows, gradients=True)
        if self._mode.seen < len(recorder.operations) and self._target_site is None:
            raise UnsupportedError(
                f"{self.composite.name} compares operation by operation, and the model runs more for the baseline "
                f"than for the input: choose a baseline that takes the same way through the model"
            )
        return done


def _forget(t: Tensor) -> None:
    """The pass over the baseline has no backward pass."""


def _forgotten(_: None) -> NoReturn:
    raise UnsupportedError("the model takes gradients in its forward pass, which cannot be compared with a baseline")


@contextmanager
def visible() -> Iterator[None]:
    """What torch.compile has compiled runs as written, so that its operations are seen."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def refuse_compiled(model: Any, name: str) -> None:
    """Scripts hide their operations."""
    root = module_of(model)
    for path, module in root.named_modules() if root is not None else [("", model)]:
        if isinstance(module, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            raise UnsupportedError(
                f"{name} needs to see the operations of {path or 'the model'}, which torch.jit hides: "
                f"explain the Python module it was made from"
            )
