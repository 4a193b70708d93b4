from channels_redis import __version__

project = "channels_redis"
author = "the channels_redis authors"
copyright = author
release = version = __version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
highlight_language = "text"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = f"channels_redis {release}"
