"""Everything that knows Flower: message exchange, checks inside its processes, proxy, start and stop."""
