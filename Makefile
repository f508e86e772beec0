# VMFerry. `make help` says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

# To make packages, and to look at them.
PACKAGING := binutils lintian rpm rpmlint
PACKAGES := ca-certificates chromium dnsmasq-base etcd-client etcd-server fonts-dejavu-core gcc iproute2 iputils-ping libc6-dev libprotobuf-dev libvirt-dev mmdebstrap nftables openvswitch-switch pkg-config protobuf-compiler python3-venv qemu-utils systemd-container
TOOLS := cargo-deny cargo-nextest
# With their versions; nobody offers them as built for this machine.
PACKAGING_TOOLS := cargo-deb@3.8.0 cargo-generate-rpm@0.21.1

# When the packages' source was made: they are the same whenever they are made of it.
MADE = $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)

# Last: what the machine has comes first.
export PATH := $(PATH):$(CURDIR)/.tools/bin

.PHONY: help
help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: system rust tools python tree ## Get everything that building and testing needs; as root on Debian (quick when all is there)

.PHONY: build
build: ## Build all programs
	cargo build --workspace --bins --examples

.PHONY: check
check: rust tools ## What can be said without running anything: format, lints, documentation, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps
	cargo deny --log-level error check bans licenses sources
	@if cargo deny --log-level off fetch db; then \
		cargo deny --log-level error check advisories; \
	else \
		echo "check: the RustSec advisory database cannot be fetched from here: dependencies were NOT checked for known vulnerabilities" >&2; \
	fi

.PHONY: test
test: setup check build ## Everything: setup, check, build, unit, documentation and end-to-end tests (needs root)
	cargo test --workspace --doc --quiet
	cargo nextest run --workspace

.PHONY: test-kernel
test-kernel: system rust ## Volumes attached by hosts' kernels, and guests that move with them, in emulated machines (needs root)
	cargo build --workspace --bins
	target/debug/kernel-vm
	cargo test --package vmferry-tests --test kernel -- --ignored --nocapture --test-threads=16

.PHONY: test-model
test-model: rust ## The protocol of a migration, explored further than `make test` does: minutes, and up to a GiB of memory
	cargo test --package vmferry-model --test explore -- --include-ignored --nocapture --test-threads=1

.PHONY: test-simulation
test-simulation: rust ## The flow in 10,000 simulations with random faults, from SEED on (default 0): minutes; RUNS=… for more or less
	SEED=$(or $(SEED),0) RUNS=$(or $(RUNS),10000) cargo test --package vmferry-agent --test flow -- simulation::many --exact --include-ignored --nocapture

.PHONY: packages
packages: packaging-system rust packaging-tools ## Make .deb and .rpm of both programs, in target/packages
	cargo build --release --bins --package vmferry --package vmferry-agent --package vmferry-packaging
	rm -rf target/packages
	SOURCE_DATE_EPOCH=$(MADE) target/release/vmferry-packaging target/packages
	@# Debian's packages are compressed and stripped as they are made, the others beforehand.
	gzip --keep --best --no-name target/packages/man/*
	mkdir target/packages/stripped
	for program in vmferry vmferry-agent; do strip --output-file target/packages/stripped/$$program target/release/$$program; done
	for crate in vmferry vmferry-agent; do SOURCE_DATE_EPOCH=$(MADE) cargo deb --quiet --no-build --package $$crate --output target/packages/; done
	for crate in coordinator agent; do cargo generate-rpm --package $$crate --output target/packages/; done
	@ls -l target/packages/*.deb target/packages/*.rpm

.PHONY: test-packages
test-packages: packages system ## Install, use, upgrade and purge the packages on booted hosts; lintian and rpmlint (needs root)
	lintian --fail-on error,warning target/packages/*.deb
	rpmlint --strict --config packaging/rpm/rpmlint.toml target/packages/*.rpm
	@# What comes next: the same programs, one revision later.
	for crate in vmferry vmferry-agent; do cargo deb --quiet --no-build --package $$crate --deb-revision 2 --output target/packages/next/; done
	cargo build --package vmferry-tests --bins
	target/debug/testbed tree
	cargo test --package vmferry-tests --test packages -- --ignored --nocapture --test-threads=1

.PHONY: test-faults
test-faults: system rust ## Hundreds of moves while something breaks, judged by independent eyes; about half an hour (needs root)
	cargo build --workspace --bins
	target/debug/testbed tree
	target/debug/faults --json target/faults.json

.PHONY: bench
bench: system rust ## What moves cost, measured on this machine and printed (needs root)
	cargo build --release --workspace --bins
	target/release/testbed tree
	VMFERRY_BIN_DIR=$(CURDIR)/target/release cargo bench -p vmferry-tests --bench moves --bench handover --bench ways --bench volumes --bench networks --bench fleet
	cargo bench -p vmferry-agent --bench firewall
	cargo bench -p vmferry-core --bench schedule

.PHONY: demo
demo: system rust ## Two hosts on this machine, and an instance that moves between them as it runs (needs root)
	cargo build --release --workspace --bins
	target/release/testbed tree
	target/release/testbed demo

.PHONY: clean
clean: ## Remove what was built
	cargo clean
	rm -rf .tools

# Tests start etcd for themselves; nobody asked for one that is always there, so its unit is masked before it comes.
.PHONY: system
system:
	@if ! command -v dpkg-query >/dev/null; then \
		echo "setup: no Debian; what these Debian packages hold must be there: $(PACKAGES)" >&2; \
		exit 0; \
	fi; \
	missing=(); \
	for package in $(PACKAGES); do \
		[[ $$(dpkg-query --show --showformat '$${db:Status-Status}' "$$package" 2>/dev/null) == installed ]] || missing+=("$$package"); \
	done; \
	if (( $${#missing[@]} == 0 )); then exit 0; fi; \
	if (( EUID != 0 )); then \
		echo "setup: missing; run as root: apt-get install $${missing[*]}" >&2; \
		exit 1; \
	fi; \
	if [[ " $${missing[*]} " == *" etcd-server "* && ! -e /etc/systemd/system/etcd.service ]]; then \
		mkdir -p /etc/systemd/system; \
		ln -sf /dev/null /etc/systemd/system/etcd.service; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update --quiet=2; \
	apt-get install --quiet=2 --yes --no-install-recommends "$${missing[@]}"

.PHONY: rust
rust:
	@command -v cargo >/dev/null || { \
		echo "setup: Rust is missing (Debian 12's own is too old); see https://rustup.rs:" >&2; \
		echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2; \
		exit 1; \
	}

# Built binaries where there are some for this machine, else from source.
.PHONY: tools
tools:
	@missing=(); \
	for tool in $(TOOLS); do command -v "$$tool" >/dev/null || missing+=("$$tool"); done; \
	if (( $${#missing[@]} == 0 )); then exit 0; fi; \
	echo "setup: installing $${missing[*]} into .tools"; \
	if python3 -m venv .tools && .tools/bin/pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement .ci/tools.txt; then exit 0; fi; \
	echo "setup: no built ones to be had; building $${missing[*]}, which takes a while" >&2; \
	CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		cargo install --locked --root .tools "$${missing[@]}"

.PHONY: packaging-system
packaging-system:
	@$(MAKE) --no-print-directory system PACKAGES="$(PACKAGES) $(PACKAGING)"

.PHONY: packaging-tools
packaging-tools:
	@missing=(); \
	for tool in $(PACKAGING_TOOLS); do command -v "$${tool%@*}" >/dev/null || missing+=("$$tool"); done; \
	if (( $${#missing[@]} == 0 )); then exit 0; fi; \
	echo "packages: building $${missing[*]} into .tools, which takes a while" >&2; \
	CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		cargo install --locked --root .tools "$${missing[@]}"

# What the Python example runs on.
.PHONY: python
python:
	@if [[ .tools/python/ready -nt docs/examples/python/requirements.txt ]]; then exit 0; fi; \
	python3 -m venv .tools/python; \
	.tools/python/bin/pip install --quiet --disable-pip-version-check --only-binary :all: \
		--requirement docs/examples/python/requirements.txt; \
	touch .tools/python/ready

# The system that all test hosts boot from, kept between runs.
.PHONY: tree
tree:
	@cargo build --quiet --package vmferry-tests --bin testbed
	@target/debug/testbed tree
