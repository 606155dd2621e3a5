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


def test_how_many_processors_there_are_is_asked_in_one_place():
    """common/machine.py knows which of them this process may use."""
    files = [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("[a-z]*/*.py")]
    asked = {"cpu_count", "sched_getaffinity"}
    asking = {
        str(path.relative_to(REPOSITORY))
        for path in files
        if path.parent.name != "tests"
        and {getattr(node, "attr", "") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))} & asked
    }
    assert asking == {"common/machine.py"}


DESIGN = REPOSITORY / "docs" / "design.md"
SHORT = {"benchmarks", "tests"}  # folders whose files say their question in the first line


def test_the_design_lists_the_folders_in_an_order_in_which_they_can_import():
    listed = DESIGN.read_text(encoding="utf-8").partition("## Where things are")[2].partition("    *.py ")[0]
    heads = re.findall(r"^    (\w+)(?:/|\.py)", listed, re.MULTILINE)
    graph, _ = import_graph()
    assert {"common", "loader", LIBRARY, "training"} <= {*heads}
    for place, name in enumerate(heads):
        assert graph[name] <= {*heads[:place]}, f"{name} imports what stands below it in docs/design.md"


def named_files(text: str) -> set[str]:
    """The Python files that a design names, each with its folder: written so, or in a list of what a folder holds.

    A list is indented. Its lines are of the folder that a line opens with (`    loader/`), else of the one that the
    text of the section above it names last, without a file (`the folder training/`), else of the root.
    """
    found, of_section, folder = set(re.findall(r"\w+/\w+\.py", text)), "", ""
    for line in text.splitlines():
        if not line.startswith("    "):
            heads = re.findall(r"(?<![\w/])(\w+)/(?!\w)", line)
            of_section = folder = "" if line.startswith("#") else heads[-1] if heads else of_section
            continue
        if line[4:5] != " ":
            head = re.match(r"    (\w+)/\s", line)
            folder = head[1] if head else of_section
        found |= {f"{folder}/{name}".lstrip("/") for name in re.findall(r"(?<![\w/])\w+\.py", line)}
    return found


def test_a_file_is_named_by_a_design_with_its_folder():
    text = (
        "## Flow\n\n    data_/*.mrc\n       | i.py\n\n## Where\n\n"
        "    loader/   what is read\n      a.py, b.py: first\n    c.py     at the root\n\n"
        "## More\n\nThe folder `training/` holds the parts (loader/z.py).\n\n    d.py  one\n"
        "    e.py  two; model/f.py\n\n"
        "## Last\n\ng.py is a script.\n\n    h.py  step\n"
    )
    listed = {"loader/a.py", "loader/b.py", "c.py", "loader/z.py", "training/d.py", "training/e.py", "model/f.py"}
    assert named_files(text) == listed | {"h.py", "i.py"}


def test_the_design_names_every_file():
    files = [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("[a-z]*/*.py")]
    there = {path for path in files if path.name != "__init__.py" and path.parent.name not in SHORT}
    missing = sorted({str(path.relative_to(REPOSITORY)) for path in there} - named_files(DESIGN.read_text("utf-8")))
    assert not missing, (
        f"docs/design.md says nothing of {', '.join(missing)}: its folder's list there names no such file"
    )
