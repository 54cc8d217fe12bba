# Pillion in an image with nothing else: one static program, no shell, no user database, nothing to write to.
#
#   docker build --tag pillion .                                    # compiles it; with buildx for linux/amd64 and linux/arm64
#   docker build --tag pillion --build-context program=DIR .        # takes DIR/pillion, built outside, and what else is in DIR

FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95-bookworm AS compile
ARG TARGETARCH
ARG BUILDARCH
WORKDIR /src
COPY . .
# A program for the other architecture needs its linker; the C library comes with Rust's target.
RUN set -eu; \
    case "$TARGETARCH" in \
        amd64) machine=x86_64; MACHINE=X86_64 ;; \
        arm64) machine=aarch64; MACHINE=AARCH64 ;; \
        *) echo "no program is made for $TARGETARCH" >&2; exit 64 ;; \
    esac; \
    target=$machine-unknown-linux-musl; \
    rustup target add "$target"; \
    apt-get update -qq; \
    if [ "$TARGETARCH" = "$BUILDARCH" ]; then \
        apt-get install -y -qq --no-install-recommends musl-tools; \
        export "CC_${machine}_unknown_linux_musl=musl-gcc"; \
    else \
        apt-get install -y -qq --no-install-recommends \
            "gcc-$(echo "$machine" | tr _ -)-linux-gnu" "libc6-dev-$TARGETARCH-cross"; \
        export "CC_${machine}_unknown_linux_musl=$machine-linux-gnu-gcc"; \
        export "CARGO_TARGET_${MACHINE}_UNKNOWN_LINUX_MUSL_LINKER=$machine-linux-gnu-gcc"; \
    fi; \
    cargo build --release --locked --package pillion --target "$target"; \
    mkdir /program; \
    cp "target/$target/release/pillion" LICENSE /program/

FROM scratch AS program
COPY --from=compile /program/ /

FROM scratch
LABEL org.opencontainers.image.title="Pillion" \
      org.opencontainers.image.description="The sidecar that gives any language what Erlang has" \
      org.opencontainers.image.source="https://github.com/pillion/pillion" \
      org.opencontainers.image.documentation="https://github.com/pillion/pillion/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY --from=program / /
# Numbers, because no name would be known; `restricted` Pod Security asks for them.
USER 65532:65532
ENTRYPOINT ["/pillion"]
