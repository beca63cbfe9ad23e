# The only entry points. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The binaries are linked statically, so that one file runs on any node. With --target given, the flag
# reaches neither build scripts nor procedural macros, which must stay dynamic.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
BINARIES := macvtap ipam-pool vlan-bridge k8slan-device-plugin

.PHONY: help build demo test bench lint clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

build: ## the static release binaries, in dist/
	@tests/packages.sh build
	@echo "building $(BINARIES) for $(HOST)"
	@RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target $(HOST) $(BINARIES:%=--bin %)
	@mkdir -p dist
	@cd "$(TARGET_DIR)/$(HOST)/release" && install -m 0755 -t "$(CURDIR)/dist" $(BINARIES)
	@for b in $(BINARIES); do \
	    if readelf -lW dist/$$b | grep -q INTERP; then echo "dist/$$b is not static"; exit 1; fi; \
	    printf 'dist/%-22s %7d KiB, static\n' $$b $$(( $$(stat -c %s dist/$$b) / 1024 )); \
	done

demo: build ## three simulated nodes, two LANs, pods that ping each other
	@tests/packages.sh demo
	@cargo run --locked --quiet -p k8slan-tests --bin demo

test: build ## every test; ends with one line of counts
	@tests/packages.sh test
	@cargo test --locked --workspace --no-fail-fast 2>&1 | awk -f tests/summary.awk

bench: build ## our plugins beside Debian's, in one run
	@tests/packages.sh bench
	@cargo run --locked --release --quiet -p k8slan-benches

lint: ## formatting and clippy, warnings are errors
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

clean: ## removes dist/ and target/
	@rm -rf dist "$(TARGET_DIR)"
