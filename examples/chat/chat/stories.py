"""What is told word by word, and where."""

from __future__ import annotations

STORY_CHANNEL = "story"
#: Between two words.
PAUSE_S = 0.1

STORY = """
Once there was a harbour with two lighthouses. Every evening the keepers wrote down which ships had
passed, and every morning a boy carried the pages from one tower to the other. One night a storm
took the path along the cliffs, and the boy could not cross for three days. When he came at last,
the keeper did not ask for the newest page. She asked for the last one that she had read, and he
gave her all that came after it, in order, and not one page twice. Where a page was lost, he said
so, and she climbed the stairs and counted the ships in the harbour herself.
"""


def story_group(story: str) -> str:
    return f"story.{story}"
