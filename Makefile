# Everything a newcomer needs: make demo, make test, make up, make down.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
LABEL_STUDIO_VENV := .venv-label-studio
BIN := $(VENV)/bin

.PHONY: help setup demo demo-ner test lint up down clean lock images push

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/complete $(LABEL_STUDIO_VENV)/complete ## Install everything, at the exact versions of the constraints files

demo: setup ## Run the whole loop once round (about 4 minutes after set-up)
	@$(BIN)/reviewloop demo

demo-ner: setup ## Run the whole loop once round for named entities (about 4 minutes)
	@$(BIN)/reviewloop demo-ner

test: setup lint ## Check the code and run every test
	@$(BIN)/pytest

lint: setup ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

up: setup ## Start the platform and leave it running
	@$(BIN)/reviewloop up

down: setup ## Stop the platform
	@$(BIN)/reviewloop down

clean: ## Remove everything built or installed here
	rm -rf build $(VENV) $(LABEL_STUDIO_VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

lock: setup ## Write constraints.txt anew from what is installed
	@(echo "# Exact versions of everything in $(VENV): \`make lock\` writes this file."; \
	  $(BIN)/pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+).*/\1/') > constraints.txt

images: ## Build the images of components and serving: REGISTRY=registry.example.com/team TAG=v1
	@k8s/images/release build "$(REGISTRY)" "$(TAG)"

push: ## Push them, and have the manifests use them by digest: REGISTRY=... TAG=...
	@k8s/images/release push "$(REGISTRY)" "$(TAG)"

# Installed into place of the old one, and marked complete last: an interrupted set-up starts again.
$(VENV)/complete: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "reviewloop needs Python 3.11: install it, or set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) (some minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(LABEL_STUDIO_VENV)/complete: constraints-label-studio.txt
	@echo "Setting up Label Studio in $(LABEL_STUDIO_VENV) (a minute or two the first time)"
	@$(PYTHON) -m venv $(LABEL_STUDIO_VENV)
	@$(LABEL_STUDIO_VENV)/bin/pip install -qq --requirement constraints-label-studio.txt
	@touch $@
