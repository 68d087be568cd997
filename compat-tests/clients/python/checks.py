"""Checks that go on after a difference: a line for each, and the exit status at the end."""

import sys

differences = 0


def shown(value):
    """A value or an exception, cut where it is long."""
    text = f"{type(value).__name__}: {value}" if isinstance(value, Exception) else repr(value)
    return text if len(text) < 300 else text[:300] + "..."


def same(what, got, expected):
    holds(what, type(got) is type(expected) and got == expected, f"{shown(got)} instead of {shown(expected)}")


def holds(what, true, found=""):
    global differences
    if not true:
        differences += 1
    print(f"ok {what}" if true else f"DIFFERENT {what}: {found}")


def check(what, function, expected):
    """Compares what a function returns; an exception is a difference."""
    try:
        got = function()
    except Exception as error:
        holds(what, False, f"{shown(error)} instead of {shown(expected)}")
    else:
        same(what, got, expected)


def attempt(what, function):
    """Runs a check of several steps: False or an exception is a difference."""
    try:
        got = function()
    except Exception as error:
        holds(what, False, shown(error))
    else:
        holds(what, got is not False, "it does not hold")


def refused(what, text, function):
    """The function must raise an error that contains the text."""
    try:
        got = function()
    except Exception as error:
        holds(what, text in str(error), f"{shown(error)} has no {text!r}")
    else:
        holds(what, False, f"{shown(got)} instead of {text!r}")


def finish():
    print("done")
    sys.exit(1 if differences else 0)
