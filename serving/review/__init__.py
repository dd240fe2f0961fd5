"""Which predictions go to people, the durable queue they wait in, and the process that delivers them."""
