"""What the user gave cannot be used."""


class InputError(ValueError):
    """A file, tensor or option from the user cannot be used.

    The message is one line for the user: it names the file, tensor or option, says what is wrong
    with it, and what to do instead. The command line prints it as it is and exits with code 2; a
    defect of Kilograd itself must never be raised as this type.

    >>> raise InputError("photos/: no such folder; give a folder of class folders")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: photos/: no such folder; give a folder of class folders
    """
