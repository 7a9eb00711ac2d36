"""What a deployed federation needs and no engine brings: keys, approval, policy, signed messages, the audit log."""
