"""Sites of real consumers under uvicorn and daphne, with WebSocket clients and senders.

`served` is the site and `sender` another process, `site` starts both, and the tests hold them to
what is promised: who is alive hears, and who is gone leaves nothing behind.
"""
