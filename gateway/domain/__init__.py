"""The ground floor: what the Responses API is, as values and pure functions. No clock, no I/O, no async."""
