# What there is to do with Weft. Every target brings what it needs: as root it
# installs the missing Debian packages, otherwise it names them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PLUGINS := bridge host-local portmap loopback flannel
DESTDIR ?=
BINDIR ?= /opt/cni/bin
SBINDIR ?= /usr/local/sbin
# What the image is called, here and in the manifests. Nobody has published one: push it where your
# nodes pull from, and name it so.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
UNPUBLISHED := localhost/weft:$(VERSION)
IMAGE ?= $(UNPUBLISHED)
# Where tests record what they had to skip, and why.
export WEFT_SKIPS ?= $(CURDIR)/target/skips
# What to measure: rows by name (all without), --quick for an answer within a minute.
BENCH ?=
# How long, in seconds, each fuzz target and the soak run.
FUZZ_TIME ?= 60
SOAK_TIME ?= 600
# What the demo shows: vxlan, host-gw or udp; anything in KEEP leaves the cluster up until Ctrl-C.
BACKEND ?= vxlan
KEEP ?=

TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE = target/$(TRIPLE)/release/weft-cni
# Static starts sooner than dynamic, and runs on a host with any C library. A host
# without the C library's archive (Debian has it with gcc, Fedora has not) gets a
# dynamic executable, and is told.
STATIC = $(if $(findstring /,$(shell cc -print-file-name=libc.a)),-C target-feature=+crt-static -C relocation-model=static)

TEST_PACKAGES := nftables iptables iproute2 iputils-ping conntrack strace procps util-linux systemd \
	containernetworking-plugins netavark containerd runc podman \
	etcd-server etcd-client openssl ethtool iperf3 curl jq protobuf-compiler libprotobuf-dev
# What etcd's client is generated with.
BUILD_PACKAGES := protobuf-compiler libprotobuf-dev
PATH_PACKAGES := iproute2 nftables ethtool iperf3 util-linux wireguard-go wireguard-tools
VM_PACKAGES := qemu-system-x86 busybox-static cpio
# What the names of the tests contain that the guest runs.
TEST_VM ?= vlan del_leaves_the_node what_is_retired a_mapped_port_answers \
	an_older_kernel flannel_s_own_proxy the_fast_way_carries over_ipv6_it_carries without_checksum_offload

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: build
build: plugins daemon ## everything: the plugins in dist/bin, weftd and weft in dist/sbin

.PHONY: plugins
plugins: rust ## the static executable, under every plugin's name, in dist/bin
	@[ -n "$(STATIC)" ] || echo "make: no libc.a on this host: the executable will be dynamic (on Fedora: dnf install glibc-static)" >&2
	RUSTFLAGS="$(STATIC)" cargo build --quiet --release --locked --target $(TRIPLE) -p weft-plugins
	@$(call place,$(CURDIR)/dist/bin)

.PHONY: daemon
daemon: rust ## weftd and weft, with every store, in dist/sbin
	@$(call packages,$(BUILD_PACKAGES))
	RUSTFLAGS="$(STATIC)" cargo build --quiet --release --locked --target $(TRIPLE) -p weft-daemon
	@mkdir -p dist/sbin && cp target/$(TRIPLE)/release/weftd target/$(TRIPLE)/release/weft dist/sbin/

.PHONY: image
image: image-root ## the image IMAGE as an archive, in dist/weft-image.tar: for ctr, podman, docker and registries
	@cargo run --quiet --locked --release --target $(TRIPLE) -p weft-manifests -- \
		dist/image "$(IMAGE)" $(TRIPLE) dist/weft-image.tar
	@echo "$$(stat -c %s dist/weft-image.tar) bytes: dist/weft-image.tar is $(IMAGE)"

# What is in the image: our executables, and links for every name that they are called by.
.PHONY: image-root
image-root: build
	@rm -rf dist/image && mkdir -p dist/image/opt/bin dist/image/bin
	@cp $(RELEASE) $(dir $(RELEASE))weftd $(dir $(RELEASE))weft dist/image/opt/bin/
	@ln -s weftd dist/image/opt/bin/flanneld
	@ln -s weft dist/image/opt/bin/install-conf
	@ln -s weft dist/image/opt/bin/mk-docker-opts.sh
	@ln -s /opt/bin/weft dist/image/bin/cp
	@ln -s /opt/bin/weft-cni dist/image/flannel

.PHONY: manifests
manifests: ## weft.yaml, the overlays and the chart for the image IMAGE, in dist/manifests
	@{ for part in namespace rbac config daemonset; do \
		echo ---; cat manifests/base/$$part.yaml; done; } > manifests/weft.yaml.new
	@mv -f manifests/weft.yaml.new manifests/weft.yaml
	@rm -rf dist/manifests && mkdir -p dist/manifests
	@cp -r manifests/weft.yaml manifests/base manifests/overlays manifests/chart dist/manifests/
	@grep -rlF "$(UNPUBLISHED)" dist/manifests | xargs sed -i 's|$(UNPUBLISHED)|$(IMAGE)|g'
	@image="$(IMAGE)"; sed -i "s|repository: localhost/weft$$|repository: $${image%:*}|; \
		s|tag: \"$(VERSION)\"$$|tag: \"$${image##*:}\"|" dist/manifests/chart/weft/values.yaml

.PHONY: bundle
bundle: image manifests ## image and yaml together, for hosts without a registry, in dist/bundle
	@rm -rf dist/bundle && mkdir -p dist/bundle
	@cp dist/weft-image.tar dist/manifests/weft.yaml dist/bundle/
	@echo "on every node: ctr -n k8s.io image import weft-image.tar (k3s: k3s ctr); then, once: kubectl apply -f weft.yaml"

.PHONY: demo
demo: plugins demo-weftd demo-ip ## three nodes, six pods: the packet's way, trouble, throughput (BACKEND=udp, KEEP=1)
	@BACKEND="$(BACKEND)" KEEP="$(KEEP)" cargo run --quiet --locked -p weft-netns --bin demo

# What the demo runs knows the embedded store alone: no protoc, no TLS.
.PHONY: demo-weftd
demo-weftd: rust
	RUSTFLAGS="$(STATIC)" cargo build --quiet --release --locked --target $(TRIPLE) \
		-p weft-daemon --no-default-features --bin weftd
	@mkdir -p dist/demo && cp -f $(dir $(RELEASE))weftd dist/demo/weftd

.PHONY: demo-ip
demo-ip:
	@command -v ip >/dev/null || { $(call packages,iproute2); }

.PHONY: test
test: rust lint-tools test-packages image-root demo-weftd ## everything: format, lints, units, properties, real kernel, real clients
	@mkdir -p "$(dir $(WEFT_SKIPS))" && : > "$(WEFT_SKIPS)"
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --no-fail-fast

.PHONY: check
check: rust lint-tools ## format, lints and unit tests: quick, no root, no packages
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	cargo test --quiet --locked --workspace --lib

.PHONY: bench
bench: test-packages build ## ours, the Go plugins, netavark and the floor, side by side
	RUSTFLAGS="$(STATIC)" cargo build --quiet --release --locked --target $(TRIPLE) -p weft-benches --bin floor
	@mkdir -p dist/bench && cp target/$(TRIPLE)/release/floor dist/bench/floor
	cargo run --quiet --locked --profile measure -p weft-benches -- $(BENCH)

.PHONY: bench-daemon
bench-daemon: test-packages build ## weftd, flanneld's serial work and the floor, side by side
	@mkdir -p dist/bench && cp dist/sbin/weftd dist/bench/weftd
	cargo run --quiet --locked --profile measure -p weft-benches --bin daemon -- $(BENCH)

.PHONY: bench-path
bench-path: rust ## every way between two nodes' pods, side by side
	@$(call packages,$(PATH_PACKAGES))
	RUSTFLAGS="$(STATIC)" cargo build --quiet --release --locked --target $(TRIPLE) -p weft-dataplane --example node
	RUSTFLAGS="$(STATIC)" cargo build --quiet --release --locked --target $(TRIPLE) -p weft-benches --no-default-features --bin naive
	@mkdir -p dist/bench && cp target/$(TRIPLE)/release/examples/node target/$(TRIPLE)/release/naive dist/bench/
	cargo run --quiet --locked --profile measure -p weft-benches --no-default-features --bin path -- $(BENCH)

.PHONY: bench-packets
bench-packets: rust ## what the packet path does to a packet, piece by piece
	cargo bench --quiet --locked -p weft-benches --no-default-features --bench dataplane

.PHONY: fuzz
fuzz: rust ## the parsers, FUZZ_TIME seconds each, with cargo-fuzz on nightly
	@cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
	@cargo +nightly fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	@for target in $$(cargo +nightly fuzz list); do \
		echo "fuzz $$target for $(FUZZ_TIME) s"; \
		mkdir -p "fuzz/corpus/$$target"; \
		cargo +nightly fuzz run "$$target" "fuzz/corpus/$$target" "fuzz/seeds/$$target" \
			-- -max_total_time=$(FUZZ_TIME) -timeout=1; \
	done

.PHONY: soak
soak: test-packages build ## the tests named soak, SOAK_TIME seconds
	WEFT_SOAK=$(SOAK_TIME) cargo test --locked --workspace -- --ignored --nocapture soak

.PHONY: test-vm
test-vm: rust test-packages build ## what this kernel lacks (VLAN filtering) or others do (UDP superpackets), in a guest with Debian's own
	@$(call packages,$(VM_PACKAGES))
	netns-tests/vm/tests $(TEST_VM)

.PHONY: install
install: build ## the plugins into DESTDIR/BINDIR, the daemon into DESTDIR/SBINDIR, each by one rename
	@mkdir -p "$(DESTDIR)$(BINDIR)" && dist/sbin/weft install --from $(RELEASE) --bin-dir "$(DESTDIR)$(BINDIR)"
	@mkdir -p "$(DESTDIR)$(SBINDIR)"; for name in weftd weft; do \
		cp dist/sbin/$$name "$(DESTDIR)$(SBINDIR)/.$$name.new"; \
		mv -f "$(DESTDIR)$(SBINDIR)/.$$name.new" "$(DESTDIR)$(SBINDIR)/$$name"; \
	done

.PHONY: clean
clean: ## what was built
	cargo clean
	rm -rf dist

# --- what targets need -------------------------------------------------------

.PHONY: rust
rust:
	@command -v cargo >/dev/null || { echo "make: needs Rust 1.91 or newer (https://rustup.rs)" >&2; exit 1; }
	@command -v cc >/dev/null || { $(call packages,gcc libc6-dev); }

.PHONY: lint-tools
lint-tools:
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

.PHONY: test-packages
test-packages:
	@$(call packages,$(TEST_PACKAGES))

# Installs what is missing of $(1) as root on Debian; names it otherwise, and the
# tests that need it skip themselves loudly.
define packages
	missing=; \
	for package in $(1); do \
		dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing+=" $$package"; \
	done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get -qq update; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	else \
		echo "make: not installed (tests that need them are skipped):$$missing" >&2; \
	fi
endef

# Puts the executable and its names into the directory $(1). Every file appears
# by a rename: a runtime that starts a plugin meanwhile gets the old or the new.
define place
	mkdir -p "$(1)"; \
	cp $(RELEASE) "$(1)/.weft-cni.new"; \
	mv -f "$(1)/.weft-cni.new" "$(1)/weft-cni"; \
	for name in $(PLUGINS); do \
		ln -f "$(1)/weft-cni" "$(1)/.$$name.new"; \
		mv -f "$(1)/.$$name.new" "$(1)/$$name"; \
	done; \
	echo "$$(stat -c %s "$(1)/weft-cni") bytes, as: $(PLUGINS) in $(1)"
endef
