"""What users feel: one message to all WebSockets of a web process.

``python -m benchmarks.sockets`` starts a site, its clients and a sender in a process each, for each
kind of site by turns, and tells the processor's time of the site for each frame, and the time until
the first, the median and the last client has it.
"""
