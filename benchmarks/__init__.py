"""Both layers beside channels_redis 4.3.0, measured alternately in one run.

``python -m benchmarks`` makes an environment with channels-redis 4.3.0, runs every scenario in
fresh processes of both environments against fresh private servers, and prints medians and ratios.
Nothing here is a test: no figure makes a test fail.
"""
