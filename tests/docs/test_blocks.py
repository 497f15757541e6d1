import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.blocks import READABLE, ROOT, RUNNABLE, Block, Reader, blocks, pages
from tests.servers.redis import require

# Each has its reason beside it; a new one has to be worth a line here.
NOT_RUN = {"README.md": 4, "docs/contributing.md": 1, "docs/explanation/performance.md": 1}


def every_block() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "$ redis-server" in page.read_text():
        require("redis-server")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    with Reader(tmp_path) as reader:
        for block in blocks(page):
            if block.language in RUNNABLE and block.not_run is None:
                reader.follow(block)


def test_every_block_names_a_language_that_is_known() -> None:
    unknown = [
        f"{block.page}:{block.line} {block.language!r}"
        for block in every_block()
        if block.language not in RUNNABLE | READABLE
    ]

    assert unknown == []


def test_few_blocks_are_not_run() -> None:
    not_run = Counter(
        str(block.page.relative_to(ROOT)) for block in every_block() if block.not_run is not None
    )

    assert not_run == NOT_RUN


def test_a_page_is_read_block_by_block(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    read = list(blocks(page))

    assert [(block.language, block.line, block.file, block.not_run) for block in read] == [
        ("python", 3, None, None),
        ("python", 8, "saved.py", None),
        ("console", 13, None, None),
        ("bash", 19, None, "it has no end"),
        ("", 23, None, None),
    ]


def test_what_a_console_block_shows_is_compared(tmp_path: Path) -> None:
    right, wrong = (
        Block(Path("page.md"), 1, "console", f"$ echo one two\n{shown}\n")
        for shown in ("one ...", "three")
    )

    with Reader(tmp_path) as reader:
        reader.follow(right)

        with pytest.raises(AssertionError, match="one two"):
            reader.follow(wrong)


def test_saved_blocks_can_be_imported_and_awaited(tmp_path: Path) -> None:
    saved = Block(Path("page.md"), 1, "python", "async def f(): return 2\n", file="saved.py")
    use = Block(Path("page.md"), 5, "python", "import saved\nassert await saved.f() == 2\n")
    run = Block(
        Path("page.md"), 9, "console", "$ python -c 'import saved; print(saved.f)'\n<fun...>\n"
    )

    with Reader(tmp_path) as reader:
        for block in (saved, use, run):
            reader.follow(block)


PAGE = """\
# A page
```python
x = 1
```

* In a list:
  ```{code-block} python
  :caption: saved.py
  y = 2
  ```

```console
$ echo one
o...e
```

<!-- not run: it has no end -->
```bash
sleep infinity
```

```
no language
```

```{toctree}
other
```
"""
