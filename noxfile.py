# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]"]
# ///
"""Every check that continuous integration runs, and how to run one of them: `nox -s NAME`."""

import shutil
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "typing", "tests", "minimums", "docs", "wheel"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
PACKAGES = ("asyafw", "asyafw_kafka", "asyafw_redis", "asyafw_triton")
# What holds for every way to install asyafw.
CORE_TESTS = ("tests/unit", "tests/contract")


@nox.session
def demo(session: nox.Session) -> None:
    """Run the photo pipeline; arguments after `--` go to it."""
    session.install("-e", ".[torch]", "--group", "examples")
    session.run("python", "-m", "examples.image_enhancement", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, the examples and the documentation's code blocks, with coverage."""
    session.install("-e", ".[all]", "--group", "test")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the core's tests on the oldest versions that pyproject.toml allows."""
    # torch stays at its newest: an old one is gigabytes more, for a file format and a call.
    session.install("torch")
    session.install("-e", ".[all]", "--group", "test", "--resolution", "lowest-direct")
    session.run("pytest", *CORE_TESTS, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, spelling and the layers of the code."""
    session.install("--no-deps", "-e", ".")
    session.install("--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    session.run("lint-imports", "--no-cache")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types with mypy and pyright, both strict."""
    session.install("-e", ".[all]", "--group", "test", "--group", "typing", "nox")
    session.run("mypy")
    session.run("pyright", "--pythonpath", f"{session.bin}/python")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, warnings being errors, and run every code block."""
    session.install("-e", ".[all]", "--group", "docs", "--group", "test")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)
    session.run("sphinx-build", "-b", "html", "-W", "--keep-going", "-q", "docs", "docs/_build")
    session.run("pytest", "tests/docs", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks."""
    session.install("-e", ".[all]", "--group", "test")
    for path in sorted(Path("tests/bench").glob("[!_]*.py")):
        session.run("python", "-m", f"tests.bench.{path.stem}", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the distributions and test the wheel where there is no checkout."""
    built = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(built, ignore_errors=True)
    session.run("uv", "build", "--quiet", "--out-dir", str(built), external=True)
    (sdist,) = built.glob("*.tar.gz")
    (distribution,) = built.glob("*.whl")
    session.log(f"built {sdist.name} and {distribution.name}")
    _check_contents(distribution)

    session.install(f"asyafw[all] @ {distribution.as_uri()}")
    session.install("--group", "test")
    session.chdir(_tests_alone(built.parent / "alone"))
    session.run("python", "-Pc", "import asyafw; assert 'site-packages' in asyafw.__file__")
    session.run("asyafw", "--help", silent=True)
    session.run("python", "-P", "-m", "asyafw", "--help", silent=True)
    session.run("python", "-P", "-m", "pytest", "-p", "no:cacheprovider", *CORE_TESTS)


def _check_contents(distribution: Path) -> None:
    """The wheel holds what its users need and nothing else."""
    with zipfile.ZipFile(distribution) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    (metadata,) = tops - set(PACKAGES)
    assert tops == {*PACKAGES, metadata}, tops
    needed = {f"{package}/{file}" for package in PACKAGES for file in ("__init__.py", "py.typed")}
    needed |= {f"{metadata}/licenses/LICENSE", f"{metadata}/entry_points.txt"}
    assert needed <= names, needed - names
    sources = {
        str(path.relative_to(package.parent))
        for package in map(_source, PACKAGES)
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in names if not name.startswith(metadata)}
    assert packed == sources, packed ^ sources


def _source(package: str) -> Path:
    """Where the source of a package lies."""
    (found,) = (
        folder / package
        for folder in (ROOT, ROOT / "transports", ROOT / "contrib" / "triton")
        if (folder / package).is_dir()
    )
    return found


def _tests_alone(folder: Path) -> Path:
    """Copy the tests and their configuration to a folder that holds no package."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "tests", folder / "tests")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder
