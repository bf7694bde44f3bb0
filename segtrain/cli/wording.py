"""How an error becomes one clear line, and an exit code."""

import errno
import re
from typing import Tuple

from segtrain.errors import LOST, SegtrainError, one_line

_FULL = {errno.ENOSPC, errno.EDQUOT}
_INSTALL_HEADLESS = (
    "pip install --force-reinstall --no-deps 'opencv-contrib-python-headless<4.9' mends it"
)
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# What Horovod says of the others when one of them has gone: its own words, and Gloo's.
_LOST = (
    "Horovod has been shut down",
    "Read error [",
    "writev [",
    "Connection closed by peer [",
    "Socket closed [",
    "Timed out waiting",
)


def worded(error: BaseException) -> Tuple[str, int]:
    """What to say of an error that ended a command, in one line, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once; what was saved before is whole", 130
    if isinstance(error, SegtrainError):
        return str(error), error.exit_code
    if type(error).__name__ == "MXNetError" and any(words in str(error) for words in _LOST):
        return LOST, 1
    if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is None):
        return _of_installation(error), 2
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        line = next((line for line in error.object.splitlines() if not line.isprintable()), "")
        return f"{ascii(line)[:200]}: a name that isn't UTF-8; rename the file", 2
    text = one_line(error, 300)  # a defect of ours; --debug shows the traceback
    return f"internal error, {type(error).__name__}: {text} (see --debug)", 1


def _of_installation(error: BaseException) -> str:
    """What to type where a module or a shared library is missing."""
    text = str(error)
    if "libGL" in text:
        return f"{text}: {_INSTALL_HEADLESS}"
    if isinstance(error, ImportError) and error.name == "mxnet":
        return "MXNet isn't installed: pip install 'segtrain[cpu]', or [cu117] for a GPU"
    return f"{text} (is the installation whole? see --debug)"


def _of_system(error: OSError) -> Tuple[str, int]:
    where = str(error.filename2 or error.filename or "the output folder")
    where = re.sub(r"(^|/)\.([^/]+)\.\d+$", r"\1\2", where)  # what was being written aside
    if error.errno in _FULL:
        return f"{where}: the disk is full; make room, then go on (train: with --resume)", 2
    if error.errno in _FORBIDDEN:
        return f"{where}: can't be written ({error.strerror}); give another place", 2
    return f"{where}: {error.strerror or error}", 2
