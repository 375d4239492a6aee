"""Files of a folder that are numbered in order and never changed: `000003.json`. Several may be added at once, all are kept."""

from collections.abc import Callable

from engine.errors import CommitError
from engine.storage import Storage

MAX_TRIES = 100


def numbered(folder: str, suffix: str, storage: Storage) -> list[tuple[int, str]]:
    """Return number and URI of each file, oldest first."""
    names = [
        (file.uri.rpartition("/")[2].removesuffix(suffix), file.uri) for file in storage.list(folder, suffix)
    ]
    return sorted((int(name), uri) for name, uri in names if name.isdigit())


def append(folder: str, suffix: str, storage: Storage, content: Callable[[int], bytes], what: str) -> int:
    """Create the next file with a put-if-absent, and return its number.

    Parameters
    ----------
    content
        Of the file, given its number.
    what
        What cannot be done if others are quicker, for the message.

    Raises
    ------
    CommitError
        If a hundred others were quicker each time.
    """
    number = max((number for number, _ in numbered(folder, suffix, storage)), default=0)
    for _ in range(MAX_TRIES):
        number += 1
        if storage.put_if_absent(storage.join(folder, f"{number:06d}{suffix}"), content(number)):
            return number
    raise CommitError(f"{what}: others were quicker each time", folder)
