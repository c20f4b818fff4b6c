import io

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.driver.safe_console import SafeConsole

EVIL = "[red]drink[/red] :beer: [/] \x1b[2J\u202ex"
SHOWN = r"[red]drink[/red] :beer: [/] \x1b[2J\u202ex"


def shown(*renderables: object, terminal: bool = False, **options: object) -> str:
    file = io.StringIO()
    console = SafeConsole(file=file, width=200, force_terminal=terminal)
    for one in renderables:
        console.print(one, **options)  # type: ignore[arg-type]
    return file.getvalue()


def test_text_is_shown_as_it_is_wherever_it_stands():
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    assert shown(table).count(SHOWN) == 5
    assert shown(EVIL, Text(EVIL), Panel(EVIL)).count(SHOWN) == 3
    assert shown(Text.assemble((EVIL, "bold"), EVIL)).count(SHOWN) == 2
    assert shown(EVIL, style="bold red", soft_wrap=True) == f"{SHOWN}\n"


def test_a_carriage_return_overwrites_nothing():
    assert shown("100%\r  0%") == "100%\\r  0%\n"
    assert "\r" not in shown(Text("100%\r  0%"))


def test_a_terminal_gets_our_styles_and_none_of_others():
    text = shown(Text(EVIL, style="bold"), terminal=True)
    assert text == f"\x1b[1m{SHOWN}\x1b[0m\n"


def test_a_table_stays_as_wide_as_its_escapes():
    table = Table()
    table.add_column("label")
    table.add_row(EVIL)
    table.add_row("plain")
    lines = shown(table).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_markup_is_ours_where_it_is_asked_for():
    assert shown("[bold]x[/bold]", markup=True) == "x\n"
