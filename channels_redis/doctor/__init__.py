"""Looks at the settings of channel layers and at their servers, and says what is right and wrong.

Django's system checks, ``manage.py channel_layer`` and ``python -m channels_redis`` are doors to
this one house.  Facts are gathered first; what they mean is decided without I/O.
"""
