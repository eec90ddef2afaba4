"""Files appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

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
