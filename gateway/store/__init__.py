"""The log in the middle: one port (`port`), several stores, and the one way to read (`follow`)."""
