"""Read small untrusted files within bounds: a sparse file of 1 TB is refused."""

from pathlib import Path

from llava_mistral.ground.bad_input import BadInput

MOST_BYTES = 64 << 20  # of a configuration, a card or a recipe; a tokenizer of 256,000 words has 33 MB


def read_bounded(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a file.

    Raises:
        BadInput: it has more than `most`.
        OSError: it cannot be read.
    """
    if (size := Path(path).stat().st_size) > most:
        raise BadInput(f"has {size:,} bytes, more than {most:,}", remedy="write it again from its source", file=path)
    return Path(path).read_bytes()


def check_hole(path: str | Path) -> None:
    """Refuse a file of gigabytes that takes next to nothing on its disk: reading its zeros takes hours.

    Raises:
        BadInput: it does.
    """
    state = Path(path).stat()
    allocated = getattr(state, "st_blocks", state.st_size) * 512
    if state.st_size > 1 << 30 and allocated * 1000 < state.st_size:
        problem = f"has {state.st_size:,} bytes, of which {allocated:,} are on the disk"
        raise BadInput(problem, remedy="write it again from its source", file=path)
