"""Minutes of random traffic on both layers, with a fault every few seconds, and the accounts of it.

    python -m tests.soak --minutes 10          (or ``tox -e soak``)

`process` is what each process of the site does, `community` starts them, `faults` is what is done
to them, `journal` what they write down, `accounts` what can be said afterwards about every single
message, `report` how it is printed.
"""
