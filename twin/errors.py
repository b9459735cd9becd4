"""What can go wrong through a caller's doing, drawn as a tree.

    TwinError
    ├── MessageError      a frame that is no message of this version
    ├── SpecError         signals, sizes or a period that cannot be, or that do not fit together
    ├── RecordingError    a file of samples that cannot be read
    ├── CheckpointError   a checkpoint that is missing, damaged or made for another Spec
    ├── BackendError      a way to run a step that this machine does not have
    ├── BusError          an endpoint that cannot be used
    └── ConfigError       a setting that is unknown or out of range

Each message says what was wrong, where, and what to do. The command line prints it without a traceback.
"""


class TwinError(Exception):
    """Root of all errors that a caller can cause."""


class MessageError(TwinError):
    """A frame that is no message of this version."""


class SpecError(TwinError):
    """Signals, sizes or a period that cannot be, or that do not fit together."""


class RecordingError(TwinError):
    """A file of samples that cannot be read."""


class CheckpointError(TwinError):
    """A checkpoint that is missing, damaged or made for another Spec."""


class BackendError(TwinError):
    """A way to run a step that this machine does not have."""


class BusError(TwinError):
    """An endpoint that cannot be used."""


class ConfigError(TwinError):
    """A setting that is unknown or out of range."""
