.PHONY: demo test lint crds audit bench bench-smoke cluster cluster-down setup

# Where cargo puts what it builds; the cluster's programs are beside it.
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Builds the gateway and serves examples/quickstart with three echo servers behind it.
demo: setup
	cargo run --release --bin weir-gateway -- demo --dir examples/quickstart

# Everything a change has to pass. The programs of the cluster, minutes of Go the first time, are built
# meanwhile: compiling Rust leaves a processor idle now and then. What goes wrong with them, their tests say.
test: setup
	@mkdir -p $(TARGET)
	tests/cluster/build $(TARGET)/cluster >$(TARGET)/cluster-build.log 2>&1 & \
	trap "kill $$! 2>/dev/null || true" EXIT; \
	$(MAKE) --no-print-directory lint && cargo test --workspace

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" cargo doc --workspace --no-deps --quiet

# The kinds in charts/base, from the types in config/src/api.
crds: setup
	WEIR_WRITE_CRDS=1 cargo test --quiet --package weir-config --test crds

# Weir beside nginx, HAProxy and Envoy, in half an hour; see docs/performance.md.
bench: setup
	cargo build --release --bin weir-gateway --bin weir-sidecar --bin weir-init --bin weir-loadtests
	$(TARGET)/release/weir-loadtests run --set short

# The same for a second each, with programs that are built faster and run slower (profile smoke). Fails
# when an answer is wrong, not when it is slow.
bench-smoke: setup
	cargo build --profile smoke --bin weir-gateway --bin weir-loadtests
	$(TARGET)/smoke/weir-loadtests run --set smoke

# A Kubernetes cluster on this host, for trying things out; needs root and go. Prints its KUBECONFIG.
cluster: setup
	tests/cluster/build $(TARGET)/cluster
	$(TARGET)/cluster/weir-cluster up $(if $(NODES),--nodes $(NODES))

# Takes it away, with everything in it.
cluster-down:
	$(TARGET)/cluster/weir-cluster down

# Licences, advisories and sources of the dependencies; needs cargo-deny.
audit:
	cargo deny check

# What cargo does not install: a C toolchain for the build, clients for the tests.
setup:
	@.ci/setup $(MAKECMDGOALS)
