# Every target does its own set-up: scripts/setup installs what is missing, once.
python := .venv/bin/python
MAKEFLAGS += --no-print-directory
# Keep compiled bytecode for the processes of the tests, even if a container disables that.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

.PHONY: demo
demo: ## Run a batch of real sites from upload to report
	@scripts/setup
	@$(python) -m pyshell demo

.PHONY: test
test: ## Run all tests; ARGS="-k name" picks some
	@scripts/setup test
	@$(python) -m pytest $(or $(ARGS),-n 4 --dist worksteal)

.PHONY: test-majors
test-majors: ## Run the tests of the database, the queue and plans on PostgreSQL 16 to 18; MAJORS="17 18"
	@scripts/setup test
	@$(python) -m tests.majors $(MAJORS)

.PHONY: tour
tour: ## Retake the tour of docs/tour.md and its pictures
	@scripts/setup test
	@TOUR_PICTURES=docs/tour $(python) -m pytest -q tests/portal/test_tour.py

.PHONY: up
up: ## Run PostgreSQL, the API and a worker until Ctrl-C; PORT=8000 STATE_DIR=... DATABASE_URL=...
	@scripts/setup
	@$(python) -m pyshell up

.PHONY: down
down: ## Stop what `make up` runs, wherever it was started
	@scripts/setup
	@$(python) -m pyshell down

.PHONY: portal
portal: ## Build the portal, as every command does when its sources have changed
	@scripts/setup portal

.PHONY: portal-dev
portal-dev: ## Run everything, and show changes of the portal's sources in the browser immediately
	@scripts/setup
	@cd portal && { ../.venv/bin/deno task dev & } && cd .. && trap "kill $$!" EXIT && $(python) -m pyshell up

.PHONY: migrate
migrate: ## Bring the database up to date
	@scripts/setup
	@$(python) -m pyshell migrate

.PHONY: drift
drift: ## Compare what sql/schema creates with what migrations create
	@scripts/setup
	@$(python) -m pyshell drift

.PHONY: docs
docs: ## Regenerate the references: docs/sql.md, docs/errors.md, the codes in openapi.json
	@scripts/setup
	@$(python) -m pyshell docs

.PHONY: supabase-sql
supabase-sql: ## Write dist/supabase.sql, which installs everything with SQL only
	@scripts/setup
	@$(python) -m pyshell supabase-sql

.PHONY: lint
lint: ## Check format, style, types and migrations
	@scripts/setup test
	@$(python) -m ruff format --check .
	@$(python) -m ruff check .
	@$(python) -m mypy
	@.venv/bin/squawk migrations/*.sql
	@cd portal && ../.venv/bin/deno fmt --quiet --check && ../.venv/bin/deno lint --quiet
	@$(python) -m pyshell drift

.PHONY: fmt
fmt: ## Format the files in Python and TypeScript, and fix what can be fixed automatically
	@scripts/setup test
	@$(python) -m ruff check --fix --quiet --exit-zero .
	@$(python) -m ruff format .
	@cd portal && ../.venv/bin/deno fmt --quiet

.PHONY: psql
psql: ## Open psql on the database
	@scripts/setup
	@$(python) -m pyshell psql

.PHONY: bench
bench: ## Measure the throughput, and the database's own floor
	@scripts/setup bench
	@$(python) -m bench

.PHONY: scale
scale: ## Measure what everything costs with five million finished items, and without them
	@scripts/setup bench
	@$(python) -m bench.scale

.PHONY: retention
retention: ## Measure how fast finished work is deleted, and whether its space comes back
	@scripts/setup bench
	@$(python) -m bench.retention

.PHONY: attacks
attacks: ## Measure what a hostile tenant costs the others: waits and memory
	@scripts/setup bench
	@$(python) -m bench.attacks

.PHONY: disconnects
disconnects: ## Break the connections of Realtime's subscribers 10,000 times, and see that they miss nothing
	@scripts/setup test
	@REALTIME_DISCONNECTS=$(or $(REALTIME_DISCONNECTS),10000) $(python) -m pytest -q tests/test_realtime_gaps.py -k last_state

.PHONY: chaos
chaos: ## Inject faults of all kinds for ten minutes, twice; CHAOS_SECONDS=600 CHAOS_SEED=...
	@scripts/setup test
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-600} $(python) -m pytest -s tests/test_chaos.py $(ARGS)

.PHONY: fuzz
fuzz: ## Run schemathesis and Hypothesis; EXAMPLES=200 for each route and property
	@scripts/setup test
	@FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(python) -m pytest -q tests/test_fuzz.py $$(grep -l '^from hypothesis import' tests/test_*.py)

.PHONY: lock
lock: ## Update the libraries to their newest versions
	@scripts/setup
	@$(python) -m pip install --quiet pip-tools==7.6.2
	@$(python) -m piptools compile --quiet --upgrade --extra server --extra otel --extra portal --extra dev --strip-extras --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock pyproject.toml
