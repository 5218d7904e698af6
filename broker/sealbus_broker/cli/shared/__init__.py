"""The parts that all commands share: the folder, options, errors, output, and requests."""
