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
nox.options.sessions = ["lint", "typing", "tests", "minimums", "docs", "wheel", "chaos"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
PACKAGES = ("asyafw", "asyafw_kafka", "asyafw_redis", "asyafw_triton")
# What holds for every way to install asyafw.
CORE_TESTS = ("tests/unit", "tests/contract")
# Libraries that the benchmark of Redis compares with, and that need an older redis than we do.
APART = {
    "arq": "arq>=0.28",
    "repid": "repid[redis]>=2.1",  # codespell:ignore repid
    "saq": "saq[redis]>=0.26",
}


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
    """Run the benchmarks; those that are named after `--`, as in `-- redis --quick`, or all"""
    session.install("-e", ".[all]", "--group", "test", "--group", "bench")
    folder = ROOT / "tests" / "bench"
    found = {path.stem for path in folder.glob("[!_]*.py")}
    found |= {path.parent.name for path in folder.glob("*/__main__.py")}
    options = [argument for argument in session.posargs if argument not in found]
    for name in sorted(found.intersection(session.posargs) or found):
        own = ("--environments", _peers(session)) if name == "redis" else ()
        session.run("python", "-m", f"tests.bench.{name}", *own, *options)


def _peers(session: nox.Session) -> str:
    """Install what cannot live beside our redis, each into an environment of its own."""
    folder = Path(session.create_tmp()).resolve()
    for name, requirement in APART.items():
        own = str(folder / name)
        python = f"{session.bin}/python"
        session.run("uv", "venv", "-q", "--allow-existing", "-p", python, own, external=True)
        needed = (requirement, "hiredis", "msgspec", "typing-extensions", "uvloop")
        session.run("uv", "pip", "install", "-q", "-p", own, *needed, external=True)
    return str(folder)


@nox.session
def chaos(session: nox.Session) -> None:
    """Break a real Redis and its workers in every way, for a minute, or `-- --long`"""
    session.install("-e", ".[redis,uvloop]", "--group", "test")
    arguments = list(session.posargs)
    if "--long" in arguments:
        arguments.remove("--long")
        arguments = ["--seconds", "600", "--jobs", "500000", *arguments]
    session.run("python", "-m", "tests.chaos", *arguments)
    if not arguments:
        # A test that cannot fail proves nothing.
        session.run("pytest", "tests/chaos/test_saboteurs.py")


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
