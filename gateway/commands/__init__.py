"""What each command of `responses-gateway` does: its flags, and `run(arguments) -> exit status`. Called by `cli`."""
