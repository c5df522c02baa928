import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString

from peftbench.cli.overrides import as_value, flags_first, rewrite
from peftbench.errors import UserError


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


@pytest.mark.parametrize(
    "written",
    ["seed=range(0,3),7", "rank=16,range(4,9)", "method=glob(l*),full", "seed=choice(1,2),3", "seed=[range(0,3)]"],
)
def test_a_function_among_other_values_is_said(written: str) -> None:
    key = written.partition("=")[0]
    with pytest.raises(UserError, match=rf"a function stands alone, .*: write {key}=a,b,c with all"):
        rewrite([written])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("method=lora -m seed=0,1", "-m method=lora seed=0,1"),
        ("seed=0,1 -cn demo rank=4 --cfg job", "-cn demo --cfg job seed=0,1 rank=4"),
        ("a=1 --config-dir=x=y b=2", "--config-dir=x=y a=1 b=2"),
        ("--info method=lora", "--info method=lora"),
        ("~sparsity a=1", "~sparsity a=1"),
    ],
)
def test_flags_may_stand_between_overrides(written: str, meant: str) -> None:
    assert flags_first(written.split()) == meant.split()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("dataset.path=~/my.csv", ["~/my.csv"]),
        ("output_dir=a(b)/données d'été", ["a(b)/données d'été"]),
        ('model.path=~/"so-called"/x', ['~/"so-called"/x']),
        ("dataset.path=~/a.csv,/b/c.csv", ["~/a.csv", "/b/c.csv"]),
        ("dataset.path=/plain/a-b_c.csv", ["/plain/a-b_c.csv"]),
        ("dataset.path=a b/c.csv", ["a b/c.csv"]),
        ("dataset.path='~/my.csv'", ["~/my.csv"]),
        ("dataset.path=null", [None]),
    ],
)
def test_hydra_is_given_paths_as_they_were_typed(written: str, meant: list[str | None]) -> None:
    (argument,) = rewrite([written])
    value = OverridesParser.create().parse_override(argument).value()
    found = value.list if isinstance(value, ChoiceSweep) else [value]
    assert [item.text if isinstance(item, QuotedString) else item for item in found] == meant


@pytest.mark.parametrize("written", ["method=[lora,hira]", "method=['lora', 'hira']", "+method=[lora,hira]"])
def test_a_list_of_methods_is_no_grid(written: str) -> None:
    with pytest.raises(UserError, match=r"write \+?method=lora,hira for a grid"):
        rewrite([written])
    assert rewrite(["sparsity.layers=[1,2]"]) == ["sparsity.layers=[1,2]"]


@pytest.mark.parametrize(
    "value",
    [
        *(None, "null", True, "true", 0, "0", 1e-05, "1e-05", "", "inf", "a-b_c", "a b", "é", "a,b", "it's", 'say "x"'),
        *("\\", "\\'", "choice(a,b)", "[a]", "{a:1}", "a=b", "~/x", "-1", " a ", "two\nlines"),
        *([], {}, [[], {}], {"a": {"b": [None, "None", False, {"c": "d"}]}}),
        *({"a.b": 1, "a-b": 2, r"x\.(0|1)\.[ab]{2}": 3, "a:b, c=d": 4, ".*": 5, "\\\\": 6},),
    ],
)
def test_hydra_reads_a_value_as_it_was_written(value: object) -> None:
    override = OverridesParser.create().parse_override(f"a={as_value('a', value)}")
    assert not override.is_sweep_override()
    assert override.value() == value
    assert type(override.value()) is type(value)


@pytest.mark.parametrize("value", [{"^a": 1}, {"0": 1}, {"": 1}, {"true": 1}, {"é": 1}])
def test_what_the_grammar_cannot_say_is_refused(value: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"a=\{.*cannot be written"):
        as_value("a", value)
