"""Mailboxes of channels, and what fills them: queues on both layers, topics on pubsub."""
