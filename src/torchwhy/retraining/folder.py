"""What is done of a retraining, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.files import write_atomically

Cell: TypeAlias = tuple[int, str, int]
"""The repeat, what the ranking is, and how many positions are gone (or left); none for the untouched data."""

FORMAT = 1


@dataclass
class Folder:
    """Accuracies that are known, each in a file of its own where there is a folder.

    Args:
        path: of the folder; None keeps nothing.
        question: all that decides the numbers but what a cell says.

    Raises:
        TorchwhyError: the folder holds another question.
    """

    path: Path | None
    question: dict[str, Any]
    known: dict[Cell, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        file = self.path / "question.json"
        self.question = json.loads(json.dumps({"format": FORMAT, **self.question}))
        try:
            before = json.loads(file.read_bytes())
        except FileNotFoundError:
            _write(file, self.question)
            return
        except (OSError, ValueError) as error:
            raise TorchwhyError(f"{file} cannot be read ({error}); name another folder") from error
        if not isinstance(before, dict):
            raise TorchwhyError(f"{file} is no question of a retraining; name another folder")
        changed = [name for name in self.question | before if self.question.get(name) != before.get(name)]
        if changed:
            raise TorchwhyError(
                f"{self.path} holds a retraining with other {', '.join(changed)}; go on with the same, or name another "
                f"folder"
            )

    def get(self, cell: Cell) -> float | None:
        """The accuracy, if it is known."""
        if self.path is not None and cell not in self.known:
            with suppress(OSError, ValueError, TypeError, KeyError):  # what cannot be read is trained again
                self.known[cell] = float(json.loads(self._file(cell).read_bytes())["accuracy"])
        return self.known.get(cell)

    def keep(self, cell: Cell, accuracy: float) -> None:
        """Remember an accuracy."""
        self.known[cell] = accuracy
        if self.path is not None:
            repeat, ranking, count = cell
            _write(self._file(cell), {"repeat": repeat, "ranking": ranking, "positions": count, "accuracy": accuracy})

    def load(self, repeat: int, model: nn.Module) -> bool:
        """Bring a network to what an earlier run has trained on the untouched data; whether it could."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        if self.path is None:
            return False
        try:
            model.load_state_dict(load(self._weights(repeat).read_bytes()))
        except (OSError, RuntimeError, SafetensorError):
            return False
        return True

    def save(self, repeat: int, model: nn.Module) -> None:
        """Keep a network, so that explaining goes on with the same."""
        from safetensors.torch import save

        state = model.state_dict()
        if self.path is not None and all(isinstance(t, Tensor) for t in state.values()):
            apart = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}  # tied ones as well
            write_atomically(self._weights(repeat), save(apart))

    def _weights(self, repeat: int) -> Path:
        assert self.path is not None
        return self.path / f"repeat-{repeat}" / "untouched.safetensors"

    def _file(self, cell: Cell) -> Path:
        assert self.path is not None
        repeat, ranking, count = cell
        plain = re.sub(r"\W+", "-", ranking).strip("-")[:40]  # for people; what follows tells them apart
        name = f"{plain}-{blake2b(ranking.encode(), digest_size=4).hexdigest()}-{count}.json"
        return self.path / f"repeat-{repeat}" / name


def _write(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())
