"""Settings of every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples on every run: a failure on one machine is a failure on all.
settings.register_profile(
    "kilograd", derandomize=True, deadline=None, print_blob=False, database=None
)
settings.load_profile("kilograd")


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_are_kept_in_a_folder_of_this_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """Tests must not find programs that an earlier run compiled, nor leave theirs behind."""
    before = os.environ.get("KILOGRAD_CACHE")
    os.environ["KILOGRAD_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["KILOGRAD_CACHE"]
    else:
        os.environ["KILOGRAD_CACHE"] = before
