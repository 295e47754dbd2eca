# Everything a checkout needs: git, make and a Python of at least 3.11.
# Environments live in .venv/ and are built once; PYTHON=... chooses another Python, and builds anew.

PYTHON ?= $(shell .ci/python)

# What pip installs of the package's extras into .venv/NAME.
EXTRAS_demo =
EXTRAS_test = [testing]
EXTRAS_lint = [lint]
EXTRAS_docs = [docs]
EXTRAS_bench = [bench]

PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test coverage test-others autobahn fuzz endurance losses soak lint typecheck docs
.PHONY: bench bench-quick bench-check bench-memory bench-backplane dist-check clean FORCE

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F '|' '{ printf "make %-14s %s\n", $$1, $$2 }'

demo: .venv/demo/.complete ## serve the jobs application
	@echo 'The jobs application: http://localhost:6543/jobs/demo (Ctrl-C stops it)'
	@PYTHONPATH=examples/jobs exec .venv/demo/bin/pserve examples/jobs/development.ini

test: .venv/test/.complete ## run all tests (ARGS=... goes to pytest)
	CHROMIUM="$$(.ci/chromium)" REDIS_SERVER="$$(.ci/redis)" NGINX="$$(.ci/nginx)" \
		.venv/test/bin/python -m pytest --numprocesses 3 --dist loadfile $(ARGS)

coverage: ## run them and tell which branches none takes: twice as slow
	$(MAKE) test ARGS="--cov=stargate --cov-report=term-missing:skip-covered $(ARGS)"

test-others: .venv/test/.complete ## run them on the oldest and newest other Python (no browser)
	.ci/test-others $(ARGS)

autobahn: .venv/test/.complete .venv/autobahn/.complete ## run Autobahn|Testsuite (CASES='1.* 7.1.5')
	.venv/test/bin/python -m stargate_tests.conformance.autobahn $(ARGS) $(CASES)

fuzz: .venv/test/.complete ## fuzz frames and handshakes (SECONDS=60, SEED=... repeats a run)
	.venv/test/bin/python -m stargate_tests.fuzzing --seconds $(or $(SECONDS),60) $(SEED:%=--seed %)

endurance: .venv/test/.complete ## check order and exactness at random (SECONDS=90, SEED=...)
	.venv/test/bin/python -m stargate_tests.exactness --seconds $(or $(SECONDS),90) $(SEED:%=--seed %)

losses: .venv/test/.complete ## kill workers and Redis: is anything lost? (SECONDS=60, SEED=...)
	REDIS_SERVER="$$(.ci/redis)" .venv/test/bin/python -m stargate_tests.losses \
		--seconds $(or $(SECONDS),60) $(SEED:%=--seed %) $(ARGS)

soak: .venv/test/.complete ## connect and leave 20,000 times (ARGS=--connects=...)
	.venv/test/bin/python -m benchmarks.soak $(ARGS)

lint: .venv/lint/.complete ## run ruff
	.venv/lint/bin/ruff check .
	.venv/lint/bin/ruff format --check .

typecheck: .venv/lint/.complete ## run mypy
	.venv/lint/bin/mypy

docs: .venv/docs/.complete ## build the documentation, warnings as errors
	.venv/docs/bin/sphinx-build -E -W -n --keep-going -b html docs docs/_build/html

bench: .venv/bench/.complete ## measure stargate beside other servers (ARGS=... goes to it)
	.venv/bench/bin/python -m benchmarks.run --chart build/bench/chart.png $(ARGS)

bench-quick: .venv/bench/.complete ## the same in a few minutes, less exact
	.venv/bench/bin/python -m benchmarks.run --quick $(ARGS)

bench-check: .venv/bench/.complete ## fail where stargate costs more than benchmarks/baseline.json
	.venv/bench/bin/python -m benchmarks.compare $(ARGS)

bench-memory: .venv/bench/.complete ## measure the memory of a listener
	.venv/bench/bin/python -m benchmarks.run --only memory --rounds 1 \
		--servers stargate,stargate-events,stargate-handler $(ARGS)

bench-backplane: .venv/test/.complete ## measure what a Redis between processes costs (ARGS=--quick)
	.venv/test/bin/python -m benchmarks.backplane $(ARGS)

dist-check: .venv/dist/.complete ## build sdist and wheel, and import them where nothing else is
	.ci/dist-check .venv/dist/bin/python

clean: ## remove the environments and all that was built
	rm -rf .venv build dist docs/_build htmlcov stargate.egg-info
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/%/.complete: .venv/python setup.cfg setup.py pyproject.toml
	$(PYTHON) -m venv --clear .venv/$*
	.venv/$*/bin/python $(PIP_INSTALL) --editable '.$(EXTRAS_$*)'
	@touch $@

.venv/dist/.complete: .venv/python
	$(PYTHON) -m venv --clear .venv/dist
	.venv/dist/bin/python $(PIP_INSTALL) build
	@touch $@

# Autobahn|Testsuite runs on Python 2.7 alone. What makes the environment is pinned as well.
.venv/autobahn/.complete: stargate_tests/conformance/autobahn.txt
	@mkdir -p .venv
	.ci/python27 > .venv/python27
	rm -rf .venv/autobahn .venv/virtualenv27
	"$$(cat .venv/python27)" $(PIP_INSTALL) --target .venv/virtualenv27 'virtualenv==20.15.1'
	PYTHONPATH=.venv/virtualenv27 "$$(cat .venv/python27)" -m virtualenv --quiet .venv/autobahn
	.venv/autobahn/bin/python $(PIP_INSTALL) --requirement $<
	@touch $@

# Looked at each time and written when it has changed: only then are the environments out of date.
.venv/python: FORCE
	@mkdir -p .venv
	@$(or $(PYTHON),false) -c 'import sys; print("%d.%d" % sys.version_info[:2])' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
