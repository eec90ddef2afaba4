"""The record of an explanation: what was asked, what came out, and what speaks for and against it."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.evidence import COMPLETION, Check, Verdict, against, by_weight, verdict
from torchwhy.core.files import write_atomically
from torchwhy.core.guard import module_of
from torchwhy.core.tensors import TensorOrTensors, as_tensors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Form: TypeAlias = Literal["elements", "map", "pairs"]  # of values: see `torchwhy.registry.Info`

FORMAT = 1
NORMAL_95 = 1.959964  # half the width of a 95 % interval in standard errors, where these are known well
_TENSORS = ("values", "inputs", "standard_error")


@dataclass(frozen=True, eq=False)
class Explanation:
    """Attributions of B examples with their evidence.

    Attributes:
        values: the attributions, in the form of the inputs or of what the layer holds, (B, ...); for pairs (B, M, M).
        inputs: what was explained, (B, ...).
        scores: ``f(x)``, (B,).
        target: what was explained, in words, one per example.
        method: the name of the method.
        at: the layer, or None for the input.
        predicted: the target is the model's own prediction.
        options: the method's options.
        evidence: the checks made.
        provenance: seed, dtype, device, evaluations, seconds, versions, model and its fingerprint.
        output: the model's output for the inputs, (B, classes), where it has this form and was seen.
        standard_error: of the values, for sampling methods; see `interval`.
        signed: positive values raise the score and negative ones lower it; otherwise values are sizes.
        classes: names of the outputs, if known.
        form: what a value belongs to, an element, a place of a map, or a pair of features.
        memories: what was evaluated before the user interrupted, to go on with; it is not saved to a file.
    """

    values: TensorOrTensors
    inputs: TensorOrTensors
    scores: Tensor
    target: tuple[str, ...]
    method: str
    at: str | None = None
    predicted: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    evidence: tuple[Check, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    output: Tensor | None = None
    standard_error: TensorOrTensors | None = None
    signed: bool = True
    classes: tuple[str, ...] | None = None
    form: Form = "elements"
    memories: dict[Any, Any] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> Explanation:
        """One example, still as a batch of one."""
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(f"an example is chosen by a whole number, not {index!r}") from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"example {number} of {len(self)}")
        index = number % len(self)
        part = slice(index, index + 1)

        def cut(t: TensorOrTensors) -> TensorOrTensors:
            return t[part] if isinstance(t, Tensor) else tuple(p[part] for p in t)

        return replace(
            self,
            values=cut(self.values),
            inputs=cut(self.inputs),
            scores=self.scores[part],
            target=self.target[part],
            evidence=tuple(c.select(index) for c in self.evidence),
            output=None if self.output is None else self.output[part],
            standard_error=None if self.standard_error is None else cut(self.standard_error),
            memories=None,
        )

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def weighed(self, index: int = 0) -> list[Check]:
        """The checks on an example: those against it, most serious first, then those for it, then the undecided."""
        return by_weight(self.evidence, index)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict per example."""
        return tuple(verdict(self.evidence, i) for i in range(len(self)))

    @property
    def interrupted(self) -> bool:
        """The user has broken off its making or its checks."""
        return any(c.name == COMPLETION for c in self.evidence)

    @property
    def verdict(self) -> Verdict:
        """The verdict on all examples: the worst of them."""
        verdicts = self.verdicts
        for status in ("warn", "unknown", "pass"):
            found = [v for v in verdicts if v.status == status]
            if found:
                more = (f"the same for {len(found) - 1} more of {len(self)} examples",) if len(found) > 1 else ()
                return Verdict(found[0].status, found[0].reasons + more)
        raise AssertionError("an explanation has at least one example")

    def why_not_trust(self) -> tuple[str, ...]:
        """The reasons against the explanation in sentences, most serious first; none where no check warns.

        Of several examples, a reason is told once, as it is for the first of the examples it holds for.

        >>> x = torch.ones(1, 2)
        >>> gap = Check("completeness", "Do the parts add up?", ("warn",), (0.4,), ("the parts leave a gap of 40 %",))
        >>> Explanation(x, x, torch.ones(1), ("0",), "Saliency", evidence=(gap,)).why_not_trust()
        ('The parts leave a gap of 40 %.',)
        """
        told = []
        for check, found in against(self.evidence):
            reason = check.reason[found[0]]
            which = f" (example {found[0]}, and {len(found)} of {len(self)} in all)" if len(self) > 1 else ""
            told.append(f"{reason[:1].upper()}{reason[1:]}{which}.")
        return tuple(told)

    def interval(self) -> tuple[TensorOrTensors, TensorOrTensors]:
        """The lower and upper ends of a 95 % interval for each value, in the form of the values.

        They lie as many standard errors from the value as the record holds under ``interval_95``: more where there were
        few draws. They are for one value at a time, and tell of chance alone; where all draws agree, chance is not seen
        and both ends are the value, of which the evidence says what the draws may have missed.

        Raises:
            TorchwhyError: the method gives no standard error.

        >>> x = torch.ones(1, 2)
        >>> record = {"interval_95": 2.0}
        >>> e = Explanation(x, x, torch.ones(1), ("0",), "RISE", standard_error=x / 4, provenance=record)
        >>> e.interval()
        (tensor([[0.5000, 0.5000]]), tensor([[1.5000, 1.5000]]))
        """
        if self.standard_error is None:
            raise TorchwhyError(
                f"an interval needs standard errors, and {self.method} gave none: take a method that samples, such as "
                f"ShapleyValues, with more samples than one"
            )
        values, was_tuple = as_tensors(self.values)
        half = as_tensors(self.standard_error)[0] * self.provenance.get("interval_95", NORMAL_95)
        return (values - half).unwrap(was_tuple), (values + half).unwrap(was_tuple)

    def target_name(self, index: int = 0) -> str:
        """The target of an example, with the class's name where it is known."""
        name = self.target[index]
        if self.classes is not None and name.isdigit() and int(name) < len(self.classes):
            return self.classes[int(name)]
        return name

    def per_token(self) -> Explanation:
        """One value for each token instead of one for each of its embedding's numbers: (B, T, E) summed to (B, T).

        Raises:
            TorchwhyError: the values are not of that form.
        """
        parts = (self.values,) if isinstance(self.values, Tensor) else self.values
        if any(v.ndim < 3 for v in parts):
            raise TorchwhyError(
                f"values per token are sums over embeddings (B, T, E), not of {[tuple(v.shape) for v in parts]}: "
                f"explain at an embedding, such as at='embedding'"
            )
        sums = tuple(v.sum(-1) for v in parts)
        values = sums[0] if isinstance(self.values, Tensor) else sums
        return replace(self, values=values, standard_error=None)  # errors of a sum are not the sum of the errors

    def __repr__(self) -> str:
        shape = (
            tuple(self.values.shape) if isinstance(self.values, Tensor) else tuple(tuple(v.shape) for v in self.values)
        )
        where = f" at {self.at!r}" if self.at else ""
        return f"<Explanation by {self.method}{where} of {len(self)} examples, values {shape}, {self.verdict}>"

    # -- files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to one safetensors file, whose header holds the words as JSON. No pickle."""
        from safetensors.torch import save

        path = Path(path)
        tensors = {"scores": self.scores}
        if self.output is not None:
            tensors["output"] = self.output
        for name in _TENSORS:
            value = getattr(self, name)
            for i, t in enumerate((value,) if isinstance(value, Tensor) else value or ()):
                tensors[f"{name}.{i}"] = t
        words = {
            "format": FORMAT,
            "tuples": [name for name in _TENSORS if isinstance(getattr(self, name), tuple)],
            "target": self.target,
            "method": self.method,
            "at": self.at,
            "predicted": self.predicted,
            "options": {k: _plain(v) for k, v in self.options.items()},
            "evidence": [c.as_dict() for c in self.evidence],
            "provenance": self.provenance,
            "signed": self.signed,
            "classes": self.classes,
            "form": self.form,
        }
        # Copies of their own, since safetensors refuses tensors that share memory.
        own = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
        write_atomically(path, save(own, metadata={"torchwhy": json.dumps(words)}))
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Explanation:
        """Read what `save` has written."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise TorchwhyError(f"there is no file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                words = json.loads((file.metadata() or {}).get("torchwhy", "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
        except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
            raise TorchwhyError(f"{path} is not a whole safetensors file ({error})") from error
        if not isinstance(words, dict) or words.get("format") != FORMAT:
            raise TorchwhyError(f"{path} is not an explanation of this format ({FORMAT})")

        try:
            return _restored(words, tensors)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise TorchwhyError(f"{path} is not a whole explanation ({error!r})") from error

    def as_dict(self) -> dict[str, Any]:
        """Everything but the tensors, for a program to read."""
        return {
            "method": self.method,
            "at": self.at,
            "options": {k: _plain(v) for k, v in self.options.items()},
            "provenance": self.provenance,
            "why_not_trust": list(self.why_not_trust()),
            "examples": [
                {
                    "target": self.target[i],
                    "target_name": self.target_name(i),
                    "predicted": self.predicted,
                    "score": float(self.scores[i]),
                    "verdict": judged.status,
                    "reasons": list(judged.reasons),
                    "evidence": {
                        c.name: {"status": c.status[i], "value": c.value[i], "reason": c.reason[i]}
                        for c in self.evidence
                    },
                }
                for i, judged in enumerate(self.verdicts)
            ],
        }

    # -- to look at -----------------------------------------------------------------------------------------------

    def plot(self, examples: int = 8) -> Figure:
        """The attributions of the first ``examples`` as a matplotlib figure; nothing is shown on screen."""
        from torchwhy.render.figure import figure

        return figure(self, examples)

    def _repr_html_(self) -> str:
        from torchwhy.render.html import card

        return card(self)


def _plain(value: Any) -> Any:
    """What JSON holds, as it is; all else in words."""
    try:
        json.dumps(value)
    except TypeError:
        return repr(value)
    return value


def _restored(words: dict[str, Any], tensors: dict[str, Tensor]) -> Explanation:
    """The explanation a file tells of; raises where a part is missing or does not fit the others."""

    def gather(name: str) -> TensorOrTensors | None:
        count = sum(key.startswith(f"{name}.") for key in tensors)
        parts = tuple(tensors[f"{name}.{i}"] for i in range(count))
        return (parts if name in words["tuples"] else parts[0]) if parts else None

    values, inputs = gather("values"), gather("inputs")
    if values is None or inputs is None:
        raise ValueError("it lacks its tensors")
    target = tuple(words["target"])
    evidence = tuple(Check.from_dict(c) for c in words["evidence"])
    if any(t.ndim == 0 or len(t) != len(target) for t in tensors.values()):
        raise ValueError("its tensors are not of as many examples as its targets")
    if any(not len(c.status) == len(c.value) == len(c.reason) == len(target) for c in evidence):
        raise ValueError("its evidence is not of as many examples as its targets")
    if any(status not in ("pass", "warn", "unknown") for c in evidence for status in c.status):
        raise ValueError("its evidence has an unknown status")
    return Explanation(
        values=values,
        inputs=inputs,
        scores=tensors["scores"],
        target=target,
        method=words["method"],
        at=words["at"],
        predicted=words["predicted"],
        options=words["options"],
        evidence=evidence,
        provenance=words["provenance"],
        output=tensors.get("output"),
        standard_error=gather("standard_error"),
        signed=words["signed"],
        classes=None if words["classes"] is None else tuple(words["classes"]),
        form=words.get("form", "elements"),
    )


def fingerprint(model: Any) -> str | None:
    """A short name for a model's weights: equal weights have equal names, and a changed weight almost surely another.

    Of a large tensor, 65,536 evenly spaced numbers are read.
    """
    module = module_of(model)
    if module is None:
        return None
    told = hashlib.sha256()
    for name, t in module.state_dict(keep_vars=True).items():
        if isinstance(t, Tensor):
            flat = t.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 65536)].contiguous().cpu()
            told.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
            told.update(sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return told.hexdigest()[:16]


def digest(value: Any) -> bytes:
    """Equal for equal numbers, tensors, and tuples and dicts of them."""
    told = hashlib.blake2b()
    leaves, form = tree_flatten(value)
    told.update(str(form).encode())
    for one in leaves:
        if isinstance(one, Tensor):
            told.update(f"{one.dtype} {tuple(one.shape)}".encode())
            told.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            told.update(repr(one).encode())
    return told.digest()
