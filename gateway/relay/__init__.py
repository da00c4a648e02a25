"""Between upstream and the log: the only long-lived tasks. Nothing here knows a client's connection."""
