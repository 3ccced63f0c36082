"""How many examples a property that takes long to test is tested with."""

import hypothesis


def examples(count: int) -> hypothesis.settings:
    """``count`` of them with `--exhaustive`, else a sixth."""
    is_exhaustive = hypothesis.settings.get_current_profile_name() == "exhaustive"
    return hypothesis.settings(max_examples=count if is_exhaustive else count // 6, deadline=None)
