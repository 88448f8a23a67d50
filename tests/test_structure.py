"""The floors, the documentation, and that light modules stay light."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxae

ROOT = Path(__file__).parent.parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(jaxae.__path__, "jaxae.") if not m.name.endswith("make_digits"))
PUBLIC = ["jaxae.losses", "jaxae.quantizers", "jaxae.metrics", "jaxae.priors", "jaxae.nn", "jaxae.data",
          "jaxae.distributions", "jaxae.optim", "jaxae.collectives", "jaxae.inference"]


def test_floors_import_only_downwards():
    done = subprocess.run([str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not failed


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_documented(name):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
    for item in (getattr(module, n) for n in names):
        if inspect.isfunction(item) and item.__module__.startswith("jaxae"):
            text = inspect.getdoc(item) or ""
            assert len(text) >= 40, f"{item.__module__}.{item.__name__} has no real docstring"


def test_claims_and_papers_agree():
    done = subprocess.run([sys.executable, "experiments/verify.py", "--papers=P999"], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 1 and "no claims of P999" in done.stderr, done.stderr[-2000:]


def test_the_committed_table_is_what_the_results_say():
    script = ("import sys, yaml; sys.path.insert(0, 'experiments'); import verify; from claims import all_claims\n"
              "papers = yaml.safe_load(open('experiments/papers.yaml')); claims = all_claims()\n"
              "verify.check_rows(papers, claims)\n"
              "text = verify.table(papers, claims, verify.newest(verify.HERE / 'results.jsonl'))\n"
              "assert text == open('experiments/PAPERS.md').read(), 'run python experiments/verify.py --table'")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
