"""HTTP in: clients' requests become calls of the floors below, errors become answers."""
