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

# The image. For arm64 it takes `rustup target add aarch64-unknown-linux-gnu` and Debian's gcc-aarch64-linux-gnu with
# libc6-dev-arm64-cross; without them the image is for this machine only, and `make image` says so.
VERSION := $(shell sed -n '/^\[workspace.package\]/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
ARCHIVE := dist/k8slan-image.tar
ARCH := $(shell dpkg --print-architecture)
ARM64 := aarch64-unknown-linux-gnu
# Not exported: C libraries in our dependencies would be compiled anew after each commit.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

.PHONY: help version build arm64 image push release publish demo unit test test-kubernetes bench lint deny clean whose

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

version:
	@echo $(VERSION)

build: ## the static release binaries, manual pages and completions, in dist/
	@tests/packages.sh build
	@echo "building $(BINARIES) for $(HOST)"
	@RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target $(HOST) $(BINARIES:%=--bin %) --bin manual
	@mkdir -p dist
	@cd "$(TARGET_DIR)/$(HOST)/release" && install -m 0755 -t "$(CURDIR)/dist" $(BINARIES)
	@"$(TARGET_DIR)/$(HOST)/release/manual" dist
	@for b in $(BINARIES); do \
	    if readelf -lW dist/$$b | grep -q INTERP; then echo "dist/$$b is not static"; exit 1; fi; \
	    printf 'dist/%-22s %7d KiB, static\n' $$b $$(( $$(stat -c %s dist/$$b) / 1024 )); \
	done

arm64: ## the same for arm64 in dist/arm64, where the machine has the compilers
	@if ! aarch64-linux-gnu-gcc --version >/dev/null 2>&1 || ! ls "$$(rustc --print sysroot)/lib/rustlib/$(ARM64)/lib" >/dev/null 2>&1; then \
	    echo "no arm64: it needs rustup target add $(ARM64), and the packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross"; \
	    rm -rf dist/arm64; [ "$(ARM64_IS)" != required ]; exit; \
	fi; \
	echo "building $(BINARIES) for $(ARM64)"; \
	CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static' \
	    cargo build --locked --release --target $(ARM64) $(BINARIES:%=--bin %); \
	install -m 0755 -D -t "$(CURDIR)/dist/arm64" $(BINARIES:%="$(TARGET_DIR)/$(ARM64)/release/%")

image: build arm64 ## an OCI archive of the image in dist/, x86-64 and arm64
	@tests/packages.sh image
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) install/image/build.sh $(ARCHIVE) $(VERSION) $(PAIRS)

push: ## sends the image to IMAGE=registry/name:tag and sets it in install/local [OVERLAY=talos]
	@tests/packages.sh push
	@install/image/push.sh $(ARCHIVE) $(or $(IMAGE),$(error say where to: make push IMAGE=registry.example/k8slan:$(VERSION))) $(OVERLAY)

# Of each architecture that was built; both with ARM64_IS=required.
PAIRS = $(ARCH)=dist $$([ $(ARCH) = arm64 ] || [ ! -e dist/arm64 ] || echo arm64=dist/arm64)
RELEASE := dist/release/$(VERSION)
WHOSE = $(or $(OWNER),$(error say whose on GitHub: make $(MAKECMDGOALS) OWNER=somebody))

# Before minutes of building.
whose:
	@: $(WHOSE)

release: whose build arm64 ## a release in dist/release/VERSION: image, manifests, chart, kubectl-k8slan, SBOM, checksums [OWNER=somebody]
	@tests/packages.sh release
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) install/release/release.sh $(VERSION) $(WHOSE) $(RELEASE) $(PAIRS)

publish: whose ## sends a release to ghcr.io/OWNER and GitHub [OWNER=somebody]
	@tests/packages.sh push
	@install/release/publish.sh $(VERSION) $(WHOSE) $(RELEASE)

# The programs and the demo in one build, the one that `make test` goes on from.
demo: ## three simulated nodes, two LANs, pods that ping each other [KEEP=1: and a shell]
	@tests/packages.sh build
	@tests/packages.sh demo
	@echo "building the programs and the demo: minutes the first time, then seconds"
	@cargo build --locked $(BINARIES:%=--bin %) --bin demo
	@K8SLAN_BIN="$(TARGET_DIR)/debug" "$(TARGET_DIR)/debug/demo"

unit: ## the tests beside the code, seconds once built, without root
	@tests/unit.sh

test: build ## every test on simulated nodes; ends with one line of counts
	@tests/packages.sh test
	@tests/version-before.sh
	@tests/run.sh "$(TARGET_DIR)/test.log" --workspace --exclude k8slan-kubernetes-tests

test-kubernetes: image ## the image on a real Kubernetes, which is built once from its Go modules; ends with one line of counts
	@tests/packages.sh kubernetes
	@tests/version-before.sh
	@tests/run.sh "$(TARGET_DIR)/test-kubernetes.log" -p k8slan-kubernetes-tests

bench: build ## our plugins beside Debian's, in one run; ONLY=storm|objects|scale: pools of large clusters
	@tests/packages.sh $(if $(filter storm objects,$(ONLY)),scale,bench)
	@cargo run --locked --profile measure --quiet -p k8slan-benches -- $(ONLY:%=--only %)

lint: ## formatting and clippy, warnings are errors
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

deny: ## licences, sources and known vulnerabilities of the dependencies (needs cargo-deny and the network)
	@command -v cargo-deny >/dev/null || { echo "it needs cargo-deny: cargo install --locked cargo-deny"; exit 1; }
	@cargo deny --locked check

clean: ## removes dist/ and target/
	@rm -rf dist "$(TARGET_DIR)"
