"""The one error for mistakes a user can mend."""


class UserError(ValueError):
    """A mistake in what the user gave: the message names the thing, the value and the remedy.

    The command line prints it on one line and exits with 2; nothing half-written is left behind.
    """
