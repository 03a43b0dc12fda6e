.PHONY: demo test lint audit setup

# Builds the gateway and serves examples/quickstart with three echo servers behind it.
demo: setup
	cargo run --release --bin weir-gateway -- demo --dir examples/quickstart

# Everything a change has to pass.
test: lint
	cargo test --workspace

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" cargo doc --workspace --no-deps --quiet

# Licences, advisories and sources of the dependencies; needs cargo-deny.
audit:
	cargo deny check

# What cargo does not install: a C toolchain for the build, clients for the tests.
setup:
	@.ci/setup $(MAKECMDGOALS)
