"""Multiplexer, reader and subscriber over connections in memory.

No server, no socket and no clock: a test decides when what was written reaches the server, when
each reply comes back, when a connection breaks and what time it is. So a scenario can be run
once for each await in it, with a cancellation or a loss there, and Hypothesis finds the orders of
events that nobody thinks of. The tests with real servers are beside these.
"""
