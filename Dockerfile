# Images of the gateway, the controller, the sidecar with its redirect rules and the agent of nodes:
#
#   docker build --target gateway -t weir/weir-gateway:0.0.0 .
#   docker build --target controller -t weir/weir-controller:0.0.0 .
#   docker build --target sidecar -t weir/weir-sidecar:0.0.0 .
#   docker build --target cni -t weir/weir-cni:0.0.0 .
#
# They hold the programs, what they are linked against and what TLS needs; no shell, no package manager.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked \
        --bin weir-gateway --bin weir-controller --bin weir-sidecar --bin weir-init \
    && for name in gateway controller; do \
        sh tests/cluster/internal/image/layout.sh /images/$name target/release/weir-$name; \
    done \
    && sh tests/cluster/internal/image/layout.sh /images/sidecar \
        target/release/weir-sidecar target/release/weir-init
# The agent gives its program to the node, whose C library may be another one, or older.
RUN cargo rustc --release --locked --package weir-sidecar --bin weir-cni \
        -- -C target-feature=+crt-static \
    && sh tests/cluster/internal/image/layout.sh /images/cni target/release/weir-cni

FROM scratch AS gateway
COPY --from=build /images/gateway /
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir-gateway"]

FROM scratch AS controller
COPY --from=build /images/controller /
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir-controller"]

# The injector says which of the two programs a container runs, and as whom.
FROM scratch AS sidecar
COPY --from=build /images/sidecar /
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/weir-sidecar"]

# As root: it writes folders of the node, and enters the networks of pods.
FROM scratch AS cni
COPY --from=build /images/cni /
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 0:0
ENTRYPOINT ["/usr/local/bin/weir-cni"]
