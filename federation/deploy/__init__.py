"""A deployed federation without Flower: keys, approval, policy, signed messages, audit log."""
