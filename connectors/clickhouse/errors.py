"""Errors of a store, each of which is one line for the user."""


class StoreError(Exception):
    """What failed, what was expected and what to do."""


class StoreBusyError(StoreError):
    """A failure that passes by itself or after an operator acts: no answer, no space, too many parts."""


class StoreInUseError(StoreError):
    """Another process has the embedded store open: its server can be asked instead."""


def no_space(where: object, doing: str) -> StoreBusyError:
    """Return the error of a full disk.

    :arg where: The store.
    :arg doing: What was being done, as in "writing 5 rows to trades".
    """
    return StoreBusyError(
        f"no space left on the disk of {where} while {doing}: free some; nothing stored so far is lost"
    )
