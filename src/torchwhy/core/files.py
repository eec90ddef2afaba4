"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchwhy.core.errors import TorchwhyError


def write_atomically(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write a whole file or nothing; its folder is made where it is missing."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError as error:
        raise TorchwhyError(f"cannot write {target}: {error.strerror}; name another place") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_page_or_numbers(
    path: str | os.PathLike[str], what: str, page: Callable[[], str], numbers: Callable[[], dict[str, Any]]
) -> Path:
    """Write a page where the path ends in .html, or numbers where it ends in .json.

    Raises:
        TorchwhyError: another ending, or the path cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".html", ".json"):
        raise TorchwhyError(f"{what} is saved as .html or .json, not {Path(path).name!r}")
    text = page() if ending == ".html" else json.dumps(numbers(), indent=2)
    write_atomically(path, text.encode())
    return Path(path)
