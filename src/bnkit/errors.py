"""The errors that bnkit raises on purpose: a user's mistake, or bad input, told in one line."""


class BnkitError(Exception):
    """A mistake that its user can mend.

    The message is one line: what arrived, what was expected, what to do next. The command line prints it and ends with
    exit status 2; any other exception is a fault of bnkit (or of the network it was given) and keeps its traceback.
    """

    def __str__(self) -> str:
        # One line, whatever was quoted in it: a path or a repr may hold line breaks.
        return " ".join(super().__str__().split())


class SettingsError(BnkitError, ValueError):
    """A setting, a name or an argument that means nothing here."""


class TooFewValuesError(BnkitError, ValueError):
    """A training batch with one value per channel: it has no deviation to divide by."""


class KernelError(BnkitError, ValueError):
    """A kernel that was asked for by name and cannot do what was asked."""


class ModelError(BnkitError):
    """A model that cannot be read or changed as was asked. It is left as it was."""


class DataError(BnkitError):
    """A data set that is missing, broken, or of the wrong form."""


class FactoryError(BnkitError):
    """A factory of a network or of data that cannot be found, raises, or returns the wrong thing."""


class RecordError(BnkitError):
    """A results folder that cannot be read, written, or is in use."""
