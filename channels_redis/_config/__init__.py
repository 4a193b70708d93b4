"""Options and the entries of ``hosts``: what is accepted, and what it means."""
