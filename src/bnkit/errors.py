"""Errors for invalid input. Each message is one line."""


class BnkitError(Exception):
    """Base class for errors caused by invalid input.

    The message is one line: what arrived, what was expected, what to do next. The command line prints it and exits with
    status 2. Any other exception is a bug in bnkit or in the user's network, and keeps its traceback. Parameters of the library
    are in backquotes; the command line replaces them with its options (``cli.options.with_options``).
    """

    def __str__(self) -> str:
        # A quoted path or repr may hold line breaks.
        return " ".join(super().__str__().split())


class SettingsError(BnkitError, ValueError):
    """An invalid setting, name or argument."""


class TooFewValuesError(BnkitError, ValueError):
    """A training batch with one value per channel, whose variance is 0."""


class KernelError(BnkitError, ValueError):
    """A kernel chosen by name that does not support the call."""


class ModelError(BnkitError):
    """A model that cannot be traced or changed as requested. It is left unchanged."""


class DataError(BnkitError):
    """A data set that is missing, corrupt, or in the wrong format."""


class FactoryError(BnkitError):
    """A factory of a network or a data set that cannot be imported, raises, or returns the wrong type."""


class RecordError(BnkitError):
    """A results folder that cannot be read, written, or is in use."""
