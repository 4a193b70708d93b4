"""Checks the settings of channel layers and their servers, and reports problems.

Used by Django's system checks, ``manage.py channel_layer`` and ``python -m channels_redis``.
Facts are gathered first, and then judged without I/O.
"""
