"""The errors that end a command with one clear line, and its exit code."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Iterable

LOST = "another rank is gone"  # of several that train together; this one's end is no cause


class SegtrainError(Exception):
    """A failure that is reported as one line: a check that failed, a worker that died."""

    exit_code = 1


class UserError(SegtrainError):
    """Something the user can mend: says what is wrong, where, and what to type."""

    exit_code = 2


class Stopped(SegtrainError):
    """The run was asked to stop (Ctrl-C, SIGTERM), and has saved itself."""

    exit_code = 130


def one_line(error: BaseException, most: int = 200) -> str:
    """What an error says, in one line of at most so many characters."""
    return " ".join(str(error).split())[:most]


# What other tools call our settings, where the two names don't look alike.
_ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "lr0", "base_lr"), "lr"),
    **dict.fromkeys(("image_size", "img_size", "imgsz"), "crop"),
    **dict.fromkeys(("load_from", "pretrained", "checkpoint"), "weights"),
    **dict.fromkeys(("backbone", "encoder_name"), "encoder"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_policy"), "schedule"),
    "transforms": "augment",
    "gradient_clip": "clip",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of `name`, which is none of `known`: those that look like it, or all."""
    known = sorted(known)
    close = [each for each in [_ELSEWHERE.get(name)] if each in known]
    close = close or get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "there are " + (", ".join(known) or "none")
