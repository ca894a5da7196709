"""Numbers that make no sense are refused with what they must be."""

from __future__ import annotations

import pytest

from tokenmeter.cli import main


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["budgets", "--top", "many"], "'many' is no number of rows; give 0 or more"),
        (["budgets", "--top", "-1"], "'-1' is no number of rows; give 0 or more"),
        (["budgets", "--watch", "0"], "'0' is no interval; give 0.1 to 86400 seconds"),
        (["budgets", "--watch", "nan"], "'nan' is no interval; give 0.1 to 86400 seconds"),
        (["drain", "--follow", "soon"], "'soon' is no interval; give 0.1 to 86400 seconds"),
        (["drain", "--trim", "0.5"], "'0.5' is no number of days; give 1 or more: late words need their entries"),
        (["report", "--min-group", "1"], "'1' is no size of a group; give 2 or more"),
        (["serve", "--port", "65536"], "'65536' is no port; give 0 to 65535"),
        (["serve", "--refresh", "1.5"], "'1.5' is no interval; give 1 to 86400 seconds"),
    ],
)
def test_a_number_out_of_range(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert text in capsys.readouterr().err
