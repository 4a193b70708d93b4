"""Broadcasts: consumers of Channels and of ours on servers that are two functions."""
