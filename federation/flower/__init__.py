"""Everything that knows Flower: the message exchange, the guards in its processes, the proxy in front, the commands."""
