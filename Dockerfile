# The image of the daemon. It takes no secret and has none: give tokens by variables or files.
#
#   docker build --tag rollcall .

# The image to build with has Rust; a C compiler is installed where it is missing.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
# The image to run on needs nothing but a C library that is no older than the builder's.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
RUN command -v cc >/dev/null && test -s /etc/ssl/certs/ca-certificates.crt || { \
        apt-get update \
        && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    }
WORKDIR /build

# What the daemon stands on, in a layer of its own: it is built again when Cargo.lock changes,
# and not when the sources do. Without sources cargo builds nothing, so there are empty ones.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches/speed \
    && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs >benches/speed/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked

# Copied files are as old as in the folder they come from, and cargo would take them for built.
COPY . .
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked \
    && mkdir -p /image/usr/local/bin /image/etc/ssl/certs /data \
    && cp target/release/rollcalld /image/usr/local/bin/ \
    && cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="Rollcall" \
      org.opencontainers.image.description="A registry daemon: gateways and services register, send heartbeats, and are online while their leases last." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# Nothing runs in this stage, so the base image needs no shell.
COPY --from=build /image/ /
# The one folder that is written to, and only with SQLite. The root may be read-only.
COPY --from=build --chown=10001:10001 /data /var/lib/rollcall
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/rollcall
VOLUME /var/lib/rollcall
# Reachable from outside the container, so it does not start without tokens.
ENV ROLLCALL_LISTEN=0.0.0.0:18080 \
    ROLLCALL_STORE=sqlite:/var/lib/rollcall/rollcall.db
EXPOSE 18080
# It asks where ROLLCALL_LISTEN says; change that by the variable and not by a flag.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/rollcalld", "healthcheck"]
# Give it longer than ROLLCALL_SHUTDOWN_TIMEOUT to end: docker stop --time 30
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/rollcalld"]
