# `make demo` and `make test` are all that a newcomer needs; both build `.venv` first.
PYTHON ?= python3
PIP = .venv/bin/pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test test-slow bench bench-merging bench-sharing claims clean

demo: .venv/user
	.venv/bin/taskgrove compare

test: .venv/developer
	.venv/bin/ruff format --check src tests tools bench
	.venv/bin/ruff check src tests tools bench
	.venv/bin/basedpyright
	.venv/bin/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: .venv/developer
	.venv/bin/python -m pytest -m slow

bench: .venv/developer
	test -x .venv-peers/bin/python || .venv/bin/python bench/balancing/environment.py
	.venv/bin/python bench/record.py

bench-merging: .venv/developer
	test -x .venv-peers-merging/bin/python || .venv/bin/python bench/merging/environment.py
	.venv/bin/python bench/record.py merging

bench-sharing: .venv/developer
	test -x .venv-peers-sharing/bin/python || .venv/bin/python bench/sharing/environment.py
	.venv/bin/python bench/record.py sharing

claims: .venv/developer
	$(PIP) --editable ".[pairs]"
	.venv/bin/taskgrove reproduce

.venv/user: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/developer: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) --editable ".[dev,yeast,minilm]"
	touch $@ .venv/user

clean:
	rm -rf .venv runs
