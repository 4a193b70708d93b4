"""What runs inside a measured process: scenarios and the meter around them.

Only the standard library, redis-py, msgpack and the layer under test are used here, so that the
same files run in the environment of this package and in that of channels_redis 4.3.0.
"""
