# Every target works on a fresh clone: it first installs what it needs. npm ci installs Node itself too.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)
INSTALLED := node_modules/.package-lock.json

.PHONY: help
help: ## print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): package-lock.json package.json $(wildcard */package.json)
	@command -v npm >/dev/null || { echo 'npm is missing: install Node 20 or newer, from https://nodejs.org' >&2; exit 1; }
	@npm ci --no-audit --no-fund --loglevel=error >&2
	@touch $@

.PHONY: run
run: $(INSTALLED) ## PostgreSQL, a producer on 8080 and CONSUMERS=2 consumers on this machine, without Docker
	@exec node local/src/run.ts

.PHONY: url
url: $(INSTALLED) ## print the address of the database of make run or docker compose, with its password
	@node local/src/url.ts

.PHONY: test
test: $(INSTALLED) ## every test, on a PostgreSQL that it starts or the one at DATABASE_URL
	@npm test

.PHONY: check
check: $(INSTALLED) ## types, lint, format
	@npm run --silent check

.PHONY: bench
bench: $(INSTALLED) ## measure, beside peers
	@npm run --silent bench

.PHONY: chaos
chaos: $(INSTALLED) ## break things for SECONDS=60 and check that no signal is lost or doubled, by consumers and by groups (SEED=… replays a run)
	@node e2e/src/chaos/main.ts

.PHONY: up
up: ## PostgreSQL, a producer on 8080 and two consumers in containers; an upgrade where they run already
	docker compose build
	docker compose stop
	docker compose up -d --wait

.PHONY: down
down: ## stop and remove the containers (the data stays)
	docker compose down

.PHONY: logs
logs: ## follow the logs of the containers
	docker compose logs -f

.PHONY: ingest
ingest: $(INSTALLED) ## send one random signal to the producer on PORT=8080
	@node producer/src/send/main.ts --attempts 1 --name test_signal --value "$$(node --print 'Math.random()')"
