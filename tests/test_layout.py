"""Who imports whom: folders only what stands below them, scripts never each other."""

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter

from common.cli import REPOSITORY

ABOVE_SCRIPTS = {"benchmarks", "tests"}  # they run and measure what the scripts do
LIBRARY = "model"  # a module at the root that folders may import


def imported(source: str) -> set[str]:
    """The first part of the name of every module that a text of Python imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def import_graph() -> tuple[dict[str, set[str]], set[str]]:
    """For each folder and each script what of the two it imports, itself left out; and the scripts' names."""
    files = [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("[a-z]*/*.py")]
    owners = {path: path.relative_to(REPOSITORY).parts[0].removesuffix(".py") for path in files}
    graph = defaultdict(set)
    for path, owner in owners.items():
        graph[owner] |= (imported(path.read_text(encoding="utf-8")) & {*owners.values()}) - {owner}
    return dict(graph), {path.stem for path in files if path.parent == REPOSITORY} - {LIBRARY}


def test_imports_are_found_wherever_they_stand():
    text = "import a.b as c, d\nfrom e.f import g\ndef h():\n    import i\n    from j import k\n"
    assert imported(text) == {"a", "d", "e", "i", "j"}


def test_no_folder_imports_one_that_imports_it():
    graph, _ = import_graph()
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the ring
    assert {"physics", "loader", "simulation", "training"} <= {*graph}
    assert order.index("physics") < order.index("loader") < order.index("simulation") < order.index("training")


def test_the_ground_floor_stands_on_nothing_but_options_and_files():
    graph, _ = import_graph()
    assert graph["common"] == set() and graph["physics"] <= {"common"}


def test_scripts_import_no_scripts_and_folders_none_either():
    graph, scripts = import_graph()
    assert {"simulate", "train", "open_set"} <= scripts
    wrong = {name: graph[name] & scripts for name in graph if name not in ABOVE_SCRIPTS and graph[name] & scripts}
    assert not wrong


DESIGN = REPOSITORY / "docs" / "design.md"
SHORT = {"benchmarks", "tests"}  # folders whose files say their question in the first line


def test_the_design_lists_the_folders_in_an_order_in_which_they_can_import():
    listed = DESIGN.read_text(encoding="utf-8").partition("## Where things are")[2].partition("    *.py ")[0]
    heads = re.findall(r"^    (\w+)(?:/|\.py)", listed, re.MULTILINE)
    graph, _ = import_graph()
    assert {"common", "loader", LIBRARY, "training"} <= {*heads}
    for place, name in enumerate(heads):
        assert graph[name] <= {*heads[:place]}, f"{name} imports what stands below it in docs/design.md"


def test_the_design_names_every_file():
    text = DESIGN.read_text(encoding="utf-8")
    files = [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("[a-z]*/*.py")]
    named = {path for path in files if path.name != "__init__.py" and path.parent.name not in SHORT}
    missing = sorted(str(path.relative_to(REPOSITORY)) for path in named if path.name not in text)
    assert not missing, f"docs/design.md says nothing of {', '.join(missing)}"
