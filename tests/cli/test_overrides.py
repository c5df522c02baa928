import pytest

from peftbench.cli.overrides import rewrite


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("rank=8", "rank.value=8"),
        ("rank=12", "rank.value=12"),
        ("rank=4,8,16", "rank.value=4,8,16"),
        ("rank=4, 8", "rank.value=4, 8"),
        ("rank=0", "rank.value=0"),
        ("rank=range(4,17,4)", "rank.value=range(4,17,4)"),
        ("rank=int(interval(4,64))", "rank.value=int(interval(4,64))"),
        ("rank=choice(4,8)", "rank.value=choice(4,8)"),
        ("rank=fixed_alpha", "rank=fixed_alpha"),
        ("rank=default,fixed_alpha", "rank=default,fixed_alpha"),
        ("rank.alpha=16", "rank.alpha=16"),
        ("frank=8", "frank=8"),
        ("-m", "-m"),
    ],
)
def test_rank_takes_numbers_and_option_names(written: str, meant: str) -> None:
    assert rewrite([written]) == [meant]
