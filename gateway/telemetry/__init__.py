"""What is observed: facts go in, metrics, spans and log lines come out."""
