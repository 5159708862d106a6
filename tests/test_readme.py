"""Every Python block of the README runs, and its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run_one_after_the_other():
    scope = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
    assert len(blocks("python")) >= 2


def test_python_blocks_of_the_page_on_poisson_fields_run():
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "poisson.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    for block in found:
        exec(compile(block, "poisson.md", "exec"), {})


@pytest.mark.parametrize("name", ["poisson.md", "families.md", "benchmarks.md"])
def test_links_and_pictures_of_the_pages_are_there(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link


def test_the_first_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    first = re.findall(r"^make ([\w-]+)", blocks("sh")[0], re.MULTILINE)
    assert first == ["demo", "test"]
    for target in first:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_the_map_names_files_that_exist():
    section = README[README.index("## The map") : README.index("## Glossary")]
    folder = None
    for line in section.splitlines():
        if top := re.match(r"^(\w+)/ ", line):
            folder = ROOT / top.group(1)
        if folder is not None and line.startswith("  ") and not line.startswith("   "):
            for name in re.findall(r"^  ((?:[\w/]+(?:\.py|/) ?)+)", line)[:1]:
                for part in name.split():
                    assert (folder / part).exists(), part
