import os

from channels_redis import __version__

project = "channels_redis"
author = "the channels_redis authors"
copyright = author
release = version = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]
highlight_language = "text"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

# Links into the documentation of others: only where it is published, as others may build offline.
if os.environ.get("READTHEDOCS") or os.environ.get("GITHUB_ACTIONS"):
    django = "https://docs.djangoproject.com/en/stable/"
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "django": (django, f"{django}_objects/"),
        "channels": ("https://channels.readthedocs.io/en/stable/", None),
    }
# A page of ours is not looked for in theirs.
intersphinx_disabled_reftypes = ["*"]

html_theme = "furo"
html_title = f"channels_redis {release}"
