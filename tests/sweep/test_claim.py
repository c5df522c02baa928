"""The lock of a point, where people share a sweep."""

from __future__ import annotations

import os

from peftbench.sweep.claim import FOLDER, Claim


def test_who_may_write_to_the_sweep_may_claim_a_point_that_another_user_has(noop_points) -> None:
    """Only who can open the file for writing finds out that it is locked."""
    (point,) = noop_points("")
    held = os.umask(0o002)
    try:
        claim = Claim.take(point)
    finally:
        os.umask(held)
    assert claim is not None
    assert claim.path.stat().st_mode & 0o777 == 0o664
    assert (point.folder.parent / FOLDER).stat().st_mode & 0o777 == 0o775
    claim.release()
